"""Comparing two states of a stage: tables, columns, types, numbers of rows, and rows by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ixflow.dialects import run
from ixflow.errors import ValidationError
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.dialects import Dialect
    from ixflow.store.metadata import StoredTable, TableColumn

__all__ = ["RowChange", "Side", "StageDiff", "TableDiff", "compared", "form_changes"]


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row that differs: its key, and what it was and is; None where it was or is not."""

    change: str
    key: Mapping[str, Any]
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class TableDiff:
    """How one table differs; ``change`` is added, removed, changed or same.

    ``types_changed`` are (column, old type, new type). Rows are told apart by ``key``: with one,
    ``rows_changed`` are those of the same key with other values in the columns that both tables
    have; without one a changed row is a removed and an added one. None: rows were not compared.
    """

    table: str
    change: str
    rows_before: int | None = None
    rows_after: int | None = None
    columns_added: tuple[str, ...] = ()
    columns_removed: tuple[str, ...] = ()
    types_changed: tuple[tuple[str, str, str], ...] = ()
    key: tuple[str, ...] = ()
    rows_added: int | None = None
    rows_removed: int | None = None
    rows_changed: int | None = None
    sample: tuple[RowChange, ...] = ()

    @property
    def other_columns(self) -> bool:
        """Say whether columns or their types differ."""
        return bool(self.columns_added or self.columns_removed or self.types_changed)

    def __str__(self) -> str:
        """Say it in one line."""
        said = [f"+{name}" for name in self.columns_added]
        said += [f"-{name}" for name in self.columns_removed]
        said += [f"{name}: {old} to {new}" for name, old, new in self.types_changed]
        counts = (self.rows_added, self.rows_removed, self.rows_changed)
        words = zip(counts, ("added", "removed", "changed"), strict=True)
        said += [f"{count} rows {word}" for count, word in words if count]
        rows = f"{self.rows_before} to {self.rows_after} rows"
        return f"{self.table} {self.change}, {'; '.join([rows, *said])}"


@dataclass(frozen=True, slots=True)
class StageDiff:
    """How two states of a stage differ; ``old`` and ``new`` say which they are."""

    stage: str
    old: str
    new: str
    tables: tuple[TableDiff, ...]

    @property
    def changed(self) -> bool:
        """Say whether anything differs."""
        return any(table.change != "same" for table in self.tables)

    def __getitem__(self, name: str) -> TableDiff:
        """Give what is said of one table.

        Raises:
            KeyError: neither state has it.

        """
        for table in self.tables:
            if table.table == name:
                return table
        msg = f"neither {self.old} nor {self.new} of stage {self.stage} has a table {name!r}"
        raise KeyError(msg)

    def __str__(self) -> str:
        """Say it in lines."""
        lines = (f"  {table}" for table in self.tables if table.change != "same")
        return "\n".join([f"stage {self.stage}, {self.old} to {self.new}:", *lines])


@dataclass(frozen=True, slots=True)
class Side:
    """One of two states of a stage: its tables, and where they are."""

    label: str
    tables: Mapping[str, StoredTable]
    places: Mapping[str, TableName]


@dataclass(frozen=True, slots=True)
class Question:
    """What to find out: ``keys`` by table, whether to count ``rows``, how many to show."""

    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rows: bool = True
    sample: int = 0


def compared(
    conn: sa.Connection, dialect: Dialect, stage: str, sides: tuple[Side, Side], asked: Question
) -> StageDiff:
    """Compare two states in the caller's transaction; equal data versions are not looked at.

    Raises:
        ValidationError: a key that was given is not one.

    """
    old, new = sides
    names = sorted({*old.tables, *new.tables})
    found = tuple(_table(conn, dialect, name, sides, asked) for name in names)
    return StageDiff(stage, old.label, new.label, found)


def _table(
    conn: sa.Connection, dialect: Dialect, name: str, sides: tuple[Side, Side], asked: Question
) -> TableDiff:
    old, new = (side.tables.get(name) for side in sides)
    form = form_changes(name, old, new)
    if old is None or new is None or not asked.rows:
        return form
    counted: dict[str, Any] = {"rows_added": 0, "rows_removed": 0, "rows_changed": 0}
    if form.change != "same":
        pair = _Pair(conn, dialect, sides[0].places[name], sides[1].places[name])
        counted = pair.counted(asked.keys.get(name), asked.sample)
    other_rows = any(counted[f"rows_{what}"] for what in ("added", "removed", "changed"))
    change = "changed" if form.other_columns or other_rows else "same"
    return replace(form, change=change, **counted)


