"""What goes wrong on the way: networks that cut, reset, delay and stall; disks that are full."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from ixflow.dialects.postgres import hold
from ixflow.errors import ExecutionError, IxflowError, OutputNotWritable, StatementTimeout
from ixflow.events import BackedOff, ChunkExtracted, listen
from ixflow.extraction import snapshot, workers
from ixflow.extraction.api import execute, explain, plan, published
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.intent import ExtractionIntent
from ixflow_tests.sources import intent_for, make, rows_of
from ixflow_tests.tcp_proxy import Fault, Proxy

if TYPE_CHECKING:
    import sqlalchemy as sa

ROWS = 20_000
STREAMING = 100_000
"""Bytes that only a connection which reads rows has had from its server."""
TWO = RuntimeContext(min_workers=2)

TABLES = {
    "postgresql": "CREATE TABLE t AS SELECT n AS id, repeat(md5(n::text), 7) AS filler "
    "FROM generate_series(1, {}) n",
    "mysql": "CREATE TABLE t (PRIMARY KEY (id)) AS SELECT seq AS id, repeat(md5(seq), 7) AS filler "
    "FROM seq_1_to_{}",
}


@pytest.fixture(params=["postgres", "mariadb"])
def source(request: pytest.FixtureRequest) -> sa.Engine:
    """Give each server with a table of 20,000 rows."""
    engine: sa.Engine = request.getfixturevalue(f"fresh_{request.param}")
    make(engine, TABLES[engine.dialect.name].format(ROWS))
    if engine.dialect.name == "postgresql":
        make(engine, "ANALYZE t")
    return engine


@pytest.fixture
def proxy(source: sa.Engine) -> Iterator[Proxy]:
    """Give a proxy in front of the server."""
    with Proxy(source.url) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less long for what never comes."""
    monkeypatch.setattr(workers, "_SERVER_FIRST_SECONDS", 0.5)
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 3.0)
    monkeypatch.setattr(hold, "_FAREWELL_SECONDS", 1.0)
    monkeypatch.setattr(snapshot, "ANSWER_SECONDS", 2.0)


def published_run(intent: ExtractionIntent) -> str | None:
    """Name the run that is published."""
    manifest = published(intent)
    return None if manifest is None else manifest.run_id


def assert_nothing_left(place: Path, run_id: str | None) -> None:
    """Check that of all runs only the published one is there."""
    home = place / ".ixflow" / "t"
    runs = [path.name for path in home.iterdir() if path.is_dir()] if home.exists() else []
    assert runs == ([run_id] if run_id else [])


@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_connection_cut_in_the_middle_is_replaced(fresh_postgres, tmp_path, then, caplog):
    make(fresh_postgres, TABLES["postgresql"].format(ROWS), "ANALYZE t")
    with Proxy(fresh_postgres.url) as proxy:
        made = plan(intent_for(proxy.engine(), "t", tmp_path), TWO)
        proxy.fault, proxy.faulty = Fault(STREAMING, then), proxy.connections + 4
        rows = rows_of(execute(made))
        assert proxy.broken >= 2
    assert sorted(rows["id"].to_pylist()) == list(range(1, ROWS + 1))
    assert "is read again" in caplog.text


def test_a_network_that_always_cuts_ends_the_run_and_publishes_nothing(
    source, proxy, tmp_path, impatient
):
    intent = intent_for(proxy.engine(), "t", tmp_path)
    first = execute(plan(intent))
    made = plan(intent)
    proxy.fault = Fault(STREAMING)
    with pytest.raises(ExecutionError, match="nothing was published") as caught:
        execute(made)
    assert caught.value.tasks_done < caught.value.tasks_planned
    assert published_run(intent) == first.run_id
    assert_nothing_left(tmp_path, first.run_id)


def test_a_network_that_falls_silent_ends_the_run_after_its_time(
    source, proxy, tmp_path, impatient
):
    intent = intent_for(proxy.engine(), "t", tmp_path, statement_timeout="1s")
    made = plan(intent)
    proxy.fault = Fault(STREAMING, "stall")
    with pytest.raises(ExecutionError, match="statement_timeout") as caught:
        execute(made)
    assert isinstance(caught.value.__cause__, StatementTimeout)
    assert proxy.broken
    assert published(intent) is None
    assert_nothing_left(tmp_path, None)


def test_a_network_that_falls_silent_for_everybody_ends_the_run_too(
    fresh_postgres, tmp_path, impatient
):
    make(fresh_postgres, TABLES["postgresql"].format(ROWS), "ANALYZE t")
    with Proxy(fresh_postgres.url) as proxy:
        intent = intent_for(proxy.engine(), "t", tmp_path, statement_timeout="1s")
        made = plan(intent, TWO)

        def stall(event: object) -> None:
            if isinstance(event, ChunkExtracted):
                proxy.stalled.set()

        with listen(stall), pytest.raises(IxflowError):
            execute(made)
    assert published(intent) is None


