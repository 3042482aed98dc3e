"""Extracted Parquet files as batches: what lies behind the high watermark, as one batch.

The watermark is the greatest value of a cursor column. All new rows come as one batch, so that
they need not be sorted: rows and watermark commit together, whatever their order in the files.
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.errors import ColumnMismatch, ValidationError

if TYPE_CHECKING:
    import pyarrow.dataset as ds
    import sqlalchemy as sa

__all__ = ["as_watermark", "parquet_batches"]

Batch = tuple[Any, Any, Iterable[tuple[Any, Any]]]


def parquet_batches(
    files: Sequence[str | Path] | Callable[[], Sequence[str | Path]],
    table: sa.Table,
    *,
    cursor: str,
    overlap: Any = None,
    filesystem: Any = None,
) -> Callable[[Any], Iterator[Batch]]:
    """Make the batches function of `ingest` for Parquet files.

    Args:
        files: Paths of Parquet files with one schema, or a function that gives them.
        table: The table of the metadata that the rows go to.
        cursor: A column that only grows: a serial key, a time of change. Rows strictly beyond
            the watermark are ingested. NULL (and NaN) is beyond every watermark, so such rows are
            always ingested, which needs a primary key to be repeatable.
        overlap: Ingest this much before the watermark again, for rows that were committed late
            with a lower cursor: a number or a ``timedelta``. Needs a primary key.
        filesystem: A pyarrow or fsspec file system on which the paths are; None: this machine's.

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
        # It loads pandas, which nobody needs who does not come here.
        import pyarrow.dataset as ds

        dataset = ds.dataset(paths, format="parquet", filesystem=filesystem)
        if cursor not in dataset.schema.names:
            msg = f"the files have no column {cursor!r}; they have {dataset.schema.names}"
            raise ColumnMismatch(msg, missing=[cursor], table=str(table.name))
        type_ = dataset.schema.field(cursor).type
        beyond = _beyond(cursor, type_, high_watermark, overlap)
        found = dataset.scanner(columns=[cursor], filter=beyond).to_table()[cursor]
        if len(found) == 0:
            return
        without = pc.sum(pc.is_null(found, nan_is_null=True)).as_py()
        if without and not keyed:
            msg = f"{without} rows have no {cursor} and {table.name} has no primary key"
            raise ValidationError(msg, table=str(table.name), column=cursor)
        after = as_watermark(_later(_greatest(found, cursor), high_watermark, type_))
        yield after, {"files": len(paths)}, [(table, dataset.scanner(filter=beyond).to_reader())]

    return batches


def _beyond(cursor: str, type_: pa.DataType, watermark: Any, overlap: Any) -> ds.Expression | None:
    if watermark is None:
        return None
    value = _typed(watermark, type_)
    if overlap is not None:
        value = value - overlap
    field = pc.field(cursor)
    beyond = (field > pa.scalar(value, type_)) | field.is_null()
    # A file's statistics do not tell of NaN, and `is_null(nan_is_null=True)` believes them.
    return beyond | pc.is_nan(field) if pa.types.is_floating(type_) else beyond


def _greatest(found: pa.ChunkedArray, cursor: str) -> Any:
    greatest = pc.max(found.filter(pc.invert(pc.is_null(found, nan_is_null=True))))
    if pa.types.is_timestamp(greatest.type):
        try:
            greatest = greatest.cast(pa.timestamp("us", greatest.type.tz))
        except pa.ArrowInvalid:
            msg = f"{cursor} holds nanoseconds, which a watermark cannot; cast it to microseconds"
            raise ValidationError(msg, column=cursor) from None
    return greatest.as_py()


def _later(greatest: Any, watermark: Any, type_: pa.DataType) -> Any:
    """Never move the watermark back, also when the row that set it is gone from the source."""
    if watermark is None:
        return greatest
    before = _typed(watermark, type_)
    return before if greatest is None else max(greatest, before)


def _typed(watermark: Any, type_: pa.DataType) -> Any:
    """Read a watermark as a value of the cursor's type.

    Raises:
        ValidationError: it is not one.

    """
    try:
        value = _parsed(watermark, type_)
        pa.scalar(value, type_)
    except (pa.ArrowException, ArithmeticError, TypeError, ValueError) as error:
        msg = f"the high watermark {watermark!r} is not a value of the cursor's {type_}: {error}"
        raise ValidationError(msg, high_watermark=watermark) from None
    return value


def _parsed(watermark: Any, type_: pa.DataType) -> Any:
    if pa.types.is_timestamp(type_):
        moment = dt.datetime.fromisoformat(watermark)
        if (moment.tzinfo is None) != (type_.tz is None):
            msg = "one has a zone, the other has none"
            raise ValueError(msg)
        return moment
    if pa.types.is_date(type_):
        return dt.date.fromisoformat(watermark)
    return decimal.Decimal(watermark) if pa.types.is_decimal(type_) else watermark


def as_watermark(value: Any) -> Any:
    """Write a cursor value as the JSON value that is stored as the watermark.

    >>> as_watermark(dt.date(2026, 1, 2))
    '2026-01-02'
    """
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else value
