"""What is set by hand on a table's own columns, indexes and constraints, and on the new one's too.

An index of the new table is taken for that of the old one whose definition it has, whatever their
names; so is a constraint. What the new table lacks, its definition does not want.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.catalog import INDEX_TEXT
from ixflow.dialects.postgres.hanging import KEPT_BACK
from ixflow.dialects.postgres.numbering import Numbered, let_go, number_on, numbered
from ixflow.errors import ReplacementRefused

__all__ = ["OwnParts", "Special", "own_parts", "put_on", "release", "special", "take_domains"]


class Special(NamedTuple):
    """What a table has that its like might not have: so most tables need no closer look."""

    domains: bool = False
    defaults: bool = False
    settings: bool = False
    """Something is set on an index or a constraint of it."""
    constraints: bool = False


@dataclass(frozen=True, slots=True)
class OwnParts:
    """What one new table, in its place, is to be given."""

    qualified: str
    owner: str
    statements: tuple[str, ...]
    columns: tuple[Numbered, ...]


_DOMAINS = sa.text("""
    SELECT format('ALTER TABLE %s ALTER COLUMN %I TYPE %s', n.attrelid::regclass, n.attname,
                  format_type(o.atttypid, NULL))
    FROM pg_attribute n
    JOIN pg_attribute o ON o.attrelid = :old AND o.attname = n.attname AND NOT o.attisdropped
    JOIN pg_type t ON t.oid = o.atttypid AND t.typtype = 'd'
    WHERE n.attrelid = :new AND n.attnum > 0 AND o.atttypid <> n.atttypid
      AND format_type(n.atttypid, n.atttypmod) = format_type(t.typbasetype, t.typtypmod)
    ORDER BY n.attnum
""")
# :place is the quoted name that the new table is going to have.
_INDEXES = f"""
    , old_i AS (SELECT i.*, x.relname, {INDEX_TEXT} AS what, c.relreplident, x.reltablespace
                FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE i.indrelid = :old)
    , new_i AS (SELECT i.*, x.relname, {INDEX_TEXT} AS what
                FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE i.indrelid = :new)
    , both_i AS (SELECT DISTINCT ON (o.indexrelid) o.*, n.relname AS now,
                        format('%s%I', CAST(:schema AS text), n.relname) AS place
                 FROM old_i o JOIN new_i n USING (what, indisprimary)
                 ORDER BY o.indexrelid, n.relname)
"""
_INDEX_PARTS = """
    SELECT 1 AS turn, now AS name, format('COMMENT ON INDEX %s IS %L', place, d.description)
    FROM both_i JOIN pg_description d
      ON d.objoid = indexrelid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
    UNION ALL
    SELECT 1, now, format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', place, a.attnum,
                          a.attstattarget)
    FROM both_i JOIN pg_attribute a ON a.attrelid = indexrelid
    WHERE coalesce(a.attstattarget, -1) >= 0
    UNION ALL
    SELECT 1, now, format('ALTER INDEX %s SET TABLESPACE %I', place, s.spcname)
    FROM both_i JOIN pg_tablespace s ON s.oid = reltablespace
    UNION ALL
    SELECT 1, now, format('ALTER TABLE %s CLUSTER ON %I', CAST(:place AS text), now)
    FROM both_i WHERE indisclustered
    UNION ALL
    SELECT 1, now, format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', CAST(:place AS text),
                          now)
    FROM both_i WHERE indisreplident AND relreplident = 'i'
"""
_CONSTRAINT_PARTS = """
    SELECT 1, m.conname, format('COMMENT ON CONSTRAINT %I ON %s IS %L', m.conname,
                                CAST(:place AS text), d.description)
    FROM (SELECT DISTINCT ON (o.oid) o.oid, n.conname
          FROM pg_constraint o JOIN pg_constraint n ON n.conrelid = :new AND n.contype = o.contype
            AND pg_get_constraintdef(n.oid) = pg_get_constraintdef(o.oid)
          WHERE o.conrelid = :old ORDER BY o.oid, n.conname) m
    JOIN pg_description d ON d.objoid = m.oid AND d.classoid = 'pg_constraint'::regclass
"""
# A name that tells of the temporary table is not one that anybody gave.
_NAMES = """
    SELECT 2, n.conname, format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', CAST(:place AS text),
                                n.conname, o.conname)
    FROM pg_constraint n JOIN pg_constraint o ON o.conrelid = :old AND o.contype = n.contype
      AND pg_get_constraintdef(o.oid) = pg_get_constraintdef(n.oid)
    WHERE n.conrelid = :new AND strpos(n.conname, CAST(:prefix AS text)) > 0
      AND n.conname <> o.conname
      AND (SELECT count(*) FROM pg_constraint k WHERE k.conrelid IN (:old, :new)
           AND pg_get_constraintdef(k.oid) = pg_get_constraintdef(n.oid)) = 2
"""
_PARTS = sa.text(f"""
    WITH nothing AS (SELECT 1) {_INDEXES}
    {_INDEX_PARTS} UNION ALL {_CONSTRAINT_PARTS} UNION ALL {_NAMES}
    ORDER BY 1, 2, 3
