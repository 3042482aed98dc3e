"""Running stages: what is published, what is reused, and what a failure leaves."""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.errors import (
    AuditFailed,
    CacheError,
    DuplicateNameError,
    FlowError,
    ReplacementRefused,
    StageError,
    TableNotFound,
    TaskError,
    UnsupportedState,
)
from ixflow.events import StagePublished, TaskFinished
from ixflow.pipeline import (
    AuditResult,
    ConfigContext,
    ExternalTableReference,
    Flow,
    Stage,
    Table,
    TaskState,
    audit,
    materialize,
    run_stage,
)
from ixflow.store import SQLTableStore, StageTransaction
from ixflow_tests.stages import execute, objects, one_stage, rows, transactions


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    yield made
    made.dispose()


class Counted:
    """Makes tasks that count their calls and can be told to fail."""

    def __init__(self):
        self.calls = []
        self.broken = set()

    def task(self, name, frame=None, version="1", **options):
        @materialize(name=name, version=version, **options)
        def fn(*inputs):
            self.calls.append(name)
            if name in self.broken:
                msg = f"{name} is broken"
                raise ZeroDivisionError(msg)
            given = frame(*inputs) if callable(frame) else frame
            return Table(pl.DataFrame({"x": [1]}) if given is None else given)

        return fn


@pytest.fixture
def counted():
    return Counted()


# -- whole runs -------------------------------------------------------------------------------


def test_a_stage_publishes_its_tables_and_says_what_it_did(store):
    @materialize(version="1")
    def orders():
        return Table(pl.DataFrame({"id": [1, 2], "name": ["a", None]}), primary_key="id")

    heard: list[Any] = []
    result = run_stage(one_stage(orders), store, on_event=heard.append)
    assert rows(store, "staging", "orders") == [{"id": 1, "name": "a"}, {"id": 2, "name": None}]
    assert (result.version, result.published, result.schema) == (1, True, "staging")
    table = result["orders"]
    assert (table.rows, table.state, table.task) == (2, TaskState.COMPLETED, "orders")
    assert [(c.name, c.nullable) for c in table.columns] == [("id", False), ("name", True)]
    assert [type(event) for event in heard] == [TaskFinished, StagePublished]
    assert heard[0].rows == 2


def test_every_kind_of_frame_goes_in_and_out(store):
    @materialize(version="1")
    def source():
        return pa.table({"id": pa.array([1, 2], pa.int64()), "v": ["a", None]})

    def through(kind, name):
        @materialize(name=name, version="1", input_type=kind)
        def fn(frame):
            assert isinstance(frame, kind)
            return Table(frame)

        return fn

    @materialize(version="1", input_type=sa.Table)
    def query(source):
        return Table(sa.select(source.c.id, source.c.v).where(source.c.id > 0), primary_key="id")

    @materialize(version="1")
    def text(pair):
        name, schema = pair
        return Table(
            sa.text(
                f'SELECT id, v FROM "{schema}"."{name}" WHERE v IS NULL OR v <> :no'
            ).bindparams(no="50% :x")
        )

    with Flow("f") as flow, Stage("frames"):
        first = source()
        for name, kind in {
            "by_pandas": pd.DataFrame,
            "by_polars": pl.DataFrame,
            "by_lazy": pl.LazyFrame,
            "by_arrow": pa.Table,
            "by_table": sa.Table,
        }.items():
            through(kind, name)(first)
        query(first)
        text(first)
    result = run_stage(flow["frames"], store)
    for name in flow["frames"].output_names:
        found = sorted(rows(store, "frames", name), key=lambda row: row["id"])
        assert found == [{"id": 1, "v": "a"}, {"id": 2, "v": None}], name
        assert result[name].rows == 2


