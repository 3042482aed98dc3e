"""What the cells of the matrix share: runs on the multiprocess executor, also killed ones."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.api import create_execution_plan, execute_run
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.snap import snapshot_from_execution_plan

import ixflow.dagster as ixd
from ixflow_tests.dagster import matrix_flow
from ixflow_tests.dagster.matrix_flow import Told
from ixflow_tests.dagster.matrix_seen import Looking, Seen

__all__ = ["CHECK", "Matrix", "at_once", "instance_at", "key"]

_values = itertools.count(1)


def key(name: str, stage: str = "st") -> dg.AssetKey:
    """Give the asset key of a table."""
    return dg.AssetKey([stage, name])


CHECK = dg.AssetCheckKey(key("t3"), "acceptable")

# A trigger or an event trigger lets a process wait where it is to be killed: at a statement of the
# transaction that publishes, at its first one behind that, or when a task's result is written and
# its record is not.
_HOLD = 4711
_PATIENCE_SECONDS = 120.0
_HELD = {
    "in the commit": (
        """CREATE TRIGGER hold BEFORE INSERT OR UPDATE ON ixflow.stages
        EXECUTE FUNCTION public.hold_table()""",
        "DROP TRIGGER hold ON ixflow.stages",
    ),
    "behind a result": (
        """CREATE TRIGGER hold BEFORE INSERT ON ixflow.steps
        EXECUTE FUNCTION public.hold_table()""",
        "DROP TRIGGER hold ON ixflow.steps",
    ),
    "behind the commit": (
        """CREATE EVENT TRIGGER hold ON ddl_command_start WHEN TAG IN ('DROP SCHEMA')
        EXECUTE FUNCTION public.hold_command()""",
        "DROP EVENT TRIGGER hold",
    ),
}
_FUNCTIONS = """
    CREATE OR REPLACE FUNCTION public.hold_{kind}() RETURNS {type} LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock_shared({lock}); {end} END $$
"""


@contextlib.contextmanager
def at_once(work: Callable[[], None]) -> Iterator[None]:
    """Do something on a thread beside the block; what it raises is raised behind it."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result()


def instance_at(place: str) -> dg.DagsterInstance:
    """Open the instance of a directory, which other processes can open too."""
    return dg.DagsterInstance.local_temp(place, overrides={"telemetry": {"enabled": False}})


