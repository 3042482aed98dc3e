"""Every kind of frame, in and out: the same rows, keys, indexes and types on each warehouse."""

from __future__ import annotations

import datetime as dt
import sys
import time
from decimal import Decimal
from typing import Any

import duckdb
import ibis
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.dialects import connected, dialect_of
from ixflow.errors import FlowError, IxflowError, TaskError, UnsupportedType, ValidationError
from ixflow.pipeline import (
    ConfigContext,
    Flow,
    Stage,
    Table,
    create_basic_pipedag_config,
    materialize,
    run_stage,
)
from ixflow.pipeline.config import frozen
from ixflow.store import SQLTableStore
from ixflow.values import TableName
from ixflow_tests.stages import one_stage, rows

KINDS: dict[str, Any] = {
    "pandas": pd.DataFrame,
    "pandas numpy": (pd.DataFrame, "numpy"),
    "pandas arrow": {"type": pd.DataFrame, "backend": "arrow"},
    "polars": pl.DataFrame,
    "polars lazy": pl.LazyFrame,
    "arrow": pa.Table,
    "sqlalchemy": sa.Table,
    "duckdb": duckdb.DuckDBPyRelation,
    "ibis": ibis.Table,
}
if sys.version_info < (3, 12):  # tidypolars has no release for later ones
    import tidypolars

    KINDS["tidypolars"] = tidypolars.tibble

NAIVE = [dt.datetime.fromisoformat(text) for text in ("2024-02-29T01:02:03.000004", "0001-01-01")]
ZONED = [dt.datetime(1969, 12, 31, 23, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, tzinfo=dt.UTC)]
COLUMNS = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int32()),
        "small": pa.array([1, None, -3], pa.int16()),
        "big": pa.array([2**63 - 1, None, -(2**63)], pa.int64()),
        "unsigned": pa.array([2**64 - 1, None, 0], pa.uint64()),
        "flag": pa.array([True, None, False]),
        "ratio": pa.array([0.1, None, float("nan")], pa.float64()),
        "money": pa.array([Decimal("12345678901234567890.12"), None, Decimal("-0.01")]),
        "whole": pa.array([Decimal(10**17), None, Decimal(-1)], pa.decimal128(18, 0)),
        "Text": pa.array(["\\N", None, ""]),
        "kind": pa.array(["a", None, "b"]).dictionary_encode(),
        "bytes": pa.array([b"\x00\xff", None, b""]),
        "day": pa.array([dt.date(1, 1, 1), None, dt.date(9999, 12, 31)]),
        "hour": pa.array([dt.time(23, 59, 59, 999_999), None, dt.time(0)]),
        "local": pa.array([NAIVE[0], None, NAIVE[1]], pa.timestamp("us")),
        "zoned": pa.array([ZONED[0], None, ZONED[1]], pa.timestamp("us", "UTC")),
        "order": pa.nulls(3, pa.string()),
    }
)


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    yield made
    made.dispose()


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def copied(store, source, kind, **options):
    """Store a table, and what a task returns that got it as this kind."""

    @materialize(version="1")
    def original():
        return Table(source, "original")

    @materialize(version="1", input_type=kind)
    def copy(table):
        return Table(table, "copy", **options)

    with Flow("f") as flow, Stage("s"):
        copy(original())
    return run_stage(flow["s"], store)


def exact(store, table):
    """Give the rows as text, in which NaN is equal to itself and 1 not to 1.0."""
    return {
        repr({name: _utc(value) for name, value in row.items()}) for row in rows(store, "s", table)
    }


def _utc(value):
    zoned = isinstance(value, dt.datetime) and value.tzinfo is not None
    return value.astimezone(dt.UTC) if zoned else value


@pytest.mark.parametrize("number", [3, 0])
def test_every_value_and_type_survives_the_way_through_a_task(store, kind, number):
    # In NumPy's types a day is a datetime64, and NUMERIC(18, 0) a whole number.
    types = {"day": sa.Date(), "whole": sa.Numeric(18, 0)}
    result = copied(store, COLUMNS.slice(0, number), kind, type_map=types)
    assert exact(store, "copy") == exact(store, "original")
    assert len(exact(store, "copy")) == result["copy"].rows == number
    found, expected = ({c.name: c.type for c in result[t].columns} for t in ("copy", "original"))
    assert found == expected


