"""Replacing tables on PostgreSQL: everything that hangs on them stays, or the swap is refused."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.errors import LockNotAvailable, ReplacementRefused
from ixflow.ingestion.ingest import ingest
from ixflow.tables.load import create_and_load
from ixflow.values import TableName
from ixflow_tests.behaviour.swapping import (
    DATA,
    NEW,
    OLD,
    catalogue,
    execute,
    make_shop,
    replace,
    value,
)


@pytest.fixture
def engine(fresh_postgres: sa.Engine) -> sa.Engine:
    """Give a database with a table shop.orders of two rows, and roles."""
    return make_shop(fresh_postgres)


def test_everything_that_hangs_on_the_table_is_there_afterwards(engine):
    """Owner, grants, comments; views and materialized views to depth 3 with all that is theirs."""
    execute(
        engine,
        "COMMENT ON TABLE shop.orders IS 'our orders: 100% :real, it''s \\ true'",
        "COMMENT ON COLUMN shop.orders.v IS 'the value'",
        "GRANT SELECT, UPDATE ON shop.orders TO reader WITH GRANT OPTION",
        'GRANT SELECT ON shop.orders TO PUBLIC; GRANT INSERT (v) ON shop.orders TO "Odd Role"',
        "ALTER TABLE shop.orders OWNER TO shop_owner; GRANT USAGE, CREATE ON SCHEMA shop TO PUBLIC",
        'GRANT USAGE, CREATE ON SCHEMA "Other Place" TO PUBLIC',
        "CREATE VIEW shop.one WITH (security_barrier) AS "
        "SELECT * FROM shop.orders WHERE v <> ':abc'",
        "CREATE VIEW shop.texts AS SELECT '%s %(x)s 100%'::text AS t, id FROM shop.orders",
        "ALTER VIEW shop.one ALTER COLUMN v SET DEFAULT 'new'",
        "COMMENT ON VIEW shop.one IS 'view one'; COMMENT ON COLUMN shop.one.v IS 'its v'",
        'CREATE MATERIALIZED VIEW "Other Place"."Two" WITH (fillfactor=70) AS '
        "SELECT id, upper(v) AS v FROM shop.one",
        'CREATE UNIQUE INDEX "Two by id" ON "Other Place"."Two" (id)',
        'CREATE INDEX two_by_v ON "Other Place"."Two" (lower(v)) WHERE id > 0',
        'COMMENT ON INDEX "Other Place".two_by_v IS $$an index$$',
        'ALTER MATERIALIZED VIEW "Other Place"."Two" CLUSTER ON "Two by id"',
        "CREATE VIEW shop.checked WITH (check_option=local) AS SELECT id FROM shop.orders",
        'CREATE VIEW shop.three(a, "B") AS SELECT t.id, t.v FROM "Other Place"."Two" t',
        "CREATE VIEW shop.both AS "
        'SELECT o.id FROM shop.orders o JOIN "Other Place"."Two" USING (id)',
        "CREATE MATERIALIZED VIEW shop.empty AS SELECT id FROM shop.both WITH NO DATA",
        "ALTER VIEW shop.one OWNER TO shop_owner; GRANT SELECT ON shop.one TO reader",
        'GRANT SELECT ON "Other Place"."Two" TO PUBLIC; GRANT SELECT (a) ON shop.three TO reader',
    )
    before = catalogue(engine)
    replace(engine, pa.table({"id": [1, 2, 3], "v": ["x", "y", "z"]}))
    assert catalogue(engine) == before
    assert value(engine, "SELECT count(*) FROM shop.three") == 3
    replace(engine)
    assert catalogue(engine) == before
    execute(engine, "REFRESH MATERIALIZED VIEW shop.empty")
    assert value(engine, 'SELECT string_agg("B", $$,$$ ORDER BY "B") FROM shop.three') == "A,B"


def test_a_grant_that_default_privileges_would_add_is_not_added(engine):
    execute(engine, "ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT ALL ON TABLES TO reader")
    before = catalogue(engine)
    replace(engine)
    assert catalogue(engine) == before
    execute(engine, "ALTER DEFAULT PRIVILEGES IN SCHEMA shop REVOKE ALL ON TABLES FROM reader")


def test_a_role_that_is_only_a_member_of_the_owner_keeps_its_own_grant(engine):
    execute(
        engine,
        "DROP ROLE IF EXISTS loader; CREATE ROLE loader LOGIN IN ROLE shop_owner",
        "GRANT ALL ON SCHEMA shop TO shop_owner, loader",
        "ALTER TABLE shop.orders OWNER TO shop_owner",
        "GRANT SELECT ON shop.orders TO loader, reader",
    )
    before = catalogue(engine)
    loader = sa.create_engine(engine.url.set(username="loader"), poolclass=sa.NullPool)
    replace(loader)
    assert catalogue(engine) == before
    execute(engine, "REASSIGN OWNED BY loader TO postgres; DROP OWNED BY loader; DROP ROLE loader")


def test_a_new_comment_wins_over_the_old_one(engine):
    execute(engine, "COMMENT ON TABLE shop.orders IS 'old'")
    with engine.begin() as conn:
        create_and_load(conn, NEW, DATA)
        dialect_of(conn).set_comment(conn, NEW, "new")
        dialect_of(conn).swap(conn, [(NEW, OLD)])
    assert value(engine, "SELECT obj_description('shop.orders'::regclass)") == "new"


UNKEEPABLE = {
    "replica identity of shop.orders by an index": "ALTER TABLE shop.orders ALTER id SET NOT NULL; "
    "CREATE UNIQUE INDEX by_id ON shop.orders (id); "
    "ALTER TABLE shop.orders REPLICA IDENTITY USING INDEX by_id",
    "function shop.one(shop.orders) over shop.orders": "CREATE FUNCTION shop.one(shop.orders) "
    "RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "function shop.seen_by() over shop.seen": "CREATE VIEW shop.seen AS SELECT * FROM shop.orders; "
    "CREATE FUNCTION shop.seen_by() RETURNS SETOF shop.seen LANGUAGE sql "
    "AS 'SELECT * FROM shop.seen'",
    "function shop.body() over shop.orders": "CREATE FUNCTION shop.body() RETURNS bigint "
    "BEGIN ATOMIC SELECT count(*) FROM shop.orders; END",
    "partition shop.child of shop.orders": "CREATE TABLE shop.child () INHERITS (shop.orders)",
}  # fmt: skip


@pytest.mark.parametrize("name", UNKEEPABLE)
def test_what_would_be_lost_is_refused_by_name_and_nothing_is_touched(engine, name):
    execute(engine, UNKEEPABLE[name])
    before, oid = catalogue(engine), value(engine, "SELECT 'shop.orders'::regclass::oid::bigint")
    with pytest.raises(ReplacementRefused, match="drop or move these first") as caught:
        replace(engine)
    assert name in caught.value.objects
    assert catalogue(engine) == before
    assert value(engine, "SELECT 'shop.orders'::regclass::oid::bigint") == oid


def test_a_partition_is_refused_by_name(engine):
    execute(
        engine,
        "DROP TABLE shop.orders; CREATE TABLE shop.whole (id bigint, v text) PARTITION BY LIST (v)",
        "CREATE TABLE shop.orders PARTITION OF shop.whole FOR VALUES IN ('a')",
    )
    with pytest.raises(ReplacementRefused) as caught:
        replace(engine)
    assert caught.value.objects == ["partition shop.orders of shop.whole"]


def test_what_the_server_will_not_drop_is_refused_too(engine):
    """A column of the table's row type is not in our list; PostgreSQL itself protects it."""
    execute(engine, "CREATE TABLE shop.archive (o shop.orders)")
    with pytest.raises(ReplacementRefused, match="archive"):
        replace(engine)
    assert value(engine, "SELECT count(*) FROM shop.orders") == 2


