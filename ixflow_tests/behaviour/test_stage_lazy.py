"""Lazy tasks and scripts: made again when their query or their inputs change, else carried over."""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.errors import FlowError, TaskError, ValidationError
from ixflow.pipeline import (
    ConfigContext,
    Flow,
    RawSql,
    Stage,
    Table,
    TaskState,
    materialize,
    run_stage,
)
from ixflow.store import SQLTableStore, StageTransaction
from ixflow.values import TableName
from ixflow_tests.stages import objects, rows


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    yield made
    made.dispose()


def written(store, table, stage="s"):
    """Say which write of a table is published."""
    found = store.published(stage).tables[table]
    return (found.transaction_id, found.written_at)


def states(result):
    return {table.name: table.state for table in result.tables}


def source(version="1", values=(1, 2, 3)):
    @materialize(version=version)
    def base():
        return Table(pl.DataFrame({"x": list(values)}), "base", primary_key="x")

    return base


def filtered(limit, **options):
    @materialize(lazy=True, input_type=sa.Table)
    def small(base):
        return Table(sa.select(base).where(base.c.x < limit), "small", **options)

    return small


def run(store, make_base, make_lazy, stage="s"):
    with Flow("f") as flow, Stage(stage):
        make_lazy(make_base())
    return run_stage(flow[stage], store)


def test_a_lazy_query_runs_again_only_when_its_text_changes(store):
    run(store, source(), filtered(2))
    first = written(store, "small")
    again = run(store, source(), filtered(2))
    assert (again.published, states(again)["small"]) == (False, TaskState.CACHE_VALID)
    assert written(store, "small") == first
    changed = run(store, source(), filtered(3))
    assert states(changed) == {"base": TaskState.CACHE_VALID, "small": TaskState.COMPLETED}
    assert sorted(row["x"] for row in rows(store, "s", "small")) == [1, 2]


def test_a_lazy_query_runs_again_when_its_input_changes(store):
    run(store, source(), filtered(9))
    changed = run(store, source("2", (7, 8)), filtered(9))
    assert states(changed)["small"] is TaskState.COMPLETED
    assert sorted(row["x"] for row in rows(store, "s", "small")) == [7, 8]


@pytest.mark.parametrize(
    "options", [{"primary_key": "x"}, {"indexes": [["x"]]}, {"type_map": {"x": sa.Text()}}]
)
def test_a_lazy_table_is_made_again_when_it_shall_be_stored_otherwise(store, options):
    run(store, source(), filtered(3))
    changed = run(store, source(), filtered(3, **options))
    assert states(changed)["small"] is TaskState.COMPLETED
    again = run(store, source(), filtered(3, **options))
    assert not again.published


def test_of_a_lazy_tasks_tables_only_those_are_made_again_whose_query_changed(store):
    def both(limit):
        @materialize(lazy=True, input_type=sa.Table, outputs=["low", "all_of_it"])
        def two(base):
            return {"low": sa.select(base).where(base.c.x < limit), "all_of_it": sa.select(base)}

        return two

    run(store, source(), both(2))
    low, whole = written(store, "low"), written(store, "all_of_it")
    run(store, source(), both(3))
    assert written(store, "low") != low
    assert written(store, "all_of_it") == whole
    assert len(rows(store, "s", "all_of_it")) == 3


def test_what_follows_a_lazy_table_is_valid_while_that_is(store):
    calls = []

    @materialize(version="1", input_type=pa.Table)
    def after(small):
        calls.append(small.num_rows)
        return Table(small, "after")

    def go(limit):
        @materialize(lazy=True, input_type=sa.Table)
        def small(base):
            return Table(sa.select(base).where(base.c.x < limit), "small")

        with Flow("f") as flow, Stage("s"):
            after(small(source()()))
        return run_stage(flow["s"], store)

    go(2)
    go(2)
    assert calls == [1]
    go(3)
    assert calls == [1, 2]


def test_a_table_that_is_passed_twice_can_be_joined_with_itself(store):
    @materialize(lazy=True, input_type=sa.Table)
    def pairs(tables, again):
        left, right = tables
        joined = left.join(right, left.c.x < right.c.x).join(again, again.c.x == left.c.x)
        return Table(sa.select(left.c.x, right.c.x.label("y")).select_from(joined), "pairs")

    with Flow("f") as flow, Stage("s"):
        base = source()()
        pairs([base, base], base)
    result = run_stage(flow["s"], store)
    found = {(row["x"], row["y"]) for row in rows(store, "s", "pairs")}
    assert found == {(1, 2), (1, 3), (2, 3)}
    fed = result["pairs"].lineage
    assert fed["x"] == fed["y"] == (("s", "base", "x"),)
    assert not run_stage(flow["s"], store).published