def test_key_indexes_and_types_are_applied(store, kind):
    table = pa.table({"id": [1, 2], "n": [3, None], "m": [4, 5]})
    result = copied(
        store,
        table,
        kind,
        primary_key=["id"],
        indexes=[["n"], ["n", "id"]],
        type_map={"n": sa.SmallInteger(), "m": "numeric(12,3)"},
    )
    columns = {c.name: (c.type.lower(), c.nullable) for c in result["copy"].columns}
    assert columns["id"] == ("bigint", False)
    assert columns["n"] == ("smallint", True)
    assert columns["m"][0].replace("decimal", "numeric").replace(" ", "") == "numeric(12,3)"
    assert rows(store, "s", "copy")[1] == {"id": 2, "n": None, "m": Decimal("5.000")}
    with connected(store.engine) as conn:
        place = dialect_of(conn).columns(conn, TableName("copy", store.schema("s")))
    assert [column.name for column in place] == ["id", "n", "m"]


def test_any_column_name_survives(store, kind):
    names = ["a b", 'say "hi"', "50%", "%s", ":c", "a.b", "Select", "ü", "'", "\\"]
    table = pa.table({name: [number, None] for number, name in enumerate(names)})
    copied(store, table, kind, indexes=[["50%"]], type_map={":c": sa.SmallInteger()})
    assert rows(store, "s", "copy")[0] == {name: number for number, name in enumerate(names)}


def test_a_key_that_does_not_hold_is_an_error(store, kind):
    with pytest.raises(IxflowError, match=r"s\.copy"):
        copied(store, pa.table({"id": [1, 1]}), kind, primary_key="id")


def test_a_type_map_of_an_unknown_column_is_an_error(store, kind):
    with pytest.raises(ValidationError, match="nothing"):
        copied(store, pa.table({"id": [1]}), kind, type_map={"nothing": sa.Integer()})


def test_a_lazy_task_makes_its_table_again_only_if_the_rows_change(store, kind):
    def run(values):
        @materialize(version=str(values))
        def original():
            return Table(pa.table({"id": values}), "original")

        @materialize(lazy=True, input_type=kind)
        def copy(table):
            return Table(table, "copy")

        with Flow("f") as flow, Stage("s"):
            copy(original())
        return str({t.name: t.state for t in run_stage(flow["s"], store).tables}["copy"])

    assert [run([1]), run([1]), run([2])] == ["completed", "cache valid", "completed"]
    assert rows(store, "s", "copy") == [{"id": 2}]


def test_two_inputs_can_be_joined_where_the_kind_joins_within_a_database(store):
    def joined(kind, join):
        @materialize(version="1", nout=2, outputs=["one", "two"])
        def both():
            return pa.table({"id": [1, 2]}), pa.table({"id": [2, 3], "b": ["x", "y"]})

        task = materialize(version=str(kind), input_type=kind, name="out")(join)
        with Flow("f") as flow, Stage("s"):
            task(*both())
        run_stage(flow["s"], store)
        return rows(store, "s", "out")

    def in_sql(a, b):
        return a.query("one", "SELECT * FROM one JOIN b USING (id)")

    expected = [{"id": 2, "b": "x"}]
    assert joined(duckdb.DuckDBPyRelation, lambda a, b: a.join(b, "id")) == expected
    assert joined((duckdb.DuckDBPyRelation, None), in_sql) == expected
    assert joined(ibis.Table, lambda a, b: a.join(b, "id")) == expected


def _below(a, b):
    if isinstance(a, ibis.Table):
        return a.join(b, a.id < b.id).select(low=a.id, high=b.id)
    condition = f"{a.alias}.id < {b.alias}.id"
    return a.join(b, condition).select(f"{a.alias}.id AS low, {b.alias}.id AS high")


