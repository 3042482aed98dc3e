"""A flow comes to the same on every engine: values, failures, what is valid, what is published."""

from __future__ import annotations

import functools
import json
import logging
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pytest

from ixflow import (
    AuditFailed,
    CacheError,
    ConfigContext,
    ConfigError,
    DaskEngine,
    DuplicateNameError,
    Flow,
    FlowError,
    OrchestrationEngine,
    PipedagConfig,
    PrefectEngine,
    SequentialEngine,
    SQLTableStore,
    Stage,
    TaskError,
    ThreadedEngine,
    audit,
    materialize,
)
from ixflow.events import StagePublished, TaskFinished
from ixflow.pipeline import TaskState
from ixflow.pipeline.workers import worker
from ixflow.pipeline.workers.channel import Channel, Closed
from ixflow_tests.behaviour import engine_flows
from ixflow_tests.behaviour.engine_flows import calls
from ixflow_tests.behaviour.prefect_runs import config_for
from ixflow_tests.stages import objects, rows

if TYPE_CHECKING:
    import sqlalchemy as sa

CASES = [
    *((engine, base) for engine in ("sequential", "threaded") for base in ("postgres", "duckdb")),
    ("dask_threads", "duckdb"),
    ("dask_processes", "postgres"),
]


class Case(NamedTuple):
    """An engine and a warehouse to run a flow on."""

    engine: OrchestrationEngine
    config: ConfigContext
    store: SQLTableStore
    place: Path

    def run(self, flow: Flow, *components: Any, **options: Any) -> Any:
        options = {"config": self.config, "orchestration_engine": self.engine, **options}
        return flow.run(*components, **options)


def configured(engine: sa.Engine) -> PipedagConfig:
    url = engine.url.render_as_string(hide_password=False)
    return config_for(url, schema_prefix="dw_")


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Give worker processes that have imported everything once."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as made:
        yield made


def engine_named(name: str, request: pytest.FixtureRequest) -> OrchestrationEngine:
    if name == "sequential":
        return SequentialEngine()
    if name == "threaded":
        return ThreadedEngine()
    if name == "dask_threads":
        return DaskEngine(scheduler="threads")
    return DaskEngine(pool=request.getfixturevalue("pool"))


@pytest.fixture(params=CASES, ids="-".join)
def case(request, tmp_path) -> Iterator[Case]:
    """Give each engine with a fresh warehouse."""
    name, base = request.param
    engine = engine_named(name, request)
    config = configured(request.getfixturevalue(f"fresh_{base}")).get()
    place = tmp_path / "calls"
    place.mkdir()
    with config:
        yield Case(engine, config, config.table_store, place)


@pytest.fixture
def in_processes(request, tmp_path) -> Iterator[Case]:
    """Give Dask with processes, and a fresh PostgreSQL."""
    config = configured(request.getfixturevalue("fresh_postgres")).get()
    place = tmp_path / "calls"
    place.mkdir()
    with config:
        engine = engine_named("dask_processes", request)
        yield Case(engine, config, config.table_store, place)


# -- what a flow comes to --------------------------------------------------------------------------


def test_values_tables_and_events_are_the_same_on_every_engine(case):
    heard: list[Any] = []
    flow = engine_flows.shop(case.place)
    result = case.run(flow, on_event=heard.append)
    assert result.exception is None
    assert result.successful
    assert set(result.task_states.values()) == {TaskState.COMPLETED}
    mart = flow["mart"]
    assert result.get(mart["facts"])["rows"] == [4, 2]
    assert result.get(mart["facts"]["big"], as_type=pl.DataFrame)["id"].to_list() == [2, 3]
    assert {row["id"] for row in rows(case.store, "mart", "top")} == {2, 3}
    assert calls(case.place) == ["facts", "orders", "orders"]
    ended = [(event.stage, event.task) for event in heard if isinstance(event, TaskFinished)]
    assert sorted(ended) == [
        ("aside", "orders"),
        ("mart", "facts"),
        ("mart", "top"),
        ("staging", "orders"),
    ]
    stages = [event.stage for event in heard if isinstance(event, StagePublished)]
    assert sorted(stages) == ["aside", "mart", "staging"]
    assert stages.index("staging") < stages.index("mart")


