"""Small frozen values that every layer shares: table names, columns, run ids."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Column", "KeyRange", "PageRange", "TableName", "TablePart", "new_run_id"]


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """The exact name of a table, with the schema it lives in (None: the default schema).

    Both parts are taken as they are, capitals, spaces and quotes included; quoting is the
    dialect's business.

    >>> str(TableName("orders", "shop"))
    'shop.orders'
    """

    name: str
    schema: str | None = None

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Split ``schema.table`` at its first dot; a part in double quotes keeps its dots.

        >>> TableName.parse('shop."odd.name"')
        TableName(name='odd.name', schema='shop')
        """
        parts = _split_name(text)
        if len(parts) == 1:
            return cls(parts[0])
        return cls(".".join(parts[1:]), parts[0])

    def renamed(self, name: str) -> TableName:
        """Return the same schema with another table name."""
        return replace(self, name=name)

    def __str__(self) -> str:
        """Show the name the way people write it."""
        return self.name if self.schema is None else f"{self.schema}.{self.name}"


def _split_name(text: str) -> list[str]:
    parts, current, quoted, position = [], "", False, 0
    while position < len(text):
        char = text[position]
        if char == '"' and quoted and text[position + 1 : position + 2] == '"':
            current += '"'
            position += 1
        elif char == '"':
            quoted = not quoted
        elif char == "." and not quoted:
            parts.append(current)
            current = ""
        else:
            current += char
        position += 1
    return [*parts, current]


@dataclass(frozen=True, slots=True)
class Column:
    """One column as a database's catalogue describes it, and the Arrow type that holds it.

    ``sql_type`` is the database's own spelling (``numeric(12,2)``). ``as_text`` says that Arrow
    has no type that holds every value of it exactly, so its values travel as text.
    ``key_position`` is the 1-based place in the primary key, None outside it. ``mask`` names what
    the source sends in the place of the values (see `ixflow.dialects.masks`).
    """

    name: str
    sql_type: str
    type: pa.DataType
    nullable: bool = True
    as_text: bool = False
    key_position: int | None = None
    mask: str | None = None


_SHOWN = 40

PageRange = tuple[int, int | None]
"""The first page of a range, and the first page after it (None: to the end)."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The rows whose key lies from ``low`` (included) to ``high`` (excluded), as the server orders.

    ``columns`` and ``types`` (the database's own spelling) name the key's columns, most significant
    first; a bound has a text for each of them, None is open-ended. ``nulls`` means instead the rows
    whose first column is NULL, which no comparison finds; the other columns must not have any.
    ``places`` says that the key is where a row lies, such as rowid: in another moment a row may lie
    elsewhere, so ranges of two moments do not fit together.

    >>> str(KeyRange(("id",), ("bigint",), low=("10",), high=None))
    'id from 10'
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    low: tuple[str, ...] | None = None
    high: tuple[str, ...] | None = None
    nulls: bool = False
    places: bool = False

    def __str__(self) -> str:
        """Show the range the way people say it, long values cut."""
        if self.nulls:
            return f"{self.columns[0]} is NULL"
        name = ", ".join(self.columns)
        low = "" if self.low is None else f" from {_shown(self.low)}"
        high = "" if self.high is None else f" before {_shown(self.high)}"
        return f"{name}{low}{high}" if low or high else f"every {name}"


def _shown(bound: tuple[str, ...]) -> str:
    texts = (text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..." for text in bound)
    return ", ".join(texts)


@dataclass(frozen=True, slots=True)
class TablePart:
    """A part of a table that can be read on its own: the table itself, or one partition.

    ``only`` leaves out the tables that inherit from it. ``pages`` counts its physical pages if a
    range of them can be read (None: only all of it). ``rows`` (-1: unknown) and ``size_bytes`` are
    estimates. ``in_snapshot`` is False for rows that no snapshot of the reader holds still, such
    as those of a foreign table.
    """

    table: TableName
    only: bool = False
    pages: int | None = None
    rows: int = -1
    size_bytes: int = 0
    in_snapshot: bool = True


def new_run_id() -> str:
    """Return an id like ``ix-20261121-081500-3f9c2a`` (UTC): sortable by time, unique by chance.

    >>> new_run_id().startswith("ix-")
    True
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"ix-{stamp}-{uuid.uuid4().hex[:6]}"
