"""Quarantines, missing rows, versions: dying before any statement and running again is nothing.

The process is taken for dead when a statement raises what nothing of ours catches and its
connection is closed; what it had not committed is gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.ingestion.checks import RowCheck
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.missing import Missing
from ixflow.ingestion.options import HighWatermark
from ixflow.ingestion.release import release
from ixflow.ingestion.versioned import ingest_versioned
from ixflow.values import TableName
from ixflow_tests.behaviour.ingesting import ingested, people, relations, rows
from ixflow_tests.servers import make_engine

NAMED = RowCheck("has a name", "name <> ''", on_fail="quarantine")
ASIDE = TableName("people__quarantine", "app")


class Vanished(BaseException):
    """Stands for a process that is gone: no handler of ours may catch it."""


def beyond(table: sa.Table, last: int) -> Callable[[Any], Any]:
    """Make a batches function of two rows a batch, the second of them without a name."""

    def batches(after: int | None) -> Any:
        for number in range((after or 0) + 1, last + 1):
            yield number, None, [(table, (number, "a")), (table, (number + 100, ""))]

    return batches


def quarantine(conn: sa.Connection) -> None:
    table = people()
    ingest(conn, table.metadata, beyond(table, 3), on_before_visible=[NAMED])


def let_out(conn: sa.Connection) -> None:
    release(conn, people())


def missing(conn: sa.Connection) -> None:
    table = people()
    given = [(table, (n, "kept")) for n in (1, 2)]
    everything: dict[str, Any] = {"high_watermark": HighWatermark.EARLIEST}
    ingest(conn, table.metadata, lambda _: [(9, None, given)], delete=Missing(1), **everything)


def version(conn: sa.Connection) -> None:
    table = people(sa.Column("note", sa.VARCHAR))
    ingest_versioned(conn, table, lambda _: [(2, None, [(table, (7, "b", "new"))])], "2")


def nothing(_: sa.Engine) -> None:
    """Begin with an empty database."""


def some_put_aside(engine: sa.Engine) -> None:
    with engine.connect() as conn:
        quarantine(conn)


def some_rows(engine: sa.Engine) -> None:
    ingested(engine, people(), [(n, "old") for n in range(1, 6)])


def first_version(engine: sa.Engine) -> None:
    table = people()
    with engine.connect() as conn:
        ingest_versioned(conn, table, lambda _: [(1, None, [(table, (1, "a"))])], "1")


STEPS = {
    "rows put aside": (nothing, quarantine),
    "rows released": (some_put_aside, let_out),
    "missing rows deleted": (some_rows, missing),
    "a version attached": (first_version, version),
}


@pytest.mark.parametrize("step", STEPS)
def test_dying_before_any_statement_and_running_again_gives_the_same(fresh_postgres, step):
    begin, work = STEPS[step]
    expected = None
    for point in itertools.count():
        with fresh_postgres.begin() as conn:
            run(conn, "DROP SCHEMA IF EXISTS app CASCADE")
        begin(fresh_postgres)
        died = expected is not None and dies_before(fresh_postgres, point, work)
        with fresh_postgres.connect() as conn:
            work(conn)
        found = state(fresh_postgres)
        expected = expected or found
        assert found == expected, f"died before statement {point}"
        if point and not died:
            break
    assert point > 10


def dies_before(engine: sa.Engine, point: int, work: Callable[[sa.Connection], None]) -> bool:
    """Do the work on an engine of its own, up to a statement; say whether it came so far."""
    left = [point]
    mortal = make_engine(engine.url.render_as_string(hide_password=False))

    def one_more(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Vanished

    sa.event.listen(mortal, "before_cursor_execute", one_more)
    sa.event.listen(mortal, "commit", one_more)
    conn = mortal.connect()
    try:
        work(conn)
    except Vanished:
        return True
    finally:
        conn.invalidate()
        conn.close()
        mortal.dispose()
    return False


def state(engine: sa.Engine) -> dict[str, Any]:
    """Read what should not depend on how often the process died."""
    there = {name for name in relations(engine) if name.startswith("app.")}
    names = ("people", ASIDE.name, "people__history")
    found: dict[str, Any] = {"relations": {name for name in there if "_pkey" not in name}}
    for name in names:
        if f"app.{name}" in there:
            # The run and the time of a row that was put aside are of the run that did it.
            found[name] = [row[:3] for row in rows(engine, TableName(name, "app"))]
    return found
