"""What the tests of replaced PostgreSQL tables share: a shop, and its catalogue as lines."""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.tables.load import create_and_load
from ixflow.values import TableName

__all__ = ["DATA", "NEW", "OLD", "catalogue", "execute", "make_shop", "replace", "value"]

OLD, NEW = TableName("orders", "shop"), TableName("_tmp_orders", "shop")
DATA = pa.table({"id": [1, 2], "v": ["a", "b"]})

# One line for everything in the catalogue that a person would miss, oids left out.
CATALOGUE = """
    SELECT format('%s %s owner %s options %s populated %s comment %s', c.relkind,
                  c.oid::regclass, r.rolname, c.reloptions, c.relispopulated,
                  obj_description(c.oid, 'pg_class'))
    FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('shop', 'Other Place') AND c.relkind <> 'c'
    UNION ALL
    SELECT format('grant %s on %s to %s option %s', x.privilege_type, x.what,
                  coalesce(r.rolname, 'PUBLIC'), x.is_grantable)
    FROM (
        SELECT c.oid::regclass::text AS what, c.relnamespace,
               (aclexplode(coalesce(c.relacl, acldefault('r', c.relowner)))).*
        FROM pg_class c WHERE c.relkind IN ('r', 'v', 'm')
        UNION ALL
        SELECT format('%s.%I', c.oid::regclass, a.attname), c.relnamespace, (aclexplode(attacl)).*
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    ) x LEFT JOIN pg_roles r ON r.oid = x.grantee
    JOIN pg_namespace n ON n.oid = x.relnamespace WHERE n.nspname IN ('shop', 'Other Place')
    UNION ALL
    SELECT format('column %s.%I %s default %s comment %s', a.attrelid::regclass, a.attname,
                  format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid),
                  col_description(a.attrelid, a.attnum))
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE n.nspname IN ('shop', 'Other Place') AND a.attnum > 0 AND c.relkind IN ('r', 'v', 'm')
    UNION ALL
    SELECT format('view %s is %s', c.oid::regclass, pg_get_viewdef(c.oid))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('shop', 'Other Place') AND c.relkind IN ('v', 'm')
    UNION ALL
    SELECT format('index %s clustered %s comment %s', pg_get_indexdef(i.indexrelid),
                  i.indisclustered, obj_description(i.indexrelid, 'pg_class'))
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('shop', 'Other Place')
    UNION ALL
    SELECT format('security of %s: %s %s, identity %s', c.oid::regclass, c.relrowsecurity,
                  c.relforcerowsecurity, c.relreplident)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'shop'
    UNION ALL
    SELECT format('policy %s', p) || coalesce(obj_description(q.oid, 'pg_policy'), '')
    FROM pg_policies p JOIN pg_policy q ON q.polname = p.policyname WHERE schemaname = 'shop'
    UNION ALL
    SELECT format('trigger %s enabled %s comment %s', pg_get_triggerdef(t.oid), t.tgenabled,
                  obj_description(t.oid, 'pg_trigger'))
    FROM pg_trigger t WHERE NOT t.tgisinternal
    UNION ALL
    SELECT format('rule %s enabled %s comment %s', pg_get_ruledef(r.oid), r.ev_enabled,
                  obj_description(r.oid, 'pg_rewrite'))
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'shop' AND r.rulename <> '_RETURN'
    UNION ALL
    SELECT format('foreign key %s of %s: %s comment %s', k.conname, k.conrelid::regclass,
                  pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint'))
    FROM pg_constraint k WHERE k.contype = 'f'
    UNION ALL SELECT format('publication %s', p) FROM pg_publication_tables p
    UNION ALL
    SELECT format('statistics %s of %s target %s comment %s', pg_get_statisticsobjdef(s.oid),
                  s.stxowner::regrole, s.stxstattarget, obj_description(s.oid, 'pg_statistic_ext'))
    FROM pg_statistic_ext s
    UNION ALL
    SELECT format('column %s.%s target %s options %s storage %s', a.attrelid::regclass, a.attname,
                  a.attstattarget, a.attoptions, a.attstorage)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'shop' AND c.relkind = 'r' AND a.attnum > 0
"""


def make_shop(engine: sa.Engine) -> sa.Engine:
    """Make a table shop.orders of two rows, and roles."""
    with engine.begin() as conn:
        for role in ("shop_owner", "reader", '"Odd Role"'):
            with contextlib.suppress(sa.exc.ProgrammingError), conn.begin_nested():
                run(conn, f"CREATE ROLE {role}")
        run(conn, 'CREATE SCHEMA shop; CREATE SCHEMA "Other Place"')
        create_and_load(conn, OLD, DATA)
    return engine


def execute(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as conn:
        for statement in statements:
            run(conn, statement)


def catalogue(engine: sa.Engine) -> set[str]:
    with engine.begin() as conn:
        return set(run(conn, CATALOGUE).scalars())


def value(engine: sa.Engine, query: str) -> object:
    with engine.connect() as conn:
        return run(conn, query).scalar()


def replace(engine: sa.Engine, data: pa.Table = DATA, **options: Any) -> None:
    with engine.begin() as conn:
        create_and_load(conn, NEW, data)
        dialect_of(conn).swap(conn, [(NEW, OLD)], **options)