def test_values_pass_between_tasks_with_tables_in_them(store):
    @materialize(version="1")
    def several():
        return {"t": Table(pl.DataFrame({"x": [1]}), "in_dict"), "n": (1, [2.5, None])}

    @materialize(version="1", input_type=pl.DataFrame)
    def use(everything, number, table):
        assert everything["n"] == (1, [2.5, None])
        assert everything["t"].equals(table)
        return number

    with Flow("f") as flow:
        with Stage("a"):
            made = several()
        with Stage("b"):
            used = use(made, made["n"][1][0], made["t"])
    result = flow.run(config=ConfigContext.of_store(store, fail_fast=True))
    assert result.get(used) == 2.5
    assert result.get(made, as_type=pl.DataFrame)["t"].rows() == [(1,)]
    assert result.get(made["n"]) == (1, [2.5, None])


def test_a_second_run_is_valid_throughout_and_writes_nothing(store, counted):
    stage = one_stage(counted.task("a"), counted.task("b"))
    first = run_stage(stage, store)
    before = transactions(store, "staging")
    second = run_stage(stage, store)
    assert sorted(counted.calls) == ["a", "b"]
    assert (second.version, second.published) == (first.version, False)
    assert {t.state for t in second.tables} == {TaskState.CACHE_VALID}
    assert [t.data_version for t in second.tables] == [t.data_version for t in first.tables]
    assert transactions(store, "staging") == before


def test_a_new_version_runs_again_and_so_does_what_follows(store, counted):
    def flow(version):
        with Flow("f") as made, Stage("staging"):
            first = counted.task("a", version=version)()
            counted.task("b", lambda _: None)(first)
            counted.task("c")()
        return made["staging"]

    run_stage(flow("1"), store)
    counted.calls.clear()
    result = run_stage(flow("2"), store)
    assert counted.calls == ["a", "b"]
    assert result["c"].state is TaskState.CACHE_VALID
    assert result.version == 2


def test_without_a_version_a_task_always_runs_but_equal_rows_have_equal_data_versions(
    store, counted
):
    stage = one_stage(counted.task("a", version=None))
    first, second = run_stage(stage, store), run_stage(stage, store)
    assert counted.calls == ["a", "a"]
    assert (first.version, second.version) == (1, 2)
    assert first["a"].data_version == second["a"].data_version


def test_the_cache_function_decides_with_the_version(store, counted):
    state = {"now": 1}
    stage = one_stage(counted.task("a", cache=lambda: state))
    run_stage(stage, store)
    run_stage(stage, store)
    state["now"] = 2
    run_stage(stage, store)
    assert counted.calls == ["a", "a"]


def test_a_table_that_an_ingest_wrote_is_read_every_time(store, counted, warehouse_engine):
    execute(
        warehouse_engine,
        'CREATE SCHEMA "raw data"',
        'CREATE TABLE "raw data"."Orders" (id bigint)',
        'INSERT INTO "raw data"."Orders" VALUES (7)',
    )
    reference = ExternalTableReference("Orders", "raw data")
    frames = counted.task("frames", lambda frame: frame, input_type=pl.DataFrame)

    @materialize(version="1", input_type=sa.Table)
    def query(orders):
        return Table(sa.select((orders.c.id + 1).label("next")))

    @materialize(version="1")
    def passed():
        return Table(reference)

    with Flow("f") as flow, Stage("staging"):
        frames(reference)
        query(reference)
        counted.task("again", lambda frame: frame, input_type=pl.DataFrame)(passed())
    run_stage(flow["staging"], store)
    counted.calls.clear()
    run_stage(flow["staging"], store)
    assert sorted(counted.calls) == ["again", "frames"]
    assert rows(store, "staging", "query") == [{"next": 8}]
    assert rows(store, "staging", "again") == [{"id": 7}]


def test_a_reference_to_nothing_or_to_the_stage_itself_is_refused(store):
    def returning(reference):
        @materialize(name="t")
        def fn():
            return Table(reference)

        return one_stage(fn)

    with pytest.raises(TableNotFound, match=r"nowhere\.nothing"):
        run_stage(returning(ExternalTableReference("nothing", "nowhere")), store)
    with pytest.raises(StageError, match="stage staging itself"):
        run_stage(returning(ExternalTableReference("x", "staging")), store)


