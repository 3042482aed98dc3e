"""A network that says nothing ends a run in bounded time; a source that is slow ends nothing."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ixflow.dialects import dialect_named, dialect_of
from ixflow.dialects.guest import Guest, visiting
from ixflow.dialects.mysql import fate as mysql_fate
from ixflow.dialects.postgres import fate as postgres_fate
from ixflow.dialects.postgres import hold
from ixflow.dialects.postgres import reader as postgres_reader
from ixflow.errors import ExecutionError, SourceUnavailable
from ixflow.events import ChunkExtracted, listen
from ixflow.extraction import silence, slots, snapshot, workers
from ixflow.extraction.api import execute, plan, published
from ixflow.extraction.context import RuntimeContext
from ixflow_tests.sources import intent_for, make, rows_of
from ixflow_tests.tcp_proxy import Fault, Proxy

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
SLOW = {
    "postgresql": "SELECT 7 AS n FROM (SELECT pg_sleep(3)) slow",
    "mysql": "SELECT sleep(3) + 7 AS n",
}


@pytest.fixture(params=["postgres", "mariadb"])
def source(request: pytest.FixtureRequest) -> sa.Engine:
    """Give each server with a table of 20,000 rows."""
    return filled(request.getfixturevalue(f"fresh_{request.param}"))


def filled(engine: sa.Engine) -> sa.Engine:
    """Make the table."""
    make(engine, TABLES[engine.dialect.name].format(ROWS))
    if engine.dialect.name == "postgresql":
        make(engine, "ANALYZE t")
    return engine


def _never(conn: object) -> bool:
    """Say of every connection that it is encrypted, so that ADBC reads."""
    del conn
    return False


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again sooner, and wait less long for what never comes."""
    monkeypatch.setattr(silence, "_AGAIN_SECONDS", 0.2)
    monkeypatch.setattr(postgres_fate, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(mysql_fate, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 3.0)
    monkeypatch.setattr(hold, "_FAREWELL_SECONDS", 1.0)
    monkeypatch.setattr(snapshot, "ANSWER_SECONDS", 2.0)


def test_a_task_whose_connection_falls_silent_is_redone(fresh_postgres, tmp_path, caplog):
    with Proxy(filled(fresh_postgres).url) as proxy:
        made = plan(intent_for(proxy.engine(), "t", tmp_path, silence_timeout="1s"), TWO)
        proxy.fault, proxy.faulty = Fault(STREAMING, "stall"), proxy.connections + 3
        rows = rows_of(execute(made))
        assert proxy.broken
    assert set(rows["id"].to_pylist()) == set(range(1, ROWS + 1))
    assert rows.num_rows == ROWS
    assert "is lost: the server" in caplog.text
    assert "is read again" in caplog.text


def test_a_connection_that_stays_silent_ends_the_run(source, tmp_path, caplog):
    with Proxy(source.url) as proxy:
        intent = intent_for(proxy.engine(), "t", tmp_path, silence_timeout="1s")
        made = plan(intent)
        proxy.fault = Fault(STREAMING, "stall")
        with pytest.raises(ExecutionError, match="nothing was published"):
            execute(made)
    assert "is lost: the server" in caplog.text
    assert published(intent) is None


def test_a_network_that_is_silent_for_everybody_ends_the_run(fresh_postgres, tmp_path, caplog):
    with Proxy(filled(fresh_postgres).url) as proxy:
        url = proxy.url.update_query_dict({"connect_timeout": "2"})
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        intent = intent_for(engine, "t", tmp_path, silence_timeout="1s")
        made = plan(intent, TWO)

        def stall(event: object) -> None:
            if isinstance(event, ChunkExtracted):
                proxy.stalled.set()

        with listen(stall), pytest.raises(ExecutionError):
            execute(made)
    assert "the server does not answer" in caplog.text
    assert published(intent) is None


def test_a_silent_connection_that_nobody_can_cut_ends_the_run_too(
    fresh_postgres, tmp_path, monkeypatch
):
    monkeypatch.setattr(postgres_reader, "is_plain", _never)
    with Proxy(filled(fresh_postgres).url) as proxy:
        intent = intent_for(proxy.engine(), "t", tmp_path, silence_timeout="1s")
        made = plan(intent)
        proxy.fault = Fault(20 * STREAMING, "stall")  # ADBC reads the catalogue first
        with pytest.raises(ExecutionError, match="silence_timeout") as caught:
            execute(made)
    assert isinstance(caught.value.__cause__, SourceUnavailable)
    assert published(intent) is None


def test_a_network_that_is_silent_while_adbc_connects_is_not_waited_for(
    fresh_postgres, monkeypatch
):
    monkeypatch.setattr(postgres_reader, "is_plain", _never)
    monkeypatch.setattr(postgres_reader, "_SETUP_SECONDS", 3.0)
    with Proxy(fresh_postgres.url) as proxy:
        proxy.fault = Fault(20_000, "stall")  # within the catalogue
        with (
            pytest.raises(SourceUnavailable, match="did not answer within 3 s"),
            dialect_named("postgres").reader(proxy.url),
        ):
            raise AssertionError("there is nothing to read from")
        assert proxy.broken


def test_a_query_that_computes_for_long_is_never_ended(source, tmp_path):
    with Proxy(source.url) as proxy:
        slow = SLOW[source.dialect.name]
        intent = intent_for(proxy.engine(), "slow", tmp_path, query=slow, silence_timeout="200ms")
        made = plan(intent)
        before = proxy.connections
        rows = rows_of(execute(made))
        asked = proxy.connections - before
    assert [int(n) for n in rows["n"].to_pylist()] == [7]
    # A leader and a reader at most; the others asked about it.
    assert asked > 4


def test_without_a_silence_timeout_nobody_asks(fresh_postgres, tmp_path):
    with Proxy(fresh_postgres.url) as proxy:
        slow = SLOW["postgresql"]
        made = plan(intent_for(proxy.engine(), "slow", tmp_path, query=slow, silence_timeout=None))
        before = proxy.connections
        assert rows_of(execute(made)).num_rows == 1
        assert proxy.connections - before <= 3


@contextlib.contextmanager
def lines_to(port: int | None) -> Iterator[list[socket.socket]]:
    """Give this process' connections to a port."""
    with contextlib.ExitStack() as stack:
        found = []
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are numbers here
            with contextlib.suppress(OSError):
                line = stack.enter_context(socket.socket(fileno=os.dup(int(name))))
                if line.family == socket.AF_INET and line.getpeername()[1] == port:
                    found.append(line)
        yield found


def asks(port: int | None) -> set[tuple[int, ...]]:
    """Say how those connections notice that their peer is gone."""
    options = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    ]
    with lines_to(port) as lines:
        return {tuple(line.getsockopt(*option) for option in options) for line in lines}


