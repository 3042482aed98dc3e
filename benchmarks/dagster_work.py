"""What the cases of Dagster do: definitions, and what is timed of them.

``python -m benchmarks.dagster_work WORK COUNT URL`` is one contender. As a module it is a code
location: `PLAIN` and `STAGE`, of as many tables as the environment says.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.harness import contend

__all__ = ["COUNT", "URL"]

COUNT, URL = "IXFLOW_BENCH_COUNT", "IXFLOW_BENCH_URL"
"""The environment variables that say how many tables there are, and where they go."""

_SOURCE = {"host": "db.example", "database": "shop", "user": "reader", "password": "unused"}


# -- tables ----------------------------------------------------------------------------------------


def _plain_assets(count: int, url: str) -> list[dg.AssetsDefinition]:
    """Give an asset a table, each of which writes it by itself."""

    def made(number: int) -> dg.AssetsDefinition:
        @dg.asset(name=f"t{number}")
        def table() -> None:
            import psycopg

            with psycopg.connect(url.replace("+psycopg", "")) as conn:
                conn.execute(f"DROP TABLE IF EXISTS t{number}")
                conn.execute(f"CREATE TABLE t{number} AS SELECT {number} AS a")

        return table

    return [made(number) for number in range(count)]


def _flow(count: int) -> Any:
    """Give a flow of one stage, whose tables are of one row each."""
    import sqlalchemy as sa

    import ixflow as ix

    def task(number: int) -> Any:
        query = sa.select(sa.literal(number).label("a"))
        return ix.materialize(name=f"t{number}")(lambda: ix.Table(query, f"t{number}"))

    with ix.Flow("bench") as flow, ix.Stage("st"):
        for number in range(count):
            task(number)()
    return flow


def _stage(count: int, url: str) -> dg.Definitions:
    import ixflow.dagster as ixd

    store = ixd.SQLTableStoreResource(url=url)
    made: dg.Definitions = _flow(count).to_definitions(table_store=store)
    return made


def plain() -> dg.Definitions:
    """Give the code location of plain assets."""
    return dg.Definitions(_plain_assets(int(os.environ[COUNT]), os.environ[URL]))


def stage() -> dg.Definitions:
    """Give the code location of the stage."""
    return _stage(int(os.environ[COUNT]), os.environ[URL])


# -- through the command ---------------------------------------------------------------------------


def _command(which: str) -> Callable[[int, str], Callable[[], int]]:
    """Materialize everything by Dagster's command, with its default executor."""

    def prepared(count: int, url: str) -> Callable[[], int]:
        home = tempfile.mkdtemp(prefix="ixflow-bench-")
        environment = os.environ | {COUNT: str(count), URL: url, "DAGSTER_HOME": home}
        environment["DAGSTER_DISABLE_TELEMETRY"] = "yes"
        words = ("asset", "materialize", "--select", "*", "-m", __spec__.name, "-a", which)

        def work() -> int:
            command = [sys.executable, "-m", "dagster", *words]
            done = subprocess.run(command, env=environment, capture_output=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr.decode(errors="replace")[-4000:])
            return count

        return work

    return prepared


# -- loading ---------------------------------------------------------------------------------------


def _bare(count: int, _: str) -> Callable[[], int]:
    """Define as many assets as Dagster alone does, with a source and a configuration each."""

    class Config(dg.Config):
        max_workers: int | None = None
        force: bool = False

    def made(number: int) -> dg.AssetsDefinition:
        spec = dg.AssetSpec(["extracted", f"t{number}"], deps=[dg.AssetKey(["shop", f"t{number}"])])

        @dg.multi_asset(name=f"extracted__t{number}", specs=[spec])
        def table(context: dg.AssetExecutionContext, config: Config) -> None: ...

        return table

    def work() -> int:
        return _loaded(dg.Definitions([made(number) for number in range(count)]), count)

    return work


def _defined(*what: str) -> Callable[[int, str], Callable[[], int]]:
    def prepared(count: int, _: str) -> Callable[[], int]:
        def work() -> int:
            ix, ixd = importlib.import_module("ixflow"), importlib.import_module("ixflow.dagster")
            intents = [
                ix.ExtractionIntent("postgresql", _SOURCE, f"public.t{number}", "/data")
                for number in range(count)
            ]
            assets: list[Any] = []
            if "assets" in what:
                assets += [ixd.extraction_asset(intent) for intent in intents]
            if "one step" in what:
                assets.append(ixd.build_extraction_assets(intents))
            if "ingests" in what:
                assets += [ixd.ingest_extraction(intent, cursor="id") for intent in intents]
            resources = {
                "planner": ixd.PlannerResource(),
                "warehouse": ixd.SQLTableStoreResource(url="duckdb:////nowhere/w.duckdb"),
            }
            return _loaded(dg.Definitions(assets, resources=resources), count)

        return work

    return prepared


def _loaded(definitions: dg.Definitions, count: int) -> int:
    """Resolve the definitions, as a code server does; say how many tables are extracted."""
    keys = definitions.get_repository_def().asset_graph.get_all_asset_keys()
    return count if len(keys) >= 2 * count else len(keys)


# -- events ----------------------------------------------------------------------------------------


def _bare_events(count: int, _: str) -> Callable[[], int]:
    specs = [dg.AssetSpec(["st", f"t{number}"], skippable=True) for number in range(count)]

    @dg.multi_asset(specs=specs, can_subset=True)
    def tables(context: dg.AssetExecutionContext) -> Any:
        for key in sorted(context.selected_asset_keys):
            yield dg.MaterializeResult(asset_key=key, metadata={"dagster/row_count": 1})

    return _in_process(dg.Definitions([tables]), count)


def _events(count: int, url: str) -> Callable[[], int]:
    return _in_process(_stage(count, url), count)


def _in_process(definitions: dg.Definitions, count: int) -> Callable[[], int]:
    """Run everything in this process, with an instance whose disk is not measured."""
    job = definitions.resolve_implicit_global_asset_job_def()
    instance = dg.DagsterInstance.ephemeral()
    job.execute_in_process(instance=instance)

    def work() -> int:
        done = job.execute_in_process(instance=instance)
        return min(count, len(done.get_asset_materialization_events()))

    return work


def _without(count: int, url: str) -> Callable[[], int]:
    """Run the same stage without Dagster, as its step would."""
    from ixflow.dagster import SQLTableStoreResource
    from ixflow.pipeline.stage_run import run_stage

    made, store = _flow(count)["st"], SQLTableStoreResource(url=url).store()
    run_stage(made, store, transaction_id="warm", max_workers=4)

    def work() -> int:
        return len(run_stage(made, store, transaction_id="timed", max_workers=4).tables)

    return work


_WORK: dict[str, Callable[[int, str], Callable[[], int]]] = {
    "command-plain": _command("plain"),
    "command-stage": _command("stage"),
    "load-bare": _bare,
    "load-assets": _defined("assets"),
    "load-step": _defined("one step"),
    "load-ingests": _defined("assets", "ingests"),
    "events-bare": _bare_events,
    "events-without": _without,
    "events-stage": _events,
}


if __name__ == "__main__":
    _, chosen, number, place = sys.argv
    os.chdir(Path(__file__).parents[1])
    contend(_WORK[chosen](int(number), place))