# -- failures ---------------------------------------------------------------------------------


def test_a_failure_names_the_task_chains_the_cause_and_publishes_nothing(store, counted):
    stage = one_stage(counted.task("a"), counted.task("b"))
    run_stage(stage, store)
    counted.broken = {"b"}
    changed = one_stage(
        counted.task("a", pl.DataFrame({"x": [2]}), "2"), counted.task("b", version="2")
    )
    with pytest.raises(
        TaskError, match=r"staging\.b failed: ZeroDivisionError: b is broken"
    ) as info:
        run_stage(changed, store)
    assert isinstance(info.value.__cause__, ZeroDivisionError)
    assert (info.value.stage, info.value.task) == ("staging", "b")
    assert rows(store, "staging", "a") == [{"x": 1}]


def test_a_run_with_the_same_transaction_resumes_and_then_forgets_it(store, counted):
    with Flow("f") as flow, Stage("staging"):
        first = counted.task("a", version=None)()
        counted.task("b", lambda _: None)(first)
    counted.broken = {"b"}
    with pytest.raises(TaskError):
        run_stage(flow["staging"], store, transaction_id="run-1")
    counted.broken = set()
    result = run_stage(flow["staging"], store, transaction_id="run-1")
    assert counted.calls == ["a", "b", "b"]
    assert result["a"].state is TaskState.RESUMED
    assert (result.version, result["a"].rows) == (1, 1)
    again = run_stage(flow["staging"], store, transaction_id="run-1")
    assert counted.calls == ["a", "b", "b", "a", "b"]
    assert again.version == 2