@pytest.mark.parametrize("kind", [ibis.Table, duckdb.DuckDBPyRelation])
def test_an_input_that_is_passed_twice_can_be_joined_with_itself(store, kind):
    @materialize(version="1")
    def numbers():
        return pa.table({"id": [1, 2]})

    pairs = materialize(lazy=True, input_type=kind, name="pairs")(_below)
    with Flow("f") as flow, Stage("s"):
        table = numbers()
        pairs(table, table)
    assert run_stage(flow["s"], store).published
    assert rows(store, "s", "pairs") == [{"low": 1, "high": 2}]
    assert not run_stage(flow["s"], store).published


@pytest.mark.parametrize("lazy_kind", [ibis.Table, duckdb.DuckDBPyRelation, pl.LazyFrame])
def test_tasks_that_run_side_by_side_do_not_disturb_each_other(store, lazy_kind):
    @materialize(version="1")
    def original():
        return pa.table({"id": list(range(1000))})

    @materialize(version="1", input_type=lazy_kind)
    def out(table, number):
        return Table(table.filter(above[lazy_kind](table, number)), f"out_{number}")

    above = {
        ibis.Table: lambda table, number: table.id >= number,
        duckdb.DuckDBPyRelation: lambda _, number: f"id >= {number}",
        pl.LazyFrame: lambda _, number: pl.col("id") >= number,
    }
    with Flow("f") as flow, Stage("s"):
        table = original()
        for number in range(6):
            out(table, number)
    result = run_stage(flow["s"], store, max_workers=4)
    assert [result[f"out_{number}"].rows for number in range(6)] == list(range(1000, 994, -1))


# -- values that frames have and tables have not ---------------------------------------------------


def written(store, frame):
    @materialize(version="1")
    def out():
        return Table(frame)

    run_stage(one_stage(out, name="s"), store)
    return rows(store, "s", "out")


def test_the_index_of_pandas_is_not_written(store):
    frame = pd.DataFrame({"x": [1, 2]}, index=pd.Index(["a", "b"], name="key"))
    assert written(store, frame) == [{"x": 1}, {"x": 2}]


def test_nan_is_null_only_where_pandas_has_no_other_null(store):
    arrow = pd.ArrowDtype(pa.float64())
    nullable = pd.arrays.FloatingArray(np.array([0.0, float("nan")]), np.array([True, False]))
    columns = {
        "plain": [None, float("nan")],
        "arrow": pd.arrays.ArrowExtensionArray(pa.array([None, float("nan")])),
        "nullable": nullable,
    }
    frame = pd.DataFrame(columns)
    assert frame.dtypes["arrow"] == arrow
    found = written(store, frame)
    assert found[0] == {"plain": None, "arrow": None, "nullable": None}
    assert found[1]["plain"] is None
    assert str(found[1]["arrow"]) == str(found[1]["nullable"]) == "nan"


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"x": pd.Categorical(["b", None, "a"])}),
        pl.DataFrame({"x": ["b", None, "a"]}, schema={"x": pl.Enum(["a", "b"])}),
        pl.LazyFrame({"x": ["b", None, "a"]}, schema={"x": pl.Categorical}),
        pa.table({"x": pa.array(["b", None, "a"]).dictionary_encode()}),
    ],
    ids=["pandas", "polars enum", "polars categories", "arrow"],
)
def test_categories_are_written_as_their_text(store, frame):
    assert [row["x"] for row in written(store, frame)] == ["b", None, "a"]


NESTED = pa.table({"id": [1], "v": [[1, 2]]})


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"id": [1], "v": [[1, 2]]}),
        pl.DataFrame({"id": [1], "v": [{"a": 1}]}),
        NESTED,
        duckdb.from_arrow(NESTED),
        ibis.memtable(NESTED),
    ],
    ids=["pandas", "polars", "arrow", "duckdb", "ibis"],
)
def test_lists_and_structs_are_refused_by_column(store, frame):
    with pytest.raises(UnsupportedType, match=r"list|struct"):
        written(store, frame)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({0: [1]}),
        pd.DataFrame([[1, 2]], columns=["x", "x"]),
        pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]),
        duckdb.connect().sql("SELECT 1 AS x, 2 AS x"),
        pd.DataFrame({"": [1]})[[]],
    ],
    ids=["number", "twice", "levels", "arrow twice", "duckdb twice", "none"],
)
def test_column_names_that_a_table_cannot_have_are_refused(store, frame):
    with pytest.raises(ValidationError, match="column"):
        written(store, frame)


