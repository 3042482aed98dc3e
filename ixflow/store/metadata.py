"""What ixflow remembers about stages, in tables of the same database as the stages' own tables.

One row a published table and one a task result, marked with the *scope* they belong to: the empty
text for what is published, otherwise the transaction schema that holds it. A row is always written
in the database transaction that writes or publishes the table itself, so the rows are the truth
about which tables are whole. There are no keys on these tables: every writer of a stage's rows
holds the lock of that stage (or of that task).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from ixflow.dialects import Dialect
from ixflow.errors import UnsupportedState
from ixflow.store.lineage import ColumnSource
from ixflow.store.local_cache import Writing
from ixflow.store.settling import Moves, resettle
from ixflow.values import TableName

__all__ = [
    "PUBLISHED",
    "Metadata",
    "Publication",
    "StageState",
    "StoredResult",
    "StoredTable",
    "TableColumn",
    "TransactionRecord",
    "now",
]

STATE_VERSION = 1
PUBLISHED = ""
_PLAIN = 3  # values of a column whose sources are not known


def now() -> str:
    """Give the time as text that sorts (UTC, ISO 8601)."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")


class TableColumn(NamedTuple):
    """One column of a stored table, as the database names its type.

    ``sources`` are the columns that feed it, by schema, table and column; None: that is not known.
    """

    name: str
    type: str
    nullable: bool
    sources: tuple[ColumnSource, ...] | None = None

    @classmethod
    def from_form(cls, form: Sequence[Any]) -> TableColumn:
        """Read it back from JSON."""
        sources = tuple(ColumnSource(*one) for one in form[3]) if len(form) > _PLAIN else None
        return cls(form[0], form[1], form[2], sources)

    def form(self) -> Sequence[Any]:
        """Write it as JSON can hold it, as earlier releases did where the sources are not known."""
        return self[:_PLAIN] if self.sources is None else self


@dataclass(frozen=True, slots=True)
class StoredTable:
    """One table that a task wrote: where it came from, what is in it.

    ``task_key`` is the key of the task's result, or the table's own if the task is lazy.
    """

    name: str
    task: str
    task_key: str
    data_version: str
    rows: int
    columns: tuple[TableColumn, ...]
    transaction_id: str
    written_at: str


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What a task returned, as JSON, and the names of the tables that belong to it.

    ``keys`` are the tables' own keys where these decide whether a table is valid: those of a lazy
    task, in the order of ``tables``. Without them every table has the task's key.
    """

    position: str
    task: str
    task_key: str
    output: str
    tables: tuple[str, ...]
    keys: tuple[str, ...] = ()

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """List the tables' names with the key that each must have to be the one that was meant."""
        keys = self.keys or (self.task_key,) * len(self.tables)
        return tuple(zip(self.tables, keys, strict=True))


@dataclass(frozen=True, slots=True)
class StageState:
    """The tables and results of one scope of a stage, and the stage's version (0: never)."""

    version: int = 0
    tables: Mapping[str, StoredTable] = field(default_factory=dict)
    results: tuple[StoredResult, ...] = ()

    def whole(self, key: str) -> StoredResult | None:
        """Find the result of a task key, if every table of it is still the one it wrote."""
        for result in self.results:
            if result.task_key == key and self.holds(result):
                return result
        return None

    def at(self, position: str) -> StoredResult | None:
        """Find the result of the task at this place of the flow, if it is whole."""
        for result in self.results:
            if result.position == position:
                return result if self.holds(result) else None
        return None

    def holds(self, result: StoredResult) -> bool:
        """Say whether every table of a result is here as the result means it."""
        return all(self.table(name, key) is not None for name, key in result.pairs())

    def table(self, name: str, key: str) -> StoredTable | None:
        """Find a table by its name, if it has this key."""
        found = self.tables.get(name)
        return found if found is not None and found.task_key == key else None


class Publication(NamedTuple):
    """A version of a stage: its number, the run that published it, and when (as `now` says it)."""

    version: int
    transaction_id: str
    published_at: str


