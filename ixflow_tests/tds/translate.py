"""T-SQL in, DuckDB's SQL out, and with which T-SQL types the result is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp

from ixflow_tests.tds.types import SQLType

__all__ = ["Translated", "translate"]

_SERVER_VALUES = {
    "@@version": "'Microsoft SQL Server 2022 (RTM) - 16.0.4000.1 (X64) stand-in'",
    "@@max_connections": "32767",
    "@@spid": "55",
    "@@trancount": "0",
}
_SERVER_VALUE = re.compile("|".join(_SERVER_VALUES), re.IGNORECASE)
_DATABASE_NAME = re.compile(r"\bdb_name\s*\(\s*\)", re.IGNORECASE)
# sqlglot takes every SCHEMA_NAME for the current one.
_SCHEMA_NAME = re.compile(r"\bschema_name\s*\((?P<none>\s*\))?", re.IGNORECASE)
_TEXT_TYPES = ("char", "varchar", "nchar", "nvarchar", "text", "ntext")
_BYTES_STYLE = "2"

Declared = Callable[[str | None, str], Mapping[str, SQLType]]
"""Gives the types of a table's columns by its schema (None: dbo) and name."""


@dataclass(frozen=True)
class Translated:
    """One statement for DuckDB; `columns` are names and types, None where DuckDB's is sent."""

    sql: str
    rows: bool
    columns: tuple[tuple[str, SQLType | None], ...]
    arguments: dict[str, Any]


def translate(text: str, given: Mapping[str, Any], declared: Declared) -> Iterator[Translated]:
    """Translate a batch of queries and changes of rows.

    Raises:
        sqlglot.errors.ParseError: it is not T-SQL.

    """
    text = _SERVER_VALUE.sub(lambda found: _SERVER_VALUES[found[0].lower()], text)
    text = _SCHEMA_NAME.sub(lambda found: "'dbo'" if found["none"] else "name_of_schema(", text)
    text = _DATABASE_NAME.sub("name_of_database()", text)
    for tree in sqlglot.parse(text, read="tsql"):
        if tree is None:
            continue
        rows = isinstance(tree, exp.Query)
        known = _columns(tree, declared) if isinstance(tree, exp.Select) else ()
        used = _use_arguments(tree, given)
        sql = tree.transform(_for_duckdb, declared_of(tree, declared)).sql(dialect="duckdb")
        yield Translated(sql, rows, known, used)


def declared_of(tree: exp.Expr, declared: Declared) -> Mapping[str, SQLType]:
    """Give the types of what is read: of a table, or of a query; of anything else nothing."""
    found = tree.args.get("from_") or tree.args.get("from")
    source = found.this if found is not None else None
    if tree.args.get("joins"):
        return {}
    if isinstance(source, exp.Table):
        return declared(source.db or None, source.name)
    if isinstance(source, exp.Subquery) and isinstance(source.this, exp.Select):
        return {name: type_ for name, type_ in _columns(source.this, declared) if type_}
    return {}


def _columns(tree: exp.Select, declared: Declared) -> tuple[tuple[str, SQLType | None], ...]:
    of_columns = declared_of(tree, declared)
    found: list[tuple[str, SQLType | None]] = []
    for item in tree.expressions:
        plain, type_ = item.unalias(), None
        if isinstance(plain, exp.Star):
            return tuple(of_columns.items())
        if isinstance(plain, exp.Column):
            type_ = of_columns.get(plain.name)
        elif isinstance(plain, (exp.Cast, exp.Convert)):
            type_ = SQLType.parse(_target(plain).sql("tsql"))
        found.append((item.alias_or_name, type_))
    return tuple(found)


def _target(node: exp.Cast | exp.Convert) -> exp.Expr:
    found: exp.Expr = node.this if isinstance(node, exp.Convert) else node.args["to"]
    return found


def _use_arguments(tree: exp.Expr, given: Mapping[str, Any]) -> dict[str, Any]:
    used = {}
    for node in list(tree.find_all(exp.Parameter)):
        name = node.name.lower()
        used[name] = given[name]
        node.replace(exp.Placeholder(this=name))
    return used


def _for_duckdb(node: exp.Expr, columns: Mapping[str, SQLType]) -> exp.Expr:
    if isinstance(node, exp.HexString):
        return exp.func("unhex", exp.Literal.string(node.name), dialect="duckdb")
    if isinstance(node, (exp.Convert, exp.Cast)):
        return _converted(node, columns)
    return node


def _converted(node: exp.Convert | exp.Cast, columns: Mapping[str, SQLType]) -> exp.Expr:
    value = node.expression if isinstance(node, exp.Convert) else node.this
    style = node.args.get("style")
    target = SQLType.parse(_target(node).sql("tsql"))
    as_bytes = _is_bytes(value)
    # What has been replaced is not looked into again.
    value = value.transform(_for_duckdb, columns)
    if target.base in _TEXT_TYPES:
        if style is not None and style.name == _BYTES_STYLE and as_bytes:
            return exp.func("hex", value, dialect="duckdb")
        text = exp.cast(value, "VARCHAR", dialect="duckdb")
        of = columns.get(value.name) if isinstance(value, exp.Column) else None
        return exp.Upper(this=text) if of and of.base == "uniqueidentifier" else text
    if target.stored == "BLOB" and style is not None:
        return exp.func("unhex", value, dialect="duckdb")
    return exp.cast(value, target.stored, dialect="duckdb")


def _is_bytes(value: exp.Expr) -> bool:
    if not isinstance(value, (exp.Convert, exp.Cast)):
        return False
    return SQLType.parse(_target(value).sql("tsql")).stored == "BLOB"
