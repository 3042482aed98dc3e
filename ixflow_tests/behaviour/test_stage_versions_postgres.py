"""Versions on PostgreSQL: what hangs on published tables survives, and readers notice nothing."""

from __future__ import annotations

import threading

import polars as pl
import pytest

from ixflow.errors import ReplacementRefused
from ixflow.pipeline import ConfigContext, Flow, Stage, Table, materialize
from ixflow.store import SQLTableStore
from ixflow_tests.behaviour.swapping import CATALOGUE
from ixflow_tests.stages import execute, rows, transactions


@pytest.fixture
def config(fresh_postgres):
    execute(
        fresh_postgres,
        'CREATE SCHEMA "Other Place"',
        *(
            f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
            for role in ("reader", "shop_owner")
        ),
    )
    store = SQLTableStore(fresh_postgres.url)
    yield ConfigContext.of_store(store, fail_fast=True)
    store.dispose()


def shop(version, keep=1):
    """Declare a stage called shop of one table that shows the version."""

    @materialize(version=str(version))
    def orders():
        frame = pl.DataFrame({"id": [1, 2], "v": [version, version]})
        return Table(frame, primary_key="id", indexes=[["v"]])

    with Flow("f") as flow, Stage("shop", keep_versions=keep) as stage:
        orders()
    return flow, stage


HANGING = (
    "ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT INSERT ON TABLES TO reader",
    "ALTER TABLE shop.orders OWNER TO shop_owner",
    "GRANT USAGE ON SCHEMA shop TO reader",
    "GRANT SELECT ON shop.orders TO reader WITH GRANT OPTION",
    "GRANT UPDATE (v) ON shop.orders TO reader",
    "COMMENT ON TABLE shop.orders IS 'the orders'",
    "COMMENT ON COLUMN shop.orders.v IS 'the version'",
    'CREATE VIEW "Other Place".seen AS SELECT id, v FROM shop.orders WHERE v > 0',
    'GRANT SELECT ON "Other Place".seen TO reader',
    "ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY seen ON shop.orders FOR SELECT TO reader USING (v > 0)",
    "CREATE PUBLICATION pub FOR TABLE shop.orders",
    "CREATE STATISTICS shop.pair (dependencies) ON id, v FROM shop.orders",
)


def catalogue(engine):
    with engine.begin() as conn:
        return {
            line
            for line in conn.exec_driver_sql(CATALOGUE.replace("%", "%%")).scalars()
            if "__v" not in line
        }


def test_what_hangs_on_a_published_table_survives_commits_and_rollbacks(fresh_postgres, config):
    shop(1)[0].run(config=config)
    execute(fresh_postgres, *HANGING)
    before = catalogue(fresh_postgres)
    assert len(before) > 20
    for version in (2, 3):
        flow, stage = shop(version)
        flow.run(config=config)
        assert catalogue(fresh_postgres) == before
    for shown in (2, 3, 2):
        stage.rollback(config=config)
        assert catalogue(fresh_postgres) == before
        with fresh_postgres.connect() as conn:
            seen = conn.exec_driver_sql('SELECT v FROM "Other Place".seen').scalars().all()
        assert set(seen) == {shown}


def test_a_version_that_somebody_s_view_reads_stays_until_the_view_goes(
    fresh_postgres, config, caplog
):
    flow, stage = shop(1)
    for version in (1, 2):
        flow, stage = shop(version)
        flow.run(config=config)
    scope = config.table_store.version_scope("shop", 1)
    execute(fresh_postgres, f'CREATE VIEW "Other Place".mine AS SELECT v FROM {scope}.orders')
    shop(3)[0].run(config=config)
    assert "version 1 remains" in caplog.text
    assert [one.version for one in stage.versions(config=config)] == [3, 2, 1]
    with fresh_postgres.connect() as conn:
        found = conn.exec_driver_sql('SELECT v FROM "Other Place".mine').scalars().all()
    assert set(found) == {1}
    execute(fresh_postgres, 'DROP VIEW "Other Place".mine')
    shop(4)[0].run(config=config)
    assert [one.version for one in stage.versions(config=config)] == [4, 3]
    kept = [name for name in transactions(config.table_store, "shop") if "__v" in name]
    assert len(kept) == 1


def test_a_table_of_somebody_else_is_not_rolled_over(fresh_postgres, config):
    shop(1)[0].run(config=config)
    with Flow("f") as flow, Stage("shop", keep_versions=1) as stage:
        pass
    flow.run(config=config)
    execute(fresh_postgres, "CREATE TABLE shop.orders (mine int)")
    with pytest.raises(ReplacementRefused, match="has orders already"):
        stage.rollback(config=config)
    assert rows(config.table_store, "shop", "orders") == []


def test_readers_see_old_or_new_while_versions_are_rolled_back(fresh_postgres, config):
    for version in (1, 2):
        flow, stage = shop(version)
        flow.run(config=config)
    done, wrong, count = threading.Event(), [], [0]

    def read():
        with fresh_postgres.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            while not done.is_set():
                found = conn.exec_driver_sql("SELECT v FROM shop.orders").scalars().all()
                count[0] += 1
                if len(found) != 2 or len(set(found)) != 1:
                    wrong.append(found)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(10):
            stage.rollback(config=config)
    finally:
        done.set()
        reader.join()
    assert not wrong
    assert count[0] > 5
