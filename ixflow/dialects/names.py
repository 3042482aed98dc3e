"""Identifiers as a database wants them written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from ixflow.errors import ValidationError
from ixflow.values import TableName

__all__ = ["Names"]


class Names:
    """How one kind of database quotes names, and how long they may be."""

    max_identifier: ClassVar[int] = 63
    """Longest identifier, in bytes."""
    quotes: ClassVar[tuple[str, str]] = ('"', '"')

    def quote(self, identifier: str) -> str:
        """Quote one identifier, always, so that capitals and reserved words are safe."""
        if "\x00" in identifier:
            msg = f"the identifier {identifier!r} holds a NUL character; no database takes that"
            raise ValidationError(msg, identifier=identifier)
        start, end = self.quotes
        return start + identifier.replace(end, end * 2) + end

    def qualified(self, table: TableName) -> str:
        """Quote a table name with its schema."""
        parts = [part for part in (table.schema, table.name) if part is not None]
        return ".".join(self.quote(part) for part in parts)

    def column_list(self, names: Iterable[str]) -> str:
        """Quote names and join them with commas."""
        return ", ".join(self.quote(name) for name in names)
