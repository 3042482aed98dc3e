"""A replacement by `ingest` leaves the catalogue as it was: all of it, oids apart."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.errors import ReplacementRefused
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.options import Delete
from ixflow_tests.behaviour.catalogue_rows import catalogue_rows
from ixflow_tests.behaviour.swapping import execute, make_shop, value
from ixflow_tests.behaviour.test_swap_keeps import FUNCTION, KEEPABLE


@pytest.fixture
def engine(fresh_postgres: sa.Engine) -> sa.Engine:
    """Give a database with a schema shop, and roles."""
    execute(make_shop(fresh_postgres), "DROP TABLE shop.orders")
    return fresh_postgres


def declared(*more: sa.Column[Any], key: Any = None) -> sa.Table:
    """Declare shop.orders behind a table that takes the watermark."""
    metadata = sa.MetaData(schema="shop")
    sa.Table("marks", metadata, sa.Column("id", sa.Integer))
    made = sa.Table(
        "orders",
        metadata,
        sa.Column("id", sa.Integer, *(key or ()), primary_key=True),
        sa.Column("v", sa.Text, unique=True),
        sa.Column("n", sa.Integer),
        *more,
        sa.CheckConstraint("n < 1000", name="small"),
        sa.CheckConstraint("n <> 13"),
    )
    sa.Index("by_n", made.c.n)
    sa.Index("by_expression", sa.func.lower(made.c.v))
    return made


def ingested(engine: sa.Engine, table: sa.Table, rows: Any, **options: Any) -> None:
    with engine.connect() as conn:
        ingest(conn, table.metadata, lambda _: [(1, None, [(table, r) for r in rows])], **options)


def differences(engine: sa.Engine, before: list[str]) -> str:
    """Say what is gone and what is new, a line each."""
    after = catalogue_rows(engine)
    gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    uneven = ["and a line more than once"] if not gone + new and len(after) != len(before) else []
    return "\n".join([*(f"- {line}" for line in gone), *(f"+ {line}" for line in new), *uneven])


BY_HAND = {
    "comments on indexes and constraints": (
        "COMMENT ON INDEX shop.by_n IS 'it''s by n'; COMMENT ON INDEX shop.by_expression IS 'e'",
        "COMMENT ON INDEX shop.orders_pkey IS 'the key''s index'",
        "COMMENT ON CONSTRAINT orders_pkey ON shop.orders IS 'the key'",
        "COMMENT ON CONSTRAINT orders_v_key ON shop.orders IS 'v is unique'",
        "COMMENT ON CONSTRAINT small ON shop.orders IS 'small'",
        "COMMENT ON CONSTRAINT orders_n_check ON shop.orders IS 'bad luck'",
    ),
    "names of key and checks": (
        "ALTER TABLE shop.orders RENAME CONSTRAINT orders_pkey TO pk",
        'ALTER TABLE shop.orders RENAME CONSTRAINT orders_v_key TO "v\'s"',
        "ALTER TABLE shop.orders RENAME CONSTRAINT orders_n_check TO lucky",
    ),
    "settings of indexes": (
        "ALTER INDEX shop.by_expression ALTER COLUMN 1 SET STATISTICS 321",
        "ALTER TABLE shop.orders CLUSTER ON by_n",
    ),
    "replica identity by an index": (
        "ALTER TABLE shop.orders REPLICA IDENTITY USING INDEX orders_pkey",
    ),
    "a sequence's options, name, grants and comment": (
        "ALTER SEQUENCE shop.orders_id_seq INCREMENT 5 CACHE 7 START 100 MAXVALUE 5000 CYCLE",
        "ALTER SEQUENCE shop.orders_id_seq RENAME TO numbers",
        "ALTER SEQUENCE shop.numbers RESTART WITH 900",
        "GRANT USAGE ON SEQUENCE shop.numbers TO reader WITH GRANT OPTION",
        "COMMENT ON SEQUENCE shop.numbers IS 'counts'",
        "CREATE TABLE shop.others (id int DEFAULT nextval('shop.numbers'))",
    ),
    "an identity made by hand": (
        "ALTER TABLE shop.orders ALTER id DROP DEFAULT; DROP SEQUENCE shop.orders_id_seq",
        (
            "ALTER TABLE shop.orders ALTER id ADD GENERATED ALWAYS AS IDENTITY "
            "(SEQUENCE NAME shop.mine INCREMENT BY 3 START WITH 40 CACHE 9)"
        ),
        "REVOKE UPDATE ON SEQUENCE shop.mine FROM postgres",
        "COMMENT ON SEQUENCE shop.mine IS 'counts'",
    ),
    "defaults": (
        "ALTER TABLE shop.orders ALTER v SET DEFAULT 'it''s ' || random()::text",
        "ALTER TABLE shop.orders ALTER n SET DEFAULT 42",
        "CREATE SEQUENCE shop.lone; ALTER SEQUENCE shop.lone OWNED BY shop.orders.n",
        "CREATE SEQUENCE shop.free",
        "ALTER TABLE shop.orders ALTER id SET DEFAULT nextval('shop.free')",
    ),
    "an owner who revoked rights, and grants in a chain": (
        "ALTER TABLE shop.orders OWNER TO shop_owner; GRANT ALL ON SCHEMA shop TO PUBLIC",
        "REVOKE TRUNCATE, DELETE ON shop.orders FROM shop_owner",
        "GRANT SELECT (v) ON shop.orders TO shop_owner",
        "GRANT SELECT, UPDATE (n) ON shop.orders TO reader WITH GRANT OPTION; SET ROLE reader",
        'GRANT SELECT, UPDATE (n) ON shop.orders TO "Odd Role" WITH GRANT OPTION',
        'SET ROLE "Odd Role"; GRANT SELECT (v) ON shop.orders TO PUBLIC; RESET ROLE',
        "REVOKE USAGE ON SEQUENCE shop.orders_id_seq FROM shop_owner",
    ),
    "no rights for anybody": ("REVOKE ALL ON shop.orders FROM postgres",),
    "settings of the table": (
        "ALTER TABLE shop.orders SET (fillfactor=70, toast.autovacuum_enabled=false)",
        "ALTER TABLE shop.orders SET (toast.vacuum_truncate=false)",
        "ALTER TABLE shop.orders ALTER v SET COMPRESSION pglz, ALTER v SET STORAGE EXTERNAL",
        "ALTER TABLE shop.orders ALTER n SET (n_distinct=5), ALTER n SET STATISTICS 7",
        "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler",
        "ALTER TABLE shop.orders SET ACCESS METHOD heap2",
        "COMMENT ON COLUMN shop.orders.n IS 'n'; COMMENT ON TABLE shop.orders IS 'orders'",
    ),
    "an unlogged table": ("ALTER TABLE shop.orders SET UNLOGGED",),
    "a type with a check": (
        "CREATE DOMAIN shop.positive AS int CHECK (value > 0)",
        "ALTER TABLE shop.orders ALTER n TYPE shop.positive",
    ),
    "a table of a type": (
        "CREATE TYPE shop.orders_type AS (id int, v text, n int)",
        "ALTER TABLE shop.orders OF shop.orders_type",
    ),
    "materialized views": (
        "CREATE MATERIALIZED VIEW shop.m AS SELECT * FROM shop.orders",
        "CREATE INDEX m_n ON shop.m ((n + 1))",
        "ALTER INDEX shop.m_n ALTER COLUMN 1 SET STATISTICS 9",
        "ALTER MATERIALIZED VIEW shop.m ALTER v SET COMPRESSION pglz, ALTER v SET STORAGE EXTERNAL",
        "ALTER MATERIALIZED VIEW shop.m ALTER n SET STATISTICS 4, ALTER n SET (n_distinct=2)",
        "ALTER MATERIALIZED VIEW shop.m SET (fillfactor=55, toast.autovacuum_enabled=false)",
        "GRANT SELECT ON shop.m TO reader; REVOKE INSERT ON shop.m FROM postgres",
        "CREATE STATISTICS shop.of_m (ndistinct) ON v, n FROM shop.m",
    ),
    "foreign keys and triggers": (
        FUNCTION,
        "CREATE TABLE shop.items (o int REFERENCES shop.orders ON DELETE SET NULL)",
        "ALTER TABLE shop.items ADD v text REFERENCES shop.orders (v) DEFERRABLE",
        "CREATE TRIGGER t BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.same()",
        "ALTER TABLE shop.orders ENABLE ALWAYS TRIGGER t",
    ),
    **{
        name: tuple(line.replace("v = ':b'", "v = ':c'") for line in lines)
        for name, lines in KEEPABLE.items()
        if "circle" not in name and name != "triggers"
    },
}


@pytest.mark.parametrize("name", BY_HAND)
def test_what_was_set_by_hand_is_there_afterwards(engine, name):
    table = declared()
    ingested(engine, table, [(1, "a", 1), (2, "b", 2)])
    execute(engine, *BY_HAND[name])
    before = catalogue_rows(engine)
    oid = value(engine, "SELECT 'shop.orders'::regclass::oid::bigint")
    for _ in range(2):
        ingested(engine, table, [(1, "a", 1), (2, "b", 2)], delete=Delete.BEFORE_FIRST_BATCH)
        assert differences(engine, before) == ""
    assert value(engine, "SELECT 'shop.orders'::regclass::oid::bigint") != oid


TOGETHER = (
    *("comments on indexes and constraints", "settings of indexes", "replica identity by an index"),
    *("a sequence's options, name, grants and comment", "settings of the table"),
    *("row-level security and policies", "publications", "extended statistics", "rules"),
    *("foreign keys and triggers", "materialized views"),
)
BY_OTHERS = (
    "ALTER TABLE shop.orders OWNER TO shop_owner",
    "GRANT ALL ON SCHEMA shop TO PUBLIC",
    "REVOKE TRUNCATE ON shop.orders FROM shop_owner",
    "GRANT SELECT ON shop.orders TO reader WITH GRANT OPTION",
    'SET ROLE reader; GRANT SELECT ON shop.orders TO "Odd Role"; RESET ROLE',
)


def test_all_of_it_together_is_there_after_a_migration_and_back(engine):
    table = declared()
    ingested(engine, table, [(1, "a", 1), (2, "b", 2)])
    for name in TOGETHER:
        execute(engine, *BY_HAND[name])
    execute(engine, *BY_OTHERS)
    before = catalogue_rows(engine)
    wider = declared(sa.Column("more", sa.Text))
    sa.Index("by_more", wider.c.more)
    ingested(engine, wider, [(1, "a", 1, "x")])
    gone = [line for line in differences(engine, before).splitlines() if line.startswith("- ")]
    assert not [line for line in gone if "pg_index" not in line and "pg_class" not in line]
    ingested(engine, table, [(1, "a", 1)])
    assert differences(engine, before) == ""


def test_tablespaces_are_kept(engine):
    table = declared()
    ingested(engine, table, [(1, "a", 1)])
    execute(engine, "CREATE MATERIALIZED VIEW shop.m AS SELECT n FROM shop.orders")
    execute(engine, "CREATE INDEX m_n ON shop.m (n)")
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    indexes = ("shop.by_n", "shop.orders_pkey", "shop.m_n")
    things = ["TABLE shop.orders", "MATERIALIZED VIEW shop.m", *(f"INDEX {i}" for i in indexes)]
    with alone.connect() as conn:
        run(conn, "SET allow_in_place_tablespaces = on")
        run(conn, "CREATE TABLESPACE elsewhere LOCATION ''")
    try:
        execute(engine, *(f"ALTER {thing} SET TABLESPACE elsewhere" for thing in things))
        before = catalogue_rows(engine)
        ingested(engine, table, [(1, "a", 1)], delete=Delete.BEFORE_FIRST_BATCH)
        assert differences(engine, before) == ""
    finally:
        execute(engine, *(f"ALTER {thing} SET TABLESPACE pg_default" for thing in things))
        with alone.connect() as conn:
            run(conn, "DROP TABLESPACE elsewhere")


UNKEEPABLE = {
    "security label of shop.orders": (
        "SET allow_system_table_mods = on",
        (
            "INSERT INTO pg_seclabel SELECT 'shop.orders'::regclass, 'pg_class'::regclass, 0, "
            "'odd', 'secret'"
        ),
    ),
    "subscription of shop.orders to another server": (
        (
            "CREATE SUBSCRIPTION away CONNECTION 'dbname=x' PUBLICATION p "
            "WITH (connect = false, slot_name = NONE)"
        ),
        "SET allow_system_table_mods = on",
        (
            "INSERT INTO pg_subscription_rel SELECT oid, 'shop.orders'::regclass, 'r' "
            "FROM pg_subscription"
        ),
    ),
    "disabled triggers of foreign key items_o_fkey of shop.items": (
        "CREATE TABLE shop.items (o int REFERENCES shop.orders)",
        "ALTER TABLE shop.items DISABLE TRIGGER ALL",
    ),
    "dependence of trigger t on table shop.orders on extension plpgsql": (
        FUNCTION,
        "CREATE TRIGGER t BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.same()",
        "ALTER TRIGGER t ON shop.orders DEPENDS ON EXTENSION plpgsql",
    ),
    "replica identity of shop.orders by an index": (
        "ALTER TABLE shop.orders ALTER n SET NOT NULL",
        "CREATE UNIQUE INDEX mine ON shop.orders (n)",
        "ALTER TABLE shop.orders REPLICA IDENTITY USING INDEX mine",
    ),
}


@pytest.mark.parametrize("name", UNKEEPABLE)
def test_what_cannot_be_kept_is_refused_by_name(engine, name):
    table = declared()
    ingested(engine, table, [(1, "a", 1)])
    execute(engine, *UNKEEPABLE[name])
    before = catalogue_rows(engine)
    with pytest.raises(ReplacementRefused) as caught:
        ingested(engine, table, [(1, "b", 2)], delete=Delete.BEFORE_FIRST_BATCH)
    assert name in caught.value.objects
    assert differences(engine, before) == ""
    assert value(engine, "SELECT v FROM shop.orders") == "a"
    execute(engine, "DELETE FROM pg_subscription_rel", "DROP SUBSCRIPTION IF EXISTS away")


def test_a_grant_by_a_role_that_cannot_be_assumed_is_refused_by_name(engine):
    table = declared()
    execute(
        engine,
        "DROP ROLE IF EXISTS loader; CREATE ROLE loader LOGIN; GRANT ALL ON SCHEMA shop TO loader",
        "GRANT USAGE ON SCHEMA shop TO reader",
    )
    loader = sa.create_engine(engine.url.set(username="loader"), poolclass=sa.NullPool)
    ingested(loader, table, [(1, "a", 1)])
    execute(
        engine,
        "GRANT SELECT ON shop.orders TO reader WITH GRANT OPTION; SET ROLE reader",
        'GRANT SELECT ON shop.orders TO "Odd Role"; RESET ROLE',
    )
    before = catalogue_rows(engine)
    with pytest.raises(ReplacementRefused, match='SELECT to "Odd Role" by reader') as caught:
        ingested(loader, table, [(1, "b", 2)], delete=Delete.BEFORE_FIRST_BATCH)
    lost = 'grant of SELECT to "Odd Role" by reader on TABLE "shop"."orders"'
    assert caught.value.objects == [lost]
    assert differences(engine, before) == ""
    execute(engine, "GRANT reader TO loader")
    before = catalogue_rows(engine)
    ingested(loader, table, [(1, "b", 2)], delete=Delete.BEFORE_FIRST_BATCH)
    assert differences(engine, before) == ""
    execute(engine, "REASSIGN OWNED BY loader TO postgres; DROP OWNED BY loader; DROP ROLE loader")


def columns_of(engine: sa.Engine, table: str) -> object:
    """Tell default, identity, computed value and collation of the columns."""
    return value(
        engine,
        "SELECT string_agg(concat_ws(' ', column_name, column_default, identity_generation, "
        "identity_start, identity_increment, generation_expression, collation_name), '; ' "
        "ORDER BY ordinal_position) FROM information_schema.columns "
        f"WHERE table_schema = 'shop' AND table_name = '{table}'",
    )


def test_the_definition_wins_where_it_says_something(engine):
    def things(identity: sa.Identity, default: str) -> sa.Table:
        return sa.Table(
            "things",
            sa.MetaData(schema="shop"),
            sa.Column("id", sa.Integer, identity, primary_key=True),
            sa.Column("s", sa.Text, server_default=default),
        )

    plain = things(sa.Identity(increment=5), "said")
    ingested(engine, plain, [(1, "a")])
    execute(
        engine,
        "ALTER TABLE shop.things ALTER id SET INCREMENT BY 2 SET CACHE 8 SET GENERATED ALWAYS",
        "ALTER TABLE shop.things ALTER s SET DEFAULT 'by hand'",
    )
    ingested(engine, plain, [(2, "b")])
    assert columns_of(engine, "things") == "id BY DEFAULT 1 5; s 'said'::text"
    assert value(engine, "SELECT seqcache FROM pg_sequence") == 8
    oid = value(engine, "SELECT 'shop.things'::regclass::oid::bigint")
    ingested(engine, plain, [(3, "c")])
    assert value(engine, "SELECT 'shop.things'::regclass::oid::bigint") == oid
    ingested(engine, things(sa.Identity(always=True, start=50, minvalue=40), "said"), [])
    assert columns_of(engine, "things") == "id ALWAYS 50 5; s 'said'::text"
    execute(engine, "INSERT INTO shop.things (s) VALUES ('next')")
    assert value(engine, "SELECT max(id) FROM shop.things") == 40
    assert value(engine, "SELECT count(*) FROM shop.things") == 4


def test_a_serial_becomes_wider_with_its_column_and_counts_on(engine):
    table = declared()
    ingested(engine, table, [(5, "a", 1)])
    execute(engine, "ALTER SEQUENCE shop.orders_id_seq INCREMENT 10 CACHE 2")
    table.c.id.type = sa.BigInteger()
    ingested(engine, table, [(27, "b", 1)])
    assert value(engine, "SELECT seqtypid::regtype::text FROM pg_sequence") == "bigint"
    execute(engine, "INSERT INTO shop.orders (v) VALUES ('c')")
    assert value(engine, "SELECT max(id) FROM shop.orders") == 37


CHANGES: dict[str, tuple[sa.Column[Any], sa.Column[Any], str]] = {
    "collation": (
        sa.Column("c", sa.Text),
        sa.Column("c", sa.Text(collation="C")),
        "the collation of column c changes from none to pg_catalog.",
    ),
    "computed value": (
        sa.Column("c", sa.Integer, sa.Computed("n + 1", persisted=True)),
        sa.Column("c", sa.Integer, sa.Computed("n + 2", persisted=True)),
        "the computed value of column c changes from (n + 1) to (n + 2)",
    ),
    "a value that is no longer computed": (
        sa.Column("c", sa.Integer, sa.Computed("n + 1", persisted=True)),
        sa.Column("c", sa.Integer),
        "the computed value of column c changes from (n + 1) to none",
    ),
    "identity": (
        sa.Column("c", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("c", sa.Integer, sa.Identity(start=7)),
        "the identity of column c changes from none to by default",
    ),
    "start of an identity": (
        sa.Column("c", sa.Integer, sa.Identity(start=3, increment=2)),
        sa.Column("c", sa.Integer, sa.Identity(start=4)),
        "the start of column c changes from 3 to 4",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_type_leaves_out_migrates_once_and_rows_stay(engine, name):
    def made(column: sa.Column[Any]) -> sa.Table:
        key = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
        metadata = sa.MetaData(schema="shop")
        return sa.Table("things", metadata, key, sa.Column("n", sa.Integer), column)

    old, new, why = CHANGES[name]
    filled = () if old.computed is not None else (5,)
    text = ("five",) if isinstance(old.type, sa.Text) else filled
    ingested(engine, made(old), [(1, 10, *text)])
    table = made(new)
    with engine.connect() as conn:
        result = ingest(conn, table.metadata, lambda _: [(2, None, [])])
    assert any(why in reason for reason in result.tables["shop.things"].replaced_because)
    with engine.connect() as conn:
        again = ingest(conn, table.metadata, lambda _: [(2, None, [])])
    assert again.tables["shop.things"].replaced_because == ()
    expected = {"computed value": 12, "a value that is no longer computed": 11, "collation": "five"}
    assert value(engine, "SELECT c FROM shop.things") == expected.get(name, 5)


def test_a_constraint_that_becomes_deferrable_migrates_once(engine):
    def made(**options: Any) -> sa.Table:
        key = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
        unique = sa.UniqueConstraint("n", name="one_n", **options)
        return sa.Table(
            "things", sa.MetaData(schema="shop"), key, sa.Column("n", sa.Integer), unique
        )

    ingested(engine, made(), [(1, 1), (2, 2)])
    kind = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'one_n'"
    oid = "SELECT 'shop.things'::regclass::oid::bigint"
    assert value(engine, kind) == "UNIQUE (n)"
    deferred = made(deferrable=True, initially="DEFERRED")
    ingested(engine, deferred, [(1, 2), (2, 1)])
    assert value(engine, kind) == "UNIQUE (n) DEFERRABLE INITIALLY DEFERRED"
    before = value(engine, oid)
    ingested(engine, deferred, [(1, 1), (2, 2)])
    assert value(engine, oid) == before


@pytest.mark.parametrize("by_convention", [True, False])
def test_a_declared_name_of_the_key_is_its_name(engine, by_convention):
    metadata = sa.MetaData(
        schema="shop",
        naming_convention={"pk": "pk_%(table_name)s"} if by_convention else None,
    )
    key = sa.Column("id", sa.Integer, primary_key=True)
    named = () if by_convention else (sa.PrimaryKeyConstraint("id", name="pk_things"),)
    table = sa.Table("things", metadata, key, *named)
    for _ in range(2):
        ingested(engine, table, [(1,)], delete=Delete.BEFORE_FIRST_BATCH)
        query = "SELECT conname FROM pg_constraint WHERE conrelid = 'shop.things'::regclass"
        assert value(engine, f"{query} AND contype = 'p'") == "pk_things"
        assert value(engine, "SELECT to_regclass('shop.pk_things') IS NOT NULL")


def test_a_default_that_does_not_fit_the_new_type_refuses_it(engine):
    table = declared()
    ingested(engine, table, [(1, "5", 1)])
    execute(engine, "ALTER TABLE shop.orders ALTER v SET DEFAULT 'five'")
    table.c.v.type = sa.Integer()
    table.indexes.clear()
    with pytest.raises(ReplacementRefused, match=r"default .* cannot be kept"):
        ingested(engine, table, [(1, 5, 1)])
    assert value(engine, "SELECT v FROM shop.orders") == "5"


@pytest.mark.parametrize("on_the_server", [True, False])
def test_a_declared_sequence_is_made_once_and_stays(engine, on_the_server):
    def made(*more: sa.Column[Any]) -> sa.Table:
        numbers = sa.Sequence("numbers", schema="shop", start=5)
        default: dict[str, Any] = {"server_default": numbers.next_value()} if on_the_server else {}
        key = sa.Column("id", sa.Integer, numbers, primary_key=True, **default)
        return sa.Table("things", sa.MetaData(schema="shop"), key, *more)

    ingested(engine, made(), [(1,)])
    ingested(engine, made(), [(2,)])
    ingested(engine, made(sa.Column("x", sa.Integer)), [(3, 1)])
    assert value(engine, "SELECT count(*) FROM shop.things") == 3
    assert value(engine, "SELECT last_value FROM shop.numbers") == 5
    default = value(engine, "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef")
    assert default == ("nextval('shop.numbers'::regclass)" if on_the_server else None)


def test_an_identity_that_counts_down_goes_on_below_the_rows(engine):
    def made(*more: sa.Column[Any]) -> sa.Table:
        down = sa.Identity(increment=-1, start=-1, maxvalue=-1, minvalue=-1000)
        key = sa.Column("id", sa.Integer, down, primary_key=True)
        return sa.Table("things", sa.MetaData(schema="shop"), key, *more)

    ingested(engine, made(), [(-5,), (-3,)])
    execute(engine, "INSERT INTO shop.things DEFAULT VALUES")
    ingested(engine, made(sa.Column("x", sa.Integer)), [(-9, 1)])
    execute(engine, "INSERT INTO shop.things DEFAULT VALUES")
    with engine.connect() as conn:
        found = set(run(conn, "SELECT id FROM shop.things").scalars())
    # The batch of a migration is merged behind the old rows, so its own numbers count too.
    assert found == {-3, -5, -6, -9, -10}