def test_what_is_valid_does_not_run_again_on_any_engine(case):
    assert case.run(engine_flows.shop(case.place)).successful
    again = case.run(engine_flows.shop(case.place))
    assert set(again.task_states.values()) == {TaskState.CACHE_VALID}
    assert not any(stage.published for stage in again.stages.values())
    changed = case.run(engine_flows.shop(case.place, rows=5))
    assert [str(state) for state in changed.task_states.values()] == [
        "completed",
        "completed",
        "completed",
        "cache valid",
    ]
    assert {row["id"] for row in rows(case.store, "mart", "top")} == {2, 3, 4}


def test_without_fail_fast_what_does_not_wait_for_a_failure_is_published(case):
    flow = engine_flows.failing(case.place, "raise")
    result = case.run(flow, fail_fast=False)
    assert not result.successful
    assert isinstance(result.exception, TaskError)
    assert "there is no such day" in str(result.exception)
    assert isinstance(result.exception.__cause__, ValueError)
    states = {f"{t.stage.name}.{t.name}": s for t, s in result.task_states.items()}
    assert states == {
        "staging.orders": TaskState.COMPLETED,
        "staging.breaks": TaskState.FAILED,
        "mart.after": TaskState.UNKNOWN,
        "aside.after": TaskState.COMPLETED,
    }
    assert set(result.stages) == {"aside"}
    assert objects(case.store, case.store.schema("aside")) == ("after",)
    assert not case.store.published("staging").version
    with pytest.raises(TaskError, match="no result in this run"):
        result.get(flow["mart"]["after"])


def test_with_fail_fast_the_error_is_raised_and_nothing_else_starts(case):
    with pytest.raises(TaskError, match=r"task staging.breaks failed: ValueError: there is no"):
        case.run(engine_flows.failing(case.place, "raise"), fail_fast=True)
    assert not case.store.published("staging").version
    assert not case.store.published("mart").version


def test_a_failed_run_is_resumed_on_every_engine(case):
    options = {"transaction_id": "nightly", "fail_fast": False}
    assert not case.run(engine_flows.failing(case.place, "raise"), **options).successful
    result = case.run(engine_flows.failing(case.place, "mended"), **options)
    assert result.exception is None
    assert [str(state) for state in result.task_states.values()] == [
        "resumed",
        "completed",
        "completed",
        "cache valid",
    ]
    assert calls(case.place).count("orders") == 1
    assert len(rows(case.store, "staging", "orders")) == 2


def test_an_input_that_is_published_anew_meanwhile_is_read_again(case):
    flow = engine_flows.overtaking(case.place, 2)
    assert case.run(flow, flow["staging"]).successful
    result = case.run(flow, flow["mart"])
    assert result.exception is None
    assert calls(case.place) == ["overtaken", "overtaken"]
    assert len(rows(case.store, "mart", "overtaken")) == 3


def test_a_part_of_a_flow_runs_on_every_engine(case):
    flow = engine_flows.shop(case.place)
    assert set(case.run(flow, flow["staging"]).stages) == {"staging"}
    result = case.run(flow, flow["mart"]["facts"])
    assert result.stages == {}
    assert not case.store.published("mart").version
    assert result.get(flow["mart"]["facts"])["rows"] == [4, 2]
    assert result.task_states[flow["mart"]["top"]] is TaskState.UNKNOWN


def test_equal_calls_share_their_table_and_other_ones_may_not_take_its_name(case):
    result = case.run(engine_flows.twins(case.place))
    assert [value for value in result.task_values.values() if value == 1] == [1, 1]
    assert calls(case.place) == ["plain"]
    with pytest.raises(DuplicateNameError, match="'same'"):
        case.run(engine_flows.named_twice(case.place), fail_fast=True)


def test_audits_judge_where_the_run_is_led(case):
    guard = threading.Lock()  # which no other process could be given
    with Flow("audited") as flow, Stage("staging") as staging:
        engine_flows.plain(case.place)

    @audit(staging)
    def two_rows(same: pl.DataFrame):
        with guard:
            return same.height == 2

    result = case.run(flow, fail_fast=False)
    assert isinstance(result.exception, AuditFailed)
    assert result.task_states[flow["staging"]["plain"]] is TaskState.COMPLETED
    assert not case.store.published("staging").version


def test_scripts_and_the_names_of_stages_work_on_every_engine(case):
    assert case.run(engine_flows.scripted()).exception is None
    assert rows(case.store, "mart", "doubled") == [{"x": 7, "y": 14, "n": True}]