@pytest.mark.parametrize(
    "value", ["5::UHUGEINT", "'12:00:00+05:30'::TIMETZ", "'0101'::BIT", "'1'::BIGNUM"]
)
def test_what_duckdb_changes_on_its_way_to_arrow_is_refused(store, value):
    with pytest.raises(UnsupportedType, match="column odd of a relation is"):
        written(store, duckdb.connect().sql(f"SELECT 1 AS id, {value} AS odd"))


@pytest.mark.parametrize("value", [10**38 - 1, -(10**38) + 1, None])
def test_a_sum_of_whole_numbers_in_duckdb_is_exact(store, value):
    frame = duckdb.connect().sql(f"SELECT CAST({value or 'NULL'} AS HUGEINT) AS n")
    assert written(store, frame) == [{"n": value if value is None else Decimal(value)}]


def test_a_sum_beyond_38_digits_is_refused(store):
    with pytest.raises(IxflowError, match="n"):
        written(store, duckdb.connect().sql(f"SELECT CAST({2**127 - 1} AS HUGEINT) AS n"))


def test_an_ibis_table_of_another_database_is_streamed(store):
    other = ibis.duckdb.from_connection(duckdb.connect())
    other.con.execute("CREATE SCHEMA s")
    other.con.execute("CREATE TABLE s.original AS SELECT 7 AS id")
    assert written(store, other.table("original", database="s")) == [{"id": 7}]


def test_an_ibis_table_joined_with_a_frame_is_streamed(store):
    @materialize(version="1")
    def original():
        return pa.table({"id": [1, 2]})

    @materialize(version="1", input_type=ibis.Table)
    def out(table):
        return table.semi_join(ibis.memtable(pa.table({"id": [2]})), "id")

    with Flow("f") as flow, Stage("s"):
        out(original())
    run_stage(flow["s"], store)
    assert rows(store, "s", "out") == [{"id": 2}]


# -- what is asked for -----------------------------------------------------------------------------