def test_a_lazy_query_reads_a_new_input_of_its_own_stage_before_that_is_published(store):
    run(store, source(), filtered(3))
    changed = run(store, source("2", (1, 2, 2**40)), filtered(3))
    assert states(changed)["base"] is TaskState.COMPLETED
    assert len(rows(store, "s", "small")) == 2


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.table])
def test_a_lazy_frame_is_written_again_only_when_its_rows_change(store, make):
    def frame(values):
        @materialize(lazy=True)
        def made():
            return Table(make({"x": values, "y": ["ä"] * len(values)}), "made")

        with Flow("f") as flow, Stage("s"):
            made()
        return run_stage(flow["s"], store)

    assert frame([1, 2]).published
    assert not frame([1, 2]).published
    assert frame([2, 1]).published
    assert [row["x"] for row in rows(store, "s", "made")] == [2, 1]


def test_a_reader_that_can_be_read_once_is_always_written(store):
    @materialize(lazy=True)
    def made():
        return Table(pa.table({"x": [1]}).to_reader(), "made")

    with Flow("f") as flow, Stage("s"):
        made()
    assert run_stage(flow["s"], store).published
    assert run_stage(flow["s"], store).published
    assert len(rows(store, "s", "made")) == 1


def test_a_failed_run_takes_over_the_lazy_tables_it_had_made(store):
    broken = [True]

    @materialize(version="1", input_type=sa.Table)
    def after(_small):
        if broken[0]:
            raise ZeroDivisionError
        return 1

    with Flow("f") as flow, Stage("s"):
        after(filtered(2)(source()()))
    with pytest.raises(TaskError):
        run_stage(flow["s"], store, transaction_id="one")
    broken[0] = False
    assert run_stage(flow["s"], store, transaction_id="one").published
    assert len(rows(store, "s", "small")) == 1


# -- scripts ----------------------------------------------------------------------------------


SCRIPT = """
    -- a comment; with a separator
    CREATE TABLE {schema}.one AS SELECT 1 AS x, 'a;b' AS t;
    CREATE TABLE {schema}.two AS SELECT x + 1 AS x FROM {schema}.one;
"""


def scripted(text, calls=None, lazy=True, **options):
    @materialize(lazy=lazy, version="1", outputs=options.pop("outputs", ["one", "two"]))
    def script(stage, *_):
        if calls is not None:
            calls.append(1)
        return RawSql(text.format(schema=stage.current_name), **options)

    return script


def run_script(store, task, *more):
    with Flow("f") as flow, Stage("s") as stage:
        out = task(stage)
        for consumer in more:
            consumer(out)
    return run_stage(flow["s"], store)


@pytest.mark.parametrize("lazy", [True, False])
def test_the_tables_of_a_script_appear_together_and_are_carried_over(store, lazy):
    first = run_script(store, scripted(SCRIPT, lazy=lazy))
    assert {table.name: table.rows for table in first.tables} == {"one": 1, "two": 1}
    assert rows(store, "s", "one") == [{"x": 1, "t": "a;b"}]
    assert rows(store, "s", "two") == [{"x": 2}]
    kept = written(store, "one")
    assert not run_script(store, scripted(SCRIPT, lazy=lazy)).published
    assert written(store, "one") == kept


@pytest.mark.parametrize("lazy", [True, False])
def test_a_script_runs_again_when_one_of_its_tables_is_gone(store, lazy):
    run_script(store, scripted(SCRIPT, lazy=lazy))
    kind = "VIEW" if store.dialect.name == "duckdb" else "TABLE"
    with store.begin() as conn:
        conn.exec_driver_sql(f"DROP {kind} s.two")
    assert run_script(store, scripted(SCRIPT, lazy=lazy)).published
    assert rows(store, "s", "two") == [{"x": 2}]


def test_a_script_runs_again_when_its_text_changes(store):
    run_script(store, scripted(SCRIPT))
    changed = run_script(store, scripted(SCRIPT.replace("x + 1", "x + 41")))
    assert changed.published
    assert rows(store, "s", "two") == [{"x": 42}]