class _Recorded(Protocol):
    """What is recorded of a table."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> tuple[TableColumn, ...]: ...

    @property
    def data_version(self) -> str: ...


def form_changes(name: str, old: _Recorded | None, new: _Recorded | None) -> TableDiff:
    """Compare what is recorded of a table in two states, of which one may lack it; no row is read.

    Another data version may be the same rows: then the table counts as changed.
    """
    if old is None or new is None:
        rows = [None if table is None else table.rows for table in (old, new)]
        return TableDiff(name, "removed" if new is None else "added", rows[0], rows[1])
    before, after = ({c.name: c.type for c in table.columns} for table in (old, new))
    found = TableDiff(
        name,
        "changed",
        old.rows,
        new.rows,
        tuple(c for c in after if c not in before),
        tuple(c for c in before if c not in after),
        tuple((c, before[c], after[c]) for c in after if c in before and before[c] != after[c]),
    )
    same = old.data_version == new.data_version and not found.other_columns
    return replace(found, change="same") if same else found


class _Pair:
    """Two tables whose rows are compared in the columns that both have."""

    def __init__(
        self, conn: sa.Connection, dialect: Dialect, old: TableName, new: TableName
    ) -> None:
        self._conn, self._dialect = conn, dialect
        self._old, self._new = dialect.qualified(old), dialect.qualified(new)
        self._new_name = new
        self._before = {c.name: c for c in dialect.columns(conn, old)}
        self._after = {c.name: c for c in dialect.columns(conn, new)}
        self._common = [name for name in self._after if name in self._before]

    def counted(self, key: Sequence[str] | None, sample: int) -> dict[str, Any]:
        """Count the rows that differ, and show some of them."""
        chosen = tuple(key) if key is not None else self._primary_key()
        if not all(name in self._common for name in chosen):
            if key is None:
                chosen = ()
            else:
                msg = f"{self._new_name} has no key {list(chosen)} in both states"
                raise ValidationError(msg, table=str(self._new_name), columns=list(chosen))
        if not chosen:
            return {"rows_added": self._only(new=True), "rows_removed": self._only(new=False)} | {
                "rows_changed": 0,
                "key": (),
            }
        self._refuse_duplicates(chosen)
        return self._by_key(chosen) | {"key": chosen, "sample": self._shown(chosen, sample)}

    def _primary_key(self) -> tuple[str, ...]:
        columns = [c for c in self._after.values() if c.key_position]
        return tuple(c.name for c in sorted(columns, key=lambda c: c.key_position or 0))

    def _value(self, side: str, name: str) -> str:
        """Write a value of one side so that equal texts or values are the same."""
        column: Column = self._after[name]
        place = f"{side}.{self._dialect.quote(name)}"
        if column.sql_type != self._before[name].sql_type:
            return f"CAST({place} AS {self._dialect.text_type()})"
        return self._dialect.comparable(column, place)

    def _only(self, *, new: bool) -> int:
        """Count the rows that one side has and the other lacks, equal rows as often as they are."""
        if not self._common:
            return 0
        first, second = (self._new, self._old) if new else (self._old, self._new)
        values = ", ".join(self._value("t", name) for name in self._common)
        rows = f"SELECT {values} FROM {first} t EXCEPT ALL SELECT {values} FROM {second} t"
        return int(run(self._conn, f"SELECT count(*) FROM ({rows}) d").scalar_one())

    def _joined(self, key: Sequence[str]) -> tuple[str, str]:
        """Write the join of both sides, and the condition that a row has changed."""
        on = " AND ".join(f"{self._value('o', k)} = {self._value('n', k)}" for k in key)
        sides = (f"(SELECT 1 AS ixflow_side, t.* FROM {t} t)" for t in (self._old, self._new))
        old, new = sides
        others = [name for name in self._common if name not in key]
        pairs = ((self._value("o", c), self._value("n", c)) for c in others)
        differs = " OR ".join(f"{a} IS DISTINCT FROM {b}" for a, b in pairs) or "1 = 0"
        both = "o.ixflow_side IS NOT NULL AND n.ixflow_side IS NOT NULL"
        return f"FROM {old} o FULL JOIN {new} n ON {on}", f"{both} AND ({differs})"

    def _by_key(self, key: Sequence[str]) -> dict[str, int]:
        joined, changed = self._joined(key)
        query = f"""SELECT count(*) FILTER (WHERE o.ixflow_side IS NULL),
            count(*) FILTER (WHERE n.ixflow_side IS NULL), count(*) FILTER (WHERE {changed})
            {joined}"""
        counts = run(self._conn, query).one()
        return dict(zip(("rows_added", "rows_removed", "rows_changed"), counts, strict=True))

    def _refuse_duplicates(self, key: Sequence[str]) -> None:
        columns = self._dialect.column_list(key)
        for table in (self._old, self._new):
            query = f"SELECT 1 FROM {table} GROUP BY {columns} HAVING count(*) > 1 LIMIT 1"
            if run(self._conn, query).first() is not None:
                msg = f"{table} has several rows with one {', '.join(key)}; give keys= that tell"
                raise ValidationError(msg, table=table, columns=list(key))

    def _shown(self, key: Sequence[str], sample: int) -> tuple[RowChange, ...]:
        if sample < 1:
            return ()
        joined, changed = self._joined(key)
        quote = self._dialect.quote
        before, after = list(self._before), list(self._after)
        values = [f"o.{quote(name)}" for name in before] + [f"n.{quote(name)}" for name in after]
        one_side = "o.ixflow_side IS NULL OR n.ixflow_side IS NULL"
        order = ", ".join(f"coalesce({self._value('o', k)}, {self._value('n', k)})" for k in key)
        query = (
            f"SELECT o.ixflow_side, n.ixflow_side, {', '.join(values)} {joined} "
            f"WHERE {one_side} OR ({changed}) ORDER BY {order} LIMIT {int(sample)}"
        )
        return tuple(
            self._change(key, row[:2], row[2 : 2 + len(before)], row[2 + len(before) :])
            for row in run(self._conn, query).all()
        )

    def _change(
        self, key: Sequence[str], sides: Sequence[Any], old: Sequence[Any], new: Sequence[Any]
    ) -> RowChange:
        was = None if sides[0] is None else dict(zip(self._before, old, strict=True))
        now = None if sides[1] is None else dict(zip(self._after, new, strict=True))
        change = "added" if was is None else "removed" if now is None else "changed"
        row = now if now is not None else was or {}
        return RowChange(change, {name: row[name] for name in key}, was, now)
