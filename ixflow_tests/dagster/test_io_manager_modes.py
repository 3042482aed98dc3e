"""How outputs come into tables that are there: appended, upserted, with other columns."""

from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

import ixflow
import ixflow.dagster as ixd
from ixflow.errors import ValidationError
from ixflow_tests.dagster.seen import failure, made, rows, value
from ixflow_tests.dagster.storing import materialize, returning
from ixflow_tests.sources import make

ROWS = [{"id": 1, "name": "a"}, {"id": 2, "name": None}]


def keep(obj, said, warehouse, instance, **options):
    """Materialize ``st/t`` once, with this metadata."""
    return materialize([returning(obj, metadata=said, **options)], warehouse, instance)


def frames() -> dict[str, Any]:
    """Make one object of each kind, which some give their rows only once."""
    table = pa.Table.from_pylist(ROWS)
    query = sa.select(sa.literal(1).label("id"), sa.literal("a").label("name"))
    return {
        "pandas": pd.DataFrame(ROWS),
        "polars": pl.DataFrame(ROWS),
        "lazy": pl.LazyFrame(ROWS),
        "arrow": table,
        "reader": table.to_reader(),
        "select": query.union_all(sa.select(sa.literal(2), sa.null())),
        "relation": duckdb.connect().from_arrow(table),
        "table": ixflow.Table(table, primary_key="id"),
    }


@pytest.mark.parametrize("kind", frames())
def test_every_kind_of_output_is_upserted(kind, warehouse, instance):
    said = ixd.stored("upsert", primary_key="id")
    first = keep(pl.DataFrame({"id": [2, 3], "name": ["b", "c"]}), said, warehouse, instance)
    assert first.success
    result = keep(frames()[kind], said, warehouse, instance)
    assert rows(warehouse.engine, "st.t ORDER BY 1") == [(1, "a"), (2, None), (3, "c")]
    one = made(result)["st/t"]
    assert value(one, "ixflow/rows_inserted") == 1
    assert value(one, "ixflow/rows_updated") == 1
    assert value(one, "dagster/row_count") == 3


def test_each_run_appends_its_rows(warehouse, instance):
    frame, said = pl.DataFrame({"id": [1, 2]}), ixd.stored("append")
    seen: list[Any] = []

    @dg.asset(ins={"t": dg.AssetIn(key=["st", "t"])})
    def down(t: pa.Table):
        seen.append(t.column_names)

    for _ in range(2):
        result = materialize([returning(frame, metadata=said), down], warehouse, instance)
        assert result.success
    assert rows(warehouse.engine, "(SELECT id FROM st.t) q") == [(1,), (1,), (2,), (2,)]
    assert value(made(result)["st/t"], "dagster/row_count") == 4
    assert seen == [["id"], ["id"]]


def test_a_run_that_is_tried_again_does_not_double_its_rows(warehouse, instance):
    tries = []

    @dg.asset(
        key=["st", "t"], metadata=ixd.stored("append"), retry_policy=dg.RetryPolicy(max_retries=2)
    )
    def t(context: dg.AssetExecutionContext):
        tries.append(context.retry_number)
        yield dg.Output(pl.DataFrame({"id": [len(tries), 10]}))
        if len(tries) < 3:
            msg = "after its rows were there"
            raise OSError(msg)

    keep(pl.DataFrame({"id": [0]}), ixd.stored("append"), warehouse, instance)
    assert materialize([t], warehouse, instance).success
    assert tries == [0, 1, 2]
    assert rows(warehouse.engine, "(SELECT id FROM st.t) q") == [(0,), (3,), (10,)]


def test_a_run_that_is_executed_again_replaces_what_it_appended(warehouse, instance):
    manager = ixd.SQLTableStoreIOManager(store=warehouse)
    counts = iter([[1, 2], [3], [4, 5, 6]])
    asset = returning(lambda _: pl.DataFrame({"id": next(counts)}), metadata=ixd.stored("append"))
    defs = dg.Definitions(
        [asset],
        resources={"warehouse": warehouse, "io_manager": manager},
        executor=dg.in_process_executor,
    )
    job = defs.resolve_implicit_global_asset_job_def()
    first, other = (job.execute_in_process(instance=instance).run_id for _ in range(2))
    again = instance.create_run_for_job(
        job_def=job,
        parent_run_id=first,
        root_run_id=first,
        asset_selection=frozenset({asset.key}),
    )
    assert execute_run(InMemoryJob(job), again, instance).success
    found = rows(warehouse.engine, "(SELECT id, _ixflow_run FROM st.t) q")
    assert found == [(3, f"{other} st/t"), *((n, f"{first} st/t") for n in (4, 5, 6))]