def test_a_view_that_cannot_be_made_again_refuses_the_swap(engine):
    execute(engine, "CREATE VIEW shop.seen AS SELECT v FROM shop.orders")
    before = catalogue(engine)
    with pytest.raises(ReplacementRefused, match=r"view shop\.seen cannot be kept"):
        replace(engine, pa.table({"id": [1]}))
    assert catalogue(engine) == before


def test_a_view_follows_a_type_that_changed(engine):
    execute(engine, "CREATE VIEW shop.seen AS SELECT id FROM shop.orders")
    replace(engine, pa.table({"id": ["x"], "v": ["a"]}))
    assert value(engine, "SELECT pg_typeof(id)::text FROM shop.seen") == "text"


def test_several_tables_and_a_drop_are_one_step(engine):
    with engine.begin() as conn:
        create_and_load(conn, TableName("gone", "shop"), DATA)
        create_and_load(conn, TableName("items", "shop"), DATA)
        run(
            conn,
            "CREATE VIEW shop.both AS SELECT o.id FROM shop.orders o JOIN shop.items USING (id)",
        )
    before = catalogue(engine) - {line for line in catalogue(engine) if "shop.gone" in line}
    moves = [(NEW, OLD), (TableName("x", "Other Place"), TableName("items", "shop"))]
    with engine.begin() as conn:
        for new, _ in moves:
            create_and_load(conn, new, DATA)
        dialect_of(conn).swap(conn, moves, drops=[TableName("gone", "shop")])
    assert catalogue(engine) == before


