"""PostgreSQL is read through the socket or through ADBC: the same rows, the same refusals."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pyarrow as pa
import pytest

from ixflow.dialects import dialect_of, run
from ixflow.dialects.postgres import reader as reading
from ixflow.dialects.postgres.copy_socket import is_plain
from ixflow.dialects.postgres.hold import is_transient
from ixflow.dialects.types import arrow_schema
from ixflow.errors import UnsupportedType, ValueDoesNotFit
from ixflow.tables.read import read_table
from ixflow.values import Column, TableName
from ixflow_tests.servers import PostgresServer, make_engine

if TYPE_CHECKING:
    from sqlalchemy import Engine

COLUMNS = """
    n int, b boolean, s smallint, l bigint, r real, d double precision, t text, c char(5),
    v varchar, y bytea, day date, moment timestamp, zoned timestamptz, clock time,
    j json, u uuid, price numeric(12,2), exact numeric, span interval, list int[]
"""
SOME = """
    SELECT n, n % 2 = 0, n, n * 10000000000, n / 3.0, n / 7.0, repeat('ä', n % 5), 'x', n::text,
           decode(repeat('64000000', n % 4), 'hex'), date '2000-01-01' + n,
           timestamp '1999-12-31 23:59:59.999999' - n * interval '1 year', to_timestamp(n),
           time '00:00' + n * interval '1 second', json_build_array(n), md5(n::text)::uuid,
           n / 100.0, n / 1000.0, n * interval '1 hour', ARRAY[n, NULL]
    FROM generate_series(1, 500) n
