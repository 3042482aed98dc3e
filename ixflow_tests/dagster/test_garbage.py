"""The sensor drops what abandoned transactions left, and nothing that is needed."""

import dagster as dg
import pytest

import ixflow.dagster as ixd
from ixflow_tests.dagster.seen import rows
from ixflow_tests.dagster.shop import Shop


def tick(warehouse, **options):
    """Evaluate the sensor once; what it says."""
    sensor = ixd.collect_garbage_sensor(**options)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources={"warehouse": warehouse}) as context,
    ):
        found = sensor.evaluate_tick(context)
    assert not found.run_requests
    return found.skip_message


def publish(shop, warehouse):
    return dg.materialize(shop.assets(), resources={"warehouse": warehouse}, raise_on_error=False)


def left(warehouse):
    """List the schemas of transactions."""
    store = warehouse.store()
    with store.begin() as conn:
        known = store.metadata.transactions(conn, "st")
    return [record.schema for record in known if record.state == "open"]


def impatient(warehouse):
    """Give a resource of the same database, to which every transaction is abandoned."""
    url = warehouse.engine.url.render_as_string(hide_password=False)
    return ixd.SQLTableStoreResource(url=url, gc_after_hours=0)


@pytest.fixture
def abandoned(warehouse):
    """Publish a stage, then fail in it."""
    shop = Shop()
    assert publish(shop, warehouse).success
    shop.broken, shop.value = {"t3"}, 2
    assert not publish(shop, warehouse).success
    return warehouse


def test_an_abandoned_transaction_is_dropped_once_and_the_tables_stay(abandoned):
    [schema] = left(abandoned)
    assert tick(impatient(abandoned)) == f"dropped {schema}"
    assert left(abandoned) == []
    assert tick(impatient(abandoned)) == "nothing to collect"
    with abandoned.engine.connect() as conn:
        assert not abandoned.store().dialect.schema_exists(conn, schema)
    assert rows(abandoned.engine, "st.t1") == [(1,)]
    assert publish(Shop(), abandoned).success


def test_a_transaction_that_may_be_retried_is_kept(abandoned):
    assert tick(abandoned) == "nothing to collect"
    assert len(left(abandoned)) == 1


def test_a_warehouse_without_any_stage_is_left_as_it_is(warehouse):
    assert tick(warehouse) == "nothing to collect"
    with warehouse.engine.connect() as conn:
        assert not warehouse.store().dialect.schema_exists(conn, "ixflow")


def test_a_warehouse_that_is_away_is_a_reason_to_skip():
    away = ixd.SQLTableStoreResource(url="postgresql+psycopg://u:s3cr3t@127.0.0.1:1/w")
    assert "cannot connect to postgresql+psycopg://u:***@127.0.0.1:1/w" in tick(away)


def test_the_sensor_has_no_target_and_may_have_another_name(duckdb_warehouse):
    sensor = ixd.collect_garbage_sensor("other", name="tidy", minimum_interval_seconds=60)
    defs = dg.Definitions(sensors=[sensor], resources={"other": duckdb_warehouse})
    dg.Definitions.validate_loadable(defs)
    assert (sensor.name, sensor.minimum_interval_seconds) == ("tidy", 60)
