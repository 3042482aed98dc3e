"""Objects that hang on a replaced PostgreSQL table are there afterwards, or it is not replaced."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from ixflow.errors import ReplacementRefused
from ixflow.ingestion.ingest import ingest
from ixflow_tests.behaviour.swapping import catalogue, execute, make_shop, replace, value


@pytest.fixture
def engine(fresh_postgres: sa.Engine) -> sa.Engine:
    """Give a database with a table shop.orders of two rows, and roles."""
    return make_shop(fresh_postgres)


FUNCTION = "CREATE FUNCTION shop.same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
KEEPABLE = {
    "row-level security and policies": (
        "ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY",
        (
            'CREATE POLICY mine ON shop.orders FOR UPDATE TO reader, "Odd Role" '
            "USING (v = 'a' OR v = ':b') WITH CHECK (id > 0)"
        ),
        "CREATE POLICY \"no %s\" ON shop.orders AS RESTRICTIVE USING (v <> '%(x)s')",
        "COMMENT ON POLICY mine ON shop.orders IS 'it''s mine'",
    ),
    "triggers": (
        FUNCTION,
        (
            'CREATE TRIGGER "Tell me" BEFORE INSERT OR UPDATE OF v ON shop.orders FOR EACH ROW '
            "WHEN (NEW.id > 0) EXECUTE FUNCTION shop.same()"
        ),
        (
            "CREATE CONSTRAINT TRIGGER later AFTER INSERT ON shop.orders "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION shop.same()"
        ),
        'ALTER TABLE shop.orders DISABLE TRIGGER "Tell me"',
        "COMMENT ON TRIGGER later ON shop.orders IS 'later'",
        "CREATE VIEW shop.seen AS SELECT * FROM shop.orders",
        (
            "CREATE TRIGGER instead INSTEAD OF UPDATE ON shop.seen FOR EACH ROW "
            "EXECUTE FUNCTION shop.same()"
        ),
    ),
    "publications": (
        "CREATE PUBLICATION pub FOR TABLE shop.orders (id) WHERE (id > 7)",
        "CREATE PUBLICATION more FOR TABLE shop.orders",
    ),
    "extended statistics": (
        "CREATE STATISTICS shop.pair (dependencies) ON id, v FROM shop.orders",
        "ALTER STATISTICS shop.pair SET STATISTICS 77; COMMENT ON STATISTICS shop.pair IS 'pair'",
    ),
    "rules": ("CREATE RULE log AS ON DELETE TO shop.orders DO ALSO NOTIFY gone",),
    "two views in a circle": (
        "CREATE VIEW shop.a AS SELECT id, v FROM shop.orders; GRANT SELECT ON shop.a TO reader",
        'CREATE VIEW shop."B %s" WITH (security_barrier) AS SELECT id, v FROM shop.a',
        'CREATE OR REPLACE VIEW shop.a AS SELECT b.id, b.v FROM shop."B %s" b, shop.orders',
        'CREATE VIEW shop.above AS SELECT id FROM shop."B %s"',
    ),
    "three views in a circle, and two circles that share one": (
        'CREATE VIEW shop.a AS SELECT id, v COLLATE "C" AS v FROM shop.orders',
        "CREATE VIEW shop.b AS SELECT * FROM shop.a; CREATE VIEW shop.c AS SELECT * FROM shop.b",
        "CREATE VIEW shop.d AS SELECT * FROM shop.b",
        "CREATE OR REPLACE VIEW shop.a AS SELECT c.id, c.v FROM shop.c, shop.d, shop.orders",
    ),
    "settings": (
        "ALTER TABLE shop.orders SET (fillfactor=70), REPLICA IDENTITY FULL",
        (
            "ALTER TABLE shop.orders ALTER v SET STATISTICS 500, ALTER v SET STORAGE EXTERNAL, "
            "ALTER v SET (n_distinct=-0.5)"
        ),
    ),
}


@pytest.mark.parametrize("name", KEEPABLE)
def test_objects_of_their_own_are_put_back(engine, name):
    execute(engine, *KEEPABLE[name])
    before = catalogue(engine)
    oid = value(engine, "SELECT 'shop.orders'::regclass::oid::bigint")
    for _ in range(2):
        replace(engine)
        assert catalogue(engine) == before
    assert value(engine, "SELECT 'shop.orders'::regclass::oid::bigint") != oid


def people(*more: sa.Column[Any]) -> sa.Table:
    key = sa.Column("id", sa.BIGINT, primary_key=True, autoincrement=False)
    return sa.Table("people", sa.MetaData(), key, *more, schema="shop")


def test_foreign_keys_of_other_tables_are_put_back_and_checked_again(engine):
    old, new = people(), people(sa.Column("note", sa.VARCHAR))
    with engine.connect() as conn:
        ingest(conn, old.metadata, lambda _: [(1, None, [(old, (1,)), (old, (2,))])])
    execute(
        engine,
        "CREATE TABLE shop.cats (owner bigint CONSTRAINT owned REFERENCES shop.people (id) "
        "ON DELETE CASCADE DEFERRABLE)",
        "COMMENT ON CONSTRAINT owned ON shop.cats IS 'by whom'; INSERT INTO shop.cats VALUES (2)",
    )
    before = {line for line in catalogue(engine) if line.startswith("foreign key")}
    with engine.connect() as conn:
        ingest(conn, new.metadata, lambda _: [(2, None, [(new, (3, "x"))])])
    assert {line for line in catalogue(engine) if line.startswith("foreign key")} == before
    with engine.connect() as conn, pytest.raises(ReplacementRefused, match=r"owned of shop\.cats"):
        ingest(
            conn,
            new.metadata,
            lambda _: [(3, None, [(new, (3, "y"))])],
            delete="__BEFORE_FIRST_BATCH__",
        )
    assert value(engine, "SELECT count(*) FROM shop.people") == 3


def test_a_table_whose_rows_are_hidden_from_the_role_is_not_replaced(engine):
    old, new = people(), people(sa.Column("note", sa.VARCHAR))
    with engine.connect() as conn:
        ingest(conn, old.metadata, lambda _: [(1, None, [(old, (1,)), (old, (2,))])])
    execute(
        engine,
        "DROP ROLE IF EXISTS loader; CREATE ROLE loader LOGIN; GRANT ALL ON SCHEMA shop TO loader",
        "ALTER TABLE shop.people OWNER TO loader",
        "ALTER TABLE shop.people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "CREATE POLICY one ON shop.people USING (id = 1)",
    )
    loader = sa.create_engine(engine.url.set(username="loader"), poolclass=sa.NullPool)
    with loader.connect() as conn, pytest.raises(ReplacementRefused, match="hides rows"):
        ingest(conn, new.metadata, lambda _: [(2, None, [(new, (3, "x"))])])
    assert value(engine, "SELECT count(*) FROM shop.people") == 2
    execute(engine, "REASSIGN OWNED BY loader TO postgres; DROP OWNED BY loader; DROP ROLE loader")