def test_consumers_get_a_mapping_or_one_table_of_a_script(store):
    seen: dict[str, Any] = {}

    @materialize(version="1", input_type=pl.DataFrame)
    def whole(script):
        seen["names"] = list(script)
        seen["one"] = script["ONE"]["x"].to_list()
        seen["got"] = (script.get("two")["x"].to_list(), script.get("three", 3), "two" in script)
        seen["items"] = [name for name, _ in script.items()]
        with pytest.raises(KeyError, match="made no table 'three'; it made one, two"):
            script["three"]
        return 1

    @materialize(version="1", input_type=pl.DataFrame)
    def single(two):
        seen["two"] = two["x"].to_list()
        return 1

    with Flow("f") as flow, Stage("s") as stage:
        out = scripted(SCRIPT)(stage)
        whole(out)
        single(out["two"])
    run_stage(flow["s"], store)
    assert seen["names"] == seen["items"] == ["one", "two"]
    assert (seen["one"], seen["got"], seen["two"]) == ([1], ([2], 3, True), [2])
    again = run_stage(flow["s"], store)
    assert not again.published


def test_a_script_finds_inputs_that_were_carried_over_in_its_own_schema(store):
    def reading(factor):
        text = "CREATE TABLE {schema}.scaled AS SELECT x * " + str(factor) + " AS x"
        text += " FROM {schema}.base"
        with Flow("f") as flow, Stage("s") as stage:
            scripted(text, outputs=["scaled"])(stage, source()())
        return run_stage(flow["s"], store)

    reading(1)
    changed = reading(10)
    assert states(changed) == {"base": TaskState.CACHE_VALID, "scaled": TaskState.COMPLETED}
    assert sorted(row["x"] for row in rows(store, "s", "scaled")) == [10, 20, 30]


def test_a_script_that_fails_leaves_nothing(store):
    run_script(store, scripted(SCRIPT))
    with pytest.raises(TaskError, match="nowhere"):
        run_script(store, scripted(SCRIPT + "CREATE TABLE {schema}.x AS SELECT * FROM nowhere;"))
    assert rows(store, "s", "two") == [{"x": 2}]
    assert sorted(objects(store, "s")) == ["one", "two"]


def test_what_a_script_sets_and_its_temporary_tables_end_with_it(store):
    text = "CREATE TEMP TABLE work AS SELECT {n} AS x;"
    text += "CREATE TABLE {schema}.one AS SELECT * FROM work;"
    if store.dialect.name == "postgresql":
        text = "SET ROLE ixflow_script; SET work_mem = '1234kB'; RESET ROLE; " + text
        with store.begin() as conn:
            conn.exec_driver_sql("CREATE ROLE ixflow_script")
    for number in (1, 2):
        run_script(store, scripted(text.replace("{n}", str(number)), outputs=["one"]))
        assert rows(store, "s", "one") == [{"x": number}]
    if store.dialect.name == "postgresql":
        with store.begin() as conn:
            assert conn.exec_driver_sql("SHOW work_mem").scalar() != "1234kB"
            conn.exec_driver_sql("DROP ROLE ixflow_script")