def test_the_sequential_engine_keeps_the_order_of_the_declaration(fresh_duckdb, tmp_path):
    heard: list[Any] = []
    config = configured(fresh_duckdb).get()
    flow = engine_flows.shop(tmp_path)
    flow.run(config=config, orchestration_engine=SequentialEngine(), on_event=heard.append)
    assert [getattr(event, "task", event.stage.upper()) for event in heard] == [
        "orders",
        "STAGING",
        "facts",
        "top",
        "MART",
        "orders",
        "ASIDE",
    ]


# -- other processes -------------------------------------------------------------------------------


def test_tasks_run_elsewhere_and_what_they_log_arrives_here(in_processes, caplog):
    caplog.set_level(logging.INFO)
    assert in_processes.run(engine_flows.shop(in_processes.place)).successful
    said = [record for record in caplog.records if record.name == "shop"]
    assert sorted(record.getMessage() for record in said) == ["1 orders", "4 orders"]
    elsewhere = {int(path.name.split()[-1]) for path in in_processes.place.iterdir()}
    assert elsewhere
    assert {record.process for record in said} <= elsewhere
    assert multiprocessing.current_process().pid not in elsewhere
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("TaskFinished")]
    assert len(told) == 4


def test_a_worker_that_dies_is_an_error_and_its_task_runs_again_later(in_processes):
    own = DaskEngine(scheduler="processes", num_workers=1)
    options = {"transaction_id": "nightly", "fail_fast": False}
    flow = engine_flows.dying(in_processes.place, "die")
    heard: list[Any] = []
    result = in_processes.run(flow, orchestration_engine=own, on_event=heard.append, **options)
    assert isinstance(result.exception, TaskError)
    assert [event.state for event in heard] == ["completed", "failed"]
    assert "the process that ran task staging.breaks is gone" in str(result.exception)
    assert [str(state) for state in result.task_states.values()] == ["completed", "failed"]
    assert not in_processes.store.published("staging").version
    result = in_processes.run(engine_flows.dying(in_processes.place, "live"), **options)
    assert [str(state) for state in result.task_states.values()] == ["resumed", "completed"]
    assert len(rows(in_processes.store, "staging", "orders")) == 2


def test_a_function_that_cannot_be_sent_is_named_before_anything_happens(in_processes):
    unsent = socket.socket()

    @materialize(version="1")
    def reads_a_socket():
        return unsent.fileno()

    with Flow("f") as flow, Stage("staging"):
        reads_a_socket()
    with pytest.raises(FlowError, match=r"task staging.reads_a_socket cannot be sent") as raised:
        in_processes.run(flow)
    unsent.close()
    assert raised.value.task == "reads_a_socket"
    assert not objects(in_processes.store, "ixflow")


def test_functions_of_no_module_travel_with_what_they_refer_to(in_processes):
    factor = 3

    @materialize(version="1")
    def times(number):
        return number * factor

    with Flow("f") as flow, Stage("staging"):
        found = times(times(2))
    assert in_processes.run(flow).get(found) == 18


def test_a_database_for_one_process_refuses_other_processes(fresh_duckdb, tmp_path):
    config = configured(fresh_duckdb).get()
    flow = engine_flows.shop(tmp_path / "nobody writes here")
    with pytest.raises(FlowError, match=r"duckdb lets one process.*use ThreadedEngine"):
        flow.run(config=config, orchestration_engine=DaskEngine(scheduler="processes"))


def test_an_interface_that_is_not_this_machines_is_named(in_processes):
    # Of a network that is for examples only.
    config = in_processes.config.evolve(network_interface="192.0.2.1")
    with pytest.raises(FlowError, match=r"cannot listen for workers on the network_interface"):
        in_processes.run(engine_flows.shop(in_processes.place), config=config)


def test_a_dask_cluster_runs_a_flow(in_processes):
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster),
    ):
        flow = engine_flows.shop(in_processes.place)
        result = in_processes.run(flow, orchestration_engine=DaskEngine())
    assert result.exception is None
    assert result.get(flow["mart"]["facts"])["rows"] == [4, 2]


def received(sent: bytes) -> Any:
    return pickle.loads(sent)  # noqa: S301 - our own


