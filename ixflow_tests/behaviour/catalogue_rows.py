"""The whole catalogue of a PostgreSQL database as lines that hold names in the place of oids.

What every column of every catalogue refers to, the server tells itself (it publishes the foreign
keys of its catalogue). So the lines also hold what nobody has thought of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ixflow.dialects import run

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["catalogue_rows"]

# Each with the column by which what the server came with is left out.
_CATALOGUES = {
    "pg_class": "oid",
    "pg_attribute": "attrelid",
    "pg_attrdef": "adrelid",
    "pg_constraint": "conrelid",
    "pg_index": "indexrelid",
    "pg_trigger": "tgrelid",
    "pg_rewrite": "ev_class",
    "pg_policy": "polrelid",
    "pg_statistic_ext": "oid",
    "pg_sequence": "seqrelid",
    "pg_publication_rel": "prrelid",
    "pg_publication_namespace": "pnnspid",
    "pg_description": "objoid",
    "pg_seclabel": "objoid",
    "pg_depend": "objid",
    "pg_shdepend": "objid",
    "pg_type": "oid",
    "pg_inherits": "inhrelid",
    "pg_namespace": "oid",
    "pg_init_privs": "objoid",
    "pg_subscription_rel": "srrelid",
    "pg_partitioned_table": "partrelid",
}
# Where things are kept and how full they are, and hints that may be late.
_LEFT_OUT = {
    *("oid", "relfilenode", "relpages", "reltuples", "relallvisible", "relfrozenxid"),
    *("relminmxid", "relhasindex", "relhastriggers", "relhasrules", "indcheckxmin"),
}
_WRITTEN = {
    "adbin": "pg_get_expr(t.adbin, t.adrelid)",
    "conbin": "pg_get_constraintdef(t.oid)",
    "indexprs": "pg_get_indexdef(t.indexrelid)",
    "indpred": "NULL",
    "tgqual": "pg_get_triggerdef(t.oid)",
    "ev_qual": "NULL",
    "ev_action": "pg_get_ruledef(t.oid)",
    "polqual": "pg_get_expr(t.polqual, t.polrelid)",
    "polwithcheck": "pg_get_expr(t.polwithcheck, t.polrelid)",
    "stxexprs": "pg_get_statisticsobjdef(t.oid)",
    "prqual": "pg_get_expr(t.prqual, t.prrelid)",
    "partexprs": "NULL",
}
_OBJECTS = {
    "objid": "(pg_identify_object(t.classid, t.objid, {sub})).identity",
    "objoid": "(pg_identify_object(t.classoid, t.objoid, t.objsubid)).identity",
    "refobjid": "CASE WHEN t.refclassid = 'pg_authid'::regclass THEN t.refobjid::regrole::text "
    "ELSE (pg_identify_object(t.refclassid, t.refobjid, {refsub})).identity END",
}
_SUBS = {"pg_depend": ("t.objsubid", "t.refobjsubid"), "pg_shdepend": ("t.objsubid", "0")}
_ACL = """(SELECT string_agg(format('%s %s %s by %s', x.privilege_type, x.is_grantable,
    CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END,
    x.grantor::regrole), ', ' ORDER BY x.*::text COLLATE "C") FROM aclexplode({acl}) x)"""
_DEFAULT_ACL = """coalesce(t.relacl, acldefault(
    CAST(CASE t.relkind WHEN 'S' THEN 's' ELSE 'r' END AS "char"), t.relowner))"""


def catalogue_rows(engine: sa.Engine) -> list[str]:
    """Give a line for each row of the catalogue that is not the server's own, sorted."""
    found: list[str] = []
    with engine.connect() as conn:
        known = run(
            conn,
            "SELECT fktable::text, fkcols[1], pktable::text, is_array "
            "FROM pg_get_catalog_foreign_keys() WHERE pkcols = '{oid}'",
        )
        refers = {(table, column): (to, array) for table, column, to, array in known}
        for table, own in _CATALOGUES.items():
            columns = run(
                conn,
                "SELECT attname, atttypid::regtype::text FROM pg_attribute "
                f"WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attnum",
            ).all()
            parts = [
                f"'{name}', {_written(table, name, type_, refers)}"
                for name, type_ in columns
                if name not in _LEFT_OUT
            ]
            where = f"t.{own} >= 16384"
            if table == "pg_shdepend":
                where += " AND t.dbid = (SELECT oid FROM pg_database WHERE datname = "
                where += "current_database())"
            found += run(
                conn,
                f"SELECT regexp_replace(regexp_replace(regexp_replace(concat_ws(' | ', '{table}', "
                f"{', '.join(_named(part) for part in parts)}), 'pg_toast_\\d+', 'pg_toast_N', 'g')"
                ", '(RI_ConstraintTrigger_.)_\\d+', '\\1_N', 'g'), "
                "'\\{\"pg-bulk-ingest.*', 'a watermark') "
                f"FROM {table} t WHERE {where}",
            ).scalars()
        # Sessions that had a temporary table leave a schema for the next one.
        found = [line for line in found if "nspname=pg_t" not in line]
        for name in run(
            conn, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S'"
        ).scalars():
            position = run(conn, f"SELECT last_value, is_called FROM {name}").one()
            found.append(f"numbers of {name}: {tuple(position)}")
    return sorted(found)


def _named(part: str) -> str:
    return f"format('%s=%s', {part})"


def _written(table: str, name: str, type_: str, refers: dict[tuple[str, str], tuple[str, bool]]):
    if type_ == "aclitem[]":
        return _ACL.format(acl=_DEFAULT_ACL if name == "relacl" else f"t.{name}")
    if type_ == "pg_node_tree":
        return _WRITTEN.get(name, f"left(t.{name}::text, 0)")
    if name in _OBJECTS:
        sub, refsub = _SUBS.get(table, ("0", "0"))
        return _OBJECTS[name].format(sub=sub, refsub=refsub)
    to, array = refers.get((table, name), (None, False))
    if to is None or (array and to in {"pg_collation", "pg_opclass", "pg_operator", "pg_type"}):
        return f"t.{name}::text"
    if array:
        return (
            f"(SELECT string_agg((pg_identify_object('{to}'::regclass, o::oid, 0)).identity, ',') "
            f"FROM unnest(t.{name}) o)"
        )
    return f"(pg_identify_object('{to}'::regclass, t.{name}, 0)).identity"
