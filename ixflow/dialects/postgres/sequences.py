"""A sequence as it is: options, rights, comment and position; and another one made like it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.catalog import literal
from ixflow.dialects.postgres.grants import Grant, check_regranted, regrant, sequence_grants

__all__ = ["SequenceState", "make_like", "of_column", "sequence", "set_identity"]


@dataclass(frozen=True, slots=True)
class SequenceState:
    """What a sequence is, with its names quoted; ``pace`` and ``limits`` are written as SQL."""

    oid: int
    qualified: str
    name: str
    type: str
    pace: str
    limits: str
    step: int
    least: int
    greatest: int
    comment: str | None
    last: int
    called: bool
    grants: frozenset[Grant]

    @property
    def next(self) -> int:
        """The number that comes next."""
        return self.last + self.step if self.called else self.last

    def is_behind(self, other: SequenceState) -> bool:
        """Say whether the other one has given numbers that this one would give again."""
        ahead = other.last - self.next
        return other.called and (ahead >= 0 if self.step > 0 else ahead <= 0)


_STATE = sa.text("""
    SELECT s.seqrelid::bigint, s.seqrelid::regclass::text, quote_ident(c.relname),
           format_type(s.seqtypid, NULL),
           format('INCREMENT BY %s START WITH %s CACHE %s %s', s.seqincrement, s.seqstart,
                  s.seqcache, CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END),
           format('MINVALUE %s MAXVALUE %s', s.seqmin, s.seqmax),
           s.seqincrement, s.seqmin, s.seqmax, obj_description(s.seqrelid, 'pg_class')
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid WHERE s.seqrelid = :oid
""")


def sequence(conn: sa.Connection, oid: int) -> SequenceState:
    """Read a sequence."""
    facts: list[Any] = list(conn.execute(_STATE, {"oid": oid}).one())
    last, called = run(conn, f"SELECT last_value, is_called FROM {facts[1]}").one()
    facts += [last, called, sequence_grants(conn, oid)]
    return SequenceState(*facts)


def make_like(conn: sa.Connection, oid: int, old: SequenceState, owner: str) -> None:
    """Make a sequence like one that is gone; it counts on behind both."""
    new = sequence(conn, oid)
    same = new.type == old.type
    limits = old if same else new
    last, called = (new.last, True) if old.is_behind(new) else (old.last, old.called)
    last = max(min(last, limits.greatest), limits.least)
    options = f"{old.pace} {old.limits if same else ''} RESTART WITH {last}"
    run(conn, f"ALTER SEQUENCE {new.qualified} {options}")
    run(conn, f"SELECT setval({literal(new.qualified)}, {last}, {str(called).lower()})")
    if old.comment is not None:
        run(conn, f"COMMENT ON SEQUENCE {new.qualified} IS {literal(old.comment)}")
    what = f"SEQUENCE {new.qualified}"
    if regrant(conn, what, owner, new.grants, old.grants):
        check_regranted(what, sequence_grants(conn, oid), old.grants)
    if new.name != old.name:
        run(conn, f"ALTER SEQUENCE {new.qualified} RENAME TO {old.name}")


_OPTIONS = {
    "start": "SET START WITH",
    "increment": "SET INCREMENT BY",
    "minvalue": "SET MINVALUE",
    "maxvalue": "SET MAXVALUE",
    "cache": "SET CACHE",
}


def set_identity(
    conn: sa.Connection, qualified: str, column: str, options: Mapping[str, int | bool]
) -> None:
    """Alter options of a column's identity; the next number is moved within new limits.

    One that has not given a number yet begins at a start that is among the options.
    """
    column = conn.execute(sa.text("SELECT quote_ident(:name)"), {"name": column}).scalar_one()
    oid = of_column(conn, qualified, column)
    if oid is None:
        return
    now = sequence(conn, oid)
    words = [f"{_OPTIONS[name]} {value}" for name, value in options.items() if name in _OPTIONS]
    if "cycle" in options:
        words.append("SET CYCLE" if options["cycle"] else "SET NO CYCLE")
    least, greatest = options.get("minvalue", now.least), options.get("maxvalue", now.greatest)
    wanted = now.last if now.called else options.get("start", now.last)
    last = max(min(wanted, greatest), least)
    change = f"ALTER TABLE {qualified} ALTER COLUMN {column}"
    run(conn, f"{change} {' '.join(words)} RESTART WITH {last}")
    called = now.called and last == now.last
    run(conn, f"SELECT setval({literal(now.qualified)}, {last}, {str(called).lower()})")


_OF_COLUMN = sa.text("""
    SELECT CAST(pg_get_serial_sequence(:table, a.attname) AS regclass)::oid::bigint
    FROM pg_attribute a
    WHERE a.attrelid = to_regclass(:table) AND quote_ident(a.attname) = :column
""")


def of_column(conn: sa.Connection, qualified: str, column: str) -> int | None:
    """Find the sequence of a quoted column."""
    found = conn.execute(_OF_COLUMN, {"table": qualified, "column": column}).scalar()
    return None if found is None else int(found)