class Matrix:
    """Runs of one execution, on one database and one instance."""

    def __init__(
        self, execution: str, instance: dg.DagsterInstance, engine: sa.Engine, place: Path
    ) -> None:
        self.execution = execution
        self.instance = instance
        self.engine = engine
        self.told = Told(place)
        self.url = engine.url.render_as_string(hide_password=False)
        self.value = self.next_value()
        self.before = self.after

    @property
    def is_graph(self) -> bool:
        """Say whether each task is a step."""
        return self.execution == "graph"

    @property
    def after(self) -> tuple[int, ...]:
        """Give what is published once this run is."""
        return (self.value,) * 3

    def next_value(self) -> int:
        """Give a number that no other run has."""
        return next(_values)

    def begin(self, name: str = "shop_job", execution: str = "stage") -> None:
        """Publish the stage in this process, so that there is something to read."""
        with dg.DagsterInstance.ephemeral() as instance:
            build = getattr(matrix_flow, name)
            job = build(execution, self.url, str(self.told.place), self.value)
            assert job.execute_in_process(instance=instance).success
        (self.told.place / "calls").unlink()
        self.value = self.next_value()

    def job(self, name: str = "shop_job", value: int | None = None) -> ReconstructableJob:
        """Give a job that step processes can make again."""
        given = (self.execution, self.url, str(self.told.place), value or self.value)
        made: Any = dg.build_reconstructable_job(
            "ixflow_tests.dagster.matrix_flow",
            name,
            given,  # type: ignore[arg-type] # it takes as many as the function does
        )
        assert isinstance(made, ReconstructableJob)
        return made

    def run(
        self,
        *keys: dg.AssetKey,
        checks: Iterable[dg.AssetCheckKey] | None = None,
        name: str = "shop_job",
        value: int | None = None,
        plan: ExecutionPlan | None = None,
        parent: dg.DagsterRun | None = None,
    ) -> Seen:
        """Run a job, or what is selected of it, also as a retry of a ``parent`` run."""
        recon = self.job(name, value)
        selected = frozenset(keys) if keys or checks is not None else None
        chosen = None if checks is None else frozenset(checks)
        if selected is not None:
            recon = recon.get_subset(asset_selection=selected, asset_check_selection=chosen)
        job = recon.get_definition()
        plan = plan or create_execution_plan(recon)
        run = self.instance.create_run(
            job_name=job.name,
            run_id=None,
            run_config=None,
            op_selection=None,
            asset_selection=selected,
            asset_check_selection=chosen,
            resolved_op_selection=None,
            step_keys_to_execute=plan.step_keys_to_execute,
            status=None,
            tags=None,
            parent_run_id=None if parent is None else parent.run_id,
            root_run_id=None if parent is None else parent.root_run_id or parent.run_id,
            job_snapshot=job.get_job_snapshot(),
            execution_plan_snapshot=snapshot_from_execution_plan(plan, job.get_job_snapshot_id()),
            parent_job_snapshot=job.get_parent_job_snapshot(),
            remote_job_origin=None,
            job_code_origin=recon.get_python_origin(),
            asset_graph=job.asset_layer.asset_graph,
        )
        execute_run(self.job(name, value), run, self.instance, raise_on_error=False)
        return Seen(self.instance, run.run_id)

    def retry_from_failure(self, seen: Seen) -> Seen:
        """Run the steps that failed, and those that wait for them, as the UI does."""
        parent = self.instance.get_run_by_id(seen.run_id)
        assert parent is not None
        steps, known = KnownExecutionState.build_resume_retry_reexecution(self.instance, parent)
        plan = create_execution_plan(self.job(), step_keys_to_execute=steps, known_state=known)
        return self.run(plan=plan, parent=parent)

    def retry_from_asset_failure(self, seen: Seen) -> Seen:
        """Run what was planned and not recorded, as the UI does."""
        parent = self.instance.get_run_by_id(seen.run_id)
        assert parent is not None
        snapshot = self.instance.get_execution_plan_snapshot(str(parent.execution_plan_snapshot_id))
        keys, checks = self.instance.run_domain.get_keys_to_reexecute(seen.run_id, snapshot)
        return self.run(*keys, checks=checks, parent=parent)

    def run_both(self, one: int, other: int) -> list[Seen]:
        """Run the job twice at the same time, the second in a process of its own."""
        place = self.instance.root_directory
        words = (self.execution, place, self.url, str(self.told.place), str(other))
        with subprocess.Popen(
            [sys.executable, "-m", __name__, *words], stdout=subprocess.PIPE, text=True
        ) as process:
            first = self.run(value=one)
            text, _ = process.communicate(timeout=_PATIENCE_SECONDS)
        return [first, Seen(self.instance, text.strip())]

    def run_killed(self, moment: str, work: str = "acceptable", waiting: int = 1) -> Seen:
        """Run the job, and kill the process of a task or of the audit at a moment.

        The audit runs where the publication runs. ``waiting`` processes must have come that far.
        """
        begin, end = _HELD[moment]
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            self._make_functions(conn)
            conn.exec_driver_sql(begin)
            conn.exec_driver_sql(f"SELECT pg_advisory_lock({_HOLD})")
            try:
                over = threading.Event()
                with at_once(lambda: self._kill(conn, work, waiting, over)):
                    try:
                        return self.run()
                    finally:
                        over.set()
            finally:
                conn.exec_driver_sql("SELECT pg_advisory_unlock_all()")
                conn.exec_driver_sql(end)

    def _make_functions(self, conn: sa.Connection) -> None:
        kinds = (("table", "trigger", "RETURN NULL;"), ("command", "event_trigger", ""))
        for kind, type_, end in kinds:
            conn.exec_driver_sql(_FUNCTIONS.format(kind=kind, type=type_, lock=_HOLD, end=end))

    def _kill(self, conn: sa.Connection, work: str, waiting: int, over: threading.Event) -> None:
        query = (
            f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {_HOLD} "
            f"AND NOT granted AND database = (SELECT oid FROM pg_database "
            f"WHERE datname = current_database())"
        )
        count = conn.exec_driver_sql
        self.told.wait(lambda: over.is_set() or count(query).scalar_one() >= waiting)
        assert not over.is_set(), "the run ended, and never came to that moment"
        os.kill(self.told.processes(work)[-1], signal.SIGKILL)
        conn.exec_driver_sql(f"SELECT pg_advisory_unlock({_HOLD})")

    def open_gate(self, task: str, processes: int) -> None:
        """Let a task go on once it has begun in so many processes."""
        self.told.wait(lambda: self.told.at(task) == processes)
        (self.told.place / f"go-{task}").touch()

    def looking(self, *tables: str) -> Looking:
        """Give a reader of the stage."""
        return Looking(self.engine, tables) if tables else Looking(self.engine)

    def published(self) -> tuple[int, ...]:
        """Give the run that made each table that is published."""
        return self.looking().now()

    def versions(self, stage: str = "st") -> dict[str, str]:
        """Give the data version of each table that is published, as the warehouse has it."""
        resource = ixd.SQLTableStoreResource(url=self.url)
        found = resource.store().published(stage).tables
        resource.store().dispose()
        return {f"{stage}/{name}": table.data_version for name, table in found.items()}


def _main(execution: str, home: str, url: str, place: str, value: str) -> None:
    """Run the job once, and print the run's id."""
    with instance_at(home) as instance:
        matrix = Matrix(execution, instance, sa.create_engine(url), Path(place))
        print(matrix.run(value=int(value)).run_id)  # noqa: T201 - for the process that asked


if __name__ == "__main__":
    _main(*sys.argv[1:])
