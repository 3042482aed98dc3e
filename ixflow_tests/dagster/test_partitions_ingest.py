"""Partitions of ingested tables: a run replaces its rows and no others, in one transaction."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow import ingest
from ixflow.errors import ValidationError
from ixflow.ingestion.checks import RowCheck
from ixflow_tests.dagster.conftest import resource_of
from ixflow_tests.dagster.seen import checks, data_version, failure, made, rows, value
from ixflow_tests.sources import intent_for, make

DAYS = dg.DailyPartitionsDefinition(start_date="2024-05-01", end_date="2024-05-04")
COUNTRIES = dg.StaticPartitionsDefinition(["de", "fr"])
ONE, TWO, THREE = (dt.date(2024, 5, day) for day in (1, 2, 3))


class Orders:
    """A table by days and what its source has; a day can be told to fail."""

    def __init__(self, *, keyed=True):
        self.metadata = sa.MetaData()
        self.table = sa.Table(
            "orders",
            self.metadata,
            sa.Column("id", sa.BigInteger, primary_key=keyed, autoincrement=False),
            sa.Column("day", sa.Date),
            sa.Column("country", sa.Text),
            schema="raw",
        )
        self.rows: list[tuple[Any, ...]] = [
            (1, ONE, "de"),
            (2, ONE, "fr"),
            (3, TWO, "de"),
            (4, THREE, None),
        ]
        self.broken: set[str] = set()
        self.careless = False
        self.windows: list[Any] = []

    def asset(self, **options):
        given: dict[str, Any] = {"partitions_def": DAYS, "partition_by": "day", **options}

        @ixd.ingest_asset(metadata=self.metadata, **given)
        def raw_orders(partition: ixd.Slice):
            self.windows.append(partition.window)
            if partition.name in self.broken:
                msg = f"{partition.name} is broken"
                raise ZeroDivisionError(msg)
            wanted = [row for row in self.rows if self.is_of(row, partition)]
            for row in wanted:
                yield None, None, [(self.table, row)]

        return raw_orders

    def is_of(self, row, partition):
        """Say whether a row is of a partition, as the source sees it."""
        if self.careless:
            return True
        if partition.window is None:
            return row[2] == partition.name
        return partition.window.start.date() <= row[1] < partition.window.end.date()


def run(asset, warehouse, instance, keys, config=None):
    """Materialize a partition, or the range from the first to the last."""
    one = {"partition_key": keys} if isinstance(keys, str) else {"tags": range_of(*keys)}
    return dg.materialize(
        [asset],
        instance=instance,
        resources={"warehouse": warehouse, "planner": ixd.PlannerResource()},
        run_config={"ops": {asset.op.name: {"config": config}}} if config else None,
        raise_on_error=False,
        **one,
    )


def range_of(first, last):
    return {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }


def told(result):
    events = result.get_asset_materialization_events()
    found = [event.step_materialization_data.materialization for event in events]
    return {one.partition: one for one in found}


def counts(one):
    names = ("inserted", "updated", "unchanged", "deleted")
    return tuple(value(one, f"ixflow/rows_{name}") for name in names)


# -- which rows are replaced --------------------------------------------------------------------


def test_a_partition_replaces_its_rows_and_leaves_all_others(warehouse, instance):
    orders = Orders()
    found = told(run(orders.asset(), warehouse, instance, ("2024-05-01", "2024-05-03")))
    numbers = {key: value(one, "dagster/partition_row_count") for key, one in found.items()}
    assert numbers == {"2024-05-01": 2, "2024-05-02": 1, "2024-05-03": 1}
    orders.rows = [(1, ONE, "de"), (2, ONE, "it"), (9, ONE, "us")]
    [one] = told(run(orders.asset(), warehouse, instance, "2024-05-01")).values()
    assert counts(one) == (1, 1, 1, 0)
    orders.rows = [(9, ONE, "us")]
    [one] = told(run(orders.asset(), warehouse, instance, "2024-05-01")).values()
    assert counts(one) == (0, 0, 1, 2)
    assert value(one, "dagster/partition_row_count") == 1
    assert rows(warehouse.engine, "raw.orders") == [
        (3, TWO, "de"),
        (4, THREE, None),
        (9, ONE, "us"),
    ]


def test_a_table_without_a_key_is_replaced_partition_by_partition_too(warehouse, instance):
    orders = Orders(keyed=False)
    orders.rows += [(1, ONE, "de")]
    run(orders.asset(), warehouse, instance, ("2024-05-01", "2024-05-02"))
    [one] = told(run(orders.asset(), warehouse, instance, "2024-05-01")).values()
    assert counts(one) == (3, 0, 0, 3)
    assert [row[0] for row in rows(warehouse.engine, "raw.orders")] == [1, 1, 2, 3]


def test_a_partition_without_rows_is_emptied_and_others_are_not(warehouse, instance):
    orders = Orders()
    run(orders.asset(), warehouse, instance, ("2024-05-01", "2024-05-02"))
    orders.rows = []
    [one] = told(run(orders.asset(), warehouse, instance, "2024-05-01")).values()
    assert counts(one) == (0, 0, 0, 2)
    assert [row[0] for row in rows(warehouse.engine, "raw.orders")] == [3]


def test_the_same_rows_again_keep_their_data_version(duckdb_warehouse, instance):
    orders = Orders()
    asset = orders.asset()
    [first] = told(run(asset, duckdb_warehouse, instance, "2024-05-01")).values()
    [again] = told(run(asset, duckdb_warehouse, instance, "2024-05-01")).values()
    assert data_version(first) == data_version(again)
    orders.rows.append((7, ONE, "de"))
    [other] = told(run(asset, duckdb_warehouse, instance, "2024-05-01")).values()
    assert data_version(other) != data_version(first)


def test_partitions_are_keys_too(duckdb_warehouse, instance):
    orders = Orders()
    asset = orders.asset(partitions_def=COUNTRIES, partition_by="country")
    found = told(run(asset, duckdb_warehouse, instance, ("de", "fr")))
    numbers = {key: value(one, "dagster/partition_row_count") for key, one in found.items()}
    assert numbers == {"de": 2, "fr": 1}
    assert orders.windows == [None, None]
    assert value(found["de"], "ixflow/in_no_partition") == "rows whose country is NULL"


def test_the_high_watermark_of_a_table_is_left_as_it_is(warehouse, instance):
    orders = Orders()
    with warehouse.engine.connect() as conn:
        ingest(conn, orders.metadata, lambda _: [(42, None, [(orders.table, (8, TWO, "x"))])])
    orders.rows = [(1, ONE, "de")]
    assert run(orders.asset(), warehouse, instance, "2024-05-01").success
    seen: list[Any] = []

    def batches(after: Any) -> Iterator[Any]:
        seen.append(after)
        yield from ()

    with warehouse.engine.connect() as conn:
        ingest(conn, orders.metadata, batches)
    assert seen == [42]
    assert [row[0] for row in rows(warehouse.engine, "raw.orders")] == [1, 8]


def test_a_new_column_comes_with_a_partition_and_keeps_the_rows_of_others(warehouse, instance):
    orders = Orders()
    run(orders.asset(), warehouse, instance, ("2024-05-01", "2024-05-02"))
    wider = Orders()
    wider.table.append_column(sa.Column("note", sa.Text))
    wider.rows = [(1, ONE, "de", "new")]
    assert run(wider.asset(), warehouse, instance, "2024-05-01").success
    assert rows(warehouse.engine, "raw.orders") == [(1, ONE, "de", "new"), (3, TWO, "de", None)]


# -- what is refused ----------------------------------------------------------------------------


def test_rows_of_another_partition_are_refused_and_nothing_is_changed(warehouse, instance):
    orders = Orders()
    run(orders.asset(), warehouse, instance, ("2024-05-01", "2024-05-02"))
    before = rows(warehouse.engine, "raw.orders")
    orders.careless = True
    orders.rows = [(1, ONE, "xx"), (5, None, "xx"), (6, TWO, "xx")]
    said = str(failure(run(orders.asset(), warehouse, instance, "2024-05-01")).description)
    assert "2 rows for raw.orders are not of its partition 2024-05-01" in said
    assert "such as one with day = " in said
    assert rows(warehouse.engine, "raw.orders") == before


def test_a_key_that_a_row_of_another_partition_has_is_refused(warehouse, instance):
    orders = Orders()
    run(orders.asset(), warehouse, instance, ("2024-05-01", "2024-05-02"))
    orders.rows = [(3, ONE, "moved")]
    said = str(failure(run(orders.asset(), warehouse, instance, "2024-05-01")).description)
    assert "1 rows for partition 2024-05-01 of raw.orders have the primary key of a row in" in said
    assert (3, TWO, "de") in rows(warehouse.engine, "raw.orders")


def test_a_partition_that_fails_leaves_the_others_of_its_range(duckdb_warehouse, instance):
    orders = Orders()
    orders.broken = {"2024-05-02"}
    asset = orders.asset()
    result = run(asset, duckdb_warehouse, instance, ("2024-05-01", "2024-05-03"))
    assert not result.success
    found = told(result)
    numbers = {key: value(one, "dagster/partition_row_count") for key, one in found.items()}
    assert numbers == {"2024-05-01": 2, "2024-05-03": 1}
    assert instance.get_materialized_partitions(asset.key) == {"2024-05-01", "2024-05-03"}
    assert [row[0] for row in rows(duckdb_warehouse.engine, "raw.orders")] == [1, 2, 4]


def test_what_does_not_go_with_partitions_is_refused(warehouse, instance, tmp_path):
    orders = Orders()
    refused: list[tuple[dict[str, Any], str]] = [
        ({"delete": "__MISSING__"}, "delete cannot be given with partitions"),
        ({"prove_arrival": True}, "prove_arrival cannot be given with partitions"),
        ({"partition_by": "gone"}, "which raw.orders has not"),
        ({"partition_by": None}, "partitions_def without partition_by"),
    ]
    for options, said in refused:
        with pytest.raises(ValidationError, match=said):
            orders.asset(**options)
    config = {"high_watermark": "7"}
    result = run(orders.asset(), warehouse, instance, "2024-05-01", config)
    assert "high_watermark cannot be given with partitions" in str(failure(result).description)
    intent = ixd.PlannerResource().intent(intent_for(warehouse.engine, "orders", tmp_path))
    with pytest.raises(ValidationError, match="has no cursor"):
        ixd.ingest_extraction(intent)
    with pytest.raises(ValidationError, match="cursor cannot be given with partitions"):
        ixd.ingest_extraction(intent, cursor="id", partitions_def=DAYS, partition_by="day")


def test_a_function_that_does_not_ask_for_the_partition_is_run_for_one_at_a_time(
    duckdb_warehouse, instance
):
    orders = Orders()
    options: dict[str, Any] = {"partitions_def": DAYS, "partition_by": "day"}

    def batches(context: dg.AssetExecutionContext, high_watermark: Any) -> Any:
        assert high_watermark is None
        start = context.partition_time_window.start.date()
        kept = [row for row in orders.rows if row[1] == start]
        yield None, None, [(orders.table, row) for row in kept]

    asset = ixd.ingest_asset(metadata=orders.metadata, **options)(batches)
    assert asset.backfill_policy == dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
    [one] = told(run(asset, duckdb_warehouse, instance, "2024-05-01")).values()
    assert value(one, "dagster/partition_row_count") == 2
    with pytest.raises(ValidationError, match="give it a parameter named partition"):
        ixd.ingest_asset(
            metadata=orders.metadata, backfill_policy=dg.BackfillPolicy.single_run(), **options
        )(batches)


# -- beside it ----------------------------------------------------------------------------------


def test_rows_that_break_a_rule_are_put_aside_and_counted_over_the_range(
    duckdb_warehouse, instance
):
    orders = Orders()
    asset = orders.asset(
        on_before_visible=RowCheck("known", "country IS NOT NULL", on_fail="quarantine")
    )
    result = run(asset, duckdb_warehouse, instance, ("2024-05-01", "2024-05-03"))
    assert checks(result) == {"known": False}
    found = told(result)
    assert value(found["2024-05-03"], "ixflow/rows_quarantined") == 1
    assert value(found["2024-05-01"], "ixflow/rows_quarantined") == 0


def test_partitions_go_from_the_source_through_files_to_the_table(
    fresh_sqlite, warehouse, instance, tmp_path
):
    make(
        fresh_sqlite,
        "CREATE TABLE orders (id integer PRIMARY KEY, day date, country varchar(9))",
        "INSERT INTO orders VALUES (1, '2024-05-01', 'de'), (2, '2024-05-02', 'fr')",
    )
    intent = intent_for(fresh_sqlite, "orders", tmp_path)
    options: dict[str, Any] = {"partitions_def": DAYS, "partition_by": "day"}
    files = ixd.extraction_asset(intent, **options)
    table = ixd.ingest_extraction(intent, **options)
    said = str(failure(run(table, warehouse, instance, "2024-05-01")).description)
    assert "nothing of orders (partition 2024-05-01) is published" in said
    for day in ("2024-05-01", "2024-05-02", "2024-05-01"):
        result = dg.materialize(
            [files, table],
            instance=instance,
            partition_key=day,
            resources={"warehouse": warehouse, "planner": ixd.PlannerResource()},
        )
        assert result.success
    assert rows(warehouse.engine, "raw.orders") == [(1, ONE, "de"), (2, TWO, "fr")]
    make(fresh_sqlite, "INSERT INTO orders VALUES (3, '2024-05-02', 'it')")
    both = dg.materialize(
        [files, table],
        instance=instance,
        tags=range_of("2024-05-01", "2024-05-02"),
        resources={"warehouse": warehouse, "planner": ixd.PlannerResource()},
    )
    found = both.asset_materializations_for_node("ingest_raw_orders")
    inserted = {one.partition: value(one, "ixflow/rows_inserted") for one in found}
    assert inserted == {"2024-05-01": 0, "2024-05-02": 1}
    with warehouse.engine.connect() as conn:
        names = conn.exec_driver_sql("SELECT table_name FROM information_schema.tables").all()
    assert not [name for (name,) in names if "ixflow" in name]


def test_a_partitioned_asset_downstream_loads_the_rows_of_its_partition(warehouse, instance):
    orders = Orders()
    seen = {}

    @dg.multi_asset(
        specs=[dg.AssetSpec("ids", deps=[dg.AssetKey(["raw", "orders"])])],
        partitions_def=DAYS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        ins={"orders": dg.AssetIn(dg.AssetKey(["raw", "orders"]))},
    )
    def ids(context: dg.AssetExecutionContext, orders: pl.DataFrame) -> None:
        seen[context.partition_key] = orders["id"].to_list()

    assets = [orders.asset(io_manager_key="tables"), ids]
    for day in ("2024-05-01", "2024-05-02"):
        result = dg.materialize(
            assets,
            instance=instance,
            partition_key=day,
            resources={
                "warehouse": warehouse,
                "tables": ixd.SQLTableStoreIOManager(store=warehouse),
            },
        )
        assert result.success
    assert {day: sorted(found) for day, found in seen.items()} == {
        "2024-05-01": [1, 2],
        "2024-05-02": [3],
    }


def test_a_callback_that_fails_leaves_the_partition_as_it_was(warehouse, instance):
    orders = Orders()
    run(orders.asset(), warehouse, instance, "2024-05-01")
    orders.rows = [(1, ONE, "xx")]
    looked = []

    def refuse(conn: sa.Connection, table: sa.Table, about: Any) -> None:
        looked.append(conn.execute(sa.select(table)).all())
        msg = "not like that"
        raise LookupError(msg)

    result = run(orders.asset(on_before_visible=refuse), warehouse, instance, "2024-05-01")
    assert not result.success
    assert looked == [[(1, ONE, "xx")]]
    assert rows(warehouse.engine, "raw.orders") == [(1, ONE, "de"), (2, ONE, "fr")]


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_a_callback_that_ends_the_transaction_by_sql_is_no_success(ending, warehouse, instance):
    orders = Orders()
    run(orders.asset(), warehouse, instance, "2024-05-01")
    orders.rows = [(1, ONE, "xx")]

    def end(conn: sa.Connection, table: sa.Table, about: Any) -> None:
        del table, about
        conn.execute(sa.text(ending))

    result = run(orders.asset(on_before_visible=end), warehouse, instance, "2024-05-01")
    assert "must not commit or roll back" in failure(result).description


def test_a_range_of_two_dimensions_is_told_partition_by_partition(duckdb_warehouse, instance):
    orders = Orders()
    both = dg.MultiPartitionsDefinition({"day": DAYS, "country": COUNTRIES})

    @ixd.ingest_asset(
        metadata=orders.metadata,
        partitions_def=both,
        partition_by={"day": "day", "country": "country"},
    )
    def raw_orders(partition: ixd.Slice):
        country, day = partition.path
        kept = [row for row in orders.rows if (str(row[1]), row[2]) == (day, country)]
        yield None, None, [(orders.table, row) for row in kept]

    found = told(run(raw_orders, duckdb_warehouse, instance, ("de|2024-05-01", "fr|2024-05-02")))
    assert {key: value(one, "dagster/partition_row_count") for key, one in found.items()} == {
        "de|2024-05-01": 1,
        "de|2024-05-02": 1,
        "fr|2024-05-01": 1,
        "fr|2024-05-02": 0,
    }
    assert found["fr|2024-05-01"].tags["dagster/partition/country"] == "fr"
    assert instance.get_materialized_partitions(raw_orders.key) == {*found}


def test_the_tables_of_one_ingest_have_their_own_columns(warehouse, instance):
    orders = Orders()
    columns: list[sa.Column[Any]] = [sa.Column("seconds", sa.BigInteger, primary_key=True)]
    visits = sa.Table("visits", orders.metadata, *columns, schema="raw")
    by: dict[sa.Table, Any] = {
        orders.table: "day",
        visits: ixd.PartitionBy("seconds", unit="s"),
    }

    @ixd.ingest_asset(metadata=orders.metadata, partitions_def=DAYS, partition_by=by.__getitem__)
    def raw_orders(partition: ixd.Slice):
        assert partition.window is not None
        start = int(partition.window.start.timestamp())
        yield None, None, [(orders.table, (start, ONE, "de")), (visits, (start,))]

    result = run(raw_orders, warehouse, instance, "2024-05-01")
    events = result.get_asset_materialization_events()
    found = [event.step_materialization_data.materialization for event in events]
    assert {one.asset_key.path[-1] for one in found} == {"orders", "visits"}
    assert {value(one, "dagster/partition_row_count") for one in found} == {1}
    # The second day's visit is right, its order is not: neither is there.
    assert not run(raw_orders, warehouse, instance, "2024-05-02").success
    assert len(rows(warehouse.engine, "raw.visits")) == 1


def test_a_run_that_is_ended_tells_of_the_partitions_that_are_done(duckdb_warehouse, instance):
    orders = Orders()

    @ixd.ingest_asset(metadata=orders.metadata, partitions_def=DAYS, partition_by="day")
    def raw_orders(partition: ixd.Slice):
        if partition.name == "2024-05-02":
            raise KeyboardInterrupt
        yield None, None, [(orders.table, (1, ONE, "de"))]

    assert not run(raw_orders, duckdb_warehouse, instance, ("2024-05-01", "2024-05-03")).success
    assert instance.get_materialized_partitions(raw_orders.key) == {"2024-05-01"}


def test_the_output_of_a_partitioned_asset_is_the_rows_of_its_partition(warehouse, instance):
    orders = Orders()
    seen = {}

    @dg.asset(
        partitions_def=DAYS,
        io_manager_key="ingest",
        metadata=ixd.ingest_into(orders.table, partition_by="day"),
        key=["raw", "orders"],
    )
    def raw_orders(context: dg.AssetExecutionContext) -> Any:
        return [row for row in orders.rows if str(row[1]) == context.partition_key]

    @dg.asset(partitions_def=DAYS, ins={"found": dg.AssetIn(["raw", "orders"])})
    def ids(context: dg.AssetExecutionContext, found: pl.DataFrame) -> None:
        seen[context.partition_key] = sorted(found["id"])

    @dg.asset(ins={"found": dg.AssetIn(["raw", "orders"])})
    def every(found: pl.DataFrame) -> None:
        seen["all"] = sorted(found["id"])

    manager = ixd.HighWatermarkIOManager(store=warehouse)
    options: dict[str, Any] = {"instance": instance, "resources": {"ingest": manager}}
    for day in ("2024-05-01", "2024-05-02", "2024-05-03", "2024-05-01"):
        result = dg.materialize([raw_orders, ids], partition_key=day, **options)
        assert result.success
    one = made(result)["raw/orders"]
    assert counts(one) == (0, 0, 2, 0)
    assert value(one, "dagster/partition_row_count") == 2
    assert dg.materialize([raw_orders, every], selection=[every], **options).success
    assert seen == {
        "2024-05-01": [1, 2],
        "2024-05-02": [3],
        "2024-05-03": [4],
        "all": [1, 2, 3, 4],
    }
    orders.rows = []
    tags = range_of("2024-05-01", "2024-05-02")
    both = dg.materialize([raw_orders], tags=tags, raise_on_error=False, **options)
    assert not both.success
    assert len(rows(warehouse.engine, "raw.orders")) == 4


def test_rows_that_refer_to_each_other_are_replaced_together(fresh_postgres, instance):
    orders = Orders()
    items = sa.Table(
        "items",
        orders.metadata,
        sa.Column("order_id", sa.ForeignKey("raw.orders.id"), primary_key=True),
        sa.Column("day", sa.Date),
        schema="raw",
    )
    make(fresh_postgres, "CREATE SCHEMA raw")
    orders.metadata.create_all(fresh_postgres)
    ids = [1, 2]

    @ixd.ingest_asset(metadata=orders.metadata, partitions_def=DAYS, partition_by="day")
    def raw_orders(partition: ixd.Slice):
        pairs = [(orders.table, (id_, ONE, "de")) for id_ in ids]
        yield None, None, [*pairs, *((items, (id_, ONE)) for id_ in ids)]

    warehouse = resource_of(fresh_postgres)
    assert run(raw_orders, warehouse, instance, "2024-05-01").success
    ids[:] = [2, 3]
    assert run(raw_orders, warehouse, instance, "2024-05-01").success
    assert rows(fresh_postgres, "raw.items") == [(2, ONE), (3, ONE)]
    assert [row[0] for row in rows(fresh_postgres, "raw.orders")] == [2, 3]
