"""Proof of arrival: what was sent equals what is there, or the batch is rolled back.

The client computes the checksum of the rows that it sends, from Arrow, before they are encoded.
As the last thing before the watermark is written the database computes the checksum of the rows
that are there under the table's own name: of the whole table where it was made for this batch,
else of the rows whose key the batch gave, or, without a key, of the rows that it added.

Where the two definitions cannot be the same there is a step between them. Types that only the
database can read wait as the text that was sent: first the waiting texts are compared with what
was sent, then the values that the database makes of them with those in the table. Rows that a
check puts aside, or that gave way to a later row with their key, are counted and taken out. SQL
has no rows before the server finds them, so they are compared from then on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ixflow.dialects import Dialect, dialect_of, run
from ixflow.dialects.canonical import RowHasher
from ixflow.dialects.checksums import Checksum
from ixflow.errors import ArrivalDiffers
from ixflow.ingestion.options import Arrival
from ixflow.tables import declared
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.ingestion.replacement import Replacement

__all__ = ["Prover"]


@dataclass(slots=True)
class _Sent:
    """What one batch sent to one table."""

    columns: tuple[Column, ...]
    compared: tuple[Column, ...]
    spells: bool
    """The client writes values of some types the way the database does."""
    sifts: bool = False
    pending: Checksum = field(default_factory=Checksum)
    """What was sent since rows were last merged, as it was sent."""
    by_server: bool = False
    """What waits was found by the server."""
    expected: Checksum = field(default_factory=Checksum)
    """What should be there, as values."""
    rows: int = 0
    aside: int = 0
    stages: list[TableName] = field(default_factory=list)
    """Where merged rows waited; they are kept for a closer look."""
    mark: Any = None


class Prover:
    """Compares, batch by batch and table by table; close it when the ingest ends."""

    def __init__(self, conn: sa.Connection) -> None:
        """Take the ingest's connection."""
        self._conn = conn
        self._dialect: Dialect = dialect_of(conn)
        self._hasher = RowHasher()
        self._sent: dict[sa.Table, _Sent] = {}

    def close(self) -> None:
        """Free what the client's side needs."""
        self._hasher.close()

    # -- while rows are sent --------------------------------------------------------------------

    def begin(
        self, table: sa.Table, columns: Sequence[Column], *, sifts: bool
    ) -> tuple[Column, ...]:
        """Begin a batch for a table; say as which columns its rows are to be sent."""
        proven = self._dialect.proven(columns)
        spelled = [c for c in proven if c.as_text and not self._waits_as_text([c])]
        if spelled:
            self._hasher.set_time_zone(self._dialect.session_zone(self._conn))
        unknown = [c.name for c in spelled if not self._hasher.can_spell(c)]
        compared = tuple(c for c in proven if c.name not in unknown)
        self._sent[table] = _Sent(proven, compared, bool(spelled), sifts)
        return proven

    def needs_stage(self, table: sa.Table, new: Replacement | None) -> bool:
        """Say whether the rows of a table must wait in a stage to be found again."""
        # A stage gives NULL for a column that is left out, a load gives the default.
        simple = not any(c.server_default is not None for c in table.columns)
        columns = self._sent[table].columns
        return not (simple and _is_whole(new)) or self._waits_as_text(columns)

    def watch(
        self, table: sa.Table, given: Sequence[Column], reader: pa.RecordBatchReader
    ) -> pa.RecordBatchReader:
        """Pass on a reader's batches, and compute the checksum of what passes."""
        sent = self._sent[table]
        columns = self._dialect.staged(sent.compared)
        names = {column.name for column in columns}
        places = [place for place, column in enumerate(given) if column.name in names]
        chosen = self._dialect.staged([given[place] for place in places])
        spelled = self._hasher.spelled if sent.spells else None

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in reader:
                seen = batch.select(places)
                found = self._hasher.checksum(seen, chosen, columns, spelled)
                sent.pending += found
                sent.rows += found.rows
                yield batch

        return pa.RecordBatchReader.from_batches(reader.schema, batches())

    def found_by_server(self, table: sa.Table, rows: int) -> None:
        """Note that what waits was not sent, but found by the server."""
        sent = self._sent[table]
        # What was sent before does not wait any more.
        self._take_over(sent)
        sent.by_server = True
        sent.rows += rows

    # -- while they are merged ------------------------------------------------------------------

    def check_stage(self, table: sa.Table, stage: TableName) -> None:
        """See that what waits is what was sent, where it is not the last that is looked at."""
        sent = self._sent[table]
        if sent.by_server or not (self._waits_as_text(sent.columns) or sent.sifts):
            return
        relation = f"{self._dialect.qualified(stage)} s"
        there = self._dialect.checksum(self._conn, relation, self._dialect.staged(sent.compared))
        if there != sent.pending:
            raise self._differs(table, sent.pending, there, "wait to be merged")

    def expect(self, table: sa.Table, stage: TableName) -> None:
        """Take what waits, which a check may have sifted, for what should be there."""
        sent = self._sent[table]
        if sent.by_server or sent.sifts or self._waits_as_text(sent.columns):
            relation = f"({self._values(sent, [stage])}) s"
            sent.expected += self._checksum(relation, sent)
            sent.pending, sent.by_server = Checksum(), False
        else:
            self._take_over(sent)
        sent.stages.append(stage)

    def add(self, table: sa.Table, into: TableName, insert: str) -> int:
        """Run the INSERT that adds what waits to a table without a key; count the rows."""
        sent = self._sent[table]
        if sent.mark is None:
            sent.mark = self._dialect.mark_additions(self._conn, into)
        return self._dialect.add_marked(self._conn, insert, sent.mark)

    def keep(self, table: sa.Table, copy: TableName) -> None:
        """Take a copy of the rows that did not wait, where others are going to be merged."""
        sent = self._sent[table]
        self._take_over(sent)
        sent.stages.append(copy)

    def put_aside(self, table: sa.Table, rows: int) -> None:
        """Count rows that a check has put aside."""
        self._sent[table].aside += rows

    def before_removal(self, new: Replacement) -> None:
        """Look at a new table before its rows with the key of a later one are removed."""
        sent = self._sent[new.table]
        self._take_over(sent)
        everything = f"{self._dialect.qualified(new.name)} t"
        there = self._checksum(everything, sent)
        if there != sent.expected:
            raise self._differs(new.table, sent.expected, there, "wait for their key")
        last = f"({self._last(new.table, sent, [new.name])}) t"
        sent.expected = self._checksum(last, sent)

    # -- before the commit ----------------------------------------------------------------------

    def settle(self) -> None:
        """Let deferred triggers run before anything is compared."""
        self._dialect.settle_deferred(self._conn)

    def prove(self, table: sa.Table, new: Replacement | None) -> Arrival:
        """Compare what is there now with what was sent.

        Raises:
            ArrivalDiffers: naming the table and both numbers.

        """
        sent = self._sent[table]
        self._take_over(sent)
        relation = self._there(table, sent, new)
        with self._found(table, sent):
            there = self._checksum(relation, sent) if relation else None
        expected, source = sent.expected, f"({self._values(sent, sent.stages)}) s"
        if sent.stages and table.primary_key.columns and there != expected:
            # Of rows with one key the last remains.
            waited = self._checksum(source, sent)
            if waited != expected:
                raise self._differs(table, expected, waited, "waited to be merged")
            source = f"({self._last(table, sent, sent.stages)}) s"
            expected = self._checksum(source, sent)
        found = there or Checksum()
        if found != expected:
            odd = self._odd_columns(sent, source, relation) if found.rows == expected.rows else []
            raise self._differs(table, expected, found, "are there before the commit", odd)
        self._forget(sent)
        repeated = sent.rows - sent.aside - found.rows
        left_out = tuple(c.name for c in sent.columns if c not in sent.compared)
        return Arrival(sent.rows, found.rows, repeated, sent.aside, found, left_out)

    def _there(self, table: sa.Table, sent: _Sent, new: Replacement | None) -> str | None:
        """Write the rows of the batch that are there as a relation; None: it gave none."""
        name = declared.name_of(table)
        live = f"{self._dialect.qualified(name)} t"
        if _is_whole(new):
            return live
        if not sent.stages:
            return None
        if not table.primary_key.columns:
            return f"(SELECT t.* FROM {self._dialect.additions(name, sent.mark)}) t"
        keys = [self._dialect.quote(column.name) for column in table.primary_key]
        same = " AND ".join(f"s.{key} = t.{key}" for key in keys)
        given = f"SELECT 1 FROM ({self._values(sent, sent.stages)}) s WHERE {same}"
        return f"(SELECT t.* FROM {live} WHERE EXISTS ({given})) t"

    def _found(self, table: sa.Table, sent: _Sent) -> AbstractContextManager[None]:
        """Say how the rows that are there are best found."""
        if sent.mark is None:
            return contextlib.nullcontext()
        return self._dialect.by_place(self._conn, declared.name_of(table))

    def _values(self, sent: _Sent, stages: Sequence[TableName]) -> str:
        """Write the query of what waited, as values, with the order in which it came."""
        values = []
        for column in sent.columns:
            quoted = self._dialect.quote(column.name)
            waits = self._waits_as_text([column])
            form = self._dialect.value_form(column, quoted) if waits else quoted
            values.append(f"{form} AS {quoted}")
        place = f"{self._dialect.row_place} AS ixflow_place"
        return " UNION ALL ".join(
            f"SELECT {', '.join((f'{number} AS ixflow_stage', place, *values))} "
            f"FROM {self._dialect.qualified(stage)}"
            for number, stage in enumerate(stages)
        )

    def _last(self, table: sa.Table, sent: _Sent, stages: Sequence[TableName]) -> str:
        """Write the query of the last row of each key."""
        keys = self._dialect.column_list(column.name for column in table.primary_key)
        return (
            f"SELECT DISTINCT ON ({keys}) * FROM ({self._values(sent, stages)}) w "
            f"ORDER BY {keys}, ixflow_stage DESC, ixflow_place DESC"
        )

    def _odd_columns(self, sent: _Sent, source: str, relation: str | None) -> list[str]:
        """Name the columns whose values differ, if that can be told."""
        if not (sent.stages and relation):
            return []
        return [
            column.name
            for column in sent.compared
            if self._dialect.checksum(self._conn, source, [column])
            != self._dialect.checksum(self._conn, relation, [column])
        ]

    def _waits_as_text(self, columns: Sequence[Column]) -> bool:
        return self._dialect.staged(columns) != tuple(columns)

    def _checksum(self, relation: str, sent: _Sent) -> Checksum:
        return self._dialect.checksum(self._conn, relation, sent.compared)

    def _take_over(self, sent: _Sent) -> None:
        sent.expected, sent.pending = sent.expected + sent.pending, Checksum()

    def _forget(self, sent: _Sent) -> None:
        for stage in sent.stages:
            run(self._conn, f"DROP TABLE {self._dialect.qualified(stage)}")
        if sent.mark is not None:
            self._dialect.forget_additions(self._conn, sent.mark)

    def _differs(
        self,
        table: sa.Table,
        sent: Checksum,
        there: Checksum,
        how: str,
        columns: Sequence[str] = (),
    ) -> ArrivalDiffers:
        name = declared.name_of(table)
        odd = f" (values of {', '.join(columns)} differ)" if columns else ""
        msg = (
            f"{name}: {sent} were sent, but {there} {how}{odd}; the batch was rolled back; look "
            f"for triggers and rules on the table, and for callbacks that change rows"
        )
        return ArrivalDiffers(
            msg,
            table=str(name),
            rows_sent=sent.rows,
            rows_there=there.rows,
            checksum_sent=sent.text,
            checksum_there=there.text,
            columns=list(columns),
        )


def _is_whole(new: Replacement | None) -> bool:
    """Say whether a table has the rows of its batch and no others."""
    return new is not None and not new.kept_rows
