"""CREATE, ALTER and DROP TABLE, CREATE VIEW and SCHEMA: carried out, and noted in the catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import sqlglot

from ixflow_tests.tds.types import SQLType, from_duckdb

__all__ = ["declared_types", "define"]

_NAME = r"(?:\[(?:[^\]]|\]\])*\]|\w+)"
_QUALIFIED = rf"(?P<table>{_NAME}(?:\.{_NAME})?)"
_CREATE = re.compile(
    rf"create\s+table\s+{_QUALIFIED}\s*\((?P<body>.*?)\)\s*(?P<with>with\s*\([^)]*\))?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_DROP = re.compile(rf"drop\s+(?P<kind>table|view)\s+{_QUALIFIED}$", re.IGNORECASE)
_ALTER = re.compile(
    rf"alter\s+table\s+{_QUALIFIED}\s+(?:drop\s+column\s+(?P<gone>{_NAME})|add\s+(?P<new>.+))$",
    re.IGNORECASE | re.DOTALL,
)
_VIEW = re.compile(
    rf"create\s+view\s+{_QUALIFIED}\s+as\s+(?P<query>.*)$", re.IGNORECASE | re.DOTALL
)
_SCHEMA = re.compile(rf"create\s+schema\s+(?P<name>{_NAME})$", re.IGNORECASE)
_COLUMN = re.compile(
    rf"(?P<name>{_NAME})\s+(?P<type>\w+(?:\s*\([^)]*\))?)(?P<rest>.*)", re.IGNORECASE | re.DOTALL
)
_KEY = re.compile(r"(?:constraint\s+\S+\s+)?primary\s+key\s*\((?P<names>.*)\)", re.IGNORECASE)
_COLLATE = re.compile(r"collate\s+(\w+)", re.IGNORECASE)


@dataclass(frozen=True)
class _Column:
    name: str
    type: SQLType
    nullable: bool
    hidden: bool


def _bare(name: str) -> str:
    return name[1:-1].replace("]]", "]") if name.startswith("[") else name


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _place(text: str) -> tuple[str, str]:
    names = [_bare(name) for name in re.findall(_NAME, text)]
    return (names[0], names[1]) if len(names) > 1 else ("dbo", names[0])


def define(con: duckdb.DuckDBPyConnection, statement: str) -> bool:
    """Carry out a definition; False if the statement is none."""
    for pattern, carry_out in (
        (_CREATE, _create),
        (_DROP, _drop),
        (_ALTER, _alter),
        (_VIEW, _view),
        (_SCHEMA, _schema),
    ):
        if found := pattern.match(statement):
            carry_out(con, found)
            return True
    return False


def declared_types(
    con: duckdb.DuckDBPyConnection, schema: str | None, table: str
) -> dict[str, SQLType]:
    """Read the types of a table's columns from the catalogue."""
    rows = con.execute(
        """
        SELECT c.name, t.name, c.max_length, c.precision, c.scale, c.collation_name
        FROM sys.columns AS c JOIN sys.types AS t ON t.user_type_id = c.user_type_id
        JOIN sys.objects AS o ON o.object_id = c.object_id
        JOIN sys.schemas AS s ON s.schema_id = o.schema_id
        WHERE lower(o.name) = lower($name) AND s.name = $schema
        """,
        {"name": table, "schema": schema or "dbo"},
    ).fetchall()
    return {name: _declared(*rest) for name, *rest in rows}


