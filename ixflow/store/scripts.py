"""Running a script that makes tables by itself, and finding out which these are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from ixflow.dialects import Dialect, run
from ixflow.dialects.fragments import statements_of
from ixflow.errors import DuplicateNameError, ValidationError
from ixflow.store.places import PLACE
from ixflow.values import TableName

__all__ = ["Script", "refuse_needs", "refuse_taken", "run_script"]

_TABLES = sa.text("""
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = :schema AND table_type = 'BASE TABLE'
""")


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and where to cut it.

    ``beside`` are tables that the script may look for in the schema that it writes to, though they
    are elsewhere, such as those that were carried over: where each is, by its name. ``key``
    decides whether what the script has made is still valid.
    """

    text: str
    separator: str
    key: str
    beside: Mapping[str, TableName] = field(default_factory=dict)


def run_script(conn: sa.Connection, dialect: Dialect, schema: str, script: Script) -> set[str]:
    """Run a script in the caller's transaction; give what was not in the schema before.

    Tables that others make in the schema at the same time may be among them, but not those that
    have the prefix of a transaction.

    Raises:
        ValidationError: the script cannot be cut, or made a view.

    """
    before = set(dialect.tables_in(conn, schema))
    beside = {name: place for name, place in script.beside.items() if name not in before}
    for name, place in beside.items():
        view, table = (dialect.qualified(one) for one in (TableName(name, schema), place))
        run(conn, f"CREATE VIEW {view} AS SELECT * FROM {table}")
    for statement in statements_of(script.text, script.separator, dialect.lexicon):
        run(conn, statement)
    made = set(dialect.tables_in(conn, schema)) - before - set(beside)
    made = {name for name in made if PLACE.match(name) is None}
    _refuse_views(conn, schema, sorted(made))
    for name in beside:
        run(conn, f"DROP VIEW {dialect.qualified(TableName(name, schema))}")
    return made


def refuse_taken(
    dialect: Dialect, task: str, error: sa.exc.DBAPIError, others: Mapping[str, str]
) -> None:
    """Say whose table it is, if a script failed because another task has made it.

    ``others`` are the tasks by the names of their tables.

    Raises:
        DuplicateNameError: so it is.

    """
    said = str(error.orig)
    if "already exists" not in said:
        return
    for name, other in others.items():
        if dialect.quote(name) in said:
            msg = (
                f"the script of task {task} makes a table {name!r}, which task {other} has made; "
                f"give one another name"
            )
            raise DuplicateNameError(msg, name=name, task=task, other=other) from error


def _refuse_views(conn: sa.Connection, schema: str, made: Sequence[str]) -> None:
    tables = set(conn.execute(_TABLES, {"schema": schema}).scalars())
    views = [name for name in made if name not in tables]
    if views:
        msg = (
            f"the script made a view, {views[0]!r}; a stage publishes tables: write CREATE TABLE "
            f"AS, or create the view in a schema of its own"
        )
        raise ValidationError(msg, views=views)


def refuse_needs(conn: sa.Connection, dialect: Dialect, schema: str) -> None:
    """Refuse tables that need what will be dropped with the schema of the transaction.

    Raises:
        ValidationError: there are some.

    """
    needs = dialect.needs_in(conn, schema)
    if needs:
        msg = (
            f"a table of the script needs the {needs[0]}, which the script made; a stage publishes "
            f"tables alone: create that once in a schema of its own"
        )
        raise ValidationError(msg, needs=needs)
