"""A store that may not create schemas: everything works within those that it is given."""

from __future__ import annotations

import contextlib

import polars as pl
import pytest
import sqlalchemy as sa

from ixflow.errors import StageError, ValidationError
from ixflow.pipeline import ConfigContext, Flow, RawSql, Stage, Table, TaskState, materialize
from ixflow.store import SQLTableStore
from ixflow_tests.stages import execute, objects, rows

GIVEN = ("staging", "staging__tx", "mart", "mart__tx", "ixflow")


@pytest.fixture
def url(warehouse_engine):
    """Give schemas to a role that may not create any, where there are roles."""
    execute(warehouse_engine, *(f"CREATE SCHEMA {name}" for name in GIVEN))
    if warehouse_engine.dialect.name == "duckdb":
        return warehouse_engine.url
    with contextlib.suppress(sa.exc.ProgrammingError):
        execute(warehouse_engine, "CREATE ROLE humble LOGIN PASSWORD 'humble'")
    execute(
        warehouse_engine,
        f"REVOKE CREATE ON DATABASE {warehouse_engine.url.database} FROM PUBLIC",
        *(f"GRANT USAGE, CREATE ON SCHEMA {name} TO humble" for name in GIVEN),
    )
    return warehouse_engine.url.set(username="humble", password="humble")


@pytest.fixture
def store(url):
    made = SQLTableStore(url, avoid_drop_create_schema=True)
    said = []
    sa.event.listen(made.engine, "before_cursor_execute", lambda *a: said.append(a[2].upper()))
    yield made
    made.dispose()
    assert said
    assert not [text for text in said if "CREATE SCHEMA" in text or "DROP SCHEMA" in text]


@pytest.fixture
def config(store):
    return ConfigContext.of_store(store, fail_fast=True)


def flow_of(version, *, broken=False, keep=1):
    @materialize(version=str(version))
    def orders():
        frame = pl.DataFrame({"id": [1, 2], "v": [version] * 2})
        return Table(frame, primary_key="id", indexes=[["v"]])

    @materialize(version="1")
    def fixed():
        return Table(pl.DataFrame({"x": [1]}))

    @materialize(lazy=True, input_type=sa.Table)
    def doubled(orders):
        return Table(sa.select(orders.c.id, (orders.c.v * 2).label("v")))

    @materialize(lazy=True)
    def scripted(stage, orders):
        place = f"{stage.current_name}"
        return RawSql(
            f"CREATE TABLE {place}.summed AS SELECT CAST(sum(v) AS int) AS n FROM {place}.orders"
        )

    @materialize(version="1", input_type=pl.DataFrame)
    def last(summed, doubled):
        if broken:
            msg = "broken"
            raise ValueError(msg)
        return Table(doubled.with_columns(pl.lit(int(summed["n"][0])).alias("n")))

    with Flow("f") as flow:
        with Stage("staging", keep_versions=keep) as stage:
            made = orders()
            fixed()
            twice = doubled(made)
            out = scripted(stage, made)
        with Stage("mart"):
            last(out["summed"], twice)
    return flow


TABLES = {"orders", "fixed", "doubled", "summed"}


def shown(store):
    return {
        row[c] for t, c in (("orders", "v"), ("last", "n")) for row in rows(store, PLACES[t], t)
    }


PLACES = {"orders": "staging", "last": "mart"}


def test_a_flow_is_published_carried_over_and_collected_within_given_schemas(store, config):
    assert flow_of(1).run(config=config).successful
    assert set(objects(store, "staging")) == TABLES
    assert shown(store) == {1, 2}
    again = flow_of(1).run(config=config)
    assert set(again.task_states.values()) == {TaskState.CACHE_VALID}
    done = flow_of(2).run(config=config)
    states = {task.name: state for task, state in done.task_states.items()}
    assert states["fixed"] is TaskState.CACHE_VALID
    assert shown(store) == {2, 4}
    for version in (3, 4):
        flow_of(version).run(config=config)
    hidden = [name for name in objects(store, "staging__tx") if not name.startswith("v")]
    if store.dialect.name == "postgresql":
        assert hidden == []
        assert len(objects(store, "staging__tx")) == 3
        assert objects(store, "mart__tx") == ()


def test_rollback_and_diff_work_within_given_schemas(store, config):
    for version in (1, 2):
        flow = flow_of(version)
        flow.run(config=config)
    stage = flow["staging"]
    assert stage.diff(1, config=config)["orders"].rows_changed == 2
    stage.rollback(config=config)
    assert {row["v"] for row in rows(store, "staging", "orders")} == {1}
    assert rows(store, "staging", "summed") == [{"n": 2}]
    assert all(one.whole for one in stage.versions(config=config))
    flow.run(config=config)
    assert shown(store) == {2, 4}


def test_a_failed_run_is_resumed_within_given_schemas(store):
    config = ConfigContext.of_store(store)
    failed = flow_of(1, broken=True).run(config=config, transaction_id="t")
    assert not failed.successful
    assert set(objects(store, "staging")) == TABLES
    assert flow_of(1).run(config=config, transaction_id="t").successful
    assert shown(store) == {1, 2}


def test_a_schema_that_is_missing_is_named(store, config, warehouse_engine):
    execute(warehouse_engine, "DROP SCHEMA staging__tx")
    with pytest.raises(StageError, match=r"there is no schema staging__tx.*create it and grant"):
        flow_of(1).run(config=config)


def test_parts_of_a_script_s_tables_do_not_collide_with_those_of_other_transactions(store, config):
    if store.dialect.name == "duckdb":
        parts = "id int, v int"
    else:
        parts = "id serial PRIMARY KEY, v int UNIQUE"

    def run(version, **options):
        @materialize(lazy=True, outputs=["t"])
        def script(stage):
            table = f"{stage.current_name}.t"
            return RawSql(
                f"CREATE TABLE {table} ({parts}); INSERT INTO {table} (v) VALUES ({version})"
            )

        with Flow("f") as flow, Stage("staging", keep_versions=1) as stage:
            task = script(stage)
        flow.run(*([task] if options else []), config=config, **options)
        return stage

    for version in range(1, 5):
        run(10 + version, transaction_id=f"left {version}")
        stage = run(version)
    assert [row["v"] for row in rows(store, "staging", "t")] == [4]
    stage.rollback(config=config)
    assert [row["v"] for row in rows(store, "staging", "t")] == [3]


def test_a_name_that_leaves_no_room_for_its_prefix_is_refused(store, config):
    def run(name, version):
        @materialize(version=str(version))
        def t():
            return Table(pl.DataFrame({"x": [version]}), name, indexes=[["x"]])

        with Flow("f") as flow, Stage("staging", keep_versions=2) as stage:
            t()
        flow.run(config=config)
        return stage

    room = store.dialect.max_identifier - 20
    with pytest.raises(ValidationError, match=f"is longer than {room} bytes"):
        run("a" * (room + 1), 1)
    for version in range(1, 4):
        stage = run("a" * room, version)
    stage.rollback(1, config=config)
    assert rows(store, "staging", "a" * room) == [{"x": 1}]
