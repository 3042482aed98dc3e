"""Whether tables can be replaced by dropping them: nothing hangs on them that must be kept.

Most tables of a stage are so. One question about all of them takes the place of the many that find
out what is to be put back; whoever hears no asks those.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

__all__ = ["Replaced", "all_plain"]


class Replaced(NamedTuple):
    """A table that goes: its quoted name, its oid, and that of the new one, if there is one."""

    name: str
    old: int
    new: int | None


# The planner looks up a list of oids in an index, where it would read a catalogue for a join.
_IDS = """
    WITH p AS (SELECT n.name, o.old, o.new
               FROM json_array_elements_text(CAST(:names AS json)) WITH ORDINALITY n (name, place)
               JOIN unnest(CAST(:old AS oid[]), CAST(:new AS oid[]))
                   WITH ORDINALITY o (old, new, place) USING (place)),
    parts AS MATERIALIZED (
        SELECT ARRAY(SELECT indexrelid FROM pg_index WHERE indrelid = ANY(CAST(:old AS oid[])))
                   AS indexes,
               ARRAY(SELECT unnest(ARRAY[y.oid, y.typarray])
                     FROM pg_class c JOIN pg_type y ON y.oid = c.reltype
                     WHERE c.oid = ANY(CAST(:old AS oid[]))) AS types,
               ARRAY(SELECT oid FROM pg_constraint WHERE conrelid = ANY(CAST(:old AS oid[])))
                   AS constraints)
"""
_OLD, _NEW = "ANY(CAST(:old AS oid[]))", "ANY(CAST(:new AS oid[]))"
_INDEXES, _TYPES, _CONSTRAINTS = (
    f"ANY((SELECT {name} FROM parts)::oid[])" for name in ("indexes", "types", "constraints")
)
_BOTH = "ANY((SELECT CAST(:old AS oid[]) || indexes FROM parts)::oid[])"
_ALL = "ANY((SELECT CAST(:old AS oid[]) || indexes || types || constraints FROM parts)::oid[])"
_SOMETHING = (
    # The one that is read now is not the one that was locked.
    "FROM p WHERE to_regclass(p.name)::oid IS DISTINCT FROM p.old",
    """FROM p JOIN pg_class o ON o.oid = p.old LEFT JOIN pg_class n ON n.oid = p.new
    LEFT JOIN pg_class t ON t.oid = o.reltoastrelid
    WHERE o.relkind <> 'r' OR (o.relpersistence <> 'p' AND :keeps_options)
       OR o.reltablespace <> 0 OR o.reloptions IS NOT NULL OR t.reloptions IS NOT NULL
       OR o.relam <> (SELECT oid FROM pg_am
                      WHERE amname = current_setting('default_table_access_method'))
       OR o.reloftype <> 0 OR o.relreplident <> 'd' OR o.relhastriggers OR o.relhasrules
       OR o.relhassubclass OR o.relispartition OR o.relrowsecurity OR o.relforcerowsecurity
       OR n.relowner <> o.relowner
       OR (p.new IS NOT NULL AND n.relacl IS DISTINCT FROM o.relacl)""",
    f"""FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
    WHERE a.attrelid = {_OLD} AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attacl IS NOT NULL OR a.atthasdef OR a.attidentity <> '' OR y.typtype = 'd'
        OR coalesce(a.attstattarget, -1) >= 0 OR a.attoptions IS NOT NULL
        OR a.attstorage <> y.typstorage OR a.attcompression <> '')""",
    f"FROM pg_attribute a WHERE a.attrelid = {_NEW} AND a.attacl IS NOT NULL",
    # Views, policies, statistics, publications, sequences, triggers, foreign keys, functions.
    f"""FROM pg_depend d LEFT JOIN pg_class x
      ON d.classid = 'pg_class'::regclass AND x.oid = d.objid AND x.relkind = 't'
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = {_OLD}
      AND NOT (d.classid = 'pg_type'::regclass AND d.deptype = 'i')
      AND NOT (d.classid = 'pg_class'::regclass AND (x.oid IS NOT NULL OR d.objid = {_INDEXES}))
      AND NOT (d.classid = 'pg_constraint'::regclass AND d.objid = {_CONSTRAINTS})""",
    f"""FROM pg_constraint WHERE conrelid = {_OLD} AND contype NOT IN ('p', 'u', 'n')""",
    f"""FROM pg_depend d WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = {_TYPES}
      AND NOT (d.classid = 'pg_type'::regclass AND d.deptype = 'i')""",
    f"""FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = {_OLD} AND (i.indisclustered OR i.indisreplident OR x.reltablespace <> 0)""",
    f"FROM pg_attribute WHERE attrelid = {_INDEXES} AND coalesce(attstattarget, -1) >= 0",
    # Comments; an object of another catalogue that has such a number only costs a closer look.
    f"FROM pg_description WHERE objoid = {_ALL}",
    f"FROM pg_seclabel WHERE objoid = {_OLD}",
    f"FROM pg_inherits WHERE inhrelid = {_OLD}",
    f"FROM pg_subscription_rel WHERE srrelid = {_OLD}",
    # The slow way gives constraints of tables that get another name those of the old ones.
    f"""FROM pg_constraint n WHERE :renamed AND n.conrelid = {_NEW} AND NOT EXISTS (
        SELECT 1 FROM p JOIN pg_constraint o ON o.conrelid = p.old
        WHERE p.new = n.conrelid AND o.conname = n.conname)""",
    # Extensions.
    f"""FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = {_BOTH}
      AND d.deptype IN ('x', 'e')""",
)
_ALL_PLAIN = sa.text(
    f"{_IDS} SELECT NOT ({' OR '.join(f'EXISTS (SELECT {part})' for part in _SOMETHING)})"
)


def all_plain(
    conn: sa.Connection,
    tables: Sequence[Replaced],
    *,
    keeps_options: bool,
    renamed: bool = False,
) -> bool:
    """Say whether nothing is lost if these locked tables are dropped for the new ones.

    The owners and grants of the new ones are equal already. Without ``keeps_options`` it does not
    matter whether a table is logged. ``renamed`` says that new tables have other names than the old
    ones, and so may their constraints have.
    """
    if not tables:
        return True
    names, old, new = zip(*tables, strict=True)
    shown = json.dumps(list(names), ensure_ascii=False)
    given = {"names": shown, "old": list(old), "new": list(new)}
    asked = {**given, "keeps_options": keeps_options, "renamed": renamed}
    return bool(conn.execute(_ALL_PLAIN, asked).scalar_one())