def test_rows_of_a_newer_input_are_not_resumed_as_those_of_the_older(store, monkeypatch):
    shop = {"version": 1, "moves": True}

    @materialize(version="1", cache=lambda: shop["version"])
    def source():
        return Table(pl.DataFrame({"v": [shop["version"]]}), "source")

    @materialize(version="1", input_type=sa.Table)
    def copy(given):
        if shop.pop("moves", False):
            shop["version"] = 2
            run_stage(flow["raw"], store)
        # The rows are read when the table is written, which is now after the input has moved.
        return Table(sa.select(given), "copy")

    with Flow("f") as flow:
        with Stage("raw"):
            raw = source()
        with Stage("clean"):
            copy(raw)
    run_stage(flow["raw"], store)

    commit = StageTransaction.commit

    def dies(self, *results, **options):
        if self.stage == "clean":
            raise KeyboardInterrupt
        return commit(self, *results, **options)

    with monkeypatch.context() as patched:
        patched.setattr(StageTransaction, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            run_stage(flow["clean"], store, transaction_id="run-1", max_workers=1)
    shop["version"] = 1
    run_stage(flow["raw"], store)
    run_stage(flow["clean"], store, transaction_id="run-1")
    assert rows(store, "clean", "copy") == [{"v": 1}]


def test_another_transaction_does_not_resume(store, counted):
    stage = one_stage(counted.task("a"), counted.task("b"))
    counted.broken = {"b"}
    with pytest.raises(TaskError):
        run_stage(stage, store, transaction_id="run-1", max_workers=1)
    counted.broken = set()
    result = run_stage(stage, store, transaction_id="run-2")
    assert result["a"].state is TaskState.COMPLETED


def test_a_changed_task_is_written_over_what_the_failed_try_left(store, counted):
    counted.broken = {"b"}
    with pytest.raises(TaskError):
        run_stage(
            one_stage(counted.task("a"), counted.task("b")),
            store,
            transaction_id="r",
            max_workers=1,
        )
    counted.broken = set()
    changed = one_stage(counted.task("a", pl.DataFrame({"y": ["new"]}), "2"), counted.task("b"))
    run_stage(changed, store, transaction_id="r")
    assert rows(store, "staging", "a") == [{"y": "new"}]


def test_a_failure_is_in_the_result_when_it_shall_not_be_raised(store, counted):
    counted.broken = {"b"}
    with Flow("f") as flow:
        with Stage("one"):
            a = counted.task("a")()
        with Stage("two"):
            b = counted.task("b", lambda _: None)(a)
        with Stage("three"):
            c = counted.task("c", lambda _: None)(b)
    result = flow.run(config=ConfigContext.of_store(store))
    assert not result.successful
    assert isinstance(result.exception, TaskError)
    assert [result.task_states[t] for t in (a, b, c)] == [
        TaskState.COMPLETED,
        TaskState.FAILED,
        TaskState.UNKNOWN,
    ]
    with pytest.raises(TaskError, match=r"two\.b has no result .* failed"):
        result.get(b)
    assert rows(store, "one", "a") == [{"x": 1}]


def test_a_task_of_another_stage_that_was_never_published_is_named(store, counted):
    with Flow("f") as flow:
        with Stage("one"):
            a = counted.task("a")()
        with Stage("two"):
            counted.task("b", lambda _: None)(a)
    with pytest.raises(CacheError, match=r"one\.a.*run stage one first"):
        run_stage(flow["two"], store)


def test_what_cannot_be_stored_is_a_typed_error(store):
    @materialize(version="1")
    def odd():
        return {"x": object()}

    @materialize(version="1")
    def none():
        return Table(None, "a")

    @materialize(version="1", outputs=["a", "b"])
    def missing():
        return Table(pl.DataFrame({"x": [1]}), "a")

    @materialize(version="1")
    def twice():
        return [Table(pl.DataFrame({"x": [1]}), "a"), Table(pl.DataFrame({"x": [1]}), "A")]

    for task, kind, said in (
        (odd, FlowError, "builtins.object"),
        (none, FlowError, "without an object"),
        (missing, FlowError, "declares outputs"),
        (twice, DuplicateNameError, "two tables called 'a'"),
    ):
        with pytest.raises(kind, match=said):
            run_stage(one_stage(task), store)
    assert objects(store, "staging") == ()


def test_two_tasks_that_make_one_table_are_refused(store):
    def making(version):
        @materialize(name=f"t{version}", version=version)
        def fn():
            return Table(pl.DataFrame({"x": [1]}), "same")

        return fn

    with pytest.raises(DuplicateNameError, match="'same'"):
        run_stage(one_stage(making("1"), making("2")), store)


def test_a_query_that_the_database_refuses_is_a_task_error(store):
    @materialize(version="1")
    def broken():
        return Table(sa.text("SELECT nothing FROM nowhere"))

    with pytest.raises(TaskError, match=r"staging\.broken failed.*nowhere"):
        run_stage(one_stage(broken), store)


# -- names ------------------------------------------------------------------------------------


def test_tables_without_names_get_the_task_s_or_a_unique_one(store):
    @materialize(version="1")
    def alone():
        return pl.DataFrame({"x": [1]})

    @materialize(version="1")
    def several(n):
        return [pl.DataFrame({"x": [n]}), Table(pl.DataFrame({"x": [n]}), "odd%%")]

    with Flow("f") as flow, Stage("staging"):
        alone()
        several(1)
        several(2)
        several(2)
    result = run_stage(flow["staging"], store)
    names = [table.name for table in result.tables]
    assert names[0] == "alone"
    assert len(names) == len(set(names)) == 5
    assert sorted(name.split("_")[0].rstrip("0123456789abcdef") for name in names[1:]) == [
        "o",
        "o",
        "several",
        "several",
    ]
    assert sorted(objects(store, "staging")) == sorted(names)


def test_declared_outputs_name_tables_by_key_and_in_order(store):
    @materialize(version="1", outputs=["a", "b"])
    def by_key():
        return {"b": pl.DataFrame({"x": [2]}), "a": pl.DataFrame({"x": [1]}), "n": 3}

    @materialize(version="1", outputs=["c", "d"])
    def by_order():
        return 0, pl.DataFrame({"x": [3]}), Table(pl.DataFrame({"x": [4]}))

    stage = one_stage(by_key, by_order)
    run_stage(stage, store)
    found = [rows(store, "staging", name)[0]["x"] for name in stage.output_names]
    assert found == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "name", ["select", 'odd "quoted" name', "with space", "grüne tür", "a.b", "50%"]
)
def test_reserved_and_odd_names_work_everywhere(store, name):
    @materialize(version="1")
    def source():
        frame = pl.DataFrame({name: [1, 2], "Order": ["x", "y"]})
        return Table(frame, name, primary_key=name, indexes=[["Order", name]])

    @materialize(version="1", input_type=sa.Table)
    def query(table):
        return Table(sa.select(table).where(table.c[name] == 2), f"{name} 2", primary_key=[name])

    with Flow("f") as flow, Stage(name):
        query(source())
    for _ in range(2):
        run_stage(flow[name], store)
    assert rows(store, name, name)[1] == {name: 2, "Order": "y"}
    assert rows(store, name, f"{name} 2") == [{name: 2, "Order": "y"}]


