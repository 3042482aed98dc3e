"""Writing one batch into its tables, inside the transaction that the loop has opened."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.dialects.later import Later
from ixflow.errors import ValidationError
from ixflow.ingestion import replacement
from ixflow.ingestion.checks import RowCheck, sift
from ixflow.ingestion.missing import GivenKeys
from ixflow.ingestion.options import Arrival, TableCounts
from ixflow.ingestion.pieces import Slices
from ixflow.ingestion.proof import Prover
from ixflow.ingestion.router import Router, is_sql
from ixflow.ingestion.target import Target, add_waiting, append_rows, copy_rows, make_stage
from ixflow.tables import declared
from ixflow.tables.arrow import is_reusable
from ixflow.values import Column, TableName

__all__ = ["BatchWriter"]

_log = logging.getLogger("ixflow")

# Each piece that goes straight in has a savepoint of its own. PostgreSQL keeps 64 transactions
# within one at hand; with more, other sessions have to look up whose rows are whose.
_TRIES = 60


class BatchWriter:
    """Loads batches into tables, remembering which of them it has looked at already."""

    def __init__(
        self,
        conn: sa.Connection,
        tables: Sequence[sa.Table],
        *,
        upsert: bool,
        delete: bool,
        max_rows: int,
        run_id: str = "",
        checks: Sequence[RowCheck] = (),
        given: GivenKeys | None = None,
        prover: Prover | None = None,
        around_swap: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
        log: logging.Logger = _log,
    ) -> None:
        """Take the connection, the tables in the metadata's order, and the options.

        ``checks`` judge the rows before they are merged; ``given`` keeps the keys of all rows;
        ``prover`` compares what was sent with what is there;
        ``around_swap`` gives a context manager to be in while locks on live tables are asked for.
        """
        self.conn = conn
        self.tables = list(tables)
        self.counts = {str(declared.name_of(table)): TableCounts() for table in tables}
        self.phases: dict[str, float] = {}
        self.skipped = 0
        self._upsert = upsert
        self._delete = delete
        self._max_rows = max_rows
        self._checks = {t: [c for c in checks if c.judges(t)] for t in self.tables}
        self.run_id = run_id
        self._given = given
        self._prover = prover
        self._around_swap = around_swap
        self._log = log
        self._settled = False
        self._targets: dict[sa.Table, Target] = {}
        self._pending: dict[str, TableCounts] = {}
        self._binders = {t: declared.binders(t, conn.dialect) for t in self.tables}
        self._by_name = {declared.name_of(table): table for table in tables}

    @property
    def rows_of_batch(self) -> int:
        """Rows that the current batch gave."""
        return sum(target.rows for target in self._targets.values())

    def temporary_names(self) -> dict[str, TableName]:
        """Give the tables that the current batch makes, by their temporary names."""
        new = [target.new for target in self._targets.values() if target.new is not None]
        return {made.name.name: declared.name_of(made.table) for made in new}

    def create_bare(self) -> None:
        """Create missing tables without key and indexes, which come with the first batch."""
        for table in self.tables:
            name = declared.name_of(table)
            if not dialect_of(self.conn).exists(self.conn, name):
                declared.create(self.conn, table, name, key=False, bare=True)

    def write(
        self,
        pairs: Iterable[tuple[Any, Any]],
        notice: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """Load the pairs of a batch, then bring keys and live tables up to date.

        ``notice`` is told of an error that giving the pairs raises.
        """
        self._pending = {name: TableCounts() for name in self.counts}
        with self._phase("prepare"):
            self._targets = {table: self._target(table) for table in self.tables}
        router = Router(
            self._match, self._columns, self._load, self._max_rows, self._binders.__getitem__
        )
        with self._phase("load"):
            router.feed(pairs, notice)
        if router.skipped:
            self._log.warning(
                "%d rows for tables outside the metadata were skipped", router.skipped
            )
            self.skipped += router.skipped
        with self._phase("merge"):
            for target in self._targets.values():
                self._finish(target)

    def tables_to_select(self) -> list[sa.Table | None]:
        """List the tables as they will be, for the callback; None at the end: the batch."""
        targets = self._targets.values()
        return [*(t.table if t.new is None else t.new.made for t in targets), None]

    def make_visible(self) -> None:
        """Put new tables in the place of the old ones."""
        made = [target.new for target in self._targets.values() if target.new is not None]
        with self._phase("swap"):
            if made:
                moves = [(new.name, new.place) for new in made]
                with self._around_swap():
                    dialect_of(self.conn).swap(self.conn, moves)
            for new in made:
                replacement.settle(self.conn, new)

    def prove(self) -> None:
        """Compare what is there with what was sent, if that is wanted; the last look of all.

        Raises:
            ArrivalDiffers: they are not the same.

        """
        prover = self._prover
        if prover is None:
            return
        with self._phase("prove"):
            prover.settle()
            for target in self._targets.values():
                counts = self._counts(target)
                counts.arrival = prover.prove(target.table, target.new)

    def changed_tables(self) -> list[str]:
        """Name the tables of which the current batch changes a row or the definition."""
        return [
            name
            for name, counts in self._pending.items()
            if counts.inserted or counts.updated or counts.deleted or counts.replaced_because
        ]

    def committed(self) -> None:
        """Take the counts of the batch over, now that they are true."""
        self._settled = True
        for name, counts in self._pending.items():
            total = self.counts[name]
            total.inserted += counts.inserted
            total.updated += counts.updated
            total.unchanged += counts.unchanged
            total.deleted += counts.deleted
            total.count_broken(counts.broken_rules)
            if counts.arrival is not None:
                total.arrival = (total.arrival or Arrival()) + counts.arrival
            total.replaced_because = total.replaced_because or counts.replaced_because

    def _target(self, table: sa.Table) -> Target:
        dialect, name = dialect_of(self.conn), declared.name_of(table)
        why = () if self._settled else replacement.reasons(self.conn, table, delete=self._delete)
        merges = self._upsert and len(table.primary_key.columns) > 0
        if why:
            self._log.info("%s is made anew: %s", name, "; ".join(why))
            if name.schema is not None:
                dialect.create_schema(self.conn, name.schema)
            with self._around_swap():
                new = replacement.prepare(
                    self.conn, table, delete=self._delete, upsert=self._upsert
                )
            counts = self._pending[str(name)]
            counts.replaced_because, counts.deleted = why, new.dropped_rows
            target = Target(table, new.columns, new.name, new=new)
        else:
            columns = declared.stored(table, dialect.columns(self.conn, name))
            target = Target(table, columns, name)
        waits = bool(self._checks[table])
        if self._prover is not None:
            target.columns = self._prover.begin(table, target.columns, sifts=waits)
            waits = waits or self._prover.needs_stage(table, target.new)
        if target.new is not None:
            if waits and target.new.late_key:
                replacement.build_key(self.conn, target.new, upsert=self._upsert)
            merges = merges and not target.new.late_key
        target.merges = merges
        if merges and not waits and self._is_first(target):
            target.tries = _TRIES
        elif merges or waits:
            target.stage = make_stage(self.conn, target.columns)
        return target

    def _is_first(self, target: Target) -> bool:
        """Say whether rows may go straight into the live table, because it has none."""
        if target.new is not None or self._given is not None or self._prover is not None:
            return False
        return dialect_of(self.conn).takes_first_rows(self.conn, target.load_into)

    def _match(self, named: Any) -> sa.Table | None:
        if not isinstance(named, sa.Table):
            msg = f"a pair is (table, row or frame), and {named!r:.60} is no sqlalchemy.Table"
            raise ValidationError(msg)
        if named in self._targets:
            return named
        return self._by_name.get(declared.name_of(named))

    def _columns(self, table: sa.Table) -> tuple[Column, ...]:
        return self._targets[table].columns

    def _load(self, table: sa.Table, data: Any, later: Later | None = None) -> None:
        target = self._targets[table]
        if later is not None and (target.tries or self._prover is not None):
            later.settle()
            later = None
        if is_sql(data):
            target.rows += self._insert(target, data)
            return
        if target.tries:
            loaded = self._loaded_straight(target, data)
            target.tries = target.tries - 1 if loaded else 0
            if not target.tries:
                target.stage = make_stage(self.conn, target.columns)
            if loaded:
                return
        self._count(target, append_rows(self.conn, target, data, self._prover, later))

    def _loaded_straight(self, target: Target, data: Any) -> bool:
        """Load into a table that had no rows, which costs half of a merge.

        False: it has to be a merge, since a row was refused, such as the second of a key, or could
        not be had again then. Nothing is there of the data.
        """
        if not (isinstance(data, Slices) or is_reusable(data)):
            return False
        try:
            with self.conn.begin_nested():
                count = append_rows(self.conn, target, data, self._prover)
        except sa.exc.IntegrityError:
            # Merging meets it again, and says which row it is. What else goes wrong, such as a
            # statement that somebody cancels, is not about a row, and stays an error.
            return False
        self._count(target, count)
        return True

    def _count(self, target: Target, count: int) -> None:
        target.rows += count
        if _is_milestone(target.rows - count, target.rows):
            name = declared.name_of(target.table)
            self._log.info("%d rows for %s so far in this batch", target.rows, name)
        target.straight += 0 if target.stage is not None else count

    def _insert(self, target: Target, statement: Any) -> int:
        """Let the server find the rows: SQL that gives all columns in their order.

        INSERT fills gaps that COPY has left, so the place of a row would no longer tell which of
        two was loaded last: where that matters, these rows wait in a table of their own.
        """
        if self._upsert and target.new is not None and target.new.late_key:
            self._remember(target, target.load_into)
            removed = replacement.build_key(
                self.conn, target.new, upsert=True, before_removal=self._look_first(target)
            )
            self._count_removed(target, removed)
            if self._prover is not None:
                self._prover.keep(target.table, copy_rows(self.conn, target))
            target.stage, target.merges = make_stage(self.conn, target.columns), True
        elif target.stage is not None:
            self._merge(target)
        elif target.tries:
            target.tries, target.stage = 0, make_stage(self.conn, target.columns)
        elif self._prover is not None:
            target.stage = make_stage(self.conn, target.columns)
        place = dialect_of(self.conn).qualified(target.stage or target.load_into)
        raw: Any = self.conn.connection.driver_connection
        count = run(self.conn, f"INSERT INTO {place} {statement.as_string(raw)}").rowcount
        if self._prover is not None:
            self._prover.found_by_server(target.table, count)
        if target.stage is not None:
            self._merge(target)
        else:
            target.straight += count
        return count

    def _merge(self, target: Target) -> None:
        """Merge what waits into the live table, and wait for more in a new one."""
        self._merge_last(target)
        target.stage = make_stage(self.conn, target.columns)

    def _merge_last(self, target: Target) -> None:
        dialect, counts = dialect_of(self.conn), self._counts(target)
        if target.stage is None:
            return
        if self._prover is not None:
            self._prover.check_stage(target.table, target.stage)
        if self._checks[target.table]:
            name = dialect.resolved(self.conn, declared.name_of(target.table))
            checks, columns = self._checks[target.table], target.columns
            taken = sift(self.conn, name, target.stage, columns, checks, run_id=self.run_id)
            counts.count_broken(taken)
            if self._prover is not None:
                self._prover.put_aside(target.table, sum(taken.values()))
        dialect.refuse_rounding(
            self.conn, target.stage, target.columns, declared.name_of(target.table)
        )
        if self._prover is not None:
            self._prover.expect(target.table, target.stage)
        self._remember(target, target.stage)
        if target.merges:
            key = [column.name for column in target.table.primary_key.columns]
            done = dialect.merge(self.conn, target.stage, target.load_into, target.columns, key)
            counts.inserted += done.inserted
            counts.updated += done.updated
            counts.unchanged += done.unchanged
        else:
            counts.inserted += add_waiting(self.conn, target, target.stage, self._prover)
        if self._prover is None:
            run(self.conn, f"DROP TABLE {dialect.qualified(target.stage)}")
        target.stage = None

    def _remember(self, target: Target, rows: TableName) -> None:
        if self._given is not None:
            self._given.remember(target.table, rows, target.columns)

    def delete_missing(self) -> None:
        """Delete the rows whose key was not given, in a transaction of its own."""
        self._pending = {name: TableCounts() for name in self.counts}
        if self._given is None:
            return
        for table in self.tables:
            name = declared.name_of(table)
            columns = dialect_of(self.conn).columns(self.conn, name)
            self._pending[str(name)].deleted = self._given.delete_others(table, columns)
            if self._prover is not None:
                self._given.prove_deleted(table)

    def _counts(self, target: Target) -> TableCounts:
        return self._pending[str(declared.name_of(target.table))]

    def _count_removed(self, target: Target, removed: int) -> None:
        """Count rows that gave way to later ones with their key as updates."""
        self._counts(target).inserted -= removed
        self._counts(target).updated += removed

    def _finish(self, target: Target) -> None:
        self._merge_last(target)
        self._counts(target).inserted += target.straight
        if target.new is not None:
            if target.new.late_key:
                self._remember(target, target.load_into)
            removed = replacement.finish(
                self.conn, target.new, upsert=self._upsert, before_removal=self._look_first(target)
            )
            self._count_removed(target, removed)

    def _look_first(self, target: Target) -> Callable[[], None]:
        """Say what to do before rows of a new table give way to others."""
        prover, new = self._prover, target.new
        if prover is None or new is None:
            return lambda: None
        return functools.partial(prover.before_removal, new)

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - started


def _is_milestone(before: int, after: int) -> bool:
    """Say whether a round number of rows was passed: 100, 200, ..., 1000, 2000, ..., a million.

    >>> _is_milestone(95, 130), _is_milestone(1100, 1900), _is_milestone(0, 64)
    (True, False, False)
    """
    step = max(100, min(10 ** (len(str(after)) - 1), 1_000_000))
    return bool(before // step < after // step)
