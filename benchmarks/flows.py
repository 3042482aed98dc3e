"""What runs flows for the pipeline cases: ixflow and pydiverse.pipedag, and plain drivers beside.

``python -m benchmarks.flows WHO WORK ROWS STORE`` is one contender. The store is the URL of a
server, or ``duckdb`` for a file of the contender's own. Both libraries declare the same flow with
the same code; peers run it in environments of their own, without ixflow.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import contend

__all__ = ["TASKS"]

TASKS = 50
_START = dt.datetime(2020, 1, 1)  # noqa: DTZ001 - a timestamp without zone is measured


def _columns(rows: int) -> dict[str, Any]:
    """Make two integers, two floats, a text and a timestamp."""
    import numpy as np

    numbers = np.arange(rows)
    return {
        "id": numbers,
        "branch": (numbers % 1000).astype(np.int32),
        "price": numbers / 3,
        "weight": (numbers % 977) / 7,
        "name": [f"customer {number * 7919 % 100_003}" for number in range(rows)],
        "created": np.datetime64(_START, "us") + numbers * np.timedelta64(17_000_013, "us"),
    }


def _frame(kind: str, rows: int) -> Any:
    if kind == "polars":
        return importlib.import_module("polars").DataFrame(_columns(rows))
    if kind == "arrow":
        return importlib.import_module("pyarrow").table(_columns(rows))
    return importlib.import_module("pandas").DataFrame(_columns(rows))


def _type(kind: str) -> Any:
    return getattr(importlib.import_module(kind), "DataFrame")  # noqa: B009 - two modules


class _Library:
    """ixflow or pipedag, which are used alike."""

    def __init__(self, name: str, store: str) -> None:
        self.module = importlib.import_module(name)
        if name == "ixflow":
            make = self.module.create_basic_pipedag_config
        else:
            structlog = importlib.import_module("structlog")
            quiet = structlog.make_filtering_bound_logger(logging.WARNING)
            structlog.configure(wrapper_class=quiet)
            store = store.replace("+psycopg", "")
            make = importlib.import_module(f"{name}.core.config").create_basic_pipedag_config
        self.config = make(store, disable_stage_locking=True).get("default")
        evolved = {"strict_result_get_locking": False, "fail_fast": True}
        self.config = self.config.evolve(**evolved)

    def flow(self, *functions: Callable[..., Any], name: str = "s", **options: Any) -> Any:
        """Declare one stage that calls the functions."""
        self.tasks = []
        with self.module.Flow("bench") as flow, self.module.Stage(name):
            for function in functions:
                self.tasks.append(self.module.materialize(function, **options)())
        return flow

    def run(self, flow: Any) -> Any:
        """Run the flow, which has to succeed."""
        result = flow.run(config=self.config)
        assert result.successful
        return result


def _write(who: _Library, kind: str, rows: int) -> Callable[[], int]:
    """Run a flow of one task, which returns a frame that is there already."""
    frame = _frame(kind, rows)
    _warm_up(who, kind)

    def big() -> Any:
        return who.module.Table(frame, "big")

    flow = who.flow(big)

    def work() -> int:
        who.run(flow)
        return rows

    return work


def _read(who: _Library, kind: str, rows: int) -> Callable[[], int]:
    """Get a table of a flow that has run."""
    frame = _frame("polars", rows)
    _warm_up(who, kind)

    def big() -> Any:
        return who.module.Table(frame, "big")

    result = who.run(who.flow(big))
    task, type_ = who.tasks[0], _type(kind)

    def work() -> int:
        return len(result.get(task, as_type=type_))

    return work


def _warm_up(who: _Library, kind: str) -> None:
    """Run a small flow elsewhere: imports and first connections are not measured."""
    frame = _frame(kind, 1)

    def small() -> Any:
        return who.module.Table(frame, "small")

    result = who.run(who.flow(small, name="warm_up"))
    result.get(who.tasks[0], as_type=_type(kind))


def _many(who: _Library, state: str, count: int) -> Callable[[], int]:
    """Run a stage of tasks that make a table of one row, or find it valid."""
    pandas = importlib.import_module("pandas")
    _warm_up(who, "pandas")

    def made(number: int) -> Callable[[], Any]:
        def task() -> Any:
            return who.module.Table(pandas.DataFrame({"a": [number]}), f"t{number}")

        task.__name__ = f"task{number}"
        return task

    flow = who.flow(*map(made, range(count)), version="1")
    if state == "valid":
        who.run(flow)

    def work() -> int:
        who.run(flow)
        return count

    return work


def _beside(who: _Library, rows: int) -> Callable[[], int]:
    """Run a stage in which one small task is new, beside a valid one with many rows."""
    pandas = importlib.import_module("pandas")
    frame = _frame("polars", rows)
    materialize, table = who.module.materialize, who.module.Table

    def flow(version: str) -> Any:
        with who.module.Flow("bench") as made, who.module.Stage("s"):
            materialize(lambda: table(frame, "big"), version="1", name="big")()
            small = pandas.DataFrame({"a": [1]})
            materialize(lambda: table(small, "small"), version=version, name="small")()
        return made

    who.run(flow("1"))

    def work() -> int:
        who.run(flow("2"))
        return 1

    return work


def _commit(who: _Library, count: int) -> Callable[[], int]:
    """Publish so many tables in the place of others."""
    import pyarrow as pa

    own = importlib.import_module("ixflow.store")
    store = stack.enter_context(who.config).table_store
    stack.enter_context(store.held_open())

    def written(generation: int) -> tuple[Any, list[Any]]:
        transaction = own.StageTransaction(store, "many", f"run {generation}")
        transaction.begin()
        results = []
        for n in range(count):
            key, name = f"{generation} {n}", f"t{n}"
            result = own.StoredResult(name, name, key, f'"{key}"', (name,))
            write = own.TableWrite(pa.table({"a": [generation]}), own.TableSpec(name))
            transaction.write(result, [write])
            results.append(result)
        return transaction, results

    first, results = written(1)
    first.commit(results, full=True)
    second, results = written(2)

    def work() -> int:
        # What it replaced is dropped behind it, as a run does at its end and pipedag in the next.
        done = second.commit(results, full=True, collects=False)
        assert len(done.published) == count
        return count

    return work


def _adbc(work: str, kind: str, rows: int, store: str) -> Callable[[], int]:
    """Write or read a table with nothing around it."""
    module = importlib.import_module("adbc_driver_postgresql.dbapi")
    conn = module.connect(store.replace("+psycopg", ""))
    with conn.cursor() as cursor:
        cursor.adbc_ingest("adbc_big", _frame("polars", rows), mode="replace")
    conn.commit()
    frame = _frame(kind, rows)

    def write() -> int:
        with conn.cursor() as cursor:
            data = frame
            if kind == "pandas":
                data = importlib.import_module("pyarrow").Table.from_pandas(
                    frame, preserve_index=False
                )
            cursor.adbc_ingest("adbc_new", data, mode="replace")
        conn.commit()
        return rows

    def read() -> int:
        with conn.cursor() as cursor:
            cursor.execute("SELECT * FROM adbc_big")
            found = cursor.fetch_arrow_table()
        if kind == "pandas":
            return len(found.to_pandas())
        return len(importlib.import_module("polars").from_arrow(found))

    return write if work == "write" else read


def _duckdb(work: str, kind: str, rows: int, store: str) -> Callable[[], int]:
    """Insert Arrow, or fetch the frame, with DuckDB alone, in a transaction of its own."""
    conn = importlib.import_module("duckdb").connect(store)
    conn.register("frame", _frame(kind, rows))
    conn.execute("CREATE TABLE big AS SELECT * FROM frame")

    def write() -> int:
        conn.execute("CREATE TABLE again AS SELECT * FROM frame")
        conn.execute("CHECKPOINT")
        return rows

    def read() -> int:
        found = conn.execute("SELECT * FROM big")
        return len(found.pl() if kind == "polars" else found.df())

    return write if work == "write" else read


stack = contextlib.ExitStack()
"""Is closed when all is done and measured."""

_PLAIN = {"adbc": _adbc, "duckdb": _duckdb}
_MODULES = {"ixflow": "ixflow", "pipedag": "pydiverse.pipedag"}


def _chosen(who: str, work: str, rows: int, store: str) -> Callable[[], int]:
    what, _, kind = work.partition("-")
    if who in _PLAIN:
        return _PLAIN[who](what, kind, rows, store)
    library = _Library(_MODULES[who], f"duckdb:///{store}" if store.startswith("/") else store)
    if what == "write":
        return _write(library, kind, rows)
    if what == "read":
        return _read(library, kind, rows)
    if what == "beside":
        return _beside(library, rows)
    if what == "commit":
        return _commit(library, int(kind))
    return _many(library, kind, TASKS if what == "tasks" else 1)


if __name__ == "__main__":
    _, name, chosen, count, place = sys.argv
    with stack:
        if place == "duckdb":
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ixflow-bench-"))
            place = str(Path(directory) / "bench.duckdb")
        contend(_chosen(name, chosen, int(count), place))