def test_readers_see_the_old_table_or_the_new_one_and_never_an_error(engine):
    """Through the table, a view of depth two and a materialized view, all of one version."""
    execute(
        engine,
        "CREATE VIEW shop.a AS SELECT v FROM shop.orders",
        "CREATE MATERIALIZED VIEW shop.m AS SELECT v FROM shop.a",
        "CREATE VIEW shop.b AS SELECT a.v AS v, o.v AS w FROM shop.a CROSS JOIN shop.orders o",
    )
    stop, wrong, reads = threading.Event(), [], []
    queries = [
        "SELECT count(DISTINCT v) = 1 AND count(*) = 50 FROM shop.orders",
        "SELECT count(DISTINCT v) = 1 AND bool_and(v = w) AND count(*) = 2500 FROM shop.b",
        "SELECT count(DISTINCT v) = 1 AND count(*) = 50 FROM shop.m",
    ]

    def reading() -> None:
        with engine.connect() as conn:
            while not stop.is_set():
                for query in queries:
                    try:
                        if run(conn, query).scalar() is not True:
                            wrong.append(query)
                    except sa.exc.DBAPIError as error:
                        wrong.append(str(error))
                    conn.rollback()
                    reads.append(1)

    replace(engine, pa.table({"id": range(50), "v": ["v0"] * 50}))
    threads = [threading.Thread(target=reading) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(1, 16):
        replace(engine, pa.table({"id": range(50), "v": [f"v{version}"] * 50}))
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(reads) > 50


@contextlib.contextmanager
def session_that_reads(engine: sa.Engine) -> Iterator[int]:
    """Hold a transaction open that has read the table; give its process id."""
    with engine.connect() as conn:
        pid = run(conn, "SELECT pg_backend_pid() FROM shop.orders").scalars().first()
        yield int(pid or 0)


def test_a_session_that_holds_the_table_is_named_within_the_timeout_and_nothing_is_lost(engine):
    execute(engine, "CREATE VIEW shop.seen AS SELECT * FROM shop.orders")
    before = catalogue(engine)
    with session_that_reads(engine) as pid:
        started = time.monotonic()
        with pytest.raises(LockNotAvailable, match=f"pid {pid} ") as caught:
            replace(engine, timeout_seconds=0.8)
        assert time.monotonic() - started < 3
        assert caught.value.blockers[0].startswith(f"pid {pid} (postgres, idle in transaction)")
        assert value(engine, "SELECT count(*) FROM shop.seen") == 2
    assert catalogue(engine) == before


def test_the_transaction_is_usable_after_the_lock_was_not_available(engine):
    with session_that_reads(engine), engine.begin() as conn:
        create_and_load(conn, NEW, DATA)
        with pytest.raises(LockNotAvailable):
            dialect_of(conn).swap(conn, [(NEW, OLD)], timeout_seconds=0)
        assert run(conn, 'SELECT count(*) FROM shop."_tmp_orders"').scalar() == 2


def test_a_swap_waits_for_a_session_that_lets_go_and_readers_pass_meanwhile(engine):
    reading = session_that_reads(engine)
    reading.__enter__()
    swapping = threading.Thread(target=replace, args=(engine,))
    swapping.start()
    try:
        for _ in range(10):
            started = time.monotonic()
            value(engine, "SELECT count(*) FROM shop.orders")
            assert time.monotonic() - started < 2
            time.sleep(0.05)
    finally:
        reading.__exit__(None, None, None)
    swapping.join(20)
    assert not swapping.is_alive()


@pytest.mark.parametrize("how", ["SET", "SET LOCAL"])
def test_the_users_lock_timeout_is_what_it_was(engine, how):
    with engine.connect() as conn:
        with conn.begin():
            run(conn, f"{how} lock_timeout = '7s'")
            create_and_load(conn, NEW, DATA)
            dialect_of(conn).swap(conn, [(NEW, OLD)])
            assert run(conn, "SHOW lock_timeout").scalar() == "7s"
        with conn.begin():
            expected = "7s" if how == "SET" else "0"
            assert run(conn, "SHOW lock_timeout").scalar() == expected


# -- what ingest makes of it ----------------------------------------------------------------------


def serial_table(*more: sa.Column[Any], name: str = "orders") -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(schema="shop"),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("v", sa.Text, unique=True),
        *more,
    )


def ingest_rows(engine: sa.Engine, table: sa.Table, rows: list[tuple[object, ...]]) -> None:
    with engine.connect() as conn:
        ingest(conn, table.metadata, lambda _: [(1, None, [(table, row) for row in rows])])


def test_a_serial_key_counts_on_behind_the_rows_after_a_replacement(engine):
    execute(engine, "DROP TABLE shop.orders")
    ingest_rows(engine, serial_table(), [(1, "a"), (7, "b")])
    execute(engine, "INSERT INTO shop.orders (v) VALUES ('c')")
    assert value(engine, "SELECT max(id) FROM shop.orders") == 8
    execute(engine, "DELETE FROM shop.orders WHERE id = 8")
    ingest_rows(engine, serial_table(sa.Column("x", sa.Integer)), [])
    execute(engine, "INSERT INTO shop.orders (v) VALUES ('d')")
    assert value(engine, "SELECT max(id) FROM shop.orders") == 9
    assert (
        value(engine, "SELECT pg_get_serial_sequence('shop.orders', 'id')") == "shop.orders_id_seq"
    )


