"""What differs from database to database, one module or package each, facts first."""

from __future__ import annotations

import importlib
from functools import cache

import sqlalchemy as sa

from ixflow.dialects.base import (
    Cancellable,
    Dialect,
    Held,
    MergeCounts,
    Reader,
    SourceFacts,
    run,
)
from ixflow.dialects.config import parsed_url
from ixflow.dialects.connect import connected, patience, unavailable
from ixflow.dialects.ranges import KeyCuts
from ixflow.errors import UnsupportedDatabase

__all__ = [
    "Cancellable",
    "Dialect",
    "Held",
    "KeyCuts",
    "MergeCounts",
    "Reader",
    "SourceFacts",
    "connected",
    "dialect_named",
    "dialect_of",
    "patience",
    "run",
    "unavailable",
]

# Loaded when first asked for, so that no driver is imported that is not used.
_CLASSES = {
    "postgresql": "ixflow.dialects.postgres:PostgresDialect",
    "duckdb": "ixflow.dialects.duckdb:DuckDBDialect",
    "sqlite": "ixflow.dialects.sqlite:SQLiteDialect",
    "mysql": "ixflow.dialects.mysql:MySQLDialect",
    "sqlserver": "ixflow.dialects.sqlserver:SQLServerDialect",
}
_OTHER_NAMES = {"postgres": "postgresql", "mariadb": "mysql", "mssql": "sqlserver"}


@cache
def dialect_named(name: str) -> Dialect:
    """Give the dialect of a database by its name.

    Raises:
        UnsupportedDatabase: there is none.

    >>> dialect_named("sqlite").name
    'sqlite'
    """
    known = _OTHER_NAMES.get(name, name)
    if known not in _CLASSES:
        names = ", ".join(sorted(_CLASSES))
        msg = f"ixflow does not know the database {name!r}; it knows {names}"
        raise UnsupportedDatabase(msg, database=name)
    module, _, attribute = _CLASSES[known].partition(":")
    made: Dialect = getattr(importlib.import_module(module), attribute)()
    return made


def dialect_of(what: sa.Connection | sa.Engine | sa.URL | str) -> Dialect:
    """Give the dialect of a connection, an engine or a URL."""
    if isinstance(what, (sa.Connection, sa.Engine)):
        return dialect_named(what.dialect.name)
    return dialect_named(parsed_url(what).get_backend_name())
