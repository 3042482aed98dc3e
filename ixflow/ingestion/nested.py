"""Lists, structs, maps and UUIDs of a frame as what the database reads them from.

A column of lists goes into an array, or, as anything nested does, into JSON; a map also into an
hstore. A UUID is 16 bytes in Arrow, and a text here.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from ixflow.dialects.types import split_sql_type
from ixflow.errors import ValueDoesNotFit
from ixflow.ingestion.texts import encoder
from ixflow.values import Column

__all__ = ["flat"]

_UUID_BYTES = 16


def flat(
    reader: pa.RecordBatchReader, columns: Sequence[Column], *, table: str
) -> pa.RecordBatchReader:
    """Give a reader whose nested columns are texts, where the table's columns take them so.

    Raises:
        ValueDoesNotFit: while reading; naming table, column, row and value.

    >>> table = pa.table({"tags": [[1, None], []]})
    >>> tags = Column("tags", "integer[]", pa.string(), as_text=True)
    >>> flat(table.to_reader(), [tags], table="t").read_all().to_pydict()
    {'tags': ['{"1",NULL}', '{}']}
    """
    by_name = {column.name: column for column in columns}
    places = {
        place: by_name[field.name]
        for place, field in enumerate(reader.schema)
        if field.name in by_name and _is_flattened(field.type, by_name[field.name])
    }
    if not places:
        return reader
    schema = reader.schema
    for place in places:
        schema = schema.set(place, pa.field(schema.field(place).name, pa.string()))

    def batches() -> Iterator[pa.RecordBatch]:
        first_row = 0
        for batch in reader:
            arrays = list(batch.columns)
            for place, column in places.items():
                arrays[place] = _texts(arrays[place], column, table, first_row)
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            first_row += batch.num_rows

    return pa.RecordBatchReader.from_batches(schema, batches())


def _is_flattened(type_: pa.DataType, column: Column) -> bool:
    base = split_sql_type(column.sql_type)[0]
    if base == "uuid":
        return _uuid_bytes(type_)
    encodes = column.as_text or base in ("json", "jsonb")
    return encodes and pa.types.is_nested(type_) and encoder(column) is not None


def _uuid_bytes(type_: pa.DataType) -> bool:
    stored = type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_
    return bool(pa.types.is_fixed_size_binary(stored) and stored.byte_width == _UUID_BYTES)


def _texts(array: pa.Array, column: Column, table: str, first_row: int) -> pa.Array:
    encode = encoder(column) or str
    texts = []
    for row, value in enumerate(array.to_pylist()):
        try:
            texts.append(None if value is None else encode(_plain(value, array.type)))
        except (TypeError, ValueError) as error:
            shown = repr(value)[:60]
            msg = (
                f"{table}.{column.name} in row {first_row + row} (value {shown}) is not "
                f"{column.sql_type}: {error}"
            )
            fields = {"table": table, "column": column.name, "row": first_row + row}
            raise ValueDoesNotFit(msg, **fields, value=shown) from error
    return pa.array(texts, pa.string())


def _plain(value: Any, type_: pa.DataType) -> Any:
    if pa.types.is_map(type_):
        return dict(value)
    return uuid.UUID(bytes=value) if isinstance(value, bytes) else value