def test_prefix_suffix_and_metadata_schema_are_used(warehouse_engine, counted):
    store = SQLTableStore(
        warehouse_engine.url, schema_prefix="pre ", schema_suffix="_suf", metadata_schema="Own Meta"
    )
    names: dict[str, str] = {}

    @materialize(version="1")
    def spy(stage):
        names.update(transaction=stage.transaction_name, current=stage.current_name)
        return Table(pl.DataFrame({"x": [1]}))

    with Flow("f") as flow, Stage("s") as stage:
        spy(stage)
    result = run_stage(flow["s"], store)
    assert objects(store, "pre s_suf") == ("spy",)
    assert names["transaction"] == names["current"] == result.transaction_schema
    assert names["transaction"].startswith("pre s_suf__tx_")
    assert "tables" in objects(store, "Own Meta")
    assert objects(store, "ixflow") == ()
    store.dispose()


def test_a_long_stage_name_keeps_its_transactions_apart(store, counted):
    longest = store.dialect.max_identifier
    for name in ("a" * (longest - 1) + "1", "a" * (longest - 1) + "2"):
        run_stage(one_stage(counted.task("t"), name=name), store)
        assert rows(store, name, "t") == [{"x": 1}]
    with pytest.raises(StageError, match="shorten the name"):
        run_stage(one_stage(counted.task("t"), name="a" * (longest + 1)), store)


# -- parts ------------------------------------------------------------------------------------


def test_some_tables_are_run_and_published_the_rest_stays(store, counted):
    def flow(version):
        with Flow("f") as made, Stage("staging"):
            frame = pl.DataFrame({"x": [int(version)]})
            first = counted.task("a", frame, version)()
            counted.task("b", lambda x: x, version, input_type=pl.DataFrame)(first)
            counted.task("c", frame, version)()
        return made["staging"]

    with pytest.raises(CacheError, match=r"staging\.a"):
        run_stage(flow("1"), store, tables=["b"])
    run_stage(flow("1"), store)
    counted.calls.clear()
    result = run_stage(flow("2"), store, tables={"B", "c"})
    assert sorted(counted.calls) == ["b", "c"]
    assert {t.name for t in result.tables} == {"b", "c"}
    found = {name: rows(store, "staging", name)[0]["x"] for name in "abc"}
    assert found == {"a": 1, "b": 1, "c": 2}
    with pytest.raises(StageError, match="makes no nothing; it makes a, b, c"):
        run_stage(flow("2"), store, tables=["nothing"])


def test_constants_that_a_selected_task_needs_are_made_too(store, counted):
    @materialize(version="1", outputs=[])
    def constant():
        return 5

    with Flow("f") as flow, Stage("staging"):
        counted.task("t", lambda n: pl.DataFrame({"x": [n]}))(constant())
    run_stage(flow["staging"], store, tables=["t"])
    assert rows(store, "staging", "t") == [{"x": 5}]