"""
NOTHING = "SELECT 501" + ", NULL" * 19


@pytest.fixture(params=["socket", "ADBC"])
def way(request, monkeypatch):
    """Read a connection that is not encrypted in both ways."""
    if request.param == "ADBC":
        monkeypatch.setattr(reading, "is_plain", lambda _: False)
    return request.param


def rows_of(engine: Engine, name: str) -> list[dict[str, object]]:
    return sorted(read_table(engine, TableName(name)).to_pylist(), key=repr)


def make(engine: Engine, *statements: str) -> None:
    with engine.begin() as conn:
        for statement in statements:
            run(conn, statement)


@pytest.mark.parametrize("batch_bytes", [64, 4096, 1 << 20])
def test_both_ways_of_reading_give_the_same(fresh_postgres, monkeypatch, batch_bytes):
    make(fresh_postgres, f"CREATE TABLE t ({COLUMNS})", f"INSERT INTO t {SOME}")
    make(fresh_postgres, f"INSERT INTO t {NOTHING}")
    monkeypatch.setattr(reading, "_BATCH_BYTES", batch_bytes)
    through_socket = rows_of(fresh_postgres, "t")
    monkeypatch.setattr(reading, "is_plain", lambda _: False)
    assert len(through_socket) == 501
    assert through_socket == rows_of(fresh_postgres, "t")


def test_a_table_without_rows_is_read(fresh_postgres, way):
    make(fresh_postgres, f"CREATE TABLE t ({COLUMNS})")
    assert rows_of(fresh_postgres, "t") == []


def test_rows_much_longer_than_a_batch_come_whole_between_short_ones(fresh_postgres, way):
    make(
        fresh_postgres,
        "CREATE TABLE t AS SELECT n, repeat('x', CASE WHEN n % 3 = 0 THEN 5000000 ELSE n END) AS t "
        "FROM generate_series(1, 10) n",
    )
    found = {row["n"]: row["t"] for row in rows_of(fresh_postgres, "t")}
    assert found == {n: "x" * (5_000_000 if n % 3 == 0 else n) for n in range(1, 11)}


@contextlib.contextmanager
def opened(engine: Engine):
    with dialect_of(engine).reader(engine.url) as reader:
        yield reader


NUMBER = (Column("n", "integer", pa.int32()),)
SLOW_FAILURE = "SELECT 100000 / (50000 - n) AS n FROM generate_series(1, 60000) n"


def test_a_query_that_fails_after_many_rows_says_why(fresh_postgres, way):
    with opened(fresh_postgres) as reader, pytest.raises(Exception, match="division by zero"):
        reader.read(SLOW_FAILURE, NUMBER).read_all()


def test_a_cut_connection_is_worth_another_try(fresh_postgres, way):
    cut = "SELECT pg_terminate_backend(pg_backend_pid())::int AS n FROM generate_series(1, 3)"
    with opened(fresh_postgres) as reader, pytest.raises(Exception, match="terminat") as caught:
        reader.read(cut, NUMBER).read_all()
    assert is_transient(caught.value)


def test_several_queries_are_read_one_after_another(fresh_postgres, way):
    with opened(fresh_postgres) as reader:
        for rows in (3, 0, 70_000):
            query = f"SELECT n FROM generate_series(1, {rows}) n -- all of them"
            assert reader.read(query, NUMBER).read_all()["n"].to_pylist() == [*range(1, rows + 1)]


def test_a_reader_that_is_left_before_the_end_keeps_no_session(fresh_postgres, way):
    with opened(fresh_postgres) as reader:
        batches = reader.read("SELECT n FROM generate_series(1, 5000000) n", NUMBER)
        assert batches.read_next_batch().num_rows
    others = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%5000000%' AND state <> ''"
    others += " AND pid <> pg_backend_pid() AND datname = current_database()"
    deadline = time.monotonic() + 30
    with fresh_postgres.connect() as conn:
        while run(conn, others).scalar_one() and time.monotonic() < deadline:
            conn.rollback()
            time.sleep(0.05)
        assert run(conn, others).scalar_one() == 0
    batches.close()


def test_an_answer_that_was_not_read_out_is_never_taken_for_the_next(fresh_postgres):
    with opened(fresh_postgres) as reader:
        first = reader.read("SELECT n FROM generate_series(1, 5000000) n", NUMBER)
        assert first.read_next_batch().num_rows
        with pytest.raises(psycopg.OperationalError, match="closed"):
            reader.read("SELECT 1 AS n", NUMBER)
    first.close()


def test_what_is_not_one_query_is_refused_before_anything_runs(fresh_postgres):
    make(fresh_postgres, "CREATE TABLE t (n int)")
    for text in ("SELECT 1) TO STDOUT; DROP TABLE t; --", "SELECT 1; SELECT 2"):
        with opened(fresh_postgres) as reader, pytest.raises(psycopg.errors.SyntaxError):
            reader.read(text, NUMBER)


def test_a_type_that_is_not_decoded_is_named(fresh_postgres):
    with opened(fresh_postgres) as reader, pytest.raises(UnsupportedType, match="span is of"):
        reader.read("SELECT interval '1 day' AS span", NUMBER)


def test_types_come_from_the_server_and_not_from_what_was_expected(fresh_postgres, way):
    """A timestamp and a float of eight bytes each are never taken for one another."""
    with opened(fresh_postgres) as reader:
        wide = reader.read("SELECT 7::bigint AS n", NUMBER).read_all()
        assert wide.schema == arrow_schema(NUMBER)
        assert wide.to_pylist() == [{"n": 7}]
        with pytest.raises(ValueDoesNotFit):
            reader.read("SELECT 3.5::float8 AS n", NUMBER).read_all()


def test_bytes_that_are_no_text_are_refused(fresh_postgres, way):
    with fresh_postgres.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        run(conn, "DROP DATABASE IF EXISTS plain_bytes")
        run(conn, "CREATE DATABASE plain_bytes ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    url = fresh_postgres.url.set(database="plain_bytes", query={"client_encoding": "utf8"})
    engine = make_engine(url)
    make(engine, "CREATE TABLE t AS SELECT convert_from('\\xff', 'SQL_ASCII') AS t")
    with pytest.raises(Exception, match="invalid byte sequence"):
        rows_of(engine, "t")
    engine.dispose()


@pytest.fixture
def encrypted() -> Iterator[Engine]:
    """Give a server that takes only connections with TLS."""
    with PostgresServer() as server:
        engine = make_engine(server.url)
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
            rules = data / "pg_hba.conf"
            rules.write_text("hostssl all all 127.0.0.1/32 trust\n")
            run(conn, "ALTER SYSTEM SET ssl = on")
            run(conn, "SELECT pg_reload_conf()")
        engine.dispose()
        engine = make_engine(f"{server.url}?sslmode=require")
        yield engine
        engine.dispose()


def test_an_encrypted_connection_is_read(encrypted):
    make(encrypted, f"CREATE TABLE t ({COLUMNS})", f"INSERT INTO t {SOME}")
    assert len(rows_of(encrypted, "t")) == 500
    with encrypted.connect() as conn:
        assert not is_plain(conn.connection.driver_connection)
