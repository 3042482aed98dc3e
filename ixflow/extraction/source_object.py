"""What an intent extracts, as the source sees it: a table, or a query in the place of one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.dialects import Dialect, SourceFacts
from ixflow.errors import LockNotAvailable, TableNotFound
from ixflow.extraction.incremental import base_of, check_start, cursor_advice, planned_cursor
from ixflow.extraction.selection import check_filter, chosen_columns, described, salt_digest
from ixflow.tables.cursor import CursorPlan
from ixflow.values import Column, TableName, TablePart

if TYPE_CHECKING:
    from ixflow.extraction.intent import ExtractionIntent

__all__ = ["SourceObject", "find_object", "known_columns"]


@dataclass(frozen=True, slots=True)
class SourceObject:
    """A table or query: its columns, statistics and parts, and how its new rows are told.

    ``known`` are all its columns, ``columns`` those that the intent chooses. ``mark`` is the high
    watermark that is published now, ``advice`` what speaks against the cursor. ``by_index`` says
    that only the index of the cursor is to be read.
    """

    table: TableName
    known: tuple[Column, ...]
    columns: tuple[Column, ...]
    facts: SourceFacts
    parts: tuple[TablePart, ...]
    cursor: CursorPlan | None = None
    mark: str | None = None
    advice: tuple[str, ...] = ()
    by_index: bool = False


def find_object(intent: ExtractionIntent, dialect: Dialect, conn: sa.Connection) -> SourceObject:
    """Look at what the intent names, and let the server read its filter and its query.

    Raises:
        TableNotFound: there is no such table, or the role may not see it.
        ValidationError: the intent's columns, masks, filter, query or cursor cannot be used.

    """
    salt_digest(intent.mask_salt)
    found = _table(intent, dialect, conn) if intent.query is None else _query(intent, dialect, conn)
    check_filter(dialect, conn, TablePart(found.table), intent)
    return _with_cursor(found, intent, dialect, conn)


def known_columns(
    intent: ExtractionIntent, dialect: Dialect, conn: sa.Connection
) -> tuple[Column, ...]:
    """Give all columns of the intent's table or query, as the source declares them.

    Raises:
        TableNotFound: there is no such table, or the role may not see it.
        ValidationError: the query cannot be used.

    """
    if intent.query is not None:
        return described(dialect, conn, intent)
    return dialect.columns(conn, _named(dialect, conn, intent.object_name))


def _table(intent: ExtractionIntent, dialect: Dialect, conn: sa.Connection) -> SourceObject:
    table = _named(dialect, conn, intent.object_name)
    known = dialect.columns(conn, table)
    facts = dialect.source_facts(conn, table)
    parts = _with_facts(dialect.parts(conn, table), facts)
    return SourceObject(table, known, chosen_columns(intent, known), facts, parts)


def _query(intent: ExtractionIntent, dialect: Dialect, conn: sa.Connection) -> SourceObject:
    table = TableName(intent.object_name)
    known = described(dialect, conn, intent)
    part = dialect.query_part(conn, table, intent.query or "")
    facts = SourceFacts(part.rows, part.size_bytes)
    return SourceObject(table, known, chosen_columns(intent, known), facts, (part,))


def _with_cursor(
    found: SourceObject, intent: ExtractionIntent, dialect: Dialect, conn: sa.Connection
) -> SourceObject:
    cursor = planned_cursor(intent, found.known)
    if cursor is None:
        return found
    if cursor.semantics == "settled":
        # What is missing is found now; what is open now is not in the run's way.
        with suppress(LockNotAvailable):
            dialect.settled_before(conn, None if intent.query is not None else found.table)
    if intent.query is None:
        check_start(dialect, conn, TablePart(found.table), cursor)
        indexed = dialect.has_index(conn, found.table, cursor.column)
    else:
        indexed = True  # whether it is is the query's business
    base = base_of(intent, cursor, found.columns)
    mark = None if base is None or base.window is None else base.window.high_watermark
    by_index = mark is not None and indexed
    advice = cursor_advice(intent, cursor, indexed=indexed)
    planned = replace(found, cursor=cursor, mark=mark, advice=advice, by_index=by_index)
    if not by_index:
        return planned
    # Nobody knows how many rows are new; an index finds them, which ranges of pages do not use.
    unknown: dict[str, Any] = {"rows": -1, "size_bytes": 0, "pages": None}
    parts = tuple(replace(part, **unknown) for part in found.parts)
    return replace(planned, facts=replace(found.facts, **unknown), parts=parts)


def _named(dialect: Dialect, conn: sa.Connection, name: str) -> TableName:
    """Read the name as ``schema.table``, or as the name of one table that holds a dot."""
    parsed = TableName.parse(name)
    whole = TableName(name)
    for table in (parsed, whole):
        try:
            if dialect.exists(conn, table):
                return table
        except sa.exc.OperationalError as error:
            # SQLite refuses to look into a schema that it does not know.
            if "unknown database" not in str(error.orig):
                raise
    msg = (
        f"there is no table {parsed} in this {dialect.name} database, or the role may not see it; "
        f"names are compared exactly, capitals included"
    )
    raise TableNotFound(msg, table=name)


def _with_facts(parts: tuple[TablePart, ...], facts: SourceFacts) -> tuple[TablePart, ...]:
    if len(parts) == 1 and parts[0].rows < 0:
        return (replace(parts[0], rows=facts.rows, size_bytes=facts.size_bytes),)
    return parts
