"""A hidden value never leaves its server: every byte that a server sends is looked at."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
import sqlalchemy as sa

from ixflow.extraction.api import execute, plan
from ixflow.extraction.context import RuntimeContext
from ixflow_tests.sources import intent_for, make, rows_of


class Wiretap:
    """Relays connections to a server, and keeps what the server says."""

    def __init__(self, target: sa.URL) -> None:
        self.heard = bytearray()
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def engine(self) -> sa.Engine:
        """Make an engine that goes through here."""
        port = self._listener.getsockname()[1]
        return sa.create_engine(self._target.set(port=port), poolclass=sa.NullPool)

    def close(self) -> None:
        """End every connection."""
        for line in self._sockets:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for line in self._sockets:
            line.close()

    def _start(self, work, *arguments) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target.port or 0))
                self._sockets += [client, server]
                self._start(self._relay, client, server, bytearray())
                self._start(self._relay, server, client, self.heard)

    def _relay(self, source: socket.socket, sink: socket.socket, heard: bytearray) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                heard += block
                sink.sendall(block)
        for line in (source, sink):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


@pytest.fixture(params=["postgres", "mariadb"])
def tapped(request):
    """Give a server, the same server through a wiretap, and the tap."""
    engine = request.getfixturevalue(f"fresh_{request.param}")
    tap = Wiretap(engine.url)
    yield engine, tap.engine, tap
    tap.close()


def test_the_tap_hears_what_is_not_hidden(tapped, tmp_path):
    engine, through, tap = tapped
    make(engine, "CREATE TABLE t (id integer, v varchar(40))")
    make(engine, "INSERT INTO t VALUES (1, 'plain as day')")
    assert rows_of(execute(plan(intent_for(through, "t", tmp_path)))).num_rows == 1
    assert b"plain as day" in tap.heard


@pytest.mark.parametrize("how", ["hash", "null", "redact", "last2", "first2", "drop"])
def test_hidden_values_stay_on_the_server(tapped, tmp_path, how):
    engine, through, tap = tapped
    make(
        engine,
        "CREATE TABLE t (v varchar(40) PRIMARY KEY, id integer)",
        "INSERT INTO t VALUES " + ", ".join(f"('secret-{n:06d}-value', {n})" for n in range(4000)),
    )
    options = {"drop": ["v"]} if how == "drop" else {"mask": {"v": how}}
    where = "v > 'secret-000000-value' OR id >= 0"
    intent = intent_for(through, "t", tmp_path, where=where, **options)
    # Two workers ask for tasks, and so for bounds of a key.
    result = execute(plan(intent, RuntimeContext(min_workers=2)))
    assert result.rows_extracted == 4000
    assert len(tap.heard) > 1000
    assert b"secret-" not in tap.heard
    assert not any(b"secret-000001" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
