"""The short way of replacing a table is taken only where nothing hangs on it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.dialects.postgres.plain import Replaced, all_plain
from ixflow.errors import ReplacementRefused
from ixflow_tests.behaviour.swapping import NEW, OLD, execute, make_shop, replace, value

_TABLES = """
    CREATE TABLE old_t (id int PRIMARY KEY, a text UNIQUE, n numeric);
    CREATE TABLE new_t (id int PRIMARY KEY, a text UNIQUE, n numeric);
    CREATE TABLE other (id int PRIMARY KEY);
    CREATE INDEX old_i ON old_t (n);
    CREATE DOMAIN small AS int CHECK (VALUE < 10);
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
"""
_THINGS = {
    "a view": "CREATE VIEW v AS SELECT id FROM old_t",
    "a materialized view": "CREATE MATERIALIZED VIEW v AS SELECT id FROM old_t",
    "a grant": "GRANT SELECT ON old_t TO PUBLIC",
    "a column grant": "GRANT SELECT (a) ON old_t TO PUBLIC",
    "a grant on the new one": "GRANT SELECT ON new_t TO PUBLIC",
    "a column grant on the new one": "GRANT SELECT (a) ON new_t TO PUBLIC",
    "a comment": "COMMENT ON TABLE old_t IS 'x'",
    "a column's comment": "COMMENT ON COLUMN old_t.a IS 'x'",
    "an index's comment": "COMMENT ON INDEX old_i IS 'x'",
    "a constraint's comment": "COMMENT ON CONSTRAINT old_t_pkey ON old_t IS 'x'",
    "a type's comment": "COMMENT ON TYPE old_t IS 'x'",
    "a trigger": "CREATE TRIGGER g BEFORE INSERT ON old_t FOR EACH ROW EXECUTE FUNCTION nothing()",
    "a rule": "CREATE RULE r AS ON DELETE TO old_t DO INSTEAD NOTHING",
    "row-level security": "ALTER TABLE old_t ENABLE ROW LEVEL SECURITY",
    "a policy": "CREATE POLICY p ON old_t USING (true)",
    "a check": "ALTER TABLE old_t ADD CHECK (id > 0)",
    "a check of nothing": "ALTER TABLE old_t ADD CHECK (true)",
    "a foreign key": "ALTER TABLE old_t ADD FOREIGN KEY (id) REFERENCES other",
    "a foreign key to it": "ALTER TABLE other ADD FOREIGN KEY (id) REFERENCES old_t",
    "a default": "ALTER TABLE old_t ALTER a SET DEFAULT 'x'",
    "an identity": "ALTER TABLE old_t ALTER id ADD GENERATED ALWAYS AS IDENTITY",
    "a sequence": "CREATE SEQUENCE s OWNED BY old_t.id",
    "a domain": "ALTER TABLE old_t ADD d small",
    "a statistics target": "ALTER TABLE old_t ALTER a SET STATISTICS 7",
    "an index's statistics target": (
        "CREATE INDEX i ON old_t ((id + 1)); ALTER INDEX i ALTER COLUMN 1 SET STATISTICS 7"
    ),
    "a column's option": "ALTER TABLE old_t ALTER a SET (n_distinct = 5)",
    "a column's storage": "ALTER TABLE old_t ALTER a SET STORAGE EXTERNAL",
    "a column's compression": "ALTER TABLE old_t ALTER a SET COMPRESSION pglz",
    "a table's option": "ALTER TABLE old_t SET (fillfactor = 70)",
    "an option of its long values": "ALTER TABLE old_t SET (toast.autovacuum_enabled = false)",
    "no log": "ALTER TABLE old_t SET UNLOGGED",
    "a replica identity": "ALTER TABLE old_t REPLICA IDENTITY FULL",
    "a replica identity by an index": ("ALTER TABLE old_t REPLICA IDENTITY USING INDEX old_t_pkey"),
    "an order": "ALTER TABLE old_t CLUSTER ON old_i",
    "a publication": "CREATE PUBLICATION p FOR TABLE old_t",
    "statistics": "CREATE STATISTICS s ON id, n FROM old_t",
    "a child": "CREATE TABLE child () INHERITS (old_t)",
    "a parent": "ALTER TABLE old_t INHERIT parent",
    "a column of its type": "CREATE TABLE nested (x old_t)",
    "a column of many of its type": "CREATE TABLE nested (x old_t[])",
    "a function over it": "CREATE FUNCTION f(old_t) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "another owner": "CREATE ROLE plain_owner; ALTER TABLE old_t OWNER TO plain_owner",
    "another name": "ALTER TABLE old_t RENAME TO else_t",
}


def _replaced(conn: sa.Connection) -> list[Replaced]:
    old, new = (
        conn.execute(sa.text(f"SELECT '{name}'::regclass::oid::bigint")).scalar_one()
        for name in ("old_t", "new_t")
    )
    return [Replaced('"old_t"', old, new)]


def test_a_table_is_plain_until_something_hangs_on_it(fresh_postgres: sa.Engine) -> None:
    taken = []
    with fresh_postgres.connect() as conn, conn.begin() as outer:
        conn.exec_driver_sql(_TABLES)
        conn.exec_driver_sql("CREATE TABLE parent (id int, a text, n numeric)")
        pair = _replaced(conn)
        assert all_plain(conn, pair, keeps_options=True)
        for what, statement in _THINGS.items():
            with conn.begin_nested() as inner:
                conn.exec_driver_sql(statement)
                if all_plain(conn, pair, keeps_options=True):
                    taken.append(what)
                inner.rollback()
        assert all_plain(conn, pair, keeps_options=True)
        outer.rollback()
    assert taken == []


@pytest.mark.parametrize("keeps", [True, False])
def test_whether_a_table_is_logged_counts_only_if_that_is_kept(fresh_postgres, keeps: bool) -> None:
    with fresh_postgres.connect() as conn, conn.begin() as outer:
        conn.exec_driver_sql(_TABLES)
        conn.exec_driver_sql("ALTER TABLE old_t SET UNLOGGED")
        assert all_plain(conn, _replaced(conn), keeps_options=keeps) is not keeps
        outer.rollback()


def test_a_table_that_only_goes_may_have_any_owner_and_grants(fresh_postgres) -> None:
    with fresh_postgres.connect() as conn, conn.begin() as outer:
        conn.exec_driver_sql(_TABLES)
        conn.exec_driver_sql("GRANT SELECT ON old_t TO PUBLIC")
        gone = [one._replace(new=None) for one in _replaced(conn)]
        assert all_plain(conn, gone, keeps_options=True)
        conn.exec_driver_sql("CREATE VIEW v AS SELECT id FROM old_t")
        assert not all_plain(conn, gone, keeps_options=True)
        outer.rollback()


_KINDS = {
    "materialized view": "CREATE MATERIALIZED VIEW shop.orders AS SELECT 1 AS id",
    "relation that is not a table": "CREATE SEQUENCE shop.orders",
}


@pytest.mark.parametrize("kind", _KINDS)
def test_what_cannot_be_locked_is_refused_by_its_kind(fresh_postgres: sa.Engine, kind: str) -> None:
    make_shop(fresh_postgres)
    execute(fresh_postgres, "DROP TABLE shop.orders", _KINDS[kind])
    with pytest.raises(ReplacementRefused, match=rf"shop\.orders is a {kind}"):
        replace(fresh_postgres)


def test_constraints_keep_their_names_where_nothing_else_is_to_be_kept(
    fresh_postgres: sa.Engine,
) -> None:
    make_shop(fresh_postgres)
    execute(fresh_postgres, "ALTER TABLE shop.orders ADD PRIMARY KEY (id), ADD UNIQUE (v)")
    query = """SELECT string_agg(conname, ' ' ORDER BY 1) FROM pg_constraint
               WHERE conrelid = 'shop.orders'::regclass AND contype IN ('p', 'u')"""
    for _ in range(2):
        execute(
            fresh_postgres,
            "CREATE TABLE shop._tmp_orders (id bigint PRIMARY KEY, v text UNIQUE)",
        )
        with fresh_postgres.begin() as conn:
            dialect_of(conn).swap(conn, [(NEW, OLD)])
        assert value(fresh_postgres, query) == "orders_pkey orders_v_key"
