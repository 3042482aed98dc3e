"""Defaults, sequences and identities of a replaced table's columns: what was there goes on.

The new table's definition wins where it says something: a default, an identity, a computed value.
A sequence that PostgreSQL makes for an integer key (SERIAL) says nothing, since it is made unasked.
Where nothing is said, the old column's default stays; a sequence that belonged to it moves over as
it is; an identity is made again, with the options, rights and position of the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.catalog import literal
from ixflow.dialects.postgres.sequences import SequenceState, make_like, of_column, sequence

__all__ = ["Numbered", "let_go", "number_on", "numbered"]


@dataclass(frozen=True, slots=True)
class Numbered:
    """A column that is in both tables, and where its values came and come from.

    ``identity`` is how PostgreSQL writes it: ``a`` always, ``d`` by default, or nothing.
    """

    column: str
    default: str | None
    identity: str
    new_default: str | None
    new_identity: str
    computed: bool
    required: bool
    same_type: bool
    old: SequenceState | None
    more: tuple[SequenceState, ...]
    """Further sequences that belong to the old column."""
    new: SequenceState | None

    @property
    def said(self) -> bool:
        """Whether the definition says where values come from."""
        named = self.new_default is not None and self.new is None
        return bool(self.new_identity) or self.computed or named

    @property
    def moving(self) -> list[SequenceState]:
        """The sequences that belong to the new column from now on."""
        copied = bool(self.identity or self.new_identity)
        first = [] if self.old is None or copied else [self.old]
        return [*first, *self.more]


_COLUMNS = sa.text("""
    SELECT quote_ident(n.attname),
           CASE WHEN o.attgenerated = '' THEN pg_get_expr(od.adbin, od.adrelid) END,
           o.attidentity::text, pg_get_expr(nd.adbin, nd.adrelid), n.attidentity::text,
           n.attgenerated <> '', n.attnotnull, o.atttypid = n.atttypid, o.attnum, n.attnum
    FROM pg_attribute n
    JOIN pg_attribute o ON o.attrelid = :old AND o.attname = n.attname AND NOT o.attisdropped
    LEFT JOIN pg_attrdef od ON od.adrelid = o.attrelid AND od.adnum = o.attnum
    LEFT JOIN pg_attrdef nd ON nd.adrelid = n.attrelid AND nd.adnum = n.attnum
    WHERE n.attrelid = :new AND n.attnum > 0 ORDER BY n.attnum
""")
# That of an identity comes first, then the one from which the default takes its numbers.
_OWNED = sa.text("""
    SELECT d.refobjid::bigint, d.refobjsubid, d.objid::bigint
    FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
      AND d.refobjid IN (:old, :new) AND d.deptype IN ('a', 'i')
    ORDER BY d.deptype DESC, NOT EXISTS (
        SELECT FROM pg_depend u JOIN pg_attrdef f ON f.oid = u.objid
        WHERE u.classid = 'pg_attrdef'::regclass AND u.refobjid = d.objid
          AND f.adrelid = d.refobjid AND f.adnum = d.refobjsubid), d.objid
""")


def numbered(conn: sa.Connection, old: int, new: int) -> tuple[Numbered, ...]:
    """Compare the columns of two tables that have a default, an identity or a sequence."""
    both = {"old": old, "new": new}
    owned: dict[tuple[int, int], list[SequenceState]] = {}
    for table, place, oid in conn.execute(_OWNED, both).all():
        owned.setdefault((table, place), []).append(sequence(conn, oid))
    found = []
    for row in conn.execute(_COLUMNS, both).all():
        facts: list[Any] = list(row[:-2])
        before, after = owned.get((old, row[-2]), []), owned.get((new, row[-1]), [])
        facts += [before[0] if before else None, tuple(before[1:]), after[0] if after else None]
        column = Numbered(*facts)
        if column.default or column.identity or column.old:
            found.append(column)
    return tuple(found)


def let_go(conn: sa.Connection, columns: Sequence[Numbered]) -> None:
    """Let the sequences that move not be dropped with the old table."""
    for column in columns:
        for moving in column.moving:
            run(conn, f"ALTER SEQUENCE {moving.qualified} OWNED BY NONE")


def number_on(conn: sa.Connection, qualified: str, owner: str, columns: Sequence[Numbered]) -> None:
    """Give the columns of the new table, in its place, what those of the old one had."""
    for column in columns:
        if column.new_identity and column.old is not None and column.new is not None:
            make_like(conn, column.new.oid, column.old, owner)
        elif not column.said and column.identity and column.required:
            _identify(conn, qualified, owner, column)
        elif not column.said and column.default is not None:
            change = f"ALTER TABLE {qualified} ALTER COLUMN {column.column}"
            run(conn, f"{change} SET DEFAULT {column.default}")
            _drop_made(conn, column)
            _count_on(conn, column)
        for moving in column.moving:
            run(conn, f"ALTER SEQUENCE {moving.qualified} OWNED BY {qualified}.{column.column}")


def _drop_made(conn: sa.Connection, column: Numbered) -> None:
    """Drop the sequence that was made unasked; numbers come from elsewhere now."""
    if column.new is not None:
        query = sa.text("SELECT CAST(CAST(:oid AS oid) AS regclass)::text")
        name = conn.execute(query, {"oid": column.new.oid}).scalar_one()
        run(conn, f"DROP SEQUENCE {name}")


def _count_on(conn: sa.Connection, column: Numbered) -> None:
    """Let a sequence that moved count on behind the rows that came, in the column's type."""
    old, new = column.old, column.new
    if old is None or new is None:
        return
    if not column.same_type and new.type != old.type:
        run(conn, f"ALTER SEQUENCE {old.qualified} AS {new.type}")
    if old.is_behind(new):
        limits = old if column.same_type else new
        last = max(min(new.last, limits.greatest), limits.least)
        run(conn, f"SELECT setval({literal(old.qualified)}, {last})")


def _identify(conn: sa.Connection, qualified: str, owner: str, column: Numbered) -> None:
    """Make an identity of the column, as the old one was, behind the rows that came."""
    if column.old is None:
        return
    change = f"ALTER TABLE {qualified} ALTER COLUMN {column.column}"
    kind = "ALWAYS" if column.identity == "a" else "BY DEFAULT"
    run(conn, f"{change} DROP DEFAULT")
    _drop_made(conn, column)
    run(conn, f"{change} ADD GENERATED {kind} AS IDENTITY")
    oid = of_column(conn, qualified, column.column)
    if oid is None:
        return
    if column.new is not None and column.new.called:
        run(conn, f"SELECT setval({oid}::regclass, {column.new.last})")
    make_like(conn, oid, column.old, owner)