WRONG: dict[str, Any] = {
    "dict": dict,
    "object": object,
    "text": "pandas.DataFrame",
    "backend": (pd.DataFrame, "polars"),
    "no backends": (pl.DataFrame, "arrow"),
    "three": (pd.DataFrame, "arrow", 1),
    "no type": {"backend": "arrow"},
    "key": {"type": pd.DataFrame, "dtype": "arrow"},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_type_is_refused_where_it_is_declared(name):
    with pytest.raises(UnsupportedType, match=r"cannot be read as|no backend|its keys are"):
        materialize(version="1", input_type=WRONG[name])(lambda: None)


@pytest.mark.parametrize(
    "as_type", [(pd.DataFrame, "numpy"), {"type": pd.DataFrame, "backend": "numpy"}]
)
def test_a_result_can_be_had_in_numpys_types(store, as_type):
    @materialize(version="1")
    def original():
        return COLUMNS

    with Flow("f") as flow, Stage("s"):
        task = original()
    result = flow.run(config=ConfigContext.of_store(store, strict_result_get_locking=False))
    frame = result.get(task, as_type=as_type)
    found = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert {name: found[name] for name in ("small", "big", "flag", "ratio", "Text")} == {
        "small": "Int16",
        "big": "Int64",
        "flag": "boolean",
        "ratio": "Float64",
        "Text": "string",
    }
    assert {name: found[name] for name in ("day", "local", "zoned", "whole")} == {
        "day": "datetime64[s]",
        "local": "datetime64[us]",
        "zoned": "datetime64[us, UTC]",
        "whole": "Int64",
    }
    assert frame["money"][0] == Decimal("12345678901234567890.12")
    assert frame["day"][2] == pd.Timestamp("9999-12-31")
    assert frame.attrs["name"] == "original"


def test_a_task_that_calls_another_must_have_its_input_type(store):
    def run(outer, inner):
        @materialize(version="1")
        def original():
            return pa.table({"n": [1, 2]})

        @materialize(input_type=inner)
        def helper(table):
            return Table(table)

        @materialize(input_type=outer)
        def out(table):
            return Table(helper(table))

        with Flow("f") as flow, Stage("s"):
            out(original())
        run_stage(flow["s"], store)
        return len(rows(store, "s", "out"))

    assert run(pl.DataFrame, pl.DataFrame) == run(pl.DataFrame, None) == 2
    with pytest.raises(TaskError, match=r"helper takes tables as \(pandas.DataFrame, 'numpy'\)"):
        run(pl.DataFrame, (pd.DataFrame, "numpy"))


COUNT: dict[Any, Any] = {
    pd.DataFrame: len,
    pl.DataFrame: len,
    pl.LazyFrame: lambda frame: len(frame.collect()),
    pa.Table: len,
    duckdb.DuckDBPyRelation: len,
    ibis.Table: lambda table: table.count().to_pyarrow().as_py(),
}


@pytest.mark.parametrize("as_type", COUNT)
def test_a_result_can_be_had_as_every_kind_and_used_after_the_run(store, as_type):
    @materialize(version="1")
    def original():
        return pa.table({"n": [1, 2]})

    with Flow("f") as flow, Stage("s"):
        task = original()
    result = flow.run(config=ConfigContext.of_store(store, strict_result_get_locking=False))
    assert COUNT[as_type](result.get(task, as_type=as_type)) == 2


def sessions(store):
    """Count the connections to the warehouse, apart from our own."""
    if store.dialect.name == "duckdb":
        try:  # DuckDB opens a file that is open only with the same settings
            duckdb.connect(store.url.database, config={"threads": 1}).close()
        except duckdb.ConnectionException:
            return 1
        return 0
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    with store.begin() as conn:
        found = conn.exec_driver_sql(f"SELECT count(*) FROM pg_stat_activity WHERE {others}")
        return found.scalar_one()


def settles_at(store, wanted):
    """Say whether there are so many connections, once the server has noticed what was closed."""
    deadline = time.monotonic() + 20
    while sessions(store) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return sessions(store) == wanted


def test_an_ibis_table_holds_a_connection_only_as_long_as_it_is_needed(store):
    @materialize(version="1")
    def original():
        return pa.table({"n": [1, 2]})

    @materialize(version="1", input_type=ibis.Table)
    def out(table):
        return table.filter(table.n > 1)

    with Flow("f") as flow, Stage("s"):
        task = out(original())
    result = flow.run(config=ConfigContext.of_store(store, strict_result_get_locking=False))
    store.dispose()
    assert settles_at(store, 0)
    table = result.get(task)
    assert table.n.max().to_pyarrow().as_py() == 2
    assert settles_at(store, 1)
    del table
    assert settles_at(store, 0)


@pytest.mark.parametrize("backend", ["numpy", "arrow"])
def test_the_configuration_says_the_usual_backend(store, backend):
    seen = []

    @materialize(version="1")
    def original():
        return pa.table({"n": [1]})

    @materialize(input_type=pd.DataFrame)
    def looks(table):
        seen.append(str(table.dtypes["n"]))

    with Flow("f") as flow, Stage("s"):
        looks(original())
    hooks = frozen({"pandas": {"dtype_backend": backend}})
    flow.run(config=ConfigContext.of_store(store, fail_fast=True, table_hook_args=hooks))
    assert seen == [{"numpy": "Int64", "arrow": "int64[pyarrow]"}[backend]]


@pytest.mark.parametrize("auto_table", [None, [pl.DataFrame], []])
def test_once_auto_table_is_given_other_frames_must_be_wrapped(store, auto_table):
    @materialize(version="1")
    def bare():
        return pl.DataFrame({"x": [1]})

    @materialize(version="1")
    def lazy():
        return {"t": pl.LazyFrame({"x": [1]})}

    def run(task):
        with Flow("f") as flow, Stage("s"):
            task()
        url = store.url.render_as_string(hide_password=False)
        flow.run(config=create_basic_pipedag_config(url, auto_table=auto_table))
        return rows(store, "s", task.name)

    if auto_table != []:
        assert run(bare) == [{"x": 1}]
    if auto_table is None:
        assert run(lazy) == [{"x": 1}]
    else:
        with pytest.raises(FlowError, match=r"LazyFrame was returned as it is.*auto_table"):
            run(lazy)