@pytest.mark.parametrize("name", ["orders", "t" * 63, "ü" * 31])
def test_keys_constraints_and_sequences_are_named_after_their_table(engine, name):
    execute(engine, "DROP TABLE shop.orders")
    for columns in ([], [sa.Column("c" * 63, sa.Integer, unique=True, index=True)]):
        ingest_rows(engine, serial_table(*columns, name=name), [])
    with engine.connect() as conn:
        found = run(conn, "SELECT relname FROM pg_class WHERE relnamespace = 'shop'::regnamespace")
        names = set(found.scalars())
    assert not {n for n in names if "tmp" in n}
    if name == "orders":
        assert {"orders_pkey", "orders_v_key", "orders_id_seq"} <= names


def test_a_name_that_is_taken_gets_a_number(engine):
    execute(
        engine,
        "DROP TABLE shop.orders",
        "CREATE TABLE shop.orders_pkey (x int); CREATE VIEW shop.orders_v_key AS SELECT 1",
    )
    ingest_rows(engine, serial_table(), [(1, "a")])
    assert value(engine, "SELECT to_regclass('shop.orders_pkey1') IS NOT NULL")
    assert value(engine, "SELECT to_regclass('shop.orders_v_key1') IS NOT NULL")


def test_enums_with_a_primary_key_work_and_stay_one_type(engine):
    def declare(*more: sa.Column[Any]) -> sa.Table:
        mood = sa.Enum("sad", "glad", name="mood", schema="shop")
        return serial_table(sa.Column("mood", mood), *more, name="moods")

    ingest_rows(engine, declare(), [(1, "a", "sad")])
    ingest_rows(engine, declare(), [(1, "a", "glad")])
    ingest_rows(engine, declare(sa.Column("x", sa.Integer)), [(2, "b", "sad", 5)])
    assert value(engine, "SELECT string_agg(mood::text, ',' ORDER BY id) FROM shop.moods") == (
        "glad,sad"
    )
    assert value(engine, "SELECT count(*) FROM pg_type WHERE typname = 'mood'") == 1


def test_identity_columns_take_the_given_values_and_count_on(engine):
    def declare(*more: sa.Column[Any]) -> sa.Table:
        return sa.Table(
            "numbered",
            sa.MetaData(schema="shop"),
            sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
            sa.Column("v", sa.Text),
            *more,
        )

    ingest_rows(engine, declare(), [(5, "a")])
    ingest_rows(engine, declare(), [(5, "b"), (6, "c")])
    ingest_rows(engine, declare(sa.Column("x", sa.Integer)), [])
    execute(engine, "INSERT INTO shop.numbered (v) VALUES ('d')")
    assert value(engine, "SELECT max(id) FROM shop.numbered") == 7


def test_a_declared_comment_is_set_and_does_not_push_out_what_is_there(engine):
    def declare(*more: sa.Column[Any]) -> sa.Table:
        return sa.Table(
            "said", sa.MetaData(schema="shop"), sa.Column("id", sa.Integer), *more, comment="Said."
        )

    ingest_rows(engine, declare(), [(1,)])
    execute(engine, """COMMENT ON TABLE shop.said IS '{"owner": "me", "comment": "Said."}'""")
    ingest_rows(engine, declare(sa.Column("x", sa.Integer)), [])
    text = str(value(engine, "SELECT obj_description('shop.said'::regclass)"))
    assert '"owner": "me"' in text
    assert '"comment": "Said."' in text


def test_a_partial_and_an_expression_index_stay_what_they_are(engine):
    def declare() -> sa.Table:
        table = serial_table(name="indexed")
        sa.Index("low", sa.func.lower(table.c.v), postgresql_where=table.c.id > 5)
        sa.Index("down", table.c.v.desc().nulls_last(), unique=True, postgresql_include=["id"])
        sa.Index("brin", table.c.id, postgresql_using="brin")
        return table

    ingest_rows(engine, declare(), [(1, "a")])
    before = value(engine, "SELECT 'shop.indexed'::regclass::oid::bigint")
    ingest_rows(engine, declare(), [(2, "b")])
    assert value(engine, "SELECT 'shop.indexed'::regclass::oid::bigint") == before
    definition = value(engine, "SELECT pg_get_indexdef('shop.low'::regclass)")
    assert definition == ("CREATE INDEX low ON shop.indexed USING btree (lower(v)) WHERE (id > 5)")
