"""`ParquetIOManager`: outputs of plain assets become Parquet files, inputs are read from them.

Files appear whole, and those of one run together (see `ixflow.dagster.parquet_places`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

import dagster as dg
import pyarrow as pa
from pydantic import Field

from ixflow.dagster.asset_slices import partition_paths, slices_of
from ixflow.dagster.failures import failures
from ixflow.dagster.guard import tried
from ixflow.dagster.parquet_manifest import PartitionFile
from ixflow.dagster.parquet_places import BucketPlace, LocalPlace, Place, place_of
from ixflow.dagster.parquet_write import partition_name, rows_of, write_partitions, write_whole
from ixflow.dagster.reading import asked_columns
from ixflow.dagster.stored import stored_of
from ixflow.errors import TableNotFound, ValidationError

__all__ = ["ParquetIOManager"]

_ALLOW_MISSING = "allow_missing_partitions"


class ParquetIOManager(dg.ConfigurableIOManager):
    """Stores what assets return as Parquet files below a directory, ``s3://`` or ``gs://``.

    An asset ``st/t`` is the file ``<base_dir>/st/t.parquet``, or with partitions the directory
    ``<base_dir>/st/t`` with a file for each of them. Outputs are pandas, polars or pyarrow frames,
    readers and DuckDB relations; a LazyFrame is streamed. Inputs are what their annotation says
    (without one pyarrow), a LazyFrame scans the files. ``AssetIn(metadata={"columns": [...]})``
    reads only these columns. ``storage_options`` are those of the extraction; give secrets by
    `dagster.EnvVar`.

    Example::

        @dg.asset(io_manager_key="lake")
        def orders() -> pl.LazyFrame: ...

        resources = {"lake": ParquetIOManager(base_dir="s3://lake/assets")}

    """

    base_dir: str
    storage_options: dict[str, str] = Field(
        default={}, description="credentials, endpoint and region of the object store"
    )

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write what the asset returned; None writes nothing."""
        if obj is None:
            return
        asset = context.asset_key.to_user_string()
        with failures():
            place = self._place(context.asset_key)
            rows = rows_of(obj, asset)
            if isinstance(place, LocalPlace) and not context.has_asset_partitions:
                whole = write_whole(place, rows)
                files, total, where = {"": whole}, whole.rows, place.path(whole.name)
            else:
                files, total = _write_partitions(context, place, rows, asset)
                where = place.location
        tried(
            f"what was written to {where}",
            lambda: _tell(context, files, where, rows.schema, total),
            None,
            *self.storage_options.values(),
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the files as the annotated type; without an annotation as pyarrow."""
        # It needs polars, which not everybody who loads definitions does.
        from ixflow.dagster.parquet_read import read_files

        wanted = context.dagster_type.typing_type
        type_ = pa.Table if wanted in (Any, None, type(None)) else get_origin(wanted) or wanted
        asset = context.asset_key.to_user_string()
        with failures():
            columns = asked_columns(context.definition_metadata, asset)
            place = self._place(context.asset_key)
            return read_files(place, _files(context, place, asset), type_, columns, asset)

    def _place(self, key: dg.AssetKey) -> LocalPlace | BucketPlace:
        return place_of(self.base_dir, key, self.storage_options)


def _write_partitions(
    context: dg.OutputContext, place: Place, rows: pa.RecordBatchReader, asset: str
) -> tuple[dict[str, PartitionFile], int]:
    """Write the partitions of a run; give their files, and the rows of all partitions."""
    parted = context.has_asset_partitions
    expr = stored_of(context.definition_metadata, asset).partition_expr if parted else None
    paths = partition_paths(context) if parted else {"": {}}
    if expr is None and len(paths) > 1:
        msg = (
            f"a run is of {len(paths)} partitions of {asset}, and nothing says which column tells "
            f"the partition of a row; name it: metadata={{'partition_expr': <the column>}}"
        )
        raise ValidationError(msg, asset=asset)
    slices = None if expr is None else slices_of(context, expr, asset)
    names = {key: partition_name(path) for key, path in paths.items()}
    files = write_partitions(place, rows, names, slices, asset)
    # What an error leaves here may have been published: a later write looks, and removes the rest.
    manifest = place.publish(list(names.values()), lambda before: before.with_files(files))
    return files, manifest.rows


def _files(context: dg.InputContext, place: Place, asset: str) -> list[PartitionFile]:
    """Find the files of an input.

    Raises:
        TableNotFound: there are none, or some are missing and nothing says that they may be.

    """
    parted = context.has_asset_partitions
    if isinstance(place, LocalPlace) and not parted:
        if not Path(place.path(place.whole)).is_file():
            msg = f"there is no file {place.path(place.whole)}; materialize {asset} first"
            raise TableNotFound(msg, asset=asset, path=place.path(place.whole))
        return [PartitionFile(place.whole, 0, 0)]
    manifest, keys = place.manifest(), list(context.asset_partition_keys) if parted else [""]
    if not keys:
        msg = f"the input {asset} has no partitions: there are none that the asset depends on"
        raise TableNotFound(msg, asset=asset, path=place.location)
    missing = manifest.missing(keys)
    if missing == [""]:
        msg = f"there is no file at {place.location}; materialize {asset} first"
        raise TableNotFound(msg, asset=asset, path=place.location)
    may_miss = bool((context.definition_metadata or {}).get(_ALLOW_MISSING))
    if missing and (not may_miss or len(missing) == len(keys)):
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")  # noqa: PLR2004 - enough
        msg = (
            f"{len(missing)} of {len(keys)} partitions of {asset} have no file: {shown}; "
            f"materialize them, or say AssetIn(metadata={{'{_ALLOW_MISSING}': True}}) for some"
        )
        raise TableNotFound(msg, asset=asset, partitions=missing)
    return [manifest.files[key] for key in keys if key in manifest.files]


def _tell(
    context: dg.OutputContext,
    files: Mapping[str, PartitionFile],
    where: str,
    schema: pa.Schema,
    total: int,
) -> None:
    """Record what was written."""
    columns = [dg.TableColumn(name=field.name, type=str(field.type)) for field in schema]
    metadata: dict[str, Any] = {
        "dagster/uri": where,
        "dagster/storage_kind": "parquet",
        "dagster/row_count": total,
        "dagster/column_schema": dg.TableSchema(columns=columns),
    }
    for key, file in files.items():
        told = {"ixflow/bytes": file.bytes}
        if key:
            told["dagster/partition_row_count"] = file.rows
        if len(files) == 1:
            metadata |= told
        else:
            context.step_context.add_asset_metadata(
                told, asset_key=context.asset_key, partition_key=key
            )
    context.add_output_metadata(metadata)
