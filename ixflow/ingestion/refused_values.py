"""The value that a server refused: it tells only row and column, so the frame is asked."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ixflow.errors import ValueDoesNotFit
from ixflow.tables.arrow import as_reader

__all__ = ["with_value"]

_SHOWN = 60


def with_value(error: ValueDoesNotFit, data: Any) -> ValueDoesNotFit:
    """Add the value to an error about data that can be read once more.

    A RecordBatchReader cannot: its values are gone when the server answers.

    >>> refused = ValueDoesNotFit("t.c in row 1 is refused", table="t", column="c", row=1)
    >>> with_value(refused, pa.table({"c": ["a", "b"]})).message
    "t.c in row 1 (value 'b') is refused"
    """
    row, column = error.fields.get("row"), error.fields.get("column")
    if "value" in error.fields or row is None or column is None:
        return error
    if isinstance(data, pa.RecordBatchReader):
        return error
    shown = _shown(data, column, row)
    if shown is None:
        return error
    message = error.message.replace(f"in row {row} ", f"in row {row} (value {shown}) ", 1)
    return ValueDoesNotFit(message, **error.fields, value=shown)


def _shown(data: Any, column: str, row: int) -> str | None:
    first = 0
    for batch in as_reader(data):
        if row < first + batch.num_rows:
            scalar = batch.column(batch.schema.get_field_index(column))[row - first]
            try:
                return repr(scalar.as_py())[:_SHOWN]
            except (OverflowError, ValueError):  # beyond what Python can hold
                return str(scalar)[:_SHOWN]
        first += batch.num_rows
    return None
