"""What MySQL says about a query without running it: its result's fields, as type names."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa

from ixflow.dialects.facts import run
from ixflow.dialects.mysql.types import arrow_type
from ixflow.dialects.queries import named_once
from ixflow.values import Column

__all__ = ["describe", "has_index", "is_held", "reads_unversioned"]

# https://dev.mysql.com/doc/dev/mysql-server/latest/field__types_8h.html
_NAMES = {
    1: "tinyint",
    2: "smallint",
    3: "int",
    8: "bigint",
    9: "mediumint",
    13: "year",
    4: "float",
    5: "double",
    7: "timestamp",
    10: "date",
    11: "time",
    12: "datetime",
    14: "date",
    16: "bit",
    245: "json",
    255: "geometry",
}
_INTEGERS, _DECIMALS, _BIT = (1, 2, 3, 8, 9), (0, 246), 16
_UNSIGNED, _ENUM, _SET = 0x20, 0x100, 0x800
_BINARY_CHARSET = 63


def describe(conn: sa.Connection, query: str) -> tuple[Column, ...]:
    """Let the server read a query, and give its columns; LIMIT 0 is answered before it is run."""
    found = run(conn, f"SELECT * FROM ({query}\n) AS q LIMIT 0")
    cursor: Any = found.cursor
    # The description that drivers must give leaves out signs and character sets.
    fields = list(cursor._result.fields)  # noqa: SLF001 - `description` lacks flags and charset
    found.close()
    named_once([str(field.name) for field in fields])
    columns = []
    for field in fields:
        sql_type = _type_name(field)
        type_, as_text = arrow_type(sql_type)
        columns.append(Column(str(field.name), sql_type, type_, as_text=as_text))
    return tuple(columns)


def _type_name(field: Any) -> str:
    unsigned = bool(field.flags & _UNSIGNED)
    if field.type_code in _DECIMALS:
        digits = field.length - (0 if unsigned else 1) - (1 if field.scale else 0)
        return f"decimal({digits},{field.scale}){' unsigned' if unsigned else ''}"
    if field.type_code in _INTEGERS:
        return f"{_NAMES[field.type_code]}{' unsigned' if unsigned else ''}"
    if field.type_code == _BIT:
        return f"bit({field.length})"
    if field.type_code in _NAMES:
        return _NAMES[field.type_code]
    if field.charsetnr == _BINARY_CHARSET and not field.flags & (_ENUM | _SET):
        return "longblob"
    return "longtext"


_INDEXED = sa.text("""
    SELECT count(*) FROM information_schema.statistics
    WHERE table_schema = coalesce(:schema, database()) AND table_name = :name
        AND column_name = :column AND seq_in_index = 1 AND index_type = 'BTREE'
        AND sub_part IS NULL
""")


def has_index(conn: sa.Connection, place: dict[str, str | None], column: str) -> bool:
    """Say whether an index of the table begins with the whole column."""
    return bool(conn.execute(_INDEXED, {**place, "column": column}).scalar_one())


_ENGINES = sa.text("""
    SELECT table_name FROM information_schema.tables
    WHERE lower(engine) IN :engines
        AND table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
""").bindparams(sa.bindparam("engines", expanding=True))


def reads_unversioned(conn: sa.Connection, query: str, engines: tuple[str, ...]) -> bool:
    """Say whether a query names a table, or a view of one, whose rows no snapshot holds still."""
    text = query.lower()
    names = (str(name).lower() for name in conn.execute(_ENGINES, {"engines": engines}).scalars())
    if any(name in text for name in names):
        return True
    views = [(str(schema), str(name)) for schema, name in conn.execute(_VIEWS)]
    named = (place for place in views if place[1].lower() in text)
    return any(not is_held(conn, *place, engines) for place in named)


_VIEWS = sa.text("""
    SELECT table_schema, table_name FROM information_schema.views
    WHERE table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
""")
_MADE_OF = sa.text("""
    SELECT t.engine, v.table_name IS NOT NULL, v.view_definition
    FROM information_schema.tables t LEFT JOIN information_schema.views v
        ON v.table_schema = t.table_schema AND v.table_name = t.table_name
    WHERE t.table_schema = coalesce(:schema, database()) AND t.table_name = :name
        AND CAST(t.table_name AS BINARY) = CAST(:name AS BINARY)
""")
# Servers keep a view with every table's schema, and every join written out.
_READ = re.compile(r"(?:from|join)\s+\(*`((?:[^`]|``)+)`\.`((?:[^`]|``)+)`", re.IGNORECASE)


def is_held(conn: sa.Connection, schema: str | None, name: str, engines: tuple[str, ...]) -> bool:
    """Say whether a table, or every table of a view, has rows that a snapshot holds still.

    What a role may not see is not. ``engines`` are those without row versions.
    """
    seen: set[tuple[str | None, str]] = set()
    waiting = [(schema, name)]
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        found = conn.execute(_MADE_OF, {"schema": place[0], "name": place[1]}).first()
        if found is None:
            return False
        engine, is_view, definition = found
        if is_view and definition:
            pairs = _READ.findall(str(definition))
            waiting += [(a.replace("``", "`"), b.replace("``", "`")) for a, b in pairs]
        elif is_view or str(engine or "").lower() in engines:
            return False
    return True