needs_linux = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="sees its own sockets only on Linux"
)


@needs_linux
@pytest.mark.parametrize("way", ["socket", "adbc"])
def test_every_connection_to_postgres_notices_a_peer_that_is_gone(fresh_postgres, monkeypatch, way):
    if way == "adbc":
        monkeypatch.setattr(postgres_reader, "is_plain", _never)
    url = fresh_postgres.url
    with Proxy(url) as proxy, visiting(Guest(silence_seconds=24.0)):
        with dialect_of(url).reader(proxy.url):
            assert asks(proxy.url.port) == {(1, 12, 4, 3, 24_000)}
        ours = proxy.url.update_query_dict({"keepalives_idle": "7", "tcp_user_timeout": "9000"})
        with dialect_of(url).reader(ours):
            assert asks(proxy.url.port) == {(1, 7, 4, 3, 9000)}


@needs_linux
def test_every_connection_to_mysql_notices_a_peer_that_is_gone(fresh_mariadb):
    with (
        Proxy(fresh_mariadb.url) as proxy,
        visiting(Guest(silence_seconds=24.0)),
        dialect_named("mysql").reader(proxy.url),
    ):
        assert asks(proxy.url.port) == {(1, 12, 4, 3, 24_000)}


@needs_linux
def test_every_connection_to_sql_server_notices_a_peer_that_is_gone(fresh_sqlserver):
    dialect = dialect_named("sqlserver")
    with Proxy(fresh_sqlserver.url) as proxy, visiting(Guest(silence_seconds=24.0)):
        with dialect.reader(proxy.url):
            (found,) = asks(proxy.url.port)
        assert found[:3] == (1, 12, 1)
        ours = proxy.url.update_query_dict({"KeepAlive": "7", "KeepAliveInterval": "5"})
        with dialect.reader(ours):
            (found,) = asks(proxy.url.port)
        assert found[:3] == (1, 7, 5)


def test_a_mysql_server_that_never_greets_is_not_waited_for_as_for_rows():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = sa.URL.create(
            "mysql+pymysql",
            username="u",
            host="127.0.0.1",
            port=silent.getsockname()[1],
            query={"connect_timeout": "1"},
        )
        rules = Guest(statement_seconds=3600.0)
        with visiting(rules), pytest.raises(SourceUnavailable), dialect_named("mysql").reader(url):
            raise AssertionError("there is nobody to read from")


def test_a_lost_connection_of_mysql_that_nothing_can_replace_says_what_happened(
    fresh_mariadb, tmp_path, monkeypatch
):
    with Proxy(filled(fresh_mariadb).url) as proxy:
        intent = intent_for(proxy.engine(), "t", tmp_path / "out")
        made = plan(intent, TWO)
        assert len(made.plan.tasks) > 1
        # One connection reads all tasks, and one is spare.
        monkeypatch.setenv(slots.ENVIRONMENT, "2")
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        proxy.fault = Fault(STREAMING)
        with pytest.raises(ExecutionError, match="nothing was published") as caught:
            execute(made)
    assert isinstance(caught.value.__cause__, SourceUnavailable)
    assert "the connection was lost (" in str(caught.value)
    assert "which no other connection can see; extract again" in str(caught.value)
    assert published(intent) is None
