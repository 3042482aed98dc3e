"""One run's work on one stage: tables written aside, then published together.

The tables go to a schema of the transaction, each in a database transaction of its own with the
rows that describe it. A commit is a single database transaction. Whatever dies in between leaves
the published schema as it was, and what was written for the next try with the same id.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.dialects.details import making_with
from ixflow.errors import InputChanged, StageError, ValidationError
from ixflow.store.collect import collect, is_over
from ixflow.store.commit import CommitPlan, plan_commit
from ixflow.store.frames import TableSpec, frames_for
from ixflow.store.inputs import InputRead, changed_inputs, moved_stages
from ixflow.store.local_cache import Writing, keep_output
from ixflow.store.metadata import (
    StageState,
    StoredResult,
    StoredTable,
    TableColumn,
    TransactionRecord,
    now,
)
from ixflow.store.origins import with_sources
from ixflow.store.places import LONGEST_PREFIX
from ixflow.store.publish import KEPT, NewState, publish_state
from ixflow.store.published import Published
from ixflow.store.scripts import Script, refuse_needs, refuse_taken, run_script
from ixflow.store.waiting import Waiting, put_waiting, until_from
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    from ixflow.store.sql_store import SQLTableStore

__all__ = ["Commit", "InputRead", "StageTransaction", "TableWrite"]


@dataclass(frozen=True, slots=True)
class TableWrite:
    """A frame or query, how it shall be stored, and the table's own key if it has one."""

    obj: Any
    spec: TableSpec
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit did: the stage's version, the tables that appeared, and those that went.

    ``before`` is what was published before. What `StageTransaction.wait` gives would do so.
    """

    version: int
    published: tuple[str, ...]
    dropped: tuple[str, ...]
    changed: bool
    before: StageState = field(default_factory=StageState, repr=False)


class StageTransaction:
    """The unpublished side of one stage for one transaction id."""

    def __init__(
        self,
        store: SQLTableStore,
        stage: str,
        transaction_id: str,
        *,
        keep_versions: int | None = None,
    ) -> None:
        """Read what is published and what this transaction holds already; write nothing.

        A commit keeps ``keep_versions`` of what was published before, None: as the store does.
        """
        self._store = store
        self._keep = store.keep_versions if keep_versions is None else keep_versions
        self.stage = stage
        self.transaction_id = transaction_id
        self.published_schema = store.schema(stage)
        self.attempt = 0
        self.held = StageState()
        self.published = StageState()
        self._found: Published | None = None
        self._begun = False
        self._begin_lock = threading.Lock()
        self._held_lock = threading.Lock()
        with store.begin() as conn:
            if store.metadata.installed(conn):
                self._read(conn)
        self.schema = store.transaction_schema(stage, transaction_id, self.attempt)

    def _read(self, conn: sa.Connection) -> None:
        metadata, place = self._store.metadata, self.published_schema
        mine = [t for t in metadata.transactions(conn, place) if self._is_mine(t)]
        done = [t.attempt for t in mine if t.state != "open"]
        self.attempt = max(done) + 1 if done else 0
        self._found = Published.read(self._store, conn, self.stage)
        self.published = self._found.state
        if any(t.attempt == self.attempt for t in mine):
            schema = self._store.transaction_schema(self.stage, self.transaction_id, self.attempt)
            self.held = metadata.state(conn, place, schema)

    def _is_mine(self, record: TransactionRecord) -> bool:
        return record.transaction_id == self.transaction_id and record.state != KEPT

    # -- writing --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Create the transaction schema, once; collect abandoned ones."""
        with self._begin_lock:
            if self._begun:
                return
            store = self._store
            store.install()
            with store.locked(f"stage {self.published_schema}") as conn:
                known = store.metadata.transactions(conn, self.published_schema)
                self._refuse_finished(known)
                store.create_scope(conn, self.schema)
                self._record(conn, "open")
            self._begun = True
        if any(is_over(store, record, self.schema, committed=False) for record in known):
            collect(store, self.published_schema, self.schema)

    def _refuse_finished(self, known: Sequence[TransactionRecord]) -> None:
        if any(t.schema == self.schema and t.state != "open" for t in known):
            msg = f"another process has committed stage {self.stage} for {self.transaction_id}"
            raise InputChanged(msg, stage=self.stage, inputs=[self.stage])

    def _record(self, conn: sa.Connection, state: str) -> None:
        record = TransactionRecord(self.transaction_id, self.attempt, self.schema, state, now())
        self._store.metadata.put_transaction(conn, self.published_schema, record)

    def write(
        self,
        result: StoredResult,
        writes: Sequence[TableWrite],
        *,
        data_version: str | None = None,
        inputs: Sequence[InputRead] = (),
    ) -> None:
        """Write the tables of a task and its result, all in one database transaction.

        Without a ``data_version`` it is derived from the rows, or, where no rows pass through
        here, unique for this write.

        Raises:
            InputChanged: one of the ``inputs`` is published no more. The rows may come from what
                replaced it, so under this result's key they must not be there for another try.

        """
        place, metadata = self.published_schema, self._store.metadata
        with self._store.locked(f"task {self.schema} {result.task_key}") as conn:
            if metadata.result(conn, place, self.schema, result.task_key):
                self._remember(metadata.state(conn, place, self.schema))
                return
            if moved := moved_stages(self._store, conn, inputs):
                raise changed_inputs(self.stage, moved)
            self._drop_leftovers(conn, [write.spec.name for write in writes])
            tables = [self._write(conn, result, write, data_version) for write in writes]
            metadata.add(conn, place, self.schema, tables, [result])
        self._remember(StageState(0, {table.name: table for table in tables}, (result,)))
        cache = self._store.local_cache
        if cache is not None and cache.store_output:
            for table, write in zip(tables, writes, strict=True):
                keep_output(self._store, Writing.of(place, table), self.schema, write.obj)

    def has(self, name: str, key: str) -> bool:
        """Say whether a table with this key is held or published."""
        return bool(self.held.table(name, key) or self.published.table(name, key))

    def made_by(self, key: str) -> dict[str, str]:
        """Name the tables that a script of this key has made, and the schema of each.

        There are none if one of them is gone: then the script has to run again.
        """
        # A script's tables were recorded together, but published ones may have been dropped since.
        held = [name for name, table in self.held.tables.items() if table.task_key == key]
        if held:
            return dict.fromkeys(held, self.schema)
        for result in self.published.results:
            names = [name for name, own in result.pairs() if own == key]
            if names and all(self.published.table(name, key) for name in names):
                return dict.fromkeys(names, self.published_schema)
        return {}

    def run_script(self, task: str, script: Script, *, replaces: bool) -> dict[str, str]:
        """Run a script and record its tables, all in one database transaction.

        ``replaces`` says that what an earlier try of this transaction left of the task is in the
        way. Gives the tables' names and schema.
        """
        place, metadata = self.published_schema, self._store.metadata
        # What appears in the schema meanwhile must be this script's: they run one after the other.
        schema = self._store.schema_of(self.schema)
        with self._store.locked(f"scripts {schema}") as conn:
            # What a script sets and its temporary tables end with it, not with the pool.
            conn.detach()
            known = metadata.state(conn, place, self.schema).tables
            old = [name for name, table in known.items() if table.task == task]
            self._drop_leftovers(conn, [n for n in old if replaces and n in self.held.tables])
            with self._telling_of_taken(task, script, known):
                made = run_script(conn, self._store.dialect, schema, script)
                if schema == self.schema:  # else nothing but tables is dropped with the transaction
                    refuse_needs(conn, self._store.dialect, schema)
                self._rename(conn, schema, made)
            made -= set(metadata.state(conn, place, self.schema).tables)
            tables = [self._scripted(conn, name, task, script.key) for name in sorted(made)]
            metadata.add(conn, place, self.schema, tables, [])
        self._remember(StageState(0, {table.name: table for table in tables}))
        return dict.fromkeys((table.name for table in tables), self.schema)

    @contextlib.contextmanager
    def _telling_of_taken(
        self, task: str, script: Script, known: Mapping[str, StoredTable]
    ) -> Iterator[None]:
        """Let an error be that of a name, if the script makes a table that another task made."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            tables = {**{name: self.published.tables.get(name) for name in script.beside}, **known}
            others = {
                spelt: table.task
                for name, table in tables.items()
                if table is not None and table.task != task
                for spelt in (name, self._store.physical(TableName(name, self.schema)).name)
            }
            refuse_taken(self._store.dialect, task, error, others)
            raise

    def beside_scripts(self, places: Iterable[TableName]) -> dict[str, TableName]:
        """Say which tables of this stage a script will not find in the schema that it writes to."""
        scopes = {self.published_schema, self.schema} - {self._store.schema_of(self.schema)}
        return {
            place.name: self._store.physical(place) for place in places if place.schema in scopes
        }

    def _rename(self, conn: sa.Connection, schema: str, made: Iterable[str]) -> None:
        """Give a script's tables the names that tell them from those of other transactions."""
        dialect = self._store.dialect
        for name in sorted(made):
            new = self._store.physical(TableName(name, self.schema)).name
            if new != name:
                self._check_name(name)
                dialect.set_apart(conn, TableName(name, schema), new)

    def _scripted(self, conn: sa.Connection, name: str, task: str, key: str) -> StoredTable:
        table = self._store.physical(TableName(name, self.schema))
        count = f"SELECT count(*) FROM {self._store.dialect.qualified(table)}"
        rows = int(run(conn, count).scalar_one())
        columns = _described(self._store.dialect.columns(conn, table))
        return StoredTable(name, task, key, key, rows, columns, self.transaction_id, now())

    def check_external(self, table: TableName) -> None:
        """Refuse a reference to a table that is not there, or that is the stage's own.

        Raises:
            TableNotFound, StageError: so it is.

        """
        own = (self.schema, self._store.schema_of(self.schema), self.published_schema)
        if table.schema in own:
            msg = f"{table} is in stage {self.stage} itself; take the task that makes it instead"
            raise StageError(msg, stage=self.stage, table=str(table))
        with self._store.begin() as conn:
            self._store.dialect.columns(conn, table)

    def learn(self, made: StageState) -> None:
        """Take over what another process has written for this transaction meanwhile."""
        self._remember(made)

    def _remember(self, more: StageState) -> None:
        with self._held_lock:
            tables = {**self.held.tables, **more.tables}
            results = dict.fromkeys((*self.held.results, *more.results))
            self.held = StageState(self.held.version, tables, tuple(results))

    def _drop_leftovers(self, conn: sa.Connection, names: Sequence[str]) -> None:
        """Make room where an earlier try of this transaction wrote other tables of these names."""
        leftovers = [name for name in names if name in self.held.tables]
        for name in leftovers:
            table = self._store.physical(TableName(name, self.schema))
            self._store.dialect.drop_table(conn, table)
        if leftovers:
            self._store.metadata.forget_tables(conn, self.published_schema, self.schema, leftovers)

    def _write(
        self,
        conn: sa.Connection,
        result: StoredResult,
        write: TableWrite,
        data_version: str | None,
    ) -> StoredTable:
        table = self._store.physical(TableName(write.spec.name, self.schema))
        self._check_name(write.spec.name)
        frames = frames_for(write.obj)
        if frames is None:
            msg = f"{type(write.obj).__name__} cannot be stored as table {table.name}"
            raise ValidationError(msg, table=table.name)
        data_version = write.key or data_version
        spec = dataclasses.replace(write.spec, fingerprint=data_version is None)
        options = self._store.details.of(spec.materialization_details, f"table {spec.name}")
        with making_with(options):
            written = frames.write(conn, table, write.obj, spec)
        made = written.columns or self._store.dialect.columns(conn, table)
        columns = with_sources(self._store, conn, _described(made), write.obj)
        return StoredTable(
            write.spec.name,
            result.task,
            write.key or result.task_key,
            data_version or written.fingerprint or uuid.uuid4().hex,
            written.rows,
            columns,
            self.transaction_id,
            now(),
        )

    def _check_name(self, name: str) -> None:
        room = LONGEST_PREFIX if self._store.avoids_schemas else 0
        longest = self._store.dialect.max_identifier - room
        if len(name.encode()) > longest:
            msg = f"the table name {name!r} is longer than {longest} bytes; shorten it"
            raise ValidationError(msg, table=name)

    def located(self, name: str, key: str) -> tuple[str, StoredTable]:
        """Find a table that this transaction holds or carries over: its schema, and its record."""
        held = self.held.table(name, key)
        if held is not None:
            return self.schema, held
        return self.published_schema, self.published.tables[name]

    # -- publishing -----------------------------------------------------------------------------

    def commit(
        self,
        results: Sequence[StoredResult],
        *,
        full: bool,
        inputs: Sequence[InputRead] = (),
        collects: bool = True,
    ) -> Commit:
        """Publish the tables of these results together, unless nothing has changed.

        ``full`` says that the results are everything the stage has. Tables that are published
        already under the same key are carried over where they are. Unless it ``collects`` what is
        left of old transactions, `collect` has to follow; if it does not, the next run does it.

        Raises:
            InputChanged: a result that this run read or carried over was replaced meanwhile.
            ReplacementRefused: an object that is not the stage's own is in the way.
            LockNotAvailable: readers held the old tables for too long.

        """
        plan = plan_commit(self.published, self.held, results, full=full)
        if not plan.changed:
            return self._unchanged(self.published)
        if not self._begun:
            self._store.install()
        with self._store.locked(f"stage {self.published_schema}") as conn:
            found = Published.read(self._store, conn, self.stage, self._found)
            current = found.state
            self._validate(conn, current, results, inputs)
            plan = plan_commit(current, self.held, results, full=full)
            if not plan.changed:
                return self._unchanged(current)
            version = current.version + 1
            self._publish(conn, found, plan, version)
        self.published, self._found = StageState(version, plan.tables, plan.results), None
        self.held = StageState()
        if collects:
            self.collect()
        return Commit(version, plan.publish, plan.drop, changed=True, before=current)

    def collect(self) -> None:
        """Drop what a commit has left: old transactions, and versions that are not kept."""
        collect(self._store, self.published_schema, self.schema, keep=self._keep)

    def wait(
        self,
        results: Sequence[StoredResult],
        *,
        full: bool,
        inputs: Sequence[InputRead] = (),
        keep_for: dt.timedelta,
        note: Mapping[str, Any] | None = None,
    ) -> Commit:
        """Let these results wait for `ixflow.store.approval.approve`, unless nothing has changed.

        Nothing is published. The tables are kept for ``keep_for`` at least, and are not written to
        again: another run with this transaction's id begins anew. Validates as `commit` does.

        Raises:
            InputChanged: a result that this run read or carried over was replaced meanwhile.

        """
        if not plan_commit(self.published, self.held, results, full=full).changed:
            return self._unchanged(self.published)
        self.begin()
        with self._store.locked(f"stage {self.published_schema}") as conn:
            current = self._store.published_in(conn, self.stage)
            self._validate(conn, current, results, inputs)
            plan = plan_commit(current, self.held, results, full=full)
            if not plan.changed:
                return self._unchanged(current)
            since = now()
            one = Waiting(
                self.transaction_id,
                self.attempt,
                self.schema,
                current.version,
                since,
                until_from(since, keep_for),
                full,
                tuple(results),
                tuple(inputs),
                plan.publish,
                plan.drop,
                note or {},
            )
            put_waiting(self._store, conn, self.published_schema, one)
        return Commit(current.version, plan.publish, plan.drop, changed=True, before=current)

    def _unchanged(self, current: StageState) -> Commit:
        return Commit(current.version, (), (), changed=False, before=current)

    def _publish(
        self, conn: sa.Connection, found: Published, plan: CommitPlan, version: int
    ) -> None:
        new = NewState(
            version,
            self.transaction_id,
            plan.tables,
            plan.results,
            dict.fromkeys(plan.publish, self.schema),
            plan.drop,
        )
        held = (self.schema, self.held)
        keeps = self._keep > 0
        publish_state(self._store, conn, self.stage, new, keeps=keeps, found=found, held=held)
        self._record(conn, "committed")

    def _validate(
        self,
        conn: sa.Connection,
        current: StageState,
        results: Sequence[StoredResult],
        inputs: Sequence[InputRead],
    ) -> None:
        moved = moved_stages(self._store, conn, inputs)
        moved |= {self.stage for r in results if not self._available(current, r)}
        if self.held.results and not self._still_open(conn):
            moved.add(self.stage)
        if moved:
            raise changed_inputs(self.stage, moved)

    def _available(self, current: StageState, result: StoredResult) -> bool:
        pairs = result.pairs()
        return all(self.held.table(*pair) or current.table(*pair) for pair in pairs)

    def _still_open(self, conn: sa.Connection) -> bool:
        known = self._store.metadata.transactions(conn, self.published_schema)
        return any(t.schema == self.schema and t.state == "open" for t in known)


def _described(columns: Sequence[Column]) -> tuple[TableColumn, ...]:
    return tuple(TableColumn(c.name, c.sql_type, c.nullable) for c in columns)
