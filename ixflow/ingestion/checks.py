"""Rules that every row of a batch must satisfy before anybody sees it.

A batch with a row that breaks a rule is refused, or the row is put aside into a table of its own,
``<table>__quarantine``, with the rule, the run and the reason; `release` lets it try again. Both
happen in the batch's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from ixflow.dialects import dialect_of, run
from ixflow.errors import CheckFailed, ValidationError
from ixflow.tables import declared
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.dialects import Dialect

__all__ = ["RowCheck", "quarantine_of", "sift", "split_callbacks"]

RULE, REASON, RUN, AT = "ixflow_rule", "ixflow_reason", "ixflow_run_id", "ixflow_at"
"""The columns that a quarantine has besides those of its table."""


@dataclass(frozen=True)
class RowCheck:
    """A rule for rows, as an item of ``on_before_visible`` of `ingest`.

    Args:
        name: What the rule is called, in errors and in the quarantine.
        condition: SQL that is true of every good row, in the names of the table's columns. Neither
            false nor NULL is true.
        table: The table whose rows it judges; None: every table of the metadata.
        on_fail: ``refuse`` the batch, or put the bad rows into ``quarantine``.

    >>> RowCheck("has a price", "price > 0", on_fail="quarantine").on_fail
    'quarantine'
    """

    name: str
    condition: str
    table: sa.Table | None = None
    on_fail: Literal["refuse", "quarantine"] = "refuse"

    def __post_init__(self) -> None:
        """Refuse what cannot be a rule."""
        if not self.name or not self.condition:
            raise ValidationError("a RowCheck needs a name and a condition", check=self.name)
        if self.on_fail not in ("refuse", "quarantine"):
            msg = f"on_fail of the check {self.name} is {self.on_fail!r}; refuse or quarantine"
            raise ValidationError(msg, check=self.name)

    def judges(self, table: sa.Table) -> bool:
        """Say whether it is a rule for a table's rows."""
        return self.table is None or declared.name_of(self.table) == declared.name_of(table)


def split_callbacks(given: Any) -> tuple[list[Any], list[RowCheck]]:
    """Take the functions and the checks out of what was given as ``on_before_visible``.

    Raises:
        ValidationError: something is neither.

    """
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    checks = [item for item in items if isinstance(item, RowCheck)]
    functions = [item for item in items if not isinstance(item, RowCheck)]
    for item in functions:
        if not callable(item):
            msg = f"on_before_visible must be a function, a RowCheck, or a list; not {item!r}"
            raise ValidationError(msg, argument="on_before_visible")
    return functions, checks


def quarantine_of(table: TableName) -> TableName:
    """Name the table where bad rows of a table are.

    >>> str(quarantine_of(TableName("orders", "shop")))
    'shop.orders__quarantine'
    """
    return table.renamed(f"{table.name}__quarantine")


def sift(
    conn: sa.Connection,
    name: TableName,
    stage: TableName,
    columns: Sequence[Column],
    checks: Sequence[RowCheck],
    *,
    run_id: str,
) -> dict[str, int]:
    """Take the rows that break a rule out of a stage, whose columns may wait as text; count them.

    Returns the number of rows by the name of the rule; none for rules that all rows satisfy.

    Raises:
        CheckFailed: a rule whose rows are not put aside is broken.

    """
    dialect = dialect_of(conn)
    taken: dict[str, int] = {}
    for check in checks:
        bad = _bad_rows(dialect, stage, columns, check)
        count = int(run(conn, f"SELECT count(*) FROM {bad}").scalar_one())
        if count and check.on_fail == "refuse":
            msg = (
                f"{count} rows for {name} break the rule {check.name!r} ({check.condition}); "
                f"the batch was rolled back"
            )
            raise CheckFailed(msg, table=str(name), check=check.name, rows=count)
        if count:
            _put_aside(conn, name, columns, check, bad, run_id=run_id)
            place, relation = dialect.row_place, dialect.qualified(stage)
            run(conn, f"DELETE FROM {relation} WHERE {place} IN (SELECT ixflow_place FROM {bad})")
            taken[check.name] = count
    return taken


def _bad_rows(
    dialect: Dialect, stage: TableName, columns: Sequence[Column], check: RowCheck
) -> str:
    """Write the rows that break a rule as a relation, with their values as they will be."""
    values = ", ".join(
        f"CAST({dialect.quote(c.name)} AS {c.sql_type}) AS {dialect.quote(c.name)}" for c in columns
    )
    rows = f"SELECT {values}, {dialect.row_place} AS ixflow_place FROM {dialect.qualified(stage)}"
    # A comment at the end of the condition must not reach what follows.
    return f"(SELECT * FROM ({rows}) s WHERE ({check.condition}\n) IS NOT TRUE) bad"


def _put_aside(
    conn: sa.Connection,
    name: TableName,
    columns: Sequence[Column],
    check: RowCheck,
    bad: str,
    *,
    run_id: str,
) -> None:
    dialect, place = dialect_of(conn), quarantine_of(name)
    _make_room(conn, place, columns)
    names = dialect.column_list(c.name for c in columns)
    facts = dialect.column_list((RULE, REASON, RUN, AT))
    texts = ", ".join(dialect.text_literal(text) for text in (check.name, check.condition, run_id))
    run(
        conn,
        f"INSERT INTO {dialect.qualified(place)} ({names}, {facts}) "
        f"SELECT {names}, {texts}, now() FROM {bad}",
    )


def _make_room(conn: sa.Connection, place: TableName, columns: Sequence[Column]) -> None:
    """Make the quarantine, or give it columns that the table has got since."""
    dialect = dialect_of(conn)
    text, moment = dialect.sql_type(pa.string()), dialect.sql_type(pa.timestamp("us", "UTC"))
    facts = [(name, text) for name in (RULE, REASON, RUN)] + [(AT, moment)]
    wanted = [(c.name, c.sql_type) for c in columns] + facts
    there = {column.name for column in dialect.read_columns(conn, place)}
    lines = [(f"{dialect.quote(name)} {sql_type}", name) for name, sql_type in wanted]
    if not there:
        run(conn, f"CREATE TABLE {dialect.qualified(place)} ({', '.join(x for x, _ in lines)})")
    for line, name in lines if there else ():
        if name not in there:
            run(conn, f"ALTER TABLE {dialect.qualified(place)} ADD COLUMN {line}")
