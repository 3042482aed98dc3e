"""The executor: what it retries, what it does not, and how a failure ends the other workers."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time

import pyarrow as pa
import pytest

from ixflow.dialects import Held
from ixflow.errors import SnapshotUnavailable, ValueDoesNotFit
from ixflow.extraction import executor
from ixflow.extraction.executor import TaskRun
from ixflow.extraction.plan import ExtractionTask
from ixflow.extraction.storage import OutputPlace
from ixflow.values import Column, TableName, TablePart
from ixflow_tests.unit.test_extraction_values import example_plan

COLUMN = Column("id", "bigint", pa.int64())


class Broken(Exception):
    """A connection that broke."""


class Replayed(Exception):
    """A query that a replica ended."""


class FakeDialect:
    """A database whose answers the test scripts: a list of answers for each table, in order."""

    def __init__(self, **answers) -> None:
        self.answers, self.opened = answers, 0
        self.asked: list[str] = []

    @contextlib.contextmanager
    def reader(self):
        self.opened += 1
        yield FakeReader(self)

    def select_part(self, part, columns, **ranges):
        return part.table.name

    default_port = 1

    def is_transient(self, error):
        return isinstance(error, Broken)

    def is_cancelled_by_replay(self, error):
        return isinstance(error, Replayed)

    def explained(self, error, table):
        return None


class FakeReader:
    def __init__(self, dialect) -> None:
        self.dialect, self.cancelled = dialect, threading.Event()

    def read(self, sql, columns):
        self.dialect.asked.append(sql)
        answers = self.dialect.answers[sql]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "wait":
            assert self.cancelled.wait(10)
            raise Broken
        if isinstance(answer, Exception):
            raise answer
        schema = pa.schema([("id", pa.int64())])
        batch = pa.record_batch([pa.array(answer, pa.int64())], schema=schema)
        return pa.RecordBatchReader.from_batches(schema, [batch])

    def cancel(self):
        self.cancelled.set()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Give a function that runs a task for each of a fake dialect's tables."""
    monkeypatch.setattr(executor, "_FIRST_PAUSE", 0.001)

    def execute(dialect: FakeDialect, *, workers: int = 1) -> TaskRun:
        tasks = tuple(ExtractionTask(name, TablePart(TableName(name))) for name in dialect.answers)
        plan = dataclasses.replace(
            example_plan(), tasks=tasks, columns=(COLUMN,), worker_count=workers
        )
        with OutputPlace(tmp_path, "t").new_run("ix-1") as directory:
            held = Held(None, "the snapshot", dialect.reader, shared=True)  # type: ignore[arg-type] # stand-ins
            made = TaskRun(plan, dialect, held, directory)  # type: ignore[arg-type] # a stand-in
            made.run()
            return made

    return execute


def test_every_task_reports_once(run):
    made = run(FakeDialect(a=[[1]], b=[[2, 3]], c=[[]]), workers=2)
    assert made.complete()
    assert sorted((o.chunk_id, o.rows) for o in made.outcomes) == [("a", 1), ("b", 2), ("c", 0)]


def test_one_reader_serves_all_tasks_of_a_worker(run):
    dialect = FakeDialect(a=[[1]], b=[[2]], c=[[3]])
    run(dialect)
    assert dialect.opened == 1


def test_a_broken_connection_is_replaced_and_its_task_redone(run):
    dialect = FakeDialect(a=[Broken(), Broken(), [1]], b=[[2]])
    made = run(dialect)
    assert made.complete()
    assert (dialect.asked, dialect.opened) == (["a", "a", "a", "b"], 3)


def test_a_connection_that_breaks_again_and_again_ends_the_run(run):
    dialect = FakeDialect(a=[Broken()], b=[[2]])
    made = run(dialect)
    assert not made.complete()
    assert isinstance(made.errors["a"], Broken)
    assert dialect.asked == ["a"] * 4


@pytest.mark.parametrize(
    "error", [ValueDoesNotFit("x"), SnapshotUnavailable("x"), RuntimeError("server closed")]
)
def test_what_another_try_cannot_mend_is_not_tried_again(run, error):
    dialect = FakeDialect(a=[error], b=[[2]])
    made = run(dialect)
    assert made.errors == {"a": error}
    assert dialect.asked == ["a"]


def test_a_failure_ends_a_worker_that_waits_for_the_server(run):
    started = time.monotonic()
    made = run(FakeDialect(a=["wait"], b=[RuntimeError("broken for good")]), workers=2)
    assert time.monotonic() - started < 5
    assert list(made.errors) == ["b"]
    assert made.outcomes == []


def test_a_failed_task_leaves_no_file(run, tmp_path):
    run(FakeDialect(a=[RuntimeError()]))
    assert list((tmp_path / ".ixflow").rglob("*.parquet*")) == []


class CutDialect(FakeDialect):
    """A replica that ends every query of more than some pages."""

    def __init__(self, most: int) -> None:
        super().__init__(t=[[1]])
        self.most = most

    def select_part(self, part, columns, *, pages=None, **ranges):
        first, end = pages or (0, part.pages)
        pages = (end or part.pages) - first
        self.answers[f"{first}-{end}"] = [Replayed()] if pages > self.most else [[first]]
        return f"{first}-{end}"


@pytest.fixture
def run_cut(tmp_path):
    """Give a function that reads a table of 64 pages from a replica that ends long queries."""

    def execute(most: int) -> tuple[TaskRun, CutDialect]:
        dialect = CutDialect(most)
        tasks = (ExtractionTask("001", TablePart(TableName("t"), pages=64)),)
        plan = dataclasses.replace(example_plan(), tasks=tasks, columns=(COLUMN,), worker_count=1)
        with OutputPlace(tmp_path, "t").new_run("ix-1") as directory:
            held = Held(None, "the snapshot", dialect.reader, shared=True)  # type: ignore[arg-type] # stand-ins
            made = TaskRun(plan, dialect, held, directory)  # type: ignore[arg-type] # a stand-in
            made.run()
            return made, dialect

    return execute


def test_a_task_that_a_replica_ends_is_read_in_shorter_pieces(run_cut):
    made, dialect = run_cut(most=16)
    assert made.complete()
    (outcome,) = made.outcomes
    assert outcome.rows == 4
    assert {file.chunk_id for file in outcome.files} == {"001"}
    assert len({file.name for file in outcome.files}) == 4
    assert dialect.asked[-1] == "48-None"


def test_a_replica_that_ends_short_queries_too_ends_the_run(run_cut):
    made, dialect = run_cut(most=1)
    assert isinstance(made.errors["001"], Replayed)
    assert len(dialect.asked) == 5
    assert not made.complete()