def test_a_script_whose_result_was_not_recorded_is_not_run_twice(store, monkeypatch):
    def dies(*_, **__):
        raise KeyboardInterrupt

    with Flow("f") as flow, Stage("s") as stage:
        scripted(SCRIPT)(stage)
    with monkeypatch.context() as patch:
        patch.setattr(StageTransaction, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            run_stage(flow["s"], store, transaction_id="one")
    assert run_stage(flow["s"], store, transaction_id="one").published
    assert rows(store, "s", "two") == [{"x": 2}]


@pytest.mark.parametrize("word", ["COMMIT", "rollback", "BEGIN", "START TRANSACTION"])
def test_a_script_may_not_end_the_transaction(store, word):
    with pytest.raises(ValidationError, match="runs in the transaction that publishes its tables"):
        run_script(store, scripted(f"{SCRIPT}; {word}"))
    assert store.published("s").tables == {}


def test_a_script_that_makes_a_view_is_refused(store):
    with pytest.raises(ValidationError, match="made a view, 'v'; a stage publishes tables"):
        run_script(store, scripted("CREATE VIEW {schema}.v AS SELECT 1 AS x", outputs=["v"]))


def test_a_script_that_makes_no_table_has_run_each_time(store):
    script = scripted("SELECT 1", outputs=[])
    for _ in range(2):
        with Flow("f") as flow, Stage("s") as stage:
            out = script(stage)
        with ConfigContext.of_store(store) as config:
            assert flow.run(config=config).task_states[out] is TaskState.COMPLETED


@pytest.mark.parametrize(
    ("needed", "made", "column"),
    [
        ("type", "TYPE {schema}.mood AS ENUM ('x')", "x {schema}.mood[]"),
        ("type", "DOMAIN {schema}.d AS int", "x {schema}.d"),
        ("sequence", "SEQUENCE {schema}.q", "x int DEFAULT nextval('{schema}.q')"),
        (
            "function",
            "FUNCTION {schema}.f(int) RETURNS bool LANGUAGE sql AS 'SELECT true'",
            "x int CHECK ({schema}.f(x))",
        ),
    ],
)
def test_a_table_that_needs_more_of_its_script_than_tables_is_refused(
    fresh_postgres, needed, made, column
):
    store = SQLTableStore(fresh_postgres.url)
    text = f"CREATE {made}; CREATE TABLE {{schema}}.one ({column})"
    with pytest.raises(ValidationError, match=f"a table of the script needs the {needed}"):
        run_script(store, scripted(text, outputs=["one"]))
    store.dispose()


def test_what_belongs_to_a_scripts_tables_or_is_only_used_by_it_is_no_hindrance(fresh_postgres):
    store = SQLTableStore(fresh_postgres.url)
    text = """
        CREATE TYPE {schema}.mood AS ENUM ('x');
        CREATE FUNCTION {schema}.f() RETURNS {schema}.mood LANGUAGE sql
            AS $$ SELECT 'x'::{schema}.mood $$;
        CREATE TABLE {schema}.one (id serial, x text);
        INSERT INTO {schema}.one (x) SELECT {schema}.f()::text;
        CREATE TABLE {schema}.two AS SELECT one AS whole FROM {schema}.one;
    """
    run_script(store, scripted(text))
    assert rows(store, "s", "one") == [{"id": 1, "x": "x"}]
    store.dispose()


@pytest.mark.parametrize("keep_versions", [0, 1])
def test_what_else_a_script_makes_on_duckdb_goes_with_its_tables(fresh_duckdb, keep_versions):
    store = SQLTableStore(fresh_duckdb.url, keep_versions=keep_versions)
    text = """
        CREATE SEQUENCE {schema}.numbers;
        CREATE TYPE {schema}.mood AS ENUM ('x');
        CREATE MACRO {schema}.next() AS nextval('{schema}.numbers');
        CREATE TABLE {schema}.one (id int DEFAULT nextval('{schema}.numbers'), x {schema}.mood);
    """
    for number in range(3):
        run_script(store, scripted(f"{text}; -- {number}", outputs=["one"]))
    with store.begin() as conn:
        left = "SELECT count(*) FROM duckdb_schemas() WHERE starts_with(schema_name, 's__tx_')"
        assert conn.exec_driver_sql(left).scalar_one() == 1 + keep_versions
        # Somebody's own table needs what is in the schema of the published one.
        needed = conn.exec_driver_sql("SELECT schema_name FROM duckdb_sequences()").scalars().all()
        conn.exec_driver_sql(f"CREATE TABLE own (id int DEFAULT nextval('{needed[-1]}.numbers'))")
    run_script(store, scripted(SCRIPT))
    run_script(store, scripted(f"{SCRIPT}; -- again"))
    assert "own" in objects(store, "main")
    store.dispose()


def test_a_script_is_cut_where_it_says(store):
    text = SCRIPT.replace(";\n", "\nGO!\n")
    run_script(store, scripted(text, separator="GO!"))
    assert sorted(store.published("s").tables) == ["one", "two"]


def test_a_task_whose_script_makes_other_tables_than_declared_is_refused(store):
    with pytest.raises(FlowError, match=r"declares outputs=\['one'\] but returned tables"):
        run_script(store, scripted(SCRIPT, outputs=["one"]))


def test_without_a_flow_a_script_is_its_text():
    @materialize
    def script():
        return RawSql("SELECT 1")

    assert script() == "SELECT 1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sql": 1}, "takes text"),
        ({"name": 1}, "takes text"),
        ({"separator": ""}, "cut the script"),
    ],
)
def test_a_script_of_the_wrong_form_is_refused(options, said):
    with pytest.raises(FlowError, match=said):
        RawSql(**options)


def test_a_resumed_run_does_not_run_its_scripts_again(store):
    calls: list[int] = []
    broken = [True]

    @materialize(version="1", input_type=pa.Table)
    def after(_script):
        if broken[0]:
            raise ZeroDivisionError
        return 1

    text = SCRIPT
    with Flow("f") as flow, Stage("s") as stage:
        after(scripted(text, calls)(stage))
    with pytest.raises(TaskError):
        run_stage(flow["s"], store, transaction_id="one")
    broken[0] = False
    assert run_stage(flow["s"], store, transaction_id="one").published
    assert calls == [1, 1]  # a lazy function is always called, its script was not run again
    assert rows(store, "s", "two") == [{"x": 2}]
    assert store.dialect.name in ("postgresql", "duckdb")
    with store.begin() as conn:
        assert store.dialect.exists(conn, TableName("one", "s"))
