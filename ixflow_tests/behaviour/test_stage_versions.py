"""Versions of a stage that are kept: listing, rolling back, comparing, and collecting them."""

from __future__ import annotations

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.errors import InputChanged, StageError, ValidationError
from ixflow.pipeline import (
    Blob,
    ConfigContext,
    FileBlobStore,
    Flow,
    RawSql,
    Stage,
    Table,
    TaskState,
    materialize,
    run_stage,
)
from ixflow.pipeline.backends import Backends
from ixflow.pipeline.config_schema import Place
from ixflow.store import SQLTableStore
from ixflow.store.versions import rollback
from ixflow_tests.stages import execute, objects, rows, transactions


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    yield made
    made.dispose()


@pytest.fixture
def config(store):
    return ConfigContext.of_store(store, fail_fast=True)


def shop(version, *, keep=2, names=("orders", "fixed")):
    """Declare a stage of a table that follows the version and one that does not, and a reader."""

    @materialize(version=str(version))
    def orders():
        frame = pl.DataFrame({"id": [1, 2, version + 2], "v": ["a", f"v{version}", "z"]})
        return Table(frame, primary_key="id", indexes=[["v"]])

    @materialize(version="1")
    def fixed():
        return Table(pl.DataFrame({"x": [1]}))

    @materialize(version=str(version))
    def other():
        return Table(pl.DataFrame({"v": [version]}))

    @materialize(version="1", input_type=pl.DataFrame)
    def total(orders):
        return Table(orders.select(pl.len().alias("n"), pl.col("v").get(1).alias("v")))

    makers = {"orders": orders, "fixed": fixed, "other": other}
    with Flow("f") as flow:
        with Stage("staging", keep_versions=keep) as stage:
            made = {name: makers[name]() for name in names}
        with Stage("mart"):
            if "orders" in made:
                total(made["orders"])
    return flow, stage


def published(store, table="orders", stage="staging"):
    return sorted(rows(store, stage, table), key=repr)


def numbers(stage, config):
    return [one.version for one in stage.versions(config=config)]


def test_a_commit_keeps_the_versions_before_it_and_drops_older_ones(store, config):
    assert shop(1)[1].versions(config=config) == ()
    for version in range(1, 5):
        flow, stage = shop(version)
        flow.run(config=config)
    found = stage.versions(config=config)
    assert [one.version for one in found] == [4, 3, 2]
    assert [one.published for one in found] == [True, False, False]
    assert all(one.whole for one in found)
    assert {tuple(sorted(one.tables.items())) for one in found} == {(("fixed", 1), ("orders", 3))}
    assert found[0].rows == 4
    assert found[0].published_at > found[1].published_at > found[2].published_at
    assert len({one.run for one in found}) == 3
    kept = [schema for schema in transactions(store, "staging") if "__v" in schema]
    assert len(kept) == 2
    assert all(objects(store, schema) == ("orders",) for schema in kept)


def test_a_rollback_publishes_the_old_tables_as_a_new_version(store, config):
    for version in (1, 2):
        flow, stage = shop(version)
        flow.run(config=config)
    first = published(store)
    done = stage.rollback(config=config)
    assert (done.version, done.restored, done.published, done.dropped) == (3, 1, ("orders",), ())
    assert {row["v"] for row in published(store)} == {"a", "v1", "z"}
    assert numbers(stage, config) == [3, 2, 1]
    assert stage.rollback(config=config).restored == 2
    assert published(store) == first
    assert stage.rollback(3, config=config).restored == 3
    assert {row["v"] for row in published(store)} == {"a", "v1", "z"}


def test_a_rollback_that_is_tried_again_goes_back_once(store, config):
    for version in (1, 2):
        flow, stage = shop(version)
        flow.run(config=config)
    first = rollback(store, "staging", keep=2, by="nightly-7")
    assert rollback(store, "staging", keep=2, by="nightly-7") == first
    assert numbers(stage, config) == [3, 2, 1]
    assert {row["v"] for row in published(store)} == {"a", "v1", "z"}
    assert rollback(store, "staging", keep=2, by="7").restored == 2
    with pytest.raises(StageError, match="already, as version 3, and version 4"):
        rollback(store, "staging", keep=2, by="nightly-7")


def test_after_a_rollback_what_the_old_version_has_is_valid_and_nothing_else(store, config):
    flow_of = {version: shop(version) for version in (1, 2)}
    for flow, _ in flow_of.values():
        flow.run(config=config)
    flow_of[1][1].rollback(config=config)
    back = flow_of[1][0].run(config=config)
    states = {task.name: state for task, state in back.task_states.items()}
    assert states["orders"] is TaskState.CACHE_VALID
    assert states["total"] is TaskState.COMPLETED
    assert rows(store, "mart", "total") == [{"n": 3, "v": "v1"}]
    again = flow_of[2][0].run(config=config)
    states = {task.name: state for task, state in again.task_states.items()}
    assert states == {
        "orders": TaskState.COMPLETED,
        "fixed": TaskState.CACHE_VALID,
        "total": TaskState.COMPLETED,
    }
    assert rows(store, "mart", "total") == [{"n": 3, "v": "v2"}]


