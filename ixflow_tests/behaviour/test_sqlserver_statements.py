"""Every statement that ixflow sends to SQL Server is T-SQL, as far as sqlglot knows it.

The statements are what the stand-in was really sent while every method of the dialect ran; which
methods there are is asked of the class, so that a new one cannot be missed.
"""

from __future__ import annotations

import inspect
import warnings

import pytest
import sqlalchemy as sa
import sqlglot
from sqlglot import exp

from ixflow.dialects import dialect_named
from ixflow.dialects.masks import masked_column
from ixflow.dialects.sqlserver import catalog
from ixflow.dialects.sqlserver.reader import begin_statements, session_settings
from ixflow.dialects.sqlserver.types import arrow_type
from ixflow.errors import ValidationError
from ixflow.extraction.api import execute, plan
from ixflow.values import Column, TableName, TablePart
from ixflow_tests.sources import intent_for, make

DIALECT = dialect_named("sqlserver")
TABLE = TableName("t")

# Every public method that sends something, and what the test gives it.
SENDING = {
    "comment": (TABLE,),
    "columns": (TABLE,),
    "count": (TABLE,),
    "describe": ("SELECT a FROM t",),
    "exists": (TABLE,),
    "has_index": (TABLE, "a"),
    "parts": (TABLE,),
    "split_keys": (TablePart(TABLE),),
    "query_part": (TABLE, "SELECT a FROM t"),
    "read_columns": (TABLE,),
    "source_facts": (TABLE,),
    "tables_in": ("dbo",),
}


def _read(url: sa.URL) -> None:
    columns = [Column("a", "int", *arrow_type("int"))]
    with DIALECT.reader(url) as reader:
        reader.read(DIALECT.select(TABLE, columns), columns).read_all()


def parsed(statement: str) -> list[exp.Expr | None]:
    """Parse a batch; a statement that sqlglot gives up on would only be a Command."""
    # sqlglot knows all isolation levels of SQL but SQL Server's own.
    known = statement.replace("ISOLATION LEVEL SNAPSHOT", "ISOLATION LEVEL SERIALIZABLE")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trees = sqlglot.parse(known, read="tsql")
    assert not any(isinstance(tree, exp.Command) for tree in trees), statement
    return list(trees)


@pytest.mark.stand_in
@pytest.mark.parametrize("method", [*SENDING, "reader"])
def test_what_a_method_sends_is_t_sql(method, fresh_sqlserver, sqlserver_server):
    make(fresh_sqlserver, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
    with fresh_sqlserver.connect() as conn, sqlserver_server.recorded() as sent:
        if method == "reader":
            _read(fresh_sqlserver.url)
        else:
            getattr(DIALECT, method)(conn, *SENDING[method])
        statements = sent()
    assert statements
    assert all(parsed(statement) for statement in statements)


def test_no_method_that_reads_from_a_connection_is_left_out():
    reading = {
        name
        for name, method in inspect.getmembers(type(DIALECT), inspect.isfunction)
        if not name.startswith("_")
        and {"conn", "url"} & set(inspect.signature(method).parameters)
        and method.__qualname__.startswith("SQLServerDialect.")
    }
    # What holds and connects is what the whole path runs through, below.
    assert reading - {"reader", "hold", "engine"} <= set(SENDING)


@pytest.mark.stand_in
def test_a_whole_extraction_sends_t_sql_that_changes_nothing(
    fresh_sqlserver, sqlserver_server, tmp_path
):
    make(
        fresh_sqlserver, "CREATE TABLE t (a int, b datetime2(7))", "INSERT INTO t VALUES (1, NULL)"
    )
    with sqlserver_server.recorded() as sent:
        execute(plan(intent_for(fresh_sqlserver, "t", tmp_path)))
        statements = sent()
    trees = [tree for statement in statements for tree in parsed(statement)]
    assert {type(tree) for tree in trees} <= {exp.Select, exp.Set, exp.Transaction}
    asked = " ".join(statements)
    for wanted in ("SET TRANSACTION ISOLATION LEVEL SNAPSHOT", "SET TEXTSIZE -1", "FROM [t]"):
        assert wanted in asked
    assert "COUNT(" not in asked.replace("(SELECT COUNT(*) FROM sys.dm_exec_sessions", "")


def test_every_statement_of_the_modules_is_t_sql():
    """Also those that a certain state of the server leads to."""
    clauses = [value for value in vars(catalog).values() if isinstance(value, sa.TextClause)]
    assert len(clauses) >= 9
    engine = sa.create_engine("mssql+mssqlpython://", poolclass=sa.NullPool)
    for clause in clauses:
        assert parsed(str(clause.compile(engine)).replace("%(", "@").replace(")s", ""))
    states = [
        catalog.Isolation(allowed, replica, frozen)
        for allowed in (False, True)
        for replica in (False, True)
        for frozen in (False, True)
    ]
    for state in states:
        assert all(parsed(statement) for statement in begin_statements(state))
    assert all(parsed(statement) for statement in session_settings())


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (catalog.Isolation(), ["READ COMMITTED"]),
        (catalog.Isolation(allowed=True), ["SNAPSHOT", "BEGIN TRANSACTION"]),
        (catalog.Isolation(replica=True), ["READ COMMITTED", "BEGIN TRANSACTION"]),
        (catalog.Isolation(allowed=True, frozen=True), ["READ COMMITTED"]),
    ],
)
def test_a_reader_asks_for_a_snapshot_where_it_is_allowed(state, said):
    found = begin_statements(state)
    assert [
        statement.removeprefix("SET TRANSACTION ISOLATION LEVEL ") for statement in found
    ] == said