@dataclass(frozen=True, slots=True)
class TransactionRecord:
    """One attempt of a run at a stage; state is open, committed or collected.

    A version that is kept after another was published has the state kept, its number as the
    attempt, the run that published it and when.
    """

    transaction_id: str
    attempt: int
    schema: str
    state: str
    seen_at: str


class Metadata:
    """The statements on ixflow's own tables, in the schema of the given name."""

    def __init__(self, dialect: Dialect, schema: str) -> None:
        self.schema = schema
        self._dialect = dialect
        made = sa.MetaData(schema=sa.quoted_name(schema, quote=True))
        text, number = sa.Text, sa.BigInteger
        self._state = sa.Table("state", made, sa.Column("version", number))
        self._stages = _table("stages", made, text, "stage", "transaction_id", "published_at")
        self._stages.append_column(sa.Column("version", number))
        self._transactions = _table(
            "transactions", made, text, "stage", "transaction_id", "schema_name", "state", "seen_at"
        )
        self._transactions.append_column(sa.Column("attempt", number))
        names = ("stage", "scope", "position", "task", "task_key", "output", "tables")
        self._results = _table("results", made, text, *names)
        names = ("stage", "scope", "name", "task", "task_key", "data_version", "columns")
        self._tables = _table("tables", made, text, *names, "transaction_id", "written_at")
        self._tables.append_column(sa.Column("row_count", number))
        self._made = made

    def installed(self, conn: sa.Connection) -> bool:
        """Say whether the tables are there.

        Raises:
            UnsupportedState: they were written by a newer release.

        """
        if not self._dialect.exists(conn, TableName("state", self.schema)):
            return False
        version = conn.execute(sa.select(sa.func.max(self._state.c.version))).scalar()
        if version is not None and version > STATE_VERSION:
            msg = (
                f"the schema {self.schema} was written by a newer ixflow (state version {version}, "
                f"this release knows {STATE_VERSION}); upgrade ixflow, or use another "
                f"metadata_schema"
            )
            raise UnsupportedState(msg, schema=self.schema, version=version)
        return version is not None

    def install(self, conn: sa.Connection) -> None:
        """Create the tables in their schema, in the caller's transaction and under its lock."""
        self._made.create_all(conn, checkfirst=False)
        conn.execute(sa.insert(self._state).values(version=STATE_VERSION))

    def version(self, conn: sa.Connection, stage: str) -> int:
        """Give the version of a stage; 0 if it was never published."""
        t = self._stages
        found = conn.execute(sa.select(t.c.version).where(t.c.stage == stage)).scalar()
        return int(found or 0)

    def state(
        self,
        conn: sa.Connection,
        stage: str,
        scope: str = PUBLISHED,
        *,
        version: int | None = None,
    ) -> StageState:
        """Read the tables and results of one scope of a stage, whose ``version`` may be known."""
        t, r = self._tables, self._results
        here = sa.and_(t.c.stage == stage, t.c.scope == scope)
        tables = {
            row.name: StoredTable(
                row.name,
                row.task,
                row.task_key,
                row.data_version,
                row.row_count,
                tuple(TableColumn.from_form(one) for one in json.loads(row.columns)),
                row.transaction_id,
                row.written_at,
            )
            for row in conn.execute(sa.select(t).where(here))
        }
        query = sa.select(r).where(r.c.stage == stage, r.c.scope == scope)
        results = tuple(_result(row) for row in conn.execute(query))
        number = self.version(conn, stage) if version is None else version
        return StageState(number, tables, results)

    def writing(self, conn: sa.Connection, table: TableName) -> Writing | None:
        """Say which writing a table of a stage or a transaction is; None: ixflow did not write it.

        Its schema is the scope, or that of the published stage.
        """
        t, schema = self._tables, table.schema
        here = sa.or_(t.c.scope == schema, sa.and_(t.c.stage == schema, t.c.scope == PUBLISHED))
        names = ("stage", "name", "task_key", "data_version", "transaction_id", "written_at")
        query = sa.select(*(t.c[name] for name in names)).where(t.c.name == table.name, here)
        found = conn.execute(query).first()
        return None if found is None else Writing(*found)

    def result(self, conn: sa.Connection, stage: str, scope: str, key: str) -> bool:
        """Say whether a scope holds the result of a task key."""
        r = self._results
        query = sa.select(r.c.task).where(
            r.c.stage == stage, r.c.scope == scope, r.c.task_key == key
        )
        return conn.execute(query).first() is not None

    def outputs(self, conn: sa.Connection, stage: str, positions: Iterable[str]) -> dict[str, str]:
        """Give the published outputs at some positions of a stage."""
        r = self._results
        query = sa.select(r.c.position, r.c.output).where(
            r.c.stage == stage, r.c.scope == PUBLISHED, r.c.position.in_(list(positions))
        )
        return {row.position: row.output for row in conn.execute(query)}

    def all_outputs(self, conn: sa.Connection, stage: str) -> list[str]:
        """Give the outputs of all results of a stage, in every scope."""
        r = self._results
        return list(conn.execute(sa.select(r.c.output).where(r.c.stage == stage)).scalars())

    def add(
        self,
        conn: sa.Connection,
        stage: str,
        scope: str,
        tables: Sequence[StoredTable],
        results: Sequence[StoredResult],
    ) -> None:
        """Add rows to a scope."""
        place = {"stage": stage, "scope": scope}
        _insert(conn, self._tables, [place | _table_row(table) for table in tables])
        _insert(conn, self._results, [place | _result_row(result) for result in results])

    def forget_tables(
        self, conn: sa.Connection, stage: str, scope: str, names: Sequence[str]
    ) -> None:
        """Remove the rows of some tables of a scope."""
        t = self._tables
        here = sa.and_(t.c.stage == stage, t.c.scope == scope, t.c.name.in_(list(names)))
        conn.execute(sa.delete(t).where(here))

    def forget(self, conn: sa.Connection, stage: str, scope: str) -> None:
        """Remove all rows of a scope."""
        for table in (self._tables, self._results):
            here = sa.and_(table.c.stage == stage, table.c.scope == scope)
            conn.execute(sa.delete(table).where(here))

    def settle(
        self,
        conn: sa.Connection,
        stage: str,
        before: StageState,
        after: StageState,
        held: tuple[str, StageState] | None = None,
    ) -> None:
        """Let the published rows be those of ``after``, where those of ``before`` are.

        Rows that a transaction ``held``, in the scope of this name, become published ones or go.
        """
        scope, there = held or (PUBLISHED, StageState())
        old, mine, new = (one.tables.values() for one in (before, there, after))
        tables = Moves.between(old, mine, new)
        results = Moves.between(before.results, there.results, after.results)
        place, keys = (stage, PUBLISHED, scope), ("position", "task_key")
        done = resettle(conn, self._tables, place, ("name",), tables)
        done &= resettle(conn, self._results, place, keys, results)
        if done:
            self.add(conn, stage, PUBLISHED, tables.new, results.new)
        else:  # somebody has changed the rows by hand
            for gone in {PUBLISHED, scope}:
                self.forget(conn, stage, gone)
            self.add(conn, stage, PUBLISHED, list(new), after.results)

    def set_version(
        self,
        conn: sa.Connection,
        stage: str,
        version: int,
        transaction_id: str,
        *,
        again: bool = True,
    ) -> None:
        """Record that a version of the stage was published; ``again``: not the first one."""
        t = self._stages
        row = {"version": version, "transaction_id": transaction_id, "published_at": now()}
        if again:
            conn.execute(sa.update(t).where(t.c.stage == stage).values(**row))
        else:
            conn.execute(sa.insert(t).values(stage=stage, **row))

    def rescope(self, conn: sa.Connection, stage: str, scope: str, new: str) -> None:
        """Let the rows of a scope be those of another one."""
        for table in (self._tables, self._results):
            here = sa.and_(table.c.stage == stage, table.c.scope == scope)
            conn.execute(sa.update(table).where(here).values(scope=new))

    def publication(self, conn: sa.Connection, stage: str) -> Publication | None:
        """Say which version of a stage is published, by which run and when; None: none was."""
        t = self._stages
        columns = (t.c.version, t.c.transaction_id, t.c.published_at)
        found = conn.execute(sa.select(*columns).where(t.c.stage == stage)).first()
        return None if found is None else Publication(int(found[0]), found[1], found[2])

    def stage_of(self, conn: sa.Connection, scope: str) -> str | None:
        """Name the published schema of a transaction's stage."""
        t = self._transactions
        found = conn.execute(sa.select(t.c.stage).where(t.c.schema_name == scope)).scalar()
        return None if found is None else str(found)

    def transactions(self, conn: sa.Connection, stage: str) -> list[TransactionRecord]:
        """List the attempts at a stage that are remembered."""
        t = self._transactions
        columns = (t.c.transaction_id, t.c.attempt, t.c.schema_name, t.c.state, t.c.seen_at)
        query = sa.select(*columns).where(t.c.stage == stage)
        return [TransactionRecord(*row) for row in conn.execute(query)]

    def stages_with_transactions(self, conn: sa.Connection) -> list[str]:
        """List the published schemas of the stages of which attempts are remembered."""
        t = self._transactions
        return list(conn.execute(sa.select(t.c.stage).distinct().order_by(t.c.stage)).scalars())

    def put_transaction(self, conn: sa.Connection, stage: str, record: TransactionRecord) -> None:
        """Record an attempt, in place of what was recorded for its schema."""
        self.forget_transaction(conn, stage, record.schema)
        conn.execute(
            sa.insert(self._transactions).values(
                stage=stage,
                transaction_id=record.transaction_id,
                attempt=record.attempt,
                schema_name=record.schema,
                state=record.state,
                seen_at=record.seen_at,
            )
        )

    def forget_transaction(self, conn: sa.Connection, stage: str, schema: str) -> None:
        """Remove the record of an attempt."""
        t = self._transactions
        conn.execute(sa.delete(t).where(t.c.stage == stage, t.c.schema_name == schema))