def test_tables_that_came_or_went_come_back_or_go(store, config):
    for version, names in ((1, ("orders", "fixed")), (2, ("fixed", "other")), (3, ("other",))):
        shop(version, names=names)[0].run(config=config)
    _, stage = shop(3)
    assert stage.rollback(1, config=config).dropped == ("other",)
    assert objects(store, "staging") == ("fixed", "orders")
    assert published(store, "fixed") == [{"x": 1}]
    stage.rollback(2, config=config)
    assert objects(store, "staging") == ("fixed", "other")
    assert published(store, "other") == [{"v": 2}]


def test_a_consumer_that_read_what_was_rolled_back_is_not_published(store, config):
    for version in (1, 2):
        flow, stage = shop(version)
        flow.run(config=config)
    tries = []

    @materialize(version="1", input_type=pl.DataFrame)
    def slow(orders):
        tries.append(orders["v"].to_list())
        if len(tries) == 1:
            stage.rollback(config=config)
        return Table(orders)

    with Flow("f") as flow:
        with Stage("staging"):
            made = shop_orders(2)
        with Stage("reader") as reader:
            slow(made)
    run_stage(reader, store)
    assert [len(found) for found in tries] == [3, 3]
    assert tries[0] != tries[1]
    assert {row["v"] for row in rows(store, "reader", "slow")} == {"a", "v1", "z"}
    assert issubclass(InputChanged, Exception)


def shop_orders(version):
    """Call a task at the same place of the flow as the shop's."""

    @materialize(version=str(version))
    def orders():
        return Table(pl.DataFrame({"id": [0]}))

    return orders()


def test_without_keep_versions_nothing_is_kept_and_what_was_goes(store, config):
    for version in (1, 2):
        shop(version)[0].run(config=config)
    flow, stage = shop(3, keep=None)
    flow.run(config=config)
    assert numbers(stage, config) == [3]
    assert not [schema for schema in transactions(store, "staging") if "__v" in schema]
    with pytest.raises(StageError, match="no version before it to go back to"):
        stage.rollback(config=config)
    with pytest.raises(StageError, match="stage staging has no version 1"):
        stage.rollback(1, config=config)


def test_the_store_says_how_many_are_kept_where_the_stage_does_not(warehouse_engine):
    store = SQLTableStore(warehouse_engine.url, keep_versions=1)
    config = ConfigContext.of_store(store, fail_fast=True)
    for version in (1, 2, 3):
        flow, stage = shop(version, keep=None)
        flow.run(config=config)
    assert numbers(stage, config) == [3, 2]
    wrongs: list[Any] = [-1, "2", True]
    for wrong in wrongs:
        with pytest.raises(ValidationError, match="takes a whole number from 0"):
            SQLTableStore(warehouse_engine.url, keep_versions=wrong)
        with pytest.raises(ValidationError, match="takes a whole number from 0"):
            Stage("s", keep_versions=wrong)
    store.dispose()


def test_a_version_whose_table_somebody_dropped_is_not_whole_and_not_rolled_back_to(
    store, config, warehouse_engine
):
    for version in (1, 2):
        flow, stage = shop(version)
        flow.run(config=config)
    scope = store.version_scope("staging", 1)
    kind = "VIEW" if store.dialect.name == "duckdb" else "TABLE"
    execute(warehouse_engine, f'DROP {kind} "{scope}".orders')
    assert [one.whole for one in stage.versions(config=config)] == [True, False]
    with pytest.raises(StageError, match=r"dropped its staging\.orders"):
        stage.rollback(config=config)
    assert {row["v"] for row in published(store)} == {"a", "v2", "z"}


def test_a_diff_to_a_version_counts_rows_by_key_and_shows_some_on_request(store, config):
    for version in (1, 2):
        flow, stage = shop(version)
        flow.run(config=config)
    found = stage.diff(1, config=config)
    orders = found["orders"]
    assert found.changed
    assert (orders.change, orders.key) == ("changed", ("id",))
    assert (orders.rows_added, orders.rows_removed, orders.rows_changed) == (1, 1, 1)
    assert orders.sample == ()
    assert found["fixed"].change == "same"
    shown = stage.diff(1, config=config, sample=2)["orders"].sample
    assert [(row.change, dict(row.key)) for row in shown] == [
        ("changed", {"id": 2}),
        ("removed", {"id": 3}),
    ]
    assert shown[0].old == {"id": 2, "v": "v1"}
    assert shown[0].new == {"id": 2, "v": "v2"}
    assert shown[1].new is None
    assert "orders changed, 3 to 3 rows; 1 rows added; 1 rows removed; 1 rows changed" in str(found)
    quick = stage.diff(1, config=config, rows=False)["orders"]
    assert (quick.change, quick.rows_added) == ("changed", None)


