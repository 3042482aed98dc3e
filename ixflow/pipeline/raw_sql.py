"""`RawSql`: a script that writes tables into its stage by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ixflow.errors import FlowError
from ixflow.pipeline.containers import Table, normalised
from ixflow.pipeline.encoding import MARKER

__all__ = ["RawSql", "raw_sql_form", "raw_sql_from_form", "tables_among"]


class RawSql:
    """A SQL script that a task returns, which the store runs statement by statement.

    The script creates its tables in the schema ``stage.current_name`` of the stage that the task
    is in; pass the stage to the task as an argument. The statements run in one transaction, and
    the tables that are there afterwards and were not before are its result. ``separator`` is where
    the script is cut; in strings, quoted names and comments it does not count.

    As an argument of another task it is a mapping from the names of these tables to the tables.

    Raises:
        FlowError: an argument has the wrong form.

    >>> RawSql("CREATE TABLE s.t AS SELECT 1 AS x; CREATE TABLE s.u AS SELECT 2 AS x").separator
    ';'
    """

    def __init__(
        self, sql: str | None = None, name: str | None = None, separator: str = ";"
    ) -> None:
        _check_texts({"sql": sql, "name": name, "separator": separator})
        self.sql = sql
        self.name = None if name is None else normalised(name)
        self.separator = separator
        self.stage: str | None = None
        self.cache_key: str | None = None
        self._tables: dict[str, Any] = {}

    @property
    def table_names(self) -> tuple[str, ...]:
        """The names of the tables that the script has made, sorted."""
        return tuple(sorted(self._tables))

    def __repr__(self) -> str:
        """Show the name and the tables, not the script."""
        return f"<RawSql {self.name!r}: {', '.join(self.table_names) or 'not run'}>"

    def __iter__(self) -> Iterator[str]:
        """Give the names of the tables."""
        return iter(self.table_names)

    def __len__(self) -> int:
        """Count the tables."""
        return len(self._tables)

    def __bool__(self) -> bool:
        """Be something, also without a table."""
        return True

    def __contains__(self, table_name: object) -> bool:
        """Say whether the script made a table of this name."""
        return isinstance(table_name, str) and normalised(table_name) in self._tables

    def __getitem__(self, table_name: str) -> Any:
        """Give a table.

        Raises:
            KeyError: the script made none of this name.

        """
        if table_name not in self:
            known = ", ".join(self.table_names) or "none"
            msg = f"the script made no table {table_name!r}; it made {known}"
            raise KeyError(msg)
        return self._tables[normalised(table_name)]

    def items(self) -> list[tuple[str, Any]]:
        """Give the names with their tables."""
        return [(name, self._tables[name]) for name in self.table_names]

    def get(self, table_name: str, default: Any = None) -> Any:
        """Give a table, or the default if the script made none of this name."""
        return self._tables.get(normalised(table_name), default)

    def with_tables(self, tables: Mapping[str, Any]) -> RawSql:
        """Give the same reference with other objects for its tables."""
        made = RawSql(None, self.name, self.separator)
        made.stage, made.cache_key = self.stage, self.cache_key
        made._tables = dict(tables)
        return made

    def stored(self, *, stage: str, key: str, tables: Mapping[str, str]) -> RawSql:
        """Give the reference that consumers get: tables by name, each in the given schema."""
        made = self.with_tables(
            {
                name: Table().stored(name, stage=stage, key=key, schema=schema)
                for name, schema in tables.items()
            }
        )
        made.stage, made.cache_key = stage, key
        return made

    def moved(self, schema: str) -> RawSql:
        """Give the same reference for the tables' place in another schema."""
        return self.with_tables({name: t.moved(schema) for name, t in self._tables.items()})


def _check_texts(arguments: Mapping[str, Any]) -> None:
    for argument, value in arguments.items():
        if value is not None and not isinstance(value, str):
            msg = f"RawSql({argument}=) takes text, not {type(value).__name__}"
            raise FlowError(msg, argument=argument)
    if not (arguments["separator"] or "").strip():
        msg = "RawSql(separator=) takes a text to cut the script at, which must not be blank"
        raise FlowError(msg, argument="separator")


def tables_among(found: Iterable[Any]) -> list[Table[Any]]:
    """List the references to tables among some leaves, also those within `RawSql`."""
    tables = []
    for leaf in found:
        tables += [table for _, table in leaf.items()] if isinstance(leaf, RawSql) else [leaf]
    return [table for table in tables if isinstance(table, Table)]


def raw_sql_form(leaf: Any) -> dict[str, Any] | None:
    """Write a reference to a script's tables as JSON; None for other things."""
    if not isinstance(leaf, RawSql):
        return None
    return {
        MARKER: "raw_sql",
        "name": leaf.name,
        "stage": leaf.stage,
        "key": leaf.cache_key,
        "tables": list(leaf.table_names),
    }


def raw_sql_from_form(form: dict[str, Any], places: Mapping[str, str]) -> RawSql:
    """Read a reference back; ``places`` gives the schema of each table."""
    made = RawSql(None, form["name"])
    return made.stored(stage=form["stage"], key=form["key"], tables=places)
