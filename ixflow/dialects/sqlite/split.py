"""How SQLite cuts a table: by rowid, which is where a row lies, or by the key that stands for it.

There are no statistics worth asking; ranges are weighed by how far their keys reach.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import sqlalchemy as sa

from ixflow.dialects.facts import run
from ixflow.dialects.keyspace import Kind
from ixflow.dialects.ranges import SplitKey
from ixflow.errors import ValidationError
from ixflow.values import Column

__all__ = ["estimated_rows", "key_item", "literal", "split_keys"]

_ROWID_NAMES = ("rowid", "_rowid_", "oid")
_INTEGER = re.compile(r"-?\d+")
_COLLATION = re.compile(r"text collate (.+)")
# A row takes no less than this in a page.
_LEAST_ROW_BYTES = 4


def split_keys(
    conn: sa.Connection, schema: str, name: str, columns: Sequence[Column]
) -> tuple[SplitKey, ...]:
    """Give the key that the rows of a table lie in the order of; a view has none.

    ``schema`` and ``name`` are quoted, the former with its dot.
    """
    listed = run(conn, f"PRAGMA {schema}table_list({name})").mappings().first()
    if listed is None or listed["type"] != "table":
        return ()
    if not listed["wr"]:
        rowid = _rowid(columns)
        if rowid is None:
            return ()
        # INTEGER PRIMARY KEY is the rowid, and stays with its row whatever VACUUM does.
        key = [c.name for c in columns if c.key_position]
        indexes = run(conn, f"PRAGMA {schema}index_list({name})").fetchall()
        kept = len(key) == 1 and not any(row[3] == "pk" for row in indexes)
        return (
            SplitKey((key[0] if kept else rowid,), ("integer",), ("integer",), places=not kept),
        )
    return _of_primary_key(conn, schema, name)


def _rowid(columns: Sequence[Column]) -> str | None:
    """Find a name of the rowid that no column has taken."""
    taken = {column.name.lower() for column in columns}
    return next((name for name in _ROWID_NAMES if name not in taken), None)


def _of_primary_key(conn: sa.Connection, schema: str, name: str) -> tuple[SplitKey, ...]:
    info = run(conn, f"PRAGMA {schema}table_info({name})").fetchall()
    declared = {row[1]: (row[2] or "").lower() for row in info}
    indexes = run(conn, f"PRAGMA {schema}index_list({name})").fetchall()
    index = next((row[1] for row in indexes if row[3] == "pk"), None)
    if index is None:
        return ()
    names: list[str] = []
    types: list[str] = []
    kinds: list[Kind] = []
    parts = run(conn, f"PRAGMA {schema}index_xinfo({_quoted(index)})").fetchall()
    for _, _, column, descending, collation, is_key in parts:
        if not is_key:
            continue
        kind = _kind(declared.get(column, ""))
        if kind is None or descending:
            break
        names.append(column)
        kinds.append(kind)
        types.append("integer" if kind == "integer" else f"text collate {collation}")
    return (SplitKey(tuple(names), tuple(types), tuple(kinds)),) if names else ()


def _kind(declared: str) -> Kind | None:
    """Follow SQLite's rules of affinity; a value of another type is no bound (`key_item`)."""
    if "int" in declared:
        return "integer"
    return "text" if any(word in declared for word in ("char", "clob", "text")) else None


def key_item(quoted: str, kind: Kind) -> str:
    """Write the expression that gives a key as text, or NULL if it is not of its type."""
    wanted = "integer" if kind == "integer" else "text"
    return f"CASE typeof({quoted}) WHEN '{wanted}' THEN CAST({quoted} AS TEXT) END"


def literal(text: str, sql_type: str) -> str | None:
    """Write a bound of one of our types; None: it is of another.

    >>> print(literal("it's", "text collate NOCASE"))
    'it''s' COLLATE "NOCASE"
    """
    if sql_type == "integer":
        if not _INTEGER.fullmatch(text):
            raise ValidationError(f"{text!r} is not a whole number", sql_type=sql_type)
        return text
    collated = _COLLATION.fullmatch(sql_type)
    if collated is None:
        return None
    escaped = text.replace("'", "''")
    collation = collated[1].replace('"', '""')
    return f"'{escaped}' COLLATE \"{collation}\""


def estimated_rows(
    conn: sa.Connection, schema: str, name: str, keys: Sequence[SplitKey], size_bytes: int
) -> int:
    """Give what ANALYZE has counted, or the reach of the rowids; -1: nothing is known.

    ``schema`` is quoted, with its dot.
    """
    counted = _counted(conn, schema, name)
    if counted is not None:
        return counted
    if not keys or keys[0].kinds != ("integer",):
        return -1
    table, key = (_quoted(text) for text in (name, keys[0].columns[0]))
    first, last = (
        run(conn, f"SELECT {key} FROM {schema}{table} ORDER BY {key} {way} LIMIT 1").scalar()
        for way in ("ASC", "DESC")
    )
    if first is None or last is None:
        return 0
    # Keys may be far apart; the file has room for no more than this.
    return min(int(last) - int(first) + 1, size_bytes // _LEAST_ROW_BYTES)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _counted(conn: sa.Connection, schema: str, name: str) -> int | None:
    known = f"SELECT 1 FROM {schema}sqlite_master WHERE name = 'sqlite_stat1'"
    if run(conn, known).first() is None:
        return None
    # An index may leave rows out; none has more than the table.
    query = sa.text(f"SELECT stat FROM {schema}sqlite_stat1 WHERE lower(tbl) = lower(:name)")
    counts = [int(str(stat).split()[0]) for (stat,) in conn.execute(query, {"name": name}) if stat]
    return max(counts, default=None)
