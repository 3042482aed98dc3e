"""Extracted Parquet files as batches: what lies behind the high watermark, as one batch.

The watermark is the greatest value of a cursor column. All new rows come as one batch, so that
they need not be sorted: rows and watermark commit together, whatever their order in the files.
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import sqlalchemy as sa

from ixflow.errors import ColumnMismatch, ValidationError

__all__ = ["parquet_batches"]

Batch = tuple[Any, Any, Iterable[tuple[Any, Any]]]


def parquet_batches(
    files: Sequence[str | Path] | Callable[[], Sequence[str | Path]],
    table: sa.Table,
    *,
    cursor: str,
    overlap: Any = None,
) -> Callable[[Any], Iterator[Batch]]:
    """Make the batches function of `ingest` for Parquet files.

    Args:
        files: Paths of Parquet files with one schema, or a function that gives them.
        table: The table of the metadata that the rows go to.
        cursor: A column that only grows: a serial key, a time of change. Rows strictly beyond
            the watermark are ingested. NULL is beyond every watermark, so such rows are always
            ingested, which needs a primary key to be repeatable.
        overlap: Ingest this much before the watermark again, for rows that were committed late
            with a lower cursor: a number or a ``timedelta``. Needs a primary key.

    Raises:
        ValidationError: overlap, or NULLs in the cursor, for a table without a primary key.
        ColumnMismatch: the files lack the cursor column.

    Example::

        ingest(conn, metadata, parquet_batches(result.output_files, orders, cursor="id"))

    """
    keyed = len(table.primary_key.columns) > 0
    if overlap is not None and not keyed:
        msg = f"{table.name} has no primary key, so an overlap would double its rows"
        raise ValidationError(msg, table=str(table.name))

    def batches(high_watermark: Any) -> Iterator[Batch]:
        paths = [str(path) for path in (files() if callable(files) else files)]
        if not paths:
            return
        dataset = ds.dataset(paths, format="parquet")
        if cursor not in dataset.schema.names:
            msg = f"the files have no column {cursor!r}; they have {dataset.schema.names}"
            raise ColumnMismatch(msg, missing=[cursor], table=str(table.name))
        type_ = dataset.schema.field(cursor).type
        beyond = _beyond(cursor, type_, high_watermark, overlap)
        found = dataset.scanner(columns=[cursor], filter=beyond).to_table()[cursor]
        if len(found) == 0:
            return
        if found.null_count and not keyed and high_watermark is not None:
            msg = f"{found.null_count} rows have no {cursor} and {table.name} has no primary key"
            raise ValidationError(msg, table=str(table.name), column=cursor)
        after = _json_value(_later(pc.max(found).as_py(), high_watermark, type_))
        yield after, {"files": len(paths)}, [(table, dataset.scanner(filter=beyond).to_reader())]

    return batches


def _beyond(cursor: str, type_: pa.DataType, watermark: Any, overlap: Any) -> ds.Expression | None:
    if watermark is None:
        return None
    value = _typed(watermark, type_)
    if overlap is not None:
        value = value - overlap
    field = ds.field(cursor)
    return (field > pa.scalar(value, type_)) | field.is_null()


def _later(greatest: Any, watermark: Any, type_: pa.DataType) -> Any:
    """Never move the watermark back, also when the row that set it is gone from the source."""
    if watermark is None:
        return greatest
    before = _typed(watermark, type_)
    return before if greatest is None else max(greatest, before)


def _typed(watermark: Any, type_: pa.DataType) -> Any:
    if pa.types.is_timestamp(type_):
        return dt.datetime.fromisoformat(watermark)
    if pa.types.is_date(type_):
        return dt.date.fromisoformat(watermark)
    return decimal.Decimal(watermark) if pa.types.is_decimal(type_) else watermark


def _json_value(value: Any) -> Any:
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else value
