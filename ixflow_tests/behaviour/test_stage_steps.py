"""The tasks of a stage in steps of their own: each asks the database what the others have done."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from ixflow import FileBlobStore
from ixflow.errors import AuditFailed, DuplicateNameError, FlowError, TaskError
from ixflow.pipeline import Blob, Flow, RawSql, Stage, Table, TaskState, audit, materialize
from ixflow.pipeline.stage_run import run_stage
from ixflow.pipeline.stage_steps import StageSteps
from ixflow.store import SQLTableStore


class Shop:
    """A stage: number -> t1 -> t2 beside t3, which is audited; what ran, and what shall fail."""

    def __init__(self, version: str | None = None) -> None:
        self.value, self.refuses = 1, False
        self.broken: set[str] = set()
        self.calls: list[str] = []

        @materialize(version=version, outputs=[])
        def number():
            return {"value": self._done("number", self.value)}

        @materialize(version=version)
        def t1(number):
            return self._table("t1", number["value"])

        @materialize(version=version, input_type=pl.DataFrame)
        def t2(t1):
            return self._table("t2", 10 * int(t1["x"][0]))

        @materialize(version=version)
        def t3():
            return self._table("t3", self.value)

        with Flow("shop") as self.flow, Stage("st") as self.stage:
            t2(t1(number()))
            t3()

        @audit(self.stage)
        def acceptable(t3: pl.DataFrame):
            return "unwanted" if self.refuses else t3.height == 1

    def _done(self, name: str, value: Any) -> Any:
        self.calls.append(name)
        if name in self.broken:
            msg = f"{name} is broken"
            raise ZeroDivisionError(msg)
        return value

    def _table(self, name: str, number: int) -> Table[Any]:
        return Table(self._done(name, pl.DataFrame({"x": [number]})))


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def steps(warehouse_engine: sa.Engine, shop: Shop):
    """Give what makes the steps of a run as another process would, with a store of its own."""
    stores: list[SQLTableStore] = []

    def make(run: str = "run", stage: Stage | None = None, **options: Any) -> StageSteps:
        stores.append(SQLTableStore(warehouse_engine.url))
        return StageSteps(stage or shop.stage, stores[-1], transaction_id=run, **options)

    yield make
    for store in stores:
        store.dispose()


def run_all(steps: Callable[..., StageSteps], shop: Shop, *names: str, **options: Any) -> Any:
    for name in names or ("number", "t1", "t2", "t3"):
        steps(**options).run_task(shop.stage[name])
    return steps(**options).finish()


def published(engine: sa.Engine, schema: str = "st") -> dict[str, int]:
    with engine.connect() as conn:
        names = sa.inspect(conn).get_table_names(schema) + sa.inspect(conn).get_view_names(schema)
        return {
            name: conn.exec_driver_sql(f'SELECT x FROM {schema}."{name}"').scalar_one()
            for name in sorted(names)
        }


def test_steps_hand_tables_and_constants_on_through_the_database(steps, shop, warehouse_engine):
    result = run_all(steps, shop)
    assert shop.calls == ["number", "t1", "t2", "t3"]
    assert result.published
    assert result.version == 1
    assert {table.name: str(table.state) for table in result.tables} == {
        "t1": "completed",
        "t2": "completed",
        "t3": "completed",
    }
    assert [outcome.passed for outcome in result.audits] == [True]
    assert published(warehouse_engine) == {"t1": 1, "t2": 10, "t3": 1}
    assert all(table.seconds > 0 for table in result.tables)


def test_nothing_is_published_before_the_last_step(steps, shop, warehouse_engine):
    run_all(steps, shop)
    shop.value = 2
    for name in ("number", "t1", "t2", "t3"):
        assert steps("later").run_task(shop.stage[name]) is TaskState.COMPLETED
    assert published(warehouse_engine) == {"t1": 1, "t2": 10, "t3": 1}
    steps("later").finish()
    assert published(warehouse_engine) == {"t1": 2, "t2": 20, "t3": 2}


def test_a_step_that_is_tried_again_takes_over_what_is_there(steps, shop):
    steps().run_task(shop.stage["number"])
    assert steps().run_task(shop.stage["t1"]) is TaskState.COMPLETED
    assert steps().run_task(shop.stage["t1"]) is TaskState.RESUMED
    assert shop.calls == ["number", "t1"]


def test_a_step_makes_what_no_other_step_has_recorded(steps, shop, warehouse_engine):
    steps().run_task(shop.stage["t2"])
    assert shop.calls == ["number", "t1", "t2"]
    steps().finish()
    assert shop.calls == ["number", "t1", "t2", "t3"]
    assert published(warehouse_engine) == {"t1": 1, "t2": 10, "t3": 1}


def test_the_last_step_alone_does_what_a_stage_run_does(steps, shop, warehouse_engine):
    result = steps().finish()
    assert sorted(table.name for table in result.tables) == ["t1", "t2", "t3"]
    assert published(warehouse_engine) == {"t1": 1, "t2": 10, "t3": 1}


def test_a_result_without_its_record_is_found_again(steps, shop, warehouse_engine):
    """So a process that died between the two leaves it."""
    run_all(steps, shop)
    steps("again").run_task(shop.stage["t3"])
    with warehouse_engine.begin() as conn:
        conn.exec_driver_sql("DELETE FROM ixflow.steps")
    calls = len(shop.calls)
    assert steps("again").run_task(shop.stage["t3"]) is TaskState.RESUMED
    assert len(shop.calls) == calls


def test_a_failed_task_keeps_what_the_others_made(steps, shop, warehouse_engine):
    run_all(steps, shop)
    shop.value, shop.broken = 2, {"t2"}
    steps("later").run_task(shop.stage["t3"])
    with pytest.raises(TaskError, match=r"st\.t2 failed"):
        steps("later").run_task(shop.stage["t2"])
    assert published(warehouse_engine) == {"t1": 1, "t2": 10, "t3": 1}
    shop.broken = set()
    shop.calls.clear()
    steps("later").run_task(shop.stage["t2"])
    steps("later").finish()
    assert shop.calls == ["t2"]
    assert published(warehouse_engine) == {"t1": 2, "t2": 20, "t3": 2}


def test_an_audit_that_refuses_publishes_nothing_and_can_be_asked_again(
    steps, shop, warehouse_engine
):
    shop.refuses = True
    with pytest.raises(AuditFailed, match="unwanted"):
        run_all(steps, shop)
    assert published(warehouse_engine) == {}
    shop.refuses = False
    shop.calls.clear()
    assert steps().finish().published
    assert shop.calls == []


def test_a_selection_makes_only_its_tasks_of_what_is_published(steps, shop, warehouse_engine):
    run_all(steps, shop)
    shop.value = 5
    shop.calls.clear()
    result = run_all(steps, shop, run="one", tables={"t2"})
    assert shop.calls == ["t2"]
    assert [table.name for table in result.tables] == ["t2"]
    result = run_all(steps, shop, run="two", tables={"t1"})
    assert shop.calls == ["t2", "number", "t1"]
    assert published(warehouse_engine) == {"t1": 5, "t2": 10, "t3": 1}


def test_valid_tasks_are_recorded_and_leave_the_stage_as_it_is(steps, warehouse_engine):
    shop = Shop(version="1")
    run_all(steps, shop, stage=shop.stage)
    result = run_all(steps, shop, run="later", stage=shop.stage)
    assert {str(table.state) for table in result.tables} == {"cache valid"}
    assert not result.published
    assert result.version == 1
    assert shop.calls == ["number", "t1", "t2", "t3"]


def two_stages(shop: Shop) -> Flow:
    """Declare raw.source -> st.copy -> st.double."""

    @materialize
    def source():
        return Table(pl.DataFrame({"x": [shop.value]}))

    @materialize(input_type=pl.DataFrame)
    def copy(source):
        shop.calls.append("copy")
        return Table(source)

    @materialize(input_type=pl.DataFrame)
    def double(copy):
        shop.calls.append("double")
        return Table(copy * 2)

    with Flow("two") as flow:
        with Stage("raw"):
            made = source()
        with Stage("st"):
            double(copy(made))
    return flow


def test_what_was_made_of_results_that_others_replaced_is_made_again(steps, shop, warehouse_engine):
    flow = two_stages(shop)
    raw, st = flow["raw"], flow["st"]
    store = SQLTableStore(warehouse_engine.url)
    run_stage(raw, store)
    steps(stage=st).run_task(st["copy"])
    shop.value = 7
    run_stage(raw, store)  # another run, meanwhile
    store.dispose()
    steps(stage=st).run_task(st["double"])
    assert shop.calls == ["copy", "copy", "double"]
    assert steps(stage=st).finish().published
    assert published(warehouse_engine) == {"copy": 7, "double": 14}


def test_results_of_different_moments_are_never_published_together(steps, shop, warehouse_engine):
    """One step read the old source, another the new one: the last step makes the first again."""

    @materialize
    def source():
        return Table(pl.DataFrame({"x": [shop.value]}))

    @materialize(input_type=pl.DataFrame)
    def one(source):
        return Table(source)

    @materialize(input_type=pl.DataFrame)
    def other(source):
        return Table(source)

    with Flow("two") as flow:
        with Stage("raw") as raw:
            made = source()
        with Stage("st") as st:
            one(made)
            other(made)
    del flow
    store = SQLTableStore(warehouse_engine.url)
    run_stage(raw, store)
    steps(stage=st).run_task(st["one"])
    shop.value = 7
    run_stage(raw, store)
    store.dispose()
    steps(stage=st).run_task(st["other"])
    steps(stage=st).finish()
    assert published(warehouse_engine) == {"one": 7, "other": 7}


def test_two_tasks_that_make_the_same_table_are_refused_when_the_stage_is_published(
    steps, warehouse_engine
):
    @materialize
    def one():
        return Table(pl.DataFrame({"x": [1]}), "one"), Table(pl.DataFrame({"x": [1]}), "extra")

    @materialize
    def other():
        return Table(pl.DataFrame({"x": [2]}), "other"), Table(pl.DataFrame({"x": [2]}), "extra")

    with Flow("f"), Stage("st") as st:
        one()
        other()
    steps(stage=st).run_task(st["one"])
    steps(stage=st).run_task(st["other"])
    with pytest.raises(DuplicateNameError, match="extra"):
        steps(stage=st).finish()
    assert published(warehouse_engine) == {}


def test_equal_calls_have_one_result_whichever_process_was_first(steps, warehouse_engine):
    numbers = iter([1, 2, 3])

    @materialize(outputs=[])
    def chance(name):
        return next(numbers)

    @materialize(outputs=["a"])
    def a(number):
        return Table(pl.DataFrame({"x": [number]}), "a")

    @materialize(outputs=["b"])
    def b(number):
        return Table(pl.DataFrame({"x": [number]}), "b")

    with Flow("f"), Stage("st") as st:
        a(chance("same"))
        b(chance("same"))
    for task in st.tasks:
        steps(stage=st).run_task(task)
    steps(stage=st).finish()
    found = published(warehouse_engine)
    assert found["a"] == found["b"]


def test_blobs_pass_between_steps_and_one_that_is_gone_is_made_again(
    steps, warehouse_engine, tmp_path
):
    calls: list[str] = []

    @materialize(version="1", outputs=[])
    def model():
        calls.append("model")
        return Blob({"weight": 3})

    @materialize(version="1", outputs=["scored"])
    def score(model):
        return Table(pl.DataFrame({"x": [model["weight"] * 2]}), "scored")

    with Flow("f"), Stage("st") as st:
        score(model())
    options = {"stage": st, "blobs": FileBlobStore(tmp_path)}
    steps(**options).run_task(st["model"])
    steps(**options).run_task(st["score"])
    steps(**options).finish()
    assert calls == ["model"]
    assert published(warehouse_engine, "st") == {"scored": 6}
    steps("later", **options).run_task(st["model"])
    for path in tmp_path.rglob("*.pkl"):
        path.unlink()
    steps("later", **options).run_task(st["score"])
    assert calls == ["model", "model"]


def test_a_blob_without_a_store_is_refused_by_the_step_that_makes_it(steps):
    @materialize(outputs=[])
    def model():
        return Blob({"weight": 3})

    with Flow("f"), Stage("st") as st:
        model()
    with pytest.raises(FlowError, match="no blob store"):
        steps(stage=st).run_task(st["model"])


def test_scripts_and_lazy_tables_pass_between_steps(steps, warehouse_engine):
    @materialize(lazy=True)
    def script():
        return RawSql(f"CREATE TABLE {st.transaction_name}.first AS SELECT 5 AS x")

    @materialize(lazy=True, input_type=sa.Table)
    def second(script):
        table = script["first"]
        return Table(sa.select((table.c.x * 2).label("x")), "second")

    with Flow("f"), Stage("st") as st:
        second(script())
    for _ in range(2):
        steps("run", stage=st).run_task(st["script"])
        steps("run", stage=st).run_task(st["second"])
        steps("run", stage=st).finish()
        assert published(warehouse_engine) == {"first": 5, "second": 10}


# -- processes that die, and several at once ----------------------------------------------------


def test_a_publication_that_nobody_told_is_told_again(steps, shop, warehouse_engine):
    """A process that dies behind the commit is tried again, with nothing but the last step."""
    first = run_all(steps, shop)
    shop.calls.clear()
    again = steps().finish()
    assert shop.calls == []
    assert not again.published
    assert again.version == first.version == 1
    assert [table.data_version for table in again.tables] == [
        table.data_version for table in first.tables
    ]
    assert [outcome.passed for outcome in again.audits] == [True]


def test_two_last_steps_at_once_publish_once_and_both_tell_it(steps, shop, warehouse_engine):
    """A queue may hand one step to two workers."""
    for name in ("number", "t1", "t2", "t3"):
        steps().run_task(shop.stage[name])
    at_audit, other_done = threading.Event(), threading.Event()
    first: list[Any] = []

    @audit(shop.stage, table="t1")
    def slow(frame: pl.DataFrame):
        if not at_audit.is_set():
            at_audit.set()
            assert other_done.wait(60)

    thread = threading.Thread(target=lambda: first.append(steps().finish()))
    thread.start()
    assert at_audit.wait(60)
    last = steps().finish()
    other_done.set()
    thread.join()
    assert sorted(shop.calls) == ["number", "t1", "t2", "t3"]
    assert last.published
    assert not first[0].published
    assert first[0].version == last.version == 1
    assert [t.data_version for t in first[0].tables] == [t.data_version for t in last.tables]


def test_what_another_run_replaced_meanwhile_is_not_told_but_made_again(
    steps, shop, warehouse_engine
):
    run_all(steps, shop)
    shop.value = 2
    run_all(steps, shop, run="other")
    shop.value = 3
    assert steps().finish().published
    assert published(warehouse_engine) == {"t1": 3, "t2": 30, "t3": 3}


def test_a_run_that_begins_anew_after_its_publication_makes_everything_again(steps, shop):
    run_all(steps, shop)
    shop.value = 2
    assert run_all(steps, shop).version == 2
    assert shop.calls == ["number", "t1", "t2", "t3"] * 2


@pytest.mark.parametrize("names", [("t1", "t3"), ("t2", "t2"), ("t1", "t2")])
def test_steps_at_the_same_time_lose_nothing_of_each_other(steps, shop, warehouse_engine, names):
    barrier = threading.Barrier(2, timeout=60)
    errors: list[Exception] = []

    def work(name: str) -> None:
        made = steps()
        barrier.wait()
        try:
            made.run_task(shop.stage[name])
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    before = list(shop.calls)
    steps().finish()
    assert set(names).isdisjoint(shop.calls[len(before) :])
    assert published(warehouse_engine) == {"t1": 1, "t2": 10, "t3": 1}


def test_records_that_are_old_are_removed_but_not_those_of_the_run(shop, warehouse_engine):
    store = SQLTableStore(warehouse_engine.url, gc_after=dt.timedelta(0))
    for run in ("one", "two"):
        made = StageSteps(shop.stage, store, transaction_id=run)
        made.run_task(shop.stage["t3"])
        made.finish()
    store.dispose()
    with warehouse_engine.connect() as conn:
        scopes = conn.exec_driver_sql("SELECT DISTINCT scope FROM ixflow.steps").scalars().all()
    assert len(scopes) == 1