def _table(name: str, made: sa.MetaData, type_: Any, *columns: str) -> sa.Table:
    return sa.Table(name, made, *(sa.Column(column, type_) for column in columns))


def _insert(conn: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows as one array a column: a statement of as many values takes ten times as long."""
    if not rows:
        return
    names, quoted = list(rows[0]), conn.dialect.identifier_preparer
    kinds = {c.name: "bigint" if isinstance(c.type, sa.BigInteger) else "text" for c in table.c}
    columns = ", ".join(quoted.quote(name) for name in names)
    arrays = ", ".join(f"unnest(CAST(:{name} AS {kinds[name]}[]))" for name in names)
    statement = sa.text(f"INSERT INTO {quoted.format_table(table)} ({columns}) SELECT {arrays}")
    conn.execute(statement, {name: [row[name] for row in rows] for name in names})


def _table_row(table: StoredTable) -> dict[str, Any]:
    return {
        "name": table.name,
        "task": table.task,
        "task_key": table.task_key,
        "data_version": table.data_version,
        "row_count": table.rows,
        "columns": json.dumps([column.form() for column in table.columns]),
        "transaction_id": table.transaction_id,
        "written_at": table.written_at,
    }


def _result_row(result: StoredResult) -> dict[str, Any]:
    return {
        "position": result.position,
        "task": result.task,
        "task_key": result.task_key,
        "output": result.output,
        "tables": json.dumps(result.pairs() if result.keys else result.tables),
    }


def _result(row: Any) -> StoredResult:
    entries = json.loads(row.tables)
    keyed = bool(entries) and isinstance(entries[0], list)
    names, keys = zip(*entries, strict=True) if keyed else (entries, ())
    return StoredResult(row.position, row.task, row.task_key, row.output, tuple(names), tuple(keys))
