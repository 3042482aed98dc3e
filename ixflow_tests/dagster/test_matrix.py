"""A stage, as one step and as a graph, on the multiprocess executor: every cell must be right.

In each: what is published, what is recorded, and what somebody saw who read all the while.
"""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from ixflow_tests.dagster.matrix import CHECK, Matrix, at_once, instance_at, key
from ixflow_tests.servers import PostgresServer, make_engine

EVERYTHING = {"st/t1", "st/t2", "st/t3"}
STEPS = {"stage_st.t1", "stage_st.t2", "stage_st.t3", "stage_st.publish"}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """Give an instance on files, which step processes can open."""
    with instance_at(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


@pytest.fixture(scope="module")
def engine(postgres_server: PostgresServer) -> Iterator[sa.Engine]:
    """Give a database that all cells share, as a deployment's runs do."""
    server = make_engine(postgres_server.url)
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("CREATE DATABASE matrix")
    made = make_engine(sa.make_url(postgres_server.url).set(database="matrix").render_as_string())
    yield made
    made.dispose()
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("DROP DATABASE matrix WITH (FORCE)")
    server.dispose()


@pytest.fixture(params=["stage", "graph"])
def matrix(
    request: pytest.FixtureRequest,
    instance: dg.DagsterInstance,
    engine: sa.Engine,
    tmp_path: Path,
) -> Matrix:
    """Give the runs of an execution; the stage is published before."""
    made = Matrix(request.param, instance, engine, tmp_path)
    made.begin()
    return made


# -- runs that succeed ---------------------------------------------------------------------------


def test_a_full_run_publishes_and_records_everything(matrix: Matrix):
    with matrix.looking() as reader:
        seen = matrix.run()
    assert seen.success
    assert matrix.published() == matrix.after
    assert set(reader.seen) <= {matrix.before, matrix.after}
    assert reader.last == matrix.after
    assert set(seen.recorded()) == EVERYTHING
    assert seen.recorded() == matrix.versions()
    assert seen.checked() == {"acceptable": True}
    assert seen.steps() == (STEPS if matrix.is_graph else {"stage_st"})
    assert sorted(matrix.told.calls()) == ["acceptable", "t1", "t2", "t3"]
    processes = {pid for task in ("t1", "t2", "t3") for pid in matrix.told.processes(task)}
    assert len(processes) == (3 if matrix.is_graph else 1)


def test_a_subset_of_one_and_then_of_its_dependent_carry_the_others_over(matrix: Matrix):
    new, old = matrix.value, matrix.before[0]
    with matrix.looking() as reader:
        one = matrix.run(key("t1"))
        assert matrix.published() == (new, old, old)
        dependent = matrix.run(key("t2"))
    assert one.success
    assert dependent.success
    assert matrix.published() == (new, new, old)
    assert set(reader.seen) <= {(old, old, old), (new, old, old), (new, new, old)}
    assert reader.last == (new, new, old)
    assert matrix.told.calls() == ["t1", "t2"]
    versions = matrix.versions()
    assert one.recorded() == {"st/t1": versions["st/t1"]}
    assert dependent.recorded() == {"st/t2": versions["st/t2"]}
    assert one.checked() == dependent.checked() == {}


def test_a_job_that_is_narrower_than_the_stage_publishes_what_it_has(matrix: Matrix):
    with matrix.looking() as reader:
        seen = matrix.run(name="narrow_job")
    assert seen.success
    new, old = matrix.value, matrix.before[0]
    assert matrix.published() == (new, old, old)
    assert set(reader.seen) <= {matrix.before, (new, old, old)}
    assert matrix.told.calls() == ["t1"]
    assert seen.recorded() == {"st/t1": matrix.versions()["st/t1"]}
    assert seen.checked() == {}


def test_a_check_alone_judges_what_is_published_and_leaves_it(matrix: Matrix):
    matrix.told.say(refuses=True)
    with matrix.looking() as reader:
        seen = matrix.run(checks=[CHECK])
    assert seen.checked() == {"acceptable": False}
    assert seen.recorded() == {}
    assert matrix.told.calls() == ["acceptable"]
    assert set(reader.seen) == {matrix.before}


def test_two_runs_at_once_are_published_one_behind_the_other(matrix: Matrix):
    first, second = matrix.value, matrix.next_value()
    matrix.told.say(gates=["t3"])
    with matrix.looking() as reader:
        with at_once(lambda: matrix.open_gate("t3", 2)):
            one, other = matrix.run_both(first, second)
        last = matrix.published()
    assert one.success
    assert other.success
    both = {(first,) * 3, (second,) * 3}
    assert last in both
    assert set(reader.seen) <= {matrix.before} | both
    recorded = [one.recorded(), other.recorded()]
    assert [set(found) for found in recorded] == [EVERYTHING, EVERYTHING]
    assert recorded[0] != recorded[1]
    assert matrix.versions() == recorded[last == (second,) * 3]
    assert one.checked() == other.checked() == {"acceptable": True}
    assert matrix.told.calls().count("t2") == 2


def test_interleaved_stages_are_published_part_by_part(matrix: Matrix):
    """They are a.t1 -> b.x -> a.t2, and a.t3."""
    matrix.begin("interleaved_job")
    new, old = matrix.value, matrix.value - 1
    with matrix.looking("a.t1", "b.x", "a.t2") as reader:
        seen = matrix.run(name="interleaved_job")
    assert seen.success
    assert reader.last == (new, new, new)
    steps = {(old, old, old), (new, old, old), (new, new, old), (new, new, new)}
    assert set(reader.seen) <= steps
    assert list(seen.recorded()) == ["a/t1", "b/x", "a/t2"]
    assert seen.recorded() == matrix.versions("a") | matrix.versions("b")
    assert matrix.told.calls() == ["t1", "x", "t2"]


# -- runs that fail, and are tried again ---------------------------------------------------------


def test_a_failed_task_publishes_nothing_and_a_retry_from_failure_makes_the_rest(matrix: Matrix):
    matrix.told.say(broken=["t2"])
    with matrix.looking() as reader:
        seen = matrix.run()
    assert not seen.success
    assert seen.failed_steps() == ["stage_st.t2" if matrix.is_graph else "stage_st"]
    assert seen.recorded() == {}
    assert seen.checked() == {}
    assert set(reader.seen) == {matrix.before}
    matrix.told.say()
    before = len(matrix.told.calls())
    with matrix.looking() as reader:
        again = matrix.retry_from_failure(seen)
    assert again.success
    calls = matrix.told.calls()
    assert calls.count("t1") == 1
    assert calls[before:].count("t2") == 1
    assert reader.last == matrix.after
    assert set(reader.seen) <= {matrix.before, matrix.after}
    assert set(again.recorded()) == EVERYTHING
    assert again.recorded() == matrix.versions()
    assert again.checked() == {"acceptable": True}


def test_a_refusal_publishes_nothing_and_a_retry_of_the_assets_takes_all_tables_over(
    matrix: Matrix,
):
    matrix.told.say(refuses=True)
    with matrix.looking() as reader:
        seen = matrix.run()
    assert not seen.success
    assert seen.failed_steps() == ["stage_st.publish" if matrix.is_graph else "stage_st"]
    assert seen.recorded() == {}
    assert seen.checked() == {"acceptable": False}
    assert set(reader.seen) == {matrix.before}
    matrix.told.say()
    before = len(matrix.told.calls())
    with matrix.looking() as reader:
        again = matrix.retry_from_asset_failure(seen)
    assert again.success
    assert matrix.told.calls()[before:] == ["acceptable"]
    assert reader.last == matrix.after
    assert set(reader.seen) <= {matrix.before, matrix.after}
    assert set(again.recorded()) == EVERYTHING
    assert again.recorded() == matrix.versions()
    assert again.checked() == {"acceptable": True}


# -- kill -9 -------------------------------------------------------------------------------------


def test_a_process_killed_in_the_commit_has_published_nothing(matrix: Matrix):
    with matrix.looking() as reader:
        seen = matrix.run_killed("in the commit")
    assert not seen.success
    assert seen.recorded() == {}
    assert seen.checked() == {}
    assert set(reader.seen) == {matrix.before}
    before = len(matrix.told.calls())
    again = matrix.retry_from_failure(seen)
    assert again.success
    assert matrix.told.calls()[before:] == ["acceptable"]
    assert matrix.published() == matrix.after
    assert set(again.recorded()) == EVERYTHING
    assert again.recorded() == matrix.versions()
    assert again.checked() == {"acceptable": True}


@pytest.mark.parametrize("retry", ["from failure", "from asset failure"])
def test_a_process_killed_behind_the_commit_has_published_all_and_the_retry_tells_it(
    matrix: Matrix, retry: str
):
    with matrix.looking() as reader:
        seen = matrix.run_killed("behind the commit")
    assert not seen.success
    assert seen.recorded() == {}
    assert reader.last == matrix.after
    assert set(reader.seen) <= {matrix.before, matrix.after}
    before = len(matrix.told.calls())
    with matrix.looking() as reader:
        if retry == "from failure":
            again = matrix.retry_from_failure(seen)
        else:
            again = matrix.retry_from_asset_failure(seen)
    assert again.success
    assert set(reader.seen) == {matrix.after}
    assert set(again.recorded()) == EVERYTHING
    assert again.recorded() == matrix.versions()
    assert again.checked() == {"acceptable": True}
    if matrix.is_graph and retry == "from failure":
        assert matrix.told.calls()[before:] == ["acceptable"]


@pytest.mark.parametrize("matrix", ["graph"], indirect=True)
def test_a_step_killed_between_a_result_and_its_record_is_not_run_again(matrix: Matrix):
    matrix.begin(execution="graph")
    old = (matrix.value - 1,) * 3
    with matrix.looking() as reader:
        seen = matrix.run_killed("behind a result", "t1", 2)  # t3 is there too, and goes on
        assert not seen.success
        assert seen.recorded() == {}
        again = matrix.retry_from_failure(seen)
    assert again.success
    assert sorted(matrix.told.calls()) == ["acceptable", "t1", "t2", "t3"]
    assert set(reader.seen) <= {old, matrix.after}
    assert reader.last == matrix.after
    assert set(again.recorded()) == EVERYTHING
    assert again.recorded() == matrix.versions()