def test_a_column_called_like_that_of_the_run_is_refused(duckdb_warehouse, instance):
    frame = pl.DataFrame({"_ixflow_run": [1]})
    result = keep(frame, ixd.stored("append"), duckdb_warehouse, instance)
    assert "have a column '_ixflow_run'" in failure(result).description
    assert keep(frame, ixd.stored("append", run_column="by"), duckdb_warehouse, instance).success


def test_a_table_of_reserved_names_is_kept_in_every_mode(warehouse, instance):
    frame = pl.DataFrame({"select": [1], "from": ["it's"], 'a"b': [None], "100%": [1.5]})
    for mode in ("append", "upsert", "replace"):

        @dg.asset(
            key=["order", "group"],
            metadata=ixd.stored(mode, primary_key="select" if mode == "upsert" else ()),
        )
        def group():
            return frame

        make(warehouse.engine, 'DROP TABLE IF EXISTS "order"."group"') if mode != "append" else None
        for _ in range(2):
            assert materialize([group], warehouse, instance).success
    assert rows(warehouse.engine, '"order"."group"') == [(1, "it's", None, 1.5)]


def test_views_and_grants_stay_when_a_table_is_rebuilt(fresh_postgres, instance):
    url = fresh_postgres.url.render_as_string(hide_password=False)
    warehouse = ixd.SQLTableStoreResource(url=url)
    said = ixd.stored("append", schema_evolution="recreate", indexes=[["id"]])
    keep(pl.DataFrame({"id": [1]}), said, warehouse, instance)
    make(
        fresh_postgres,
        "CREATE VIEW st.seen AS SELECT id FROM st.t",
        "GRANT SELECT ON st.t TO public",
    )
    index = "(SELECT indexdef FROM pg_indexes WHERE schemaname = 'st') q"
    before = rows(fresh_postgres, index)
    assert keep(pl.DataFrame({"id": [1], "new": [1]}), said, warehouse, instance).success
    assert rows(fresh_postgres, "st.seen") == [(1,), (1,)]
    assert rows(fresh_postgres, index) == before
    grants = "(SELECT has_table_privilege('public', 'st.t', 'SELECT')) q"
    assert rows(fresh_postgres, grants) == [(True,)]


def test_only_the_columns_that_are_asked_for_are_read(warehouse, instance):
    seen: dict[str, Any] = {}

    def down(kind: Any, columns: list[str]):
        @dg.asset(
            name=f"by_{kind.__name__}_{len(columns)}",
            ins={"t": dg.AssetIn(key=["st", "t"], metadata={"columns": columns})},
        )
        def fn(t: kind):
            seen[kind.__name__] = t

        return fn

    kinds = (pd.DataFrame, pl.LazyFrame, pa.Table, sa.Select)
    up = returning(pl.DataFrame({"a": [1], "b": [2], "c": [3]}))
    assert materialize([up, *(down(k, ["c", "a"]) for k in kinds)], warehouse, instance).success
    assert list(seen["DataFrame"].columns) == ["c", "a"]
    assert seen["LazyFrame"].collect().to_dicts() == [{"c": 3, "a": 1}]
    assert seen["Table"].to_pylist() == [{"c": 3, "a": 1}]
    with warehouse.engine.connect() as conn:
        assert conn.execute(seen["Select"]).all() == [(3, 1)]
    unknown = materialize([up, down(pa.Table, ["x"])], warehouse, instance)
    assert "st.t has no columns ['x']; it has ['a', 'b', 'c']" in failure(unknown).description


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "merge"}, "ixflow/mode is 'merge'; it can be replace, append, upsert, partition"),
        ({"schema_evolution": "evolve"}, "ixflow/schema_evolution is 'evolve'; it can be fail"),
        ({"mode": "upsert"}, "needs a primary key"),
        ({"mode": "partition"}, "the column that tells them as partition_expr"),
    ],
)
def test_what_does_not_go_together_is_refused_when_it_is_declared(arguments, said):
    with pytest.raises(ValidationError, match=said):
        ixd.stored(**arguments)