class Keeping(OrchestrationEngine):
    """Keeps the pickled steps, and runs them by what they say of themselves."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.shown: list[str] = []

    def run(self, subflow):
        with subflow.other_processes():
            self.sent = [pickle.dumps(step) for step in subflow.steps]
            steps = [received(sent) for sent in self.sent]
            self.shown = [repr(step) for step in steps]
            self._meet_strangers(steps[0])
            for step in steps:
                step.run()
        return subflow.result()

    def _meet_strangers(self, step: Any) -> None:
        address, _, _, _ = step._where
        with Channel.to(address, b"x" * 32) as channel:
            channel.send(("flow", ()))
            with pytest.raises(Closed):
                channel.receive()
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\0" * 100)


def test_steps_travel_without_credentials_and_strangers_get_nothing(postgres_server, in_processes):
    engine = Keeping()
    assert in_processes.run(engine_flows.shop(in_processes.place), orchestration_engine=engine)
    assert "<Step staging.orders>" in engine.shown
    assert "<Step publish mart>" in engine.shown
    name = str(in_processes.store.url.database).encode()
    assert not any(name in sent for sent in engine.sent)
    key = received(engine.sent[0])._where[1]
    assert not any(repr(key) in shown for shown in engine.shown)


def test_a_step_whose_leader_is_gone_says_so(in_processes):
    engine = Keeping()
    assert in_processes.run(engine_flows.shop(in_processes.place), orchestration_engine=engine)
    with pytest.raises(TaskError, match=r"does not answer at 127\.0\.0\.1"):
        received(engine.sent[0]).run()


def test_a_task_whose_input_was_never_published_is_an_error_everywhere(case):
    flow = engine_flows.shop(case.place)
    heard: list[Any] = []
    result = case.run(flow, flow["mart"], fail_fast=False, on_event=heard.append)
    assert isinstance(result.exception, CacheError)
    assert "run stage staging first" in str(result.exception)
    assert "in task mart.facts" in result.exception.__notes__
    assert [(event.task, event.state) for event in heard] == [("facts", "failed")]


class Forgetful(dict[Any, Any]):
    """Lets steps believe that they are in another process."""

    def get(self, *_: Any) -> None:
        return None


def test_a_worker_that_cannot_load_the_flow_is_an_error_of_its_task(in_processes, monkeypatch):
    def broken(*_: Any) -> None:
        msg = "no flow"
        raise ImportError(msg)

    monkeypatch.setattr(worker, "_payload", broken)
    monkeypatch.setattr("ixflow.pipeline.subflow._here", Forgetful())
    flow = engine_flows.dying(in_processes.place, "live")
    with pytest.raises(TaskError, match=r"ImportError: no flow") as raised:
        in_processes.run(flow, orchestration_engine=Keeping(), fail_fast=True)
    assert "in a worker process" in raised.value.__notes__[-1]


# -- Prefect ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_prefect(postgres_server, tmp_path_factory) -> dict[str, Any]:
    """Run flows on a Prefect server of their own; give what came of them."""
    home = tmp_path_factory.mktemp("prefect")
    quiet = {
        "PREFECT_HOME": str(home / "home"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    where = (f"duckdb:///{home}/w.duckdb", postgres_server.url, str(home))
    run = subprocess.run(
        [sys.executable, "-m", "ixflow_tests.behaviour.prefect_runs", *where],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | quiet,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_prefect_runs_a_flow_and_knows_the_state_of_each_step(on_prefect):
    first, again = on_prefect["first"], on_prefect["again"]
    assert first["error"] is again["error"] is None
    assert set(first["states"].values()) == {"completed"}
    assert set(again["states"].values()) == {"cache valid"}
    assert first["stages"] == ["aside", "mart", "staging"]
    assert first["flow"] == "COMPLETED"
    assert {name.rsplit("-", 1)[0] for name in first["steps"]} == {
        "staging.orders",
        "publish staging",
        "mart.facts",
        "mart.top",
        "publish mart",
        "aside.orders",
        "publish aside",
    }
    assert set(first["steps"].values()) == {"Completed"}
    assert sorted(again["steps"].values()) == ["Cache valid"] * 4 + ["Completed"] * 3
    assert sorted(name for name, _ in on_prefect["calls"]["shop"]) == ["facts", "orders", "orders"]


def test_prefect_goes_on_beside_a_failure_and_takes_a_failed_run_up_again(on_prefect):
    failing, resumed = on_prefect["failing"], on_prefect["resumed"]
    assert "there is no such day" in failing["error"]
    assert failing["stages"] == ["aside"]
    assert failing["flow"] == "FAILED"
    assert failing["states"]["staging.breaks"] == "failed"
    assert failing["states"]["mart.after"] == "unknown"
    states = {name.rsplit("-", 1)[0]: state for name, state in failing["steps"].items()}
    assert states["staging.breaks"] == "Failed"
    assert states["publish staging"] == "NotReady"
    assert resumed["error"] is None
    assert resumed["states"]["staging.orders"] == "resumed"
    assert resumed["stages"] == ["aside", "mart", "staging"]


def test_prefect_may_run_the_tasks_in_other_processes(on_prefect):
    found = on_prefect["elsewhere"]
    assert "there is no such day" in found["error"]
    assert found["stages"] == ["aside"]
    assert on_prefect["calls"]["elsewhere"]
    assert on_prefect["pid"] not in {int(pid) for _, pid in on_prefect["calls"]["elsewhere"]}
    assert on_prefect["pid"] in {int(pid) for _, pid in on_prefect["calls"]["shop"]}


# -- engines of one's own, and what is wrong with them ------------------------------------------


class Wrong(OrchestrationEngine):
    """Runs the steps in a given way."""

    def __init__(self, choose: Any) -> None:
        self._choose = choose

    def run(self, subflow, greeting="hello"):
        for step in self._choose(list(subflow.steps)):
            step.run()
        return subflow.result(underlying=greeting)


def run_duckdb(engine: sa.Engine, place: Path, **options: Any) -> Any:
    return engine_flows.shop(place).run(config=configured(engine).get(), **options)


def test_an_engine_of_ones_own_takes_its_own_arguments(fresh_duckdb, tmp_path):
    run = functools.partial(run_duckdb, fresh_duckdb, tmp_path)
    engine = Wrong(lambda steps: steps)
    assert run(orchestration_engine=engine, greeting="hi").underlying == "hi"
    with pytest.raises(FlowError, match=r"Wrong.run: .*'parting'; it takes greeting"):
        run(orchestration_engine=engine, parting="bye")
    with pytest.raises(FlowError, match=r"ThreadedEngine.run: .*; it takes none"):
        run(num_workers=3)
    with pytest.raises(FlowError, match="takes an engine"):
        run(orchestration_engine="SequentialEngine")


def test_an_engine_that_runs_steps_in_a_wrong_order_or_leaves_some_out_is_told(
    fresh_duckdb, tmp_path
):
    run = functools.partial(run_duckdb, fresh_duckdb, tmp_path)
    with pytest.raises(FlowError, match=r"before task mart.top had ended"):
        run(orchestration_engine=Wrong(lambda steps: [*steps[:3], steps[4]]))
    with pytest.raises(FlowError, match="left out the publication of stage aside"):
        run(orchestration_engine=Wrong(lambda steps: steps[:-1]))
    twice = run(orchestration_engine=Wrong(lambda steps: steps * 2))
    assert twice.successful


def test_steps_are_for_this_process_unless_the_engine_says_otherwise(fresh_duckdb, tmp_path):
    with pytest.raises(FlowError, match="other_processes"):
        run_duckdb(fresh_duckdb, tmp_path, orchestration_engine=Wrong(pickle.dumps))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SequentialEngine", SequentialEngine),
        ("ixflow.engine.ThreadedEngine", ThreadedEngine),
        ("pydiverse.pipedag.engine.dask.DaskEngine", DaskEngine),
        ("pydiverse.pipedag.engine.prefect.PrefectTwoEngine", PrefectEngine),
    ],
)
def test_the_configuration_names_an_engine(fresh_duckdb, tmp_path, name, kind):
    said = configured(fresh_duckdb).raw_config
    said["instances"]["__any__"]["orchestration"] = {"class": name}
    assert type(PipedagConfig(said).get().orchestration_engine) is kind


def test_the_engine_of_the_configuration_runs_the_flow(fresh_duckdb, tmp_path):
    said = configured(fresh_duckdb).raw_config
    section = {"class": "DaskEngine", "args": {"scheduler": "synchronous"}}
    said["instances"]["__any__"]["orchestration"] = section
    result = engine_flows.shop(tmp_path).run(config=PipedagConfig(said))
    assert result.successful
    assert len(result.underlying) == 7


def test_prefect_one_says_what_it_needs(fresh_duckdb):
    said = configured(fresh_duckdb).raw_config
    said["instances"]["__any__"]["orchestration"] = {"class": "PrefectOneEngine"}
    with pytest.raises(
        ConfigError, match=r"orchestration cannot be made: .*needs Prefect 1, and 3"
    ):
        _ = PipedagConfig(said).get().orchestration_engine
