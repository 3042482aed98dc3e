"""Sources of `incremental_batches` that are not plain: standbys, TLS, old clusters, mistakes."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ixflow import Exclusive, incremental_batches, ingest
from ixflow.dialects import run
from ixflow.errors import IngestError, SourceUnavailable, StatementTimeout, ValidationError
from ixflow_tests.behaviour.test_incremental_batches import (
    STAMPED,
    ids,
    ingested,
    settled,
    target,
    url_of,
)
from ixflow_tests.behaviour.test_polite_guest import caught_up
from ixflow_tests.servers import PostgresServer, ReplicaServer, make_engine
from ixflow_tests.sources import make


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[sa.Engine]:
    """Give an empty DuckDB warehouse."""
    engine = make_engine(f"duckdb:///{tmp_path}/warehouse.duckdb")
    yield engine
    engine.dispose()


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "sql", "said"),
    [
        ("where", "nosuch = 1", "nosuch"),
        ("where", "id = ", "syntax|near"),
        ("query", "SELECT id, nosuch AS k FROM t", "nosuch"),
        ("query", "SELECT FROM WHERE", "syntax|near"),
    ],
)
def test_mistakes_in_sql_come_in_the_sources_words(any_engine, warehouse, argument, sql, said):
    make(any_engine, "CREATE TABLE t (id integer PRIMARY KEY, k integer)")
    place: dict[str, Any] = {} if argument == "query" else {"source_table": "t"}
    place[argument] = sql
    new = incremental_batches(url_of(any_engine), target(), cursor="k", **place)
    with pytest.raises(ValidationError, match=rf"(?is)not understand {argument}.*({said})"):
        ingested(warehouse, target(), new)


def test_a_driver_that_reads_nothing_is_named():
    with pytest.raises(ValidationError, match="driver asyncpg"):
        incremental_batches("postgresql+asyncpg://me@nowhere/db", target())


@pytest.mark.parametrize("wrong", [5, dt.timedelta(0), "1min"])
def test_a_statement_timeout_is_a_time(fresh_postgres, wrong):
    with pytest.raises(ValidationError, match="statement_timeout"):
        incremental_batches(fresh_postgres, target(), statement_timeout=wrong)


def test_a_source_that_ends_no_statements_is_not_asked_to(fresh_sqlite):
    with pytest.raises(ValidationError, match="does not end statements"):
        incremental_batches(fresh_sqlite, target(), statement_timeout=dt.timedelta(minutes=1))


def test_mariadb_ends_a_statement_that_takes_too_long(fresh_mariadb, warehouse):
    make(fresh_mariadb, "CREATE TABLE t (id bigint, k bigint)", "INSERT INTO t VALUES (1, 1)")
    new = incremental_batches(
        fresh_mariadb,
        target(sa.Column("v", sa.INTEGER)),
        cursor="id",
        semantics=Exclusive(),
        query="SELECT id, sleep(30 + k) AS v FROM t",
        statement_timeout=dt.timedelta(seconds=0.3),
    )
    with pytest.raises((StatementTimeout, SourceUnavailable, IngestError), match=r"(?i)time"):
        ingested(warehouse, target(sa.Column("v", sa.INTEGER)), new)


def test_a_statement_that_takes_too_long_is_ended_by_the_source(fresh_postgres, warehouse):
    make(fresh_postgres, STAMPED, "INSERT INTO t VALUES (1, now() - interval '1 day')")
    slow = "SELECT id, pg_sleep(30)::text AS v, ts FROM t"
    table = target(sa.Column("v", sa.Text))
    soon = dt.timedelta(seconds=0.3)
    new = incremental_batches(
        fresh_postgres, table, cursor="ts", query=slow, statement_timeout=soon
    )
    with pytest.raises(StatementTimeout, match="longer statement_timeout"):
        ingested(warehouse, table, new)
    patient = incremental_batches(
        fresh_postgres,
        table,
        cursor="ts",
        query="SELECT id, 'x' AS v, ts FROM t",
        statement_timeout=dt.timedelta(minutes=1),
    )
    ingested(warehouse, table, patient)
    assert ids(warehouse, table) == [1]


def test_the_sources_snapshot_is_let_go_when_an_ingest_fails(fresh_postgres, warehouse):
    table = target()
    make(fresh_postgres, STAMPED, "INSERT INTO t SELECT generate_series(1, 50000)")

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError) as kept, warehouse.connect() as conn:
        ingest(conn, table.metadata, settled(fresh_postgres, table), fail)
    assert kept.value.__traceback__ is not None
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    with fresh_postgres.connect() as conn:
        open_ = run(conn, f"{others} AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL")
        assert open_.scalar() == 0


# -- servers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("cursor", ["ts", None])
def test_psycopg2_names_the_same_server(fresh_postgres, warehouse, key, cursor):
    table = target(key=key)
    make(fresh_postgres, STAMPED, "INSERT INTO t VALUES (1)")
    url = fresh_postgres.url.set(drivername="postgresql+psycopg2")
    new = incremental_batches(url, table, cursor=cursor, source_table="t")
    ingested(warehouse, table, new)
    make(fresh_postgres, "INSERT INTO t VALUES (2)")
    ingested(warehouse, table, new)
    assert ids(warehouse, table) == [1, 2]


def test_a_standby_passes_no_transaction_that_is_open_on_its_primary(tmp_path):
    with PostgresServer() as primary:
        engine = make_engine(primary.url)
        make(engine, STAMPED, "INSERT INTO t VALUES (1)")
        with ReplicaServer(primary) as replica:
            standby = make_engine(replica.url)
            for number, (key, cursor) in enumerate(
                [(True, "ts"), (True, None), (False, "ts"), (False, None)]
            ):
                first = 10 * (number + 1)
                warehouse = make_engine(f"duckdb:///{tmp_path}/warehouse{number}.duckdb")
                table = target(key=key)
                new = incremental_batches(standby, table, cursor=cursor, source_table="t")
                with engine.connect() as slow:
                    run(slow, f"INSERT INTO t VALUES ({first})")
                    make(engine, f"INSERT INTO t VALUES ({first + 1})")
                    caught_up(engine, standby)
                    ingested(warehouse, table, new)
                    seen = ids(warehouse, table)
                    slow.commit()
                assert 1 in seen
                assert first not in seen
                for _ in range(100):  # the standby learns a little later who has ended
                    ingested(warehouse, table, new)
                    if first in ids(warehouse, table):
                        break
                    time.sleep(0.05)
                with engine.connect() as conn:
                    assert ids(warehouse, table) == sorted(run(conn, "SELECT id FROM t").scalars())


def test_a_source_that_encrypts_is_read(tmp_path, warehouse):
    with PostgresServer() as server:
        engine = make_engine(server.url)
        make(engine, STAMPED, "INSERT INTO t VALUES (1)")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            data = Path(str(run(conn, "SHOW data_directory").scalar_one()))
            key, certificate = data / "server.key", data / "server.crt"
            subject = ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
            command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject]
            made = ["-keyout", str(key), "-out", str(certificate)]
            subprocess.run([*command, *made], check=True, capture_output=True)
            for file in (key, certificate):
                file.chmod(0o600)
                os.chown(file, data.stat().st_uid, data.stat().st_gid)
            (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
            run(conn, "ALTER SYSTEM SET ssl = on")
            run(conn, "SELECT pg_reload_conf()")
        engine.dispose()
        url = sa.make_url(f"{server.url}?sslmode=require")
        for number, driver in enumerate(["psycopg", "psycopg2"], start=1):
            table = target(name=f"t{number}", key=False)
            named = url.set(drivername=f"postgresql+{driver}")
            new = incremental_batches(named, table, cursor="ts", source_table="t")
            ingested(warehouse, table, new)
            assert ids(warehouse, table) == list(range(1, number + 1))
            make(make_engine(url.render_as_string()), f"INSERT INTO t VALUES ({number + 1})")
            ingested(warehouse, table, new)
            assert ids(warehouse, table) == list(range(1, number + 2))


def test_beyond_2_32_transactions_rows_come_once_or_are_refused(reachable_tmp_path, warehouse):
    data = reachable_tmp_path / "data"
    with PostgresServer(data_dir=data) as server:
        make(make_engine(server.url), STAMPED, "INSERT INTO t SELECT generate_series(1, 5)")
        early = target(name="early", key=False)
        ingested(warehouse, early, settled(make_engine(server.url), early))
        program = Path(server._binaries) / "pg_resetwal"
    owner = data.stat()
    subprocess.run(
        [str(program), "-f", "-e", "1", "-x", "5000", str(data)],
        check=True,
        capture_output=True,
        user=owner.st_uid if os.geteuid() == 0 else None,
        group=owner.st_gid if os.geteuid() == 0 else None,
    )
    with PostgresServer(data_dir=data) as server:
        engine = make_engine(server.url)
        for number, (key, cursor) in enumerate([(True, "ts"), (True, None), (False, "ts")]):
            table = target(name=f"t{number}", key=key)
            new = settled(engine, table, cursor=cursor)
            with engine.connect() as slow:
                run(slow, f"INSERT INTO t VALUES ({10 * (number + 1)})")
                make(engine, f"INSERT INTO t VALUES ({10 * (number + 1) + 1})")
                ingested(warehouse, table, new)
                slow.commit()
            assert 5 in ids(warehouse, table)
            ingested(warehouse, table, new)
            with engine.connect() as conn:
                assert ids(warehouse, table) == sorted(run(conn, "SELECT id FROM t").scalars())
        bare = target(name="bare", key=False)
        for table, cursor in ((bare, None), (early, "ts")):
            with pytest.raises(ValidationError, match=r"2\^32 transactions ago"):
                ingested(warehouse, table, settled(engine, table, cursor=cursor))
        assert ids(warehouse, early) == [1, 2, 3, 4, 5]