def _declared(base: str, size: int, precision: int, scale: int, collation: str) -> SQLType:
    if base == "decimal":
        return SQLType(base, (precision, scale))
    if base in ("time", "datetime2", "datetimeoffset"):
        return SQLType(base, (scale,))
    return SQLType(base, (size // 2 if base.startswith("n") and size > 0 else size,), collation)


def _create(con: duckdb.DuckDBPyConnection, found: re.Match[str]) -> None:
    schema, table = _place(found["table"])
    columns, key = [], []
    for part in _parts(found["body"]):
        if whole := _KEY.match(part):
            key = [_bare(name) for name in re.findall(_NAME, whole["names"])]
            continue
        if part.lower().startswith("period for"):
            continue
        column = _column(part)
        columns.append(column)
        if re.search(r"primary\s+key", part, re.IGNORECASE):
            key = [column.name]
    lines = [f"{_quoted(column.name)} {column.type.stored}" for column in columns]
    con.execute(f"CREATE TABLE {_quoted(schema)}.{_quoted(table)} ({', '.join(lines)})")
    number = _note_object(con, schema, table, "U", in_memory=found["with"] is not None)
    for place, column in enumerate(columns, 1):
        _note_column(con, number, place, column, in_key=column.name in key)
    if key:
        con.execute(
            "INSERT INTO sys.indexes (object_id, index_id, is_primary_key) VALUES (?, 1, true)",
            [number],
        )
    names = [column.name for column in columns]
    for ordinal, name in enumerate(key, 1):
        con.execute(
            "INSERT INTO sys.index_columns VALUES (?, 1, ?, ?)",
            [number, names.index(name) + 1, ordinal],
        )


def _parts(body: str) -> Iterator[str]:
    """Cut at the commas that are not in parentheses or brackets."""
    depth, start, quoted = 0, 0, False
    for place, char in enumerate(body):
        quoted = (quoted or char == "[") and char != "]"
        depth += 0 if quoted else (char == "(") - (char == ")")
        if char == "," and depth == 0 and not quoted:
            yield body[start:place].strip()
            start = place + 1
    yield body[start:].strip()


def _column(text: str) -> _Column:
    found = _COLUMN.fullmatch(text)
    if found is None:
        msg = f"Incorrect syntax near '{text}'."
        raise sqlglot.errors.ParseError(msg)
    collation = _COLLATE.search(found["rest"])
    type_ = SQLType.parse(found["type"], *(collation.groups() if collation else ()))
    rest = found["rest"].lower()
    nullable = "not null" not in rest and type_.base != "timestamp"
    return _Column(_bare(found["name"]), type_, nullable, hidden="hidden" in rest)


def _note_object(
    con: duckdb.DuckDBPyConnection, schema: str, name: str, kind: str, *, in_memory: bool = False
) -> int:
    con.execute(
        """
        INSERT INTO sys.objects
        SELECT 1000 + coalesce((SELECT max(object_id) FROM sys.objects), 0), $name,
            (SELECT schema_id FROM sys.schemas WHERE name = $schema), $kind, $in_memory
        """,
        {"name": name, "schema": schema, "kind": kind, "in_memory": in_memory},
    )
    row = con.execute("SELECT max(object_id) FROM sys.objects").fetchone()
    assert row is not None
    return int(row[0])


def _note_column(
    con: duckdb.DuckDBPyConnection, number: int, place: int, column: _Column, *, in_key: bool
) -> None:
    type_ = column.type
    scale = type_.scale if type_.base in _SCALED else 0
    con.execute(
        """
        INSERT INTO sys.columns
        SELECT $number, $name, $place, t.user_type_id, t.system_type_id, $size, $precision, $scale,
            $nullable, $hidden, NULL, $collation
        FROM sys.types AS t WHERE t.name = $type
        """,
        {
            "number": number,
            "name": column.name,
            "place": place,
            "type": type_.base,
            "size": type_.max_length,
            "precision": type_.precision,
            "scale": scale,
            "nullable": column.nullable and not in_key,
            "hidden": column.hidden,
            "collation": type_.collation,
        },
    )


_SCALED = ("decimal", "time", "datetime2", "datetimeoffset")


def _number(con: duckdb.DuckDBPyConnection, schema: str, name: str) -> int:
    row = con.execute(
        """
        SELECT o.object_id FROM sys.objects AS o JOIN sys.schemas AS s USING (schema_id)
        WHERE o.name = ? AND s.name = ?
        """,
        [name, schema],
    ).fetchone()
    if row is None:
        msg = f"Cannot find the object '{name}'."
        raise duckdb.CatalogException(msg)
    return int(row[0])


def _drop(con: duckdb.DuckDBPyConnection, found: re.Match[str]) -> None:
    schema, name = _place(found["table"])
    number = _number(con, schema, name)
    con.execute(f"DROP {found['kind']} {_quoted(schema)}.{_quoted(name)}")
    for view in ("objects", "columns", "indexes", "index_columns"):
        con.execute(f"DELETE FROM sys.{view} WHERE object_id = ?", [number])


def _alter(con: duckdb.DuckDBPyConnection, found: re.Match[str]) -> None:
    schema, table = _place(found["table"])
    number, whole = _number(con, schema, table), f"{_quoted(schema)}.{_quoted(table)}"
    if found["gone"]:
        gone = _bare(found["gone"])
        con.execute(f"ALTER TABLE {whole} DROP COLUMN {_quoted(gone)}")
        con.execute("DELETE FROM sys.columns WHERE object_id = ? AND name = ?", [number, gone])
        return
    column = _column(found["new"].strip())
    con.execute(f"ALTER TABLE {whole} ADD COLUMN {_quoted(column.name)} {column.type.stored}")
    _note_column(con, number, 1000, column, in_key=False)


def _view(con: duckdb.DuckDBPyConnection, found: re.Match[str]) -> None:
    schema, name = _place(found["table"])
    query = sqlglot.transpile(found["query"], read="tsql", write="duckdb")[0]
    con.execute(f"CREATE VIEW {_quoted(schema)}.{_quoted(name)} AS {query}")
    number = _note_object(con, schema, name, "V")
    described = con.execute(f"DESCRIBE {_quoted(schema)}.{_quoted(name)}").fetchall()
    for place, (column, type_name, *_) in enumerate(described, 1):
        noted = _Column(column, from_duckdb(type_name), nullable=True, hidden=False)
        _note_column(con, number, place, noted, in_key=False)


def _schema(con: duckdb.DuckDBPyConnection, found: re.Match[str]) -> None:
    name = _bare(found["name"])
    con.execute(f"CREATE SCHEMA {_quoted(name)}")
    con.execute("INSERT INTO sys.schemas SELECT max(schema_id) + 1, ? FROM sys.schemas", [name])