@pytest.mark.parametrize("keys", [1, 3])
def test_key_ranges_conditions_and_queries_are_t_sql(keys):
    from ixflow.values import KeyRange

    columns = [Column("a]b", "int", *arrow_type("int"))]
    types = ("int", "nvarchar(20)", "datetime2(7)")[:keys]
    names = ("a]b", "c", "d")[:keys]
    low, high = ("1", "it's", "2024-01-01 00:00:00.0000001")[:keys], ("9", "z", "2024-02-01")[:keys]
    for part in (KeyRange(names, types, low, high), KeyRange(names, types, nulls=True)):
        query = DIALECT.select_part(
            TablePart(TABLE), columns, keys=part, where="c > 1 -- more", query="SELECT * FROM t"
        )
        (tree,) = parsed(query)
        assert isinstance(tree, exp.Select)


@pytest.mark.parametrize("mask", ["hash", "null", "redact", "first3", "last4", "year"])
@pytest.mark.parametrize("sql_type", ["nvarchar(20)", "int", "date", "datetime2(3)", "money"])
def test_a_masked_column_is_asked_for_in_t_sql(mask, sql_type):
    column = Column("a]b", sql_type, *arrow_type(sql_type))
    if mask == "year" and "date" not in sql_type:
        with pytest.raises(ValidationError, match="year"):
            masked_column(column, mask)
        return
    query = DIALECT.select_part(TablePart(TABLE), [masked_column(column, mask)], salt="it's")
    (tree,) = parsed(query)
    assert isinstance(tree, exp.Select)
    assert tree.named_selects == ["a]b"]


def test_the_greatest_value_and_the_first_row_are_asked_for_in_t_sql():
    column = Column("a]b", "datetime2(7)", *arrow_type("datetime2(7)"))
    query = DIALECT.greatest(TablePart(TABLE), column, where=["c = 1"])
    (tree,) = parsed(query)
    assert isinstance(tree, exp.Select)
    assert "TOP (1)" in query
    assert "LIMIT" not in query


@pytest.mark.stand_in
def test_who_may_not_see_other_sessions_is_not_refused(sqlserver_server):
    with sqlserver_server.database() as engine:
        make(engine, "CREATE TABLE t (a int)", "DENY VIEW SERVER STATE TO [sa]")
        with engine.connect() as conn:
            assert DIALECT.source_facts(conn, TABLE).active_connections == -1


@pytest.mark.stand_in
def test_a_memory_optimized_table_is_read_without_a_snapshot(
    fresh_sqlserver, sqlserver_server, tmp_path
):
    """SQL Server refuses to read one in a transaction whose level is SNAPSHOT."""
    make(fresh_sqlserver, "CREATE TABLE t (a int) WITH (MEMORY_OPTIMIZED = ON)")
    made = plan(intent_for(fresh_sqlserver, "t", tmp_path))
    assert made.plan.consistency == "per connection"
    with sqlserver_server.recorded() as sent:
        execute(made)
        assert not any("LEVEL SNAPSHOT" in statement for statement in sent())
