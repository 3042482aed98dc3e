"""Infinite dates and timestamps: texts on their way into a database that has them.

Arrow has no infinite moment, so a column of moments that holds one travels as text. Every other
text in it must be a moment that Arrow can read, and is written the way Arrow does.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.cast import cast_column
from ixflow.dialects.precision import refuse_changed
from ixflow.dialects.types import is_text
from ixflow.values import Column

__all__ = ["checked_moments", "infinite_texts", "is_moment_text", "is_moments"]

_INFINITE = "^-?infinity$"


def is_moments(type_: pa.DataType) -> bool:
    """Say whether it is a type of dates or timestamps."""
    return bool(pa.types.is_date(type_) or pa.types.is_timestamp(type_))


def is_moment_text(type_: pa.DataType, column: Column) -> bool:
    """Say whether texts of this Arrow type are on their way into a column of moments."""
    return is_text(type_) and not column.as_text and is_moments(column.type)


def infinite_texts(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Give the texts in lower case, NULL where they are not infinite, and all other texts.

    >>> infinite, finite = infinite_texts(pa.array(["-Infinity", "2026-01-02", None]))
    >>> infinite.to_pylist(), finite.to_pylist()
    (['-infinity', None, None], [None, '2026-01-02', None])
    """
    texts = array.cast(pa.string())
    lower = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    found = pc.match_substring_regex(lower, _INFINITE)
    nothing = pa.scalar(None, pa.string())
    return pc.if_else(found, lower, nothing), pc.if_else(found, nothing, texts)


def checked_moments(array: pa.Array, column: Column, *, table: str, first_row: int = 0) -> pa.Array:
    """Write texts of moments the way Arrow does; infinite ones stay.

    Raises:
        ValueDoesNotFit: naming table, column, row and value.

    """
    infinite, finite = infinite_texts(array)
    moments = cast_column(finite, column, table=table, first_row=first_row)
    refuse_changed(moments, column, table=table, first_row=first_row)
    return pc.coalesce(infinite, moments.cast(pa.string()))
