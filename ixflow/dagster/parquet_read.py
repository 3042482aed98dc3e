"""Reading Parquet files of an asset as the type that is asked for, some columns or all."""

from collections.abc import Sequence
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from ixflow.dagster.parquet_manifest import PartitionFile
from ixflow.dagster.parquet_places import Place
from ixflow.errors import ColumnMismatch
from ixflow.store.frames import frames_giving, wanted_frame
from ixflow.tables.read import reading_through
from ixflow.values import TableName

__all__ = ["read_files"]


def read_files(
    place: Place,
    files: Sequence[PartitionFile],
    type_: Any,
    columns: Sequence[str] | None,
    asset: str,
) -> Any:
    """Read files as one frame; columns that some files lack are NULL there.

    A LazyFrame and a RecordBatchReader read while they are used, everything else at once.

    Raises:
        ColumnMismatch: no file has a column, or two have it with types that do not go together.
        UnsupportedType: files cannot be read as this type.

    """
    each, names = _schemas(place, files), [file.name for file in files]
    schema = _unified(each, asset)
    unknown = [name for name in columns or () if name not in schema.names]
    if unknown:
        msg = f"{asset} has no columns {unknown}; it has {sorted(schema.names)}"
        raise ColumnMismatch(msg, asset=asset, missing=unknown)
    if type_ is pl.LazyFrame:
        alike = all(one == schema for one in each)
        _refuse_scales(each, schema, asset)
        return _scan(place, names, None if alike else schema, columns)
    paths = [place.path(name) for name in names]
    source = ds.dataset(paths, schema=schema, format="parquet", filesystem=place.filesystem)
    chosen = None if columns is None else list(columns)
    if type_ is pa.RecordBatchReader:
        return source.scanner(columns=chosen).to_reader()
    wanted = wanted_frame(type_)
    try:
        table = source.to_table(columns=chosen)
    except pa.ArrowInvalid as error:  # a value that does not fit what holds the types of all files
        raise _mixed(asset, str(error)) from None
    # The frames read a table of a database, unless somebody has it already.
    with reading_through(lambda _: table):
        frames = frames_giving(wanted.type)
        return frames.read(cast("Any", None), TableName(asset.rpartition("/")[2]), wanted)


def _schemas(place: Place, files: Sequence[PartitionFile]) -> list[pa.Schema]:
    filesystem = place.filesystem
    return [
        file.arrow_schema() or pq.read_schema(place.path(file.name), filesystem=filesystem)
        for file in files
    ]


def _unified(found: Sequence[pa.Schema], asset: str) -> pa.Schema:
    """Give the columns of all files, with types that hold those of each."""
    try:
        whole = pa.unify_schemas(found, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise _mixed(asset, str(error)) from None
    for field in (field for schema in found for field in schema):
        wide = whole.field(field.name).type
        if pa.types.is_integer(field.type) and pa.types.is_floating(wide):
            raise _mixed(asset, f"{field.name} is {field.type} and {wide}")
    return whole


def _refuse_scales(found: Sequence[pa.Schema], whole: pa.Schema, asset: str) -> None:
    """Refuse numbers that polars cannot join while it scans."""
    for field in (field for schema in found for field in schema):
        wide = whole.field(field.name).type
        if not pa.types.is_decimal(wide) or pa.types.is_null(field.type):
            continue
        if not pa.types.is_decimal(field.type) or field.type.scale != wide.scale:
            said = f"{field.name} is {field.type} and {wide}, which a LazyFrame cannot scan"
            raise _mixed(asset, said)


def _mixed(asset: str, why: str) -> ColumnMismatch:
    msg = (
        f"the files of {asset} have columns whose types do not go together: {why}; "
        f"materialize the older partitions again"
    )
    return ColumnMismatch(msg, asset=asset)


def _scan(
    place: Place, names: Sequence[str], schema: pa.Schema | None, columns: Sequence[str] | None
) -> pl.LazyFrame:
    """Scan files; without a schema all have that of the first."""
    types = None if schema is None else pl.DataFrame(schema.empty_table()).schema
    frame = pl.scan_parquet(
        [place.url(name) for name in names],
        schema=types,
        glob=False,
        hive_partitioning=False,
        missing_columns="insert",
        cast_options=pl.ScanCastOptions(
            integer_cast="upcast",
            float_cast="upcast",
            datetime_cast="upcast",
            missing_struct_fields="insert",
        ),
        storage_options=dict(place.options) or None,
        credential_provider=None if place.options else "auto",
    )
    return frame if columns is None else frame.select(columns)