def test_a_source_that_answers_slowly_is_given_rest(source, proxy, tmp_path):
    made = plan(intent_for(proxy.engine(), "t", tmp_path))
    heard: list[BackedOff] = []

    def hear(event: object) -> None:
        if isinstance(event, BackedOff):
            heard.append(event)
            proxy.fault = Fault()

    proxy.fault = Fault(delay=0.3)
    with listen(hear):
        result = execute(made)
    assert result.rows_extracted == ROWS
    assert result.backoffs == len(heard) == 1
    assert heard[0].latency_ms > heard[0].threshold_ms >= 50
    assert heard[0].seconds == 1.0


def test_a_fast_source_is_never_given_rest(source, tmp_path):
    assert execute(plan(intent_for(source, "t", tmp_path))).backoffs == 0


# -- full disks --------------------------------------------------------------------------------

EXTRACTS_WITHIN = """
import json, resource, signal, sys
from ixflow.extraction.api import execute, plan
from ixflow.extraction.intent import ExtractionIntent
url, output, state, limit = sys.argv[1:]
intent = ExtractionIntent("postgresql", {"connection_string": url}, "t", output)
made = plan(intent, state_url=state)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    execute(made, state_url=state)
except Exception as error:
    print(json.dumps([type(error).__name__, type(error.__cause__).__name__, str(error)]))
"""


def test_a_disk_that_fills_up_in_the_middle_of_a_file_leaves_the_last_publication(
    fresh_postgres, tmp_path
):
    make(fresh_postgres, TABLES["postgresql"].format(10 * ROWS), "ANALYZE t")
    intent = intent_for(fresh_postgres, "t", tmp_path)
    first = execute(plan(intent))
    url = fresh_postgres.url.render_as_string(hide_password=False)
    state = f"sqlite:///{tmp_path}/state.db"
    command = [sys.executable, "-c", EXTRACTS_WITHIN, url, str(tmp_path), state, "300000"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    kind, cause, said = json.loads(done.stdout)
    assert (kind, cause) == ("ExecutionError", "OutputNotWritable")
    assert os.strerror(errno.EFBIG) in said
    assert published_run(intent) == first.run_id
    assert_nothing_left(tmp_path, first.run_id)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 2 MB, or where we may not make one, a place that is full from 2 MB on."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip(
            "only root can make a disk that is full; the limit of a process is tested above"
        )
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named_and_nothing_is_left_on_it(fresh_postgres, tiny_disk):
    make(fresh_postgres, TABLES["postgresql"].format(10 * ROWS), "ANALYZE t")
    intent = intent_for(fresh_postgres, "t", tiny_disk)
    made = plan(intent)
    with pytest.raises((ExecutionError, OutputNotWritable), match="No space left on device"):
        execute(made, force=True)
    assert published(intent) is None
    assert_nothing_left(tiny_disk, None)


# -- secrets -----------------------------------------------------------------------------------

PASSWORD = "p@:/% w'o\"rd"


def test_a_password_of_odd_characters_appears_nowhere(
    fresh_postgres, tmp_path, caplog, monkeypatch, impatient
):
    caplog.set_level(logging.DEBUG)
    make(fresh_postgres, TABLES["postgresql"].format(ROWS), "ANALYZE t")
    state = f"sqlite:///{tmp_path}/state.db"
    seen: list[str] = []
    with Proxy(fresh_postgres.url) as proxy:
        url = proxy.url
        config = {
            "host": url.host,
            "port": url.port,
            "database": url.database,
            "user": url.username,
            "password": PASSWORD,
        }
        intent = ExtractionIntent("postgresql", config, "t", tmp_path / "out")
        made = plan(intent, TWO, state_url=state)
        result = execute(made, state_url=state)
        proxy.fault = Fault(STREAMING)
        with pytest.raises(ExecutionError) as cut:
            execute(made, state_url=state)
        proxy.fault = Fault(0)
        for ask in (lambda: plan(intent, state_url=state), lambda: execute(made, state_url=state)):
            with pytest.raises(IxflowError) as refused:
                ask()
            seen += [repr(refused.value), str(refused.value), str(refused.value.fields)]
    seen += [repr(cut.value), str(cut.value), str(cut.value.fields), repr(cut.value.__cause__)]
    seen += [repr(intent), repr(made), repr(result), str(explain(intent, state_url=state))]
    seen += [caplog.text, json.dumps(made.plan.to_dict(), default=str)]
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".parquet":
            seen.append(path.read_bytes().decode(errors="replace"))
    forms = (PASSWORD, repr(PASSWORD)[1:-1], json.dumps(PASSWORD)[1:-1], quote(PASSWORD, safe=""))
    for text in seen:
        for form in (*forms, "w'o"):
            assert form not in text