def test_without_commit_nothing_is_published(store, counted):
    result = run_stage(one_stage(counted.task("a")), store, commit=False)
    assert (result.published, result.version) == (False, 0)
    assert objects(store, "staging") == ()
    assert objects(store, result.transaction_schema) == ("a",)


def test_tasks_alone_run_though_valid_and_are_not_published(store, counted):
    with Flow("f") as flow:
        with Stage("one"):
            a = counted.task("a")()
        with Stage("two"):
            b = counted.task("b", lambda _: None)(a)
    config = ConfigContext.of_store(store, fail_fast=True)
    flow.run(config=config)
    before = transactions(store, "one")
    result = flow.run(b, a, config=config)
    assert counted.calls == ["a", "b", "a", "b"]
    assert result.stages == {}
    assert result.get(b, as_type=pl.DataFrame).rows() == [(1,)]
    assert store.published("one").version == 1
    assert set(before) < set(transactions(store, "one"))


def test_stages_alone_run_with_those_nested_in_them(store, counted):
    with Flow("f") as flow:
        with Stage("outer"):
            a = counted.task("a")()
            with Stage("inner"):
                b = counted.task("b", lambda x: x, input_type=pl.DataFrame)(a)
            counted.task("c", lambda x: x, input_type=pl.DataFrame)(b)
        with Stage("other"):
            counted.task("d")()
    config = ConfigContext.of_store(store, fail_fast=True)
    result = flow.run(flow["outer"], config=config)
    assert list(result.stages) == ["inner", "outer"]
    assert [rows(store, s, t) for s, t in (("outer", "c"), ("inner", "b"))] == [[{"x": 1}]] * 2
    assert objects(store, "other") == ()
    with pytest.raises(FlowError, match="not both at once"):
        flow.run(flow["outer"], a, config=config)
    with pytest.raises(FlowError, match="of flow f, not <Stage outer>"):
        flow.run(Stage("outer"), config=config)


def test_a_flow_without_configuration_says_how_to_give_one(counted):
    with Flow("f") as flow, Stage("s"):
        counted.task("a")()
    with pytest.raises(FlowError, match="create_basic_pipedag_config"):
        flow.run()


def test_the_innermost_open_configuration_is_the_default(store, counted):
    with Flow("f") as flow, Stage("s"):
        counted.task("a")()
    with ConfigContext.of_store(store, fail_fast=True):
        assert flow.run().successful


# -- what goes --------------------------------------------------------------------------------


def test_a_table_that_no_task_makes_any_more_goes_with_the_commit(store, counted, warehouse_engine):
    run_stage(one_stage(counted.task("a"), counted.task("b")), store)
    execute(warehouse_engine, "CREATE TABLE staging.foreign_table (x int)")
    result = run_stage(one_stage(counted.task("a")), store)
    assert result.dropped == ("b",)
    assert objects(store, "staging") == ("a", "foreign_table")


def test_an_object_of_somebody_else_is_never_replaced(store, counted, warehouse_engine):
    execute(warehouse_engine, "CREATE SCHEMA staging", "CREATE TABLE staging.a (mine int)")
    with pytest.raises(ReplacementRefused, match="staging has a already"):
        run_stage(one_stage(counted.task("a")), store)
    assert objects(store, "staging") == ("a",)


def test_a_published_table_that_was_dropped_by_hand_is_made_again(store, counted, warehouse_engine):
    stage = one_stage(counted.task("a"), counted.task("b"))
    run_stage(stage, store)
    kind = "VIEW" if warehouse_engine.dialect.name == "duckdb" else "TABLE"
    execute(warehouse_engine, f"DROP {kind} staging.a")
    counted.calls.clear()
    result = run_stage(stage, store)
    assert counted.calls == ["a"]
    assert (result["a"].state, result["b"].state) == (TaskState.COMPLETED, TaskState.CACHE_VALID)
    assert rows(store, "staging", "a") == [{"x": 1}]