""")
_LOST_IDENTITY = sa.text(f"""
    WITH nothing AS (SELECT 1) {_INDEXES}
    SELECT format('replica identity of %s by an index', CAST(:old AS oid)::regclass) FROM old_i o
    WHERE o.indisreplident AND o.relreplident = 'i' AND NOT EXISTS (
        SELECT FROM both_i b WHERE b.indexrelid = o.indexrelid)
""")
_PREFIX = 21


_SPECIAL = sa.text("""
    SELECT t.oid::bigint,
        EXISTS (SELECT FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
                WHERE a.attrelid = t.oid AND NOT a.attisdropped AND y.typtype = 'd'),
        EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND NOT a.attisdropped
                AND (a.atthasdef OR a.attidentity <> ''))
        OR EXISTS (SELECT FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
                   WHERE d.classid = 'pg_class'::regclass AND d.refobjid = t.oid
                     AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')),
        EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                WHERE i.indrelid = t.oid
                  AND (i.indisclustered OR i.indisreplident OR x.reltablespace <> 0
                    OR EXISTS (SELECT FROM pg_description d WHERE d.objoid = x.oid
                               AND d.classoid = 'pg_class'::regclass)
                    OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = x.oid
                               AND coalesce(a.attstattarget, -1) >= 0)))
        OR EXISTS (SELECT FROM pg_constraint k JOIN pg_description d ON d.objoid = k.oid
                   AND d.classoid = 'pg_constraint'::regclass WHERE k.conrelid = t.oid),
        EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = t.oid)
    FROM unnest(CAST(:oids AS oid[])) t (oid)
""")


def special(conn: sa.Connection, oids: Sequence[int]) -> dict[int, Special]:
    """Say of many tables at once what about them needs a closer look."""
    if not oids:
        return {}
    found = conn.execute(_SPECIAL, {"oids": list(oids)}).all()
    return {oid: Special(*facts) for oid, *facts in found}


def take_domains(conn: sa.Connection, *, old: int, new: int) -> None:
    """Let columns of the new table be of the domains that those of the old one are of.

    A domain counts as the type it is made from when tables are compared, but its checks must stay.
    """
    _run_each(conn, conn.execute(_DOMAINS, {"old": old, "new": new}).scalars().all())


def own_parts(
    conn: sa.Connection,
    names: Mapping[str, str],
    owner: str,
    what: Special,
    *,
    old: int,
    new: int,
    moves: bool,
) -> OwnParts:
    """Read what the new table is to be given, while both tables are there.

    ``names`` has the quoted ``place`` of the table, its ``schema`` with a dot, and the bare names
    that the new one is called by ``now`` and ``later``. ``what`` is of the old one; ``moves`` says
    that sequences can leave it.

    Raises:
        ReplacementRefused: the new table lacks the index that tells replicas which row is which.

    """
    given = {"place": names["place"], "schema": names["schema"], "old": old, "new": new}
    statements: list[str] = []
    if what.settings:
        _refuse_lost_identity(conn, {key: given[key] for key in ("schema", "old", "new")})
    if what.settings or (what.constraints and names["now"] != names["later"]):
        found = conn.execute(_PARTS, {**given, "prefix": names["now"][:_PREFIX]})
        statements = [row[2] for row in found]
    columns = numbered(conn, old, new) if what.defaults else ()
    if not moves:
        columns = tuple(column for column in columns if column.old is None)
    return OwnParts(names["place"], owner, tuple(statements), columns)


def release(conn: sa.Connection, parts: Sequence[OwnParts]) -> None:
    """Take from the old tables what must not be dropped with them."""
    for own in parts:
        let_go(conn, own.columns)


def put_on(conn: sa.Connection, own: OwnParts) -> None:
    """Give the new table, in its place, what was read.

    Raises:
        ReplacementRefused: a part cannot be kept; it is named.

    """
    try:
        number_on(conn, own.qualified, own.owner, own.columns)
    except KEPT_BACK as error:
        said = " ".join(str(error.orig).split())
        what = f"a default or a sequence of {own.qualified}"
        msg = f"{what} that was set by hand cannot be kept over the new table: {said}"
        raise ReplacementRefused(msg, objects=[what]) from error
    _run_each(conn, own.statements)


def _refuse_lost_identity(conn: sa.Connection, given: Mapping[str, object]) -> None:
    objects = list(conn.execute(_LOST_IDENTITY, given).scalars())
    if objects:
        msg = (
            f"the table is not replaced, because this would be lost with it: {'; '.join(objects)}; "
            f"drop or move these first"
        )
        raise ReplacementRefused(msg, objects=objects)


def _run_each(conn: sa.Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        try:
            run(conn, statement)
        except KEPT_BACK as error:
            said = " ".join(str(error.orig).split())
            msg = f"what was set by hand cannot be kept, as in {statement}: {said}"
            raise ReplacementRefused(msg, objects=[statement]) from error
