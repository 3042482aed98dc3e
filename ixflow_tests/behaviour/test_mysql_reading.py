"""Reading MariaDB to Arrow over real connections: long rows, wide rows, and what goes wrong."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa
import pymysql
import pytest

from ixflow.dialects import run
from ixflow.dialects.mysql import MySQLDialect
from ixflow.errors import ColumnMismatch, ValueDoesNotFit
from ixflow.values import Column, TableName
from ixflow_tests.servers import MariaDBServer, make_engine
from ixflow_tests.sources import make

_dialect = MySQLDialect()
MANY = "SELECT seq, repeat('x', 500) FROM seq_1_to_200000"
ENDLESS = "SELECT a.seq, repeat('x', 500) FROM seq_1_to_1000000 a, seq_1_to_1000000 b"
NUMBER = Column("n", "bigint unsigned", pa.uint64())
TEXT = Column("t", "text", pa.string())


def read(engine, sql: str, *columns: Column) -> pa.Table:
    with _dialect.reader(engine.url) as reader:
        return reader.read(sql, columns).read_all()


def read_table(engine, name: str) -> pa.Table:
    with engine.connect() as conn:
        columns = _dialect.columns(conn, TableName(name))
    items = ", ".join(map(_dialect.select_item, columns))
    return read(engine, f"SELECT {items} FROM {_dialect.quote(name)}", *columns)


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_any_number_of_rows_arrives(fresh_mariadb, count):
    sql = f"SELECT seq, nullif(concat('é', seq), 'é2') FROM seq_1_to_1000 WHERE seq <= {count}"
    found = read(fresh_mariadb, sql, NUMBER, TEXT)
    texts = [None if n == 2 else f"é{n}" for n in range(1, count + 1)]
    assert found.to_pydict() == {"n": list(range(1, count + 1)), "t": texts}


@contextmanager
def packets_of(engine, size: int) -> Iterator[None]:
    """Let new connections have packets up to this size."""
    with engine.connect() as conn:
        before = run(conn, "SELECT @@global.max_allowed_packet").scalar_one()
        run(conn, f"SET GLOBAL max_allowed_packet = {size}")
        try:
            yield
        finally:
            run(conn, f"SET GLOBAL max_allowed_packet = {before}")


@pytest.mark.parametrize("size", [2**24 - 8, 2**24 - 6, 2**24 - 5, 2**24, 40_000_000])
def test_rows_of_16_megabytes_and_more_arrive(fresh_mariadb, size):
    with packets_of(fresh_mariadb, 64 << 20):
        sql = f"SELECT seq, if(seq = 2, repeat('y', {size}), 'short') FROM seq_1_to_3"
        found = read(fresh_mariadb, sql, NUMBER, TEXT).to_pydict()
    assert found == {"n": [1, 2, 3], "t": ["short", "y" * size, "short"]}


def test_300_columns_arrive(fresh_mariadb):
    names = [f"c{n}" for n in range(300)]
    make(
        fresh_mariadb,
        f"CREATE TABLE t ({', '.join(f'{name} int' for name in names)})",
        f"INSERT INTO t SELECT {', '.join(f'nullif(seq, {n})' for n in range(300))} "
        "FROM seq_1_to_500",
    )
    expected = {
        name: [None if row == n else row for row in range(1, 501)] for n, name in enumerate(names)
    }
    assert read_table(fresh_mariadb, "t").to_pydict() == expected


@pytest.mark.parametrize("charset", ["latin1", "utf8mb3", "utf8mb4"])
def test_text_is_the_same_whatever_the_charset_of_table_and_connection(fresh_mariadb, charset):
    make(
        fresh_mariadb,
        "CREATE TABLE t (a varchar(9) CHARACTER SET latin1, b varchar(9) CHARACTER SET utf8mb4)",
        "INSERT INTO t VALUES ('é€ß', '😀é')",
    )
    engine_url = fresh_mariadb.url.update_query_dict({"charset": charset})
    with fresh_mariadb.connect() as conn:
        columns = _dialect.columns(conn, TableName("t"))
    with _dialect.reader(engine_url) as reader:
        found = reader.read("SELECT a, b FROM t", columns).read_all()
    assert found.to_pylist() == [{"a": "é€ß", "b": "😀é"}]


def test_a_zero_date_is_refused_by_row_and_the_reader_reads_on(fresh_mariadb):
    day = Column("d", "date", pa.date32())
    sql = "SELECT if(seq = 70001, '0000-00-00', '2024-02-29') FROM seq_1_to_300000"
    with _dialect.reader(fresh_mariadb.url) as reader:
        with pytest.raises(ValueDoesNotFit, match=r"d in row 70000 \(value '0000-00-00'\)"):
            reader.read(sql, [day]).read_all()
        assert reader.read("SELECT 1", [NUMBER]).read_all().to_pydict() == {"n": [1]}


def test_a_query_of_other_columns_is_refused(fresh_mariadb):
    with _dialect.reader(fresh_mariadb.url) as reader:
        with pytest.raises(ColumnMismatch, match="gives 2 columns"):
            reader.read(MANY, [NUMBER])
        assert reader.read("SELECT 1", [NUMBER]).read_all().num_rows == 1


def test_rows_that_nobody_wants_are_not_read(fresh_mariadb):
    with _dialect.reader(fresh_mariadb.url) as reader:
        batches = reader.read(ENDLESS, [NUMBER, TEXT])
        assert next(iter(batches)).num_rows > 0
        # The same connection: the query before has to end first.
        assert reader.read("SELECT 1", [NUMBER]).read_all().num_rows == 1
        with pytest.raises(pymysql.ProgrammingError, match="given up"):
            list(batches)


@pytest.mark.parametrize("sql", [ENDLESS, "SELECT seq, sleep(9) FROM seq_1_to_9"])
def test_another_thread_stops_a_read(fresh_mariadb, sql):
    with _dialect.reader(fresh_mariadb.url) as reader:
        stop = threading.Timer(0.3, reader.cancel)
        stop.start()
        with pytest.raises(pymysql.Error) as caught:
            for _ in reader.read(sql, [NUMBER, TEXT]):
                pass
        stop.join()
        assert caught.value.args[0] == 1317
        assert not _dialect.is_transient(caught.value)
        assert reader.read("SELECT 1", [NUMBER]).read_all().num_rows == 1


def test_a_killed_connection_is_worth_another_try(fresh_mariadb):
    with _dialect.reader(fresh_mariadb.url) as reader:
        batches = reader.read(MANY, [NUMBER, TEXT])
        first = next(iter(batches))
        with fresh_mariadb.connect() as conn:
            run(conn, f"KILL {reader._raw.thread_id()}")
        rows = first.num_rows
        with pytest.raises(pymysql.Error) as caught:
            rows += sum(batch.num_rows for batch in batches)
        assert rows < 200_000
        assert _dialect.is_transient(caught.value)


def test_rows_arrive_while_the_server_is_slow(fresh_mariadb):
    with _dialect.reader(fresh_mariadb.url) as reader:
        # Rows that the server's own buffer of 16 kB does not keep together.
        sql = "SELECT seq, concat(repeat('z', 70000), sleep(0.05)) FROM seq_1_to_10"
        batches = [batch.num_rows for batch in reader.read(sql, [NUMBER, TEXT])]
    assert sum(batches) == 10
    assert len(batches) > 1


def test_two_threads_read_what_one_reads(fresh_mariadb):
    with ThreadPoolExecutor(2) as pool:
        tables = list(pool.map(lambda _: read(fresh_mariadb, MANY, NUMBER, TEXT), range(2)))
    assert tables[0].equals(tables[1])
    assert tables[0]["n"].to_pylist() == list(range(1, 200_001))


@pytest.fixture
def tls_mariadb(reachable_tmp_path):
    """Give a server of the test's own that has a certificate, and the engine that wants it."""
    key, certificate = reachable_tmp_path / "key.pem", reachable_tmp_path / "cert.pem"
    named = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *named]
    made = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *made], check=True, capture_output=True, timeout=60)
    key.chmod(0o644)  # The server's account reads it.
    with MariaDBServer(f"--ssl-key={key}", f"--ssl-cert={certificate}") as server:
        yield make_engine(f"{server.url}mysql?ssl_ca={certificate}")


def test_rows_arrive_through_tls(tls_mariadb):
    with _dialect.reader(tls_mariadb.url) as reader:
        assert isinstance(reader._raw._sock, ssl.SSLSocket)
        found = reader.read(MANY, [NUMBER, TEXT]).read_all()
        assert found["n"].to_pylist() == list(range(1, 200_001))
        assert next(iter(reader.read(ENDLESS, [NUMBER, TEXT]))).num_rows > 0
        assert reader.read("SELECT 1", [NUMBER]).read_all().num_rows == 1
        batches = reader.read(ENDLESS, [NUMBER, TEXT])
        with tls_mariadb.connect() as conn:
            run(conn, f"KILL {reader._raw.thread_id()}")
        with pytest.raises(pymysql.Error) as caught:
            list(batches)
        assert _dialect.is_transient(caught.value)