def test_published_and_abandoned_transactions_leave_nothing_behind(store, counted):
    counted.broken = {"b"}
    with pytest.raises(TaskError):
        run_stage(one_stage(counted.task("a"), counted.task("b")), store, max_workers=1)
    counted.broken = set()
    (abandoned,) = transactions(store, "staging")
    assert objects(store, abandoned) == ("a",)
    for version in "12345":
        run_stage(one_stage(counted.task("a", version=version)), store)
    assert transactions(store, "staging")[abandoned] == "open"
    _age(store)
    run_stage(one_stage(counted.task("a", version="6")), store)
    assert objects(store, abandoned) == ()
    schemas = [s for s in transactions(store, "staging") if objects(store, s)]
    assert len(schemas) <= 1


def _age(store):
    """Let every remembered transaction look two hours old."""
    with store.begin() as conn:
        for record in store.metadata.transactions(conn, "staging"):
            old = type(record)(
                record.transaction_id,
                record.attempt,
                record.schema,
                record.state,
                "2020-01-01T00:00:00+00:00",
            )
            store.metadata.put_transaction(conn, "staging", old)


def test_state_of_a_newer_release_is_refused(store, counted):
    run_stage(one_stage(counted.task("a")), store)
    execute(store.engine, "UPDATE ixflow.state SET version = 99")
    with pytest.raises(UnsupportedState, match="upgrade ixflow"):
        run_stage(one_stage(counted.task("a")), store)


# -- audits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (False, "returned False"),
        ("three rows are odd", "three rows are odd"),
        (AuditResult(passed=False, description="no", metadata={"n": 1}), "no"),
        (ZeroDivisionError("oops"), "ZeroDivisionError: oops"),
        (3, "returned a int"),
    ],
)
def test_a_refusing_audit_publishes_nothing_and_keeps_the_evidence(store, counted, verdict, said):
    run_stage(one_stage(counted.task("a"), counted.task("b")), store)
    stage = one_stage(counted.task("a", pl.DataFrame({"x": [2]}), "2"), counted.task("b"))

    @audit(stage)
    def looks(a: pl.DataFrame, b: pa.Table):
        assert (a["x"].item(), b.num_rows) == (2, 1)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    with pytest.raises(AuditFailed, match=said) as info:
        run_stage(stage, store, transaction_id="r")
    (outcome,) = info.value.outcomes
    assert (outcome.name, outcome.table, outcome.passed) == ("looks", "a", False)
    assert rows(store, "staging", "a") == [{"x": 1}]
    assert objects(store, info.value.transaction_schema) == ("a",)


def test_passing_audits_are_in_the_result_and_rest_when_nothing_is_new(store, counted):
    stage = one_stage(counted.task("a"), counted.task("b"))
    seen = []

    @audit(stage, table="b")
    def looks(frame: pd.DataFrame):
        seen.append(len(frame))

    assert [o.passed for o in run_stage(stage, store).audits] == [True]
    assert run_stage(stage, store).audits == ()
    assert seen == [1]


def test_an_audit_of_an_unknown_table_is_named(store, counted):
    stage = one_stage(counted.task("a"))
    audit(stage)(lambda a, nothing: a is nothing)
    with pytest.raises(StageError, match="asks for nothing; the stage has a"):
        run_stage(stage, store)


def test_a_task_that_forgets_its_return_does_not_take_its_table_away(store):
    def kept(*, returns: bool) -> Any:
        @materialize(name="kept")
        def task() -> Any:
            return Table(pa.table({"id": [1]})) if returns else None

        return task

    run_stage(one_stage(kept(returns=True)), store)
    with pytest.raises((FlowError, TaskError), match="kept returned None"):
        run_stage(one_stage(kept(returns=False)), store)
    assert rows(store, "staging", "kept") == [{"id": 1}]
