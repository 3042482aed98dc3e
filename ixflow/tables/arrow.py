"""Anything that can become Arrow, as one stream of record batches."""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.errors import UnsupportedType

__all__ = ["as_reader", "is_arrow_like", "is_reusable"]


def is_arrow_like(data: Any) -> bool:
    """Say whether `as_reader` takes it: anything with an Arrow C stream, or a polars LazyFrame."""
    return (
        isinstance(data, (pa.RecordBatchReader, pa.Table, pa.RecordBatch))
        or hasattr(data, "__arrow_c_stream__")
        or hasattr(data, "__arrow_c_array__")
        or hasattr(data, "collect_batches")
    )


def as_reader(data: Any) -> pa.RecordBatchReader:
    """Stream pyarrow, polars, pandas, DuckDB relations and whatever else speaks Arrow.

    Run-end encoding is taken off. A LazyFrame is streamed batch by batch, not collected. A pandas
    index is not written.

    Raises:
        UnsupportedType: the object has no Arrow stream.

    >>> as_reader(pa.table({"id": [1, 2]})).read_all().num_rows
    2
    """
    return _decoded(_reader(data))


def _reader(data: Any) -> pa.RecordBatchReader:
    if isinstance(data, pa.RecordBatchReader):
        return data
    if type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns"):
        data = pa.Table.from_pandas(data, preserve_index=False)
    elif isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    if isinstance(data, pa.Table):
        return data.to_reader()
    if hasattr(data, "collect_batches"):
        return _lazy_reader(data)
    with contextlib.suppress(pa.ArrowException):  # a column, which is no table
        if hasattr(data, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(data)
        if hasattr(data, "__arrow_c_array__"):
            batch = pa.record_batch(data)
            return pa.RecordBatchReader.from_batches(batch.schema, [batch])
    kind = f"{type(data).__module__}.{type(data).__qualname__}"
    msg = f"cannot read rows from a {kind}; give a frame or table that speaks Arrow"
    raise UnsupportedType(msg, type=kind)


def _decoded(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Take off run-end encoding, which no database and few functions of Arrow know."""
    encoded = [
        place
        for place, field in enumerate(reader.schema)
        if pa.types.is_run_end_encoded(field.type)
    ]
    if not encoded:
        return reader
    schema = reader.schema
    for place in encoded:
        field = schema.field(place)
        schema = schema.set(place, field.with_type(field.type.value_type))

    def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
        arrays = [
            pc.run_end_decode(array) if place in encoded else array
            for place, array in enumerate(batch.columns)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, (plain(batch) for batch in reader))


def is_reusable(data: Any) -> bool:
    """Say whether what it gives can be read again, which holds for what has its rows in memory.

    >>> is_reusable(pa.table({"id": [1]})), is_reusable(pa.table({"id": [1]}).to_reader())
    (True, False)
    """
    if isinstance(data, (pa.Table, pa.RecordBatch)):
        return True
    kind = type(data)
    package = kind.__module__.partition(".")[0]
    return kind.__name__ == "DataFrame" and package in ("pandas", "polars")


def _lazy_reader(frame: Any) -> pa.RecordBatchReader:
    schema = frame.collect_schema().to_frame(eager=True).to_arrow().schema
    batches = (
        batch.cast(schema)
        for part in frame.collect_batches(maintain_order=True)
        for batch in part.to_arrow().to_batches()
    )
    return pa.RecordBatchReader.from_batches(schema, batches)