def test_a_diff_tells_what_an_unpublished_transaction_would_change(store, config):
    flow, stage = shop(1)
    flow.run(config=config)
    with pytest.raises(StageError, match="no open transaction"):
        stage.diff(config=config)
    flow, stage = shop(2)
    flow.run(flow["staging"]["orders"], config=config, transaction_id="try")
    found = stage.diff(config=config)
    assert (found.old, found.new) == ("version 1 (published)", "transaction try")
    assert (found["orders"].rows_added, found["orders"].rows_changed) == (1, 1)
    assert found["fixed"].change == "same"
    with pytest.raises(StageError, match="no open transaction 'another'"):
        stage.diff(config=config, transaction_id="another")


FRAMES = (
    pl.DataFrame({"a": [1, 1, 2], "gone": [1, 2, 3], "t": ["x", "x", None]}),
    pl.DataFrame({"a": [1, 2, 2], "new": [1.0, 2.0, 3.0], "t": ["x", None, None]}),
)


def test_a_diff_without_a_key_counts_rows_and_tells_columns_and_types(store, config):
    for number, frame in enumerate(FRAMES):

        @materialize(version=str(number))
        def t(frame=frame, number=number):
            return Table(frame, type_map={"a": sa.BigInteger() if number else sa.Integer()})

        with Flow("f") as flow, Stage("staging", keep_versions=1) as stage:
            t()
        flow.run(config=config)
    found = stage.diff(1, config=config)["t"]
    assert (found.columns_added, found.columns_removed) == (("new",), ("gone",))
    assert [name for name, _, _ in found.types_changed] == ["a"]
    assert (found.rows_added, found.rows_removed, found.rows_changed) == (1, 1, 0)
    with pytest.raises(ValidationError, match="several rows with one a"):
        stage.diff(1, config=config, keys={"t": ["a"]})
    with pytest.raises(ValidationError, match="no key"):
        stage.diff(1, config=config, keys={"t": ["new"]})
    with pytest.raises(KeyError, match="has a table 'u'"):
        stage.diff(1, config=config)["u"]


def test_equal_rows_under_another_version_are_the_same(store, config):
    @materialize
    def t():
        return Table(pl.DataFrame({"a": [1, 2]}))

    with Flow("f") as flow, Stage("staging", keep_versions=1) as stage:
        t()
    for _ in range(2):
        flow.run(config=config)
    assert not stage.diff(1, config=config).changed


def test_blobs_and_scripts_of_a_version_are_kept_with_it(store, tmp_path):
    blobs = FileBlobStore(tmp_path, gc_after=dt.timedelta(0))
    given = {"table_store": store, "blob_store": blobs}
    config = ConfigContext({}, fail_fast=True, backends=Backends({}, Place("test"), given))

    def flow_of(version):
        @materialize(version=str(version))
        def model():
            return Blob({"version": version}, "model")

        @materialize(lazy=True, outputs=["made"])
        def script(stage):
            return RawSql(f"CREATE TABLE {stage.current_name}.made AS SELECT {version} AS v")

        with Flow("f") as flow, Stage("staging", keep_versions=1) as stage:
            script(stage)
            return flow, stage, model()

    for version in (1, 2):
        flow, stage, model = flow_of(version)
        flow.run(config=config)
    stage.rollback(config=config)
    assert published(store, "made") == [{"v": 1}]
    flow, stage, model = flow_of(1)
    result = flow.run(config=config)
    assert set(result.task_states.values()) == {TaskState.CACHE_VALID}
    assert result.get(model) == {"version": 1}
    assert not result.stages["staging"].published
    flow_of(3)[0].run(config=config)
    flow_of(4)[0].run(config=config)
    assert len(list(tmp_path.rglob("*.pkl"))) == 2


def numbered(version):
    """Declare a stage of two tables that show the version, and one that never changes."""
    with Flow("f"), Stage("s", keep_versions=2) as stage:
        for name, number in (("a", version), ("b", version), ("fixed", 0)):

            @materialize(name=name, version=str(number))
            def fn(number=number):
                return Table(pa.table({"v": [number]}))

            fn()
    return stage


def test_runs_and_rollbacks_at_once_never_mix_versions(store, config, warehouse_engine):
    for version in (1, 2):
        run_stage(numbered(version), store)
    done, seen = threading.Event(), []
    query = "SELECT (SELECT v FROM s.a), (SELECT v FROM s.b), (SELECT v FROM s.fixed)"

    def read():
        while not done.is_set():
            with warehouse_engine.connect() as conn:
                seen.append(tuple(conn.exec_driver_sql(query).one()))

    def run(first):
        for version in range(first, first + 3):
            run_stage(numbered(version), store)

    def roll(times):
        for _ in range(times):
            numbered(1).rollback(config=config)

    with store.held_open(), ThreadPoolExecutor(4) as pool:
        reader = pool.submit(read)
        try:
            work = [pool.submit(run, 10), pool.submit(run, 20), pool.submit(roll, 4)]
            for one in work:
                one.result()
        finally:
            done.set()
        reader.result()
    assert seen
    assert all(a == b and fixed == 0 for a, b, fixed in seen)
    found = numbered(1).versions(config=config)
    assert [one.version for one in found] == [12, 11, 10]
    assert all(one.whole for one in found)
