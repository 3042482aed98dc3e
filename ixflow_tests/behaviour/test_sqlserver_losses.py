"""Connections to SQL Server that break: the rows are whole, or an error and nothing published.

What breaks is the stand-in, on the wire to Microsoft's driver: a real server cannot be asked to.
"""

from __future__ import annotations

import threading

import pytest
from mssql_python.cursor import Cursor

from ixflow.dialects import Cancellable, dialect_named, patience
from ixflow.errors import ExecutionError, SourceUnavailable
from ixflow.extraction.api import execute, plan, published
from ixflow.values import TableName
from ixflow_tests.sources import intent_for, make, rows_of
from ixflow_tests.sqlserver import SQLServer

pytestmark = pytest.mark.stand_in
DIALECT = dialect_named("sqlserver")
ROWS, CELL = 400, "REPLICATE(CAST(N'x' AS nvarchar(max)), 20000)"


@pytest.fixture
def own_server():
    """Give a stand-in that the test may kill."""
    with SQLServer() as server:
        yield server


def filled(engine, column="b nvarchar(max)", cell=CELL):
    """Make a table of 16 MB on the wire."""
    make(engine, f"CREATE TABLE t (a int, {column})")
    values = ", ".join(f"({n})" for n in range(ROWS))
    make(engine, "CREATE TABLE n (a int)", f"INSERT INTO n VALUES {values}")
    make(engine, f"INSERT INTO t SELECT a, {cell} FROM n")


@pytest.mark.parametrize("kind", ["cut", "close", "deadlock"])
@pytest.mark.parametrize("after_bytes", [0, 5_000_000])
def test_a_read_that_breaks_once_is_done_again_from_the_start(
    kind, after_bytes, sqlserver_server, fresh_sqlserver, tmp_path
):
    filled(fresh_sqlserver)
    made = plan(intent_for(fresh_sqlserver, "t", tmp_path))
    sqlserver_server.administer(f"EXEC stand_in_fault '{kind}', {after_bytes}, 1")
    found = rows_of(execute(made))
    assert sorted(found["a"].to_pylist()) == list(range(ROWS))


@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        ("cut", "nvarchar(max)"),
        ("close", "int"),
        ("deadlock", "int"),
        ("fail", "nvarchar(max)"),
        ("fail", "int"),
    ],
)
def test_a_read_that_always_breaks_is_an_error_and_nothing_is_published(
    kind, cell, sqlserver_server, fresh_sqlserver, tmp_path
):
    filled(fresh_sqlserver, f"b {cell}", CELL if cell == "nvarchar(max)" else "1")
    intent = intent_for(fresh_sqlserver, "t", tmp_path)
    made = plan(intent)
    sqlserver_server.administer(f"EXEC stand_in_fault '{kind}', 1000, 100")
    try:
        with pytest.raises(ExecutionError) as caught:
            execute(made)
    finally:
        sqlserver_server.administer("EXEC stand_in_fault 'cut', 0, 0")
    said = {"deadlock": "deadlocked", "fail": "Divide by zero"}.get(kind, "link failure")
    assert said in str(caught.value.errors["001"])
    assert published(intent) is None
    assert not list((tmp_path / "t").glob("*.parquet"))


def test_an_answer_that_ends_anywhere_is_never_taken_for_all_of_it(
    sqlserver_server, fresh_sqlserver
):
    """The driver itself ends a result in peace where the server goes between two rows."""
    filled(fresh_sqlserver, "b int", "1")
    with fresh_sqlserver.connect() as conn:
        columns = DIALECT.columns(conn, TableName("t"))
    query, row = DIALECT.select(TableName("t"), columns), 11
    for after in (0, 1, 2, 5, row - 1, row, row + 1, 91 * row, 200 * row + 3, (ROWS - 1) * row):
        sqlserver_server.administer(f"EXEC stand_in_fault 'close', {after}, 1")
        with (
            DIALECT.reader(fresh_sqlserver.url) as reader,
            pytest.raises(Exception, match=r"link failure|0x2746") as caught,
        ):
            reader.read(query, columns).read_all()
        assert DIALECT.is_transient(caught.value), after
    with DIALECT.reader(fresh_sqlserver.url) as reader:
        assert reader.read(query, columns).read_all().num_rows == ROWS


def test_rows_that_the_server_counts_and_nobody_gets_are_missed(fresh_sqlserver, monkeypatch):
    """As if the driver had lost a row in the middle."""
    make(fresh_sqlserver, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1), (2), (3)")
    with fresh_sqlserver.connect() as conn:
        columns = DIALECT.columns(conn, TableName("t"))
    with DIALECT.reader(fresh_sqlserver.url) as reader:
        fetch = Cursor.arrow_batch
        monkeypatch.setattr(Cursor, "arrow_batch", lambda self, count: fetch(self, count)[1:])
        with pytest.raises(SourceUnavailable, match="sent 3 rows, but only 2 rows arrived"):
            reader.read(DIALECT.select(TableName("t"), columns), columns).read_all()


def test_a_server_that_dies_while_it_is_read_is_an_error(own_server):
    own_server.administer("CREATE DATABASE own")
    engine = DIALECT.engine(own_server.url.set(database="own"))
    filled(engine)
    with engine.connect() as conn:
        columns = DIALECT.columns(conn, TableName("t"))
    with DIALECT.reader(engine.url) as reader:
        batches = reader.read(DIALECT.select(TableName("t"), columns), columns)
        batches.read_next_batch()
        own_server.stand_in.kill()
        with pytest.raises(Exception, match="link failure") as caught:
            batches.read_all()
    assert DIALECT.is_transient(caught.value)
    # The driver tries a port that refuses it until its time is over.
    with patience(1), pytest.raises(SourceUnavailable), DIALECT.reader(engine.url):
        pass


def test_a_query_is_cancelled_from_another_thread(fresh_sqlserver):
    filled(fresh_sqlserver)
    with fresh_sqlserver.connect() as conn:
        columns = DIALECT.columns(conn, TableName("t"))
    with DIALECT.reader(fresh_sqlserver.url) as reader:
        assert isinstance(reader, Cancellable)
        batches = reader.read(DIALECT.select(TableName("t"), columns), columns)
        batches.read_next_batch()
        thread = threading.Thread(target=reader.cancel)
        thread.start()
        thread.join()
        with pytest.raises(Exception, match=r"(?i)cancel|not prepared"):
            batches.read_all()


def test_cancelling_when_nothing_runs_does_nothing(fresh_sqlserver):
    make(fresh_sqlserver, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
    with fresh_sqlserver.connect() as conn:
        columns = DIALECT.columns(conn, TableName("t"))
    with DIALECT.reader(fresh_sqlserver.url) as reader:
        assert isinstance(reader, Cancellable)
        reader.cancel()
        assert (
            reader.read(DIALECT.select(TableName("t"), columns), columns).read_all().num_rows == 1
        )
        reader.cancel()
