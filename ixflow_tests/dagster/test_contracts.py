"""What is published is held against the columns and types that others rely on."""

import dagster as dg
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow.errors import ValidationError
from ixflow_tests.dagster.checking import check_alone, only_evaluation
from ixflow_tests.dagster.seen import failure
from ixflow_tests.sources import make

ORDERS = {"id": "bigint", "price": "numeric(12,2)"}


def recorded(instance, contract, columns=ORDERS, **options):
    """Check an asset that recorded these columns."""

    @dg.asset
    def orders():
        schema = dg.TableSchema([dg.TableColumn(n, t) for n, t in columns.items()])
        return dg.MaterializeResult(metadata={"dagster/column_schema": schema} if columns else {})

    check = ixd.schema_contract(orders, contract, **options)
    result = dg.materialize([orders, check], instance=instance)
    return only_evaluation(result)


def test_a_kept_contract_passes_however_types_are_spelled(instance):
    found = recorded(instance, {"price": "NUMERIC(12, 2)", "id": "BigInt"})
    assert found.passed
    assert found.description == "2 columns are as they should be"


def test_every_difference_is_named(instance):
    found = recorded(instance, {"id": "integer", "at": "date"})
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.ERROR
    assert found.metadata["ixflow/broken"].value == [
        "column at (date) is missing",
        "column id is bigint, not integer",
        "column price (numeric(12,2)) is not in the contract",
    ]


def test_more_columns_are_allowed_where_that_is_said(instance):
    assert recorded(instance, {"id": "bigint"}, extra="allow").passed
    assert not recorded(instance, {"id": "bigint"}).passed


def test_an_asset_that_records_no_columns_is_told_so(instance):
    found = recorded(instance, ORDERS, columns={})
    assert not found.passed
    assert "orders has recorded no dagster/column_schema" in found.description


def test_a_contract_that_says_nothing_is_refused():
    with pytest.raises(ValidationError, match="names no column"):
        ixd.schema_contract("orders", {})
    with pytest.raises(ValidationError, match="extra is 'maybe'; it is 'fail' or 'allow'"):
        ixd.schema_contract("orders", ORDERS, extra="maybe")  # type: ignore[arg-type]


# -- a declared table -------------------------------------------------------------------------


def declared(*columns):
    return sa.Table("orders", sa.MetaData(), *columns, schema="raw")


def in_warehouse(instance, warehouse, table, **options):
    """Check the table of the warehouse; the result, whether the step failed or not."""
    check = ixd.schema_contract(["raw", "orders"], table, **options)
    return check_alone(check, instance, warehouse=warehouse)


COLUMNS = (
    ("id", sa.BigInteger()),
    ("Order no", sa.String()),
    ("price", sa.Numeric(12, 2)),
    ("at", sa.DateTime(timezone=True)),
)


def test_a_declared_table_is_compared_as_what_the_database_makes_of_it(warehouse, instance):
    table = declared(*(sa.Column(name, type_) for name, type_ in COLUMNS))
    make(warehouse.engine, 'CREATE SCHEMA "raw"')
    table.create(warehouse.engine)
    found = only_evaluation(in_warehouse(instance, warehouse, table))
    assert found.passed
    changed = declared(
        sa.Column("id", sa.Integer()),
        *(sa.Column(name, type_) for name, type_ in COLUMNS[1:3]),
        sa.Column("more", sa.Date()),
    )
    found = only_evaluation(in_warehouse(instance, warehouse, changed))
    broken = [text.lower() for text in found.metadata["ixflow/broken"].value]
    assert broken[:2] == ["column more (date) is missing", "column id is bigint, not integer"]
    assert broken[2].startswith("column at (timestamp with time zone")
    with warehouse.engine.connect() as conn:
        names = sa.inspect(conn).get_table_names("raw")
    assert names == ["orders"]


def test_a_table_that_is_not_there_fails_the_check_by_name(duckdb_warehouse, instance):
    table = declared(sa.Column("id", sa.Integer()))
    found = in_warehouse(instance, duckdb_warehouse, table)
    assert not found.success
    assert "there is no table raw.orders" in failure(found).description


def test_a_database_that_is_away_is_contacted_only_by_the_check(instance):
    away = ixd.SQLTableStoreResource(url="postgresql+psycopg://u:s3cr3t@127.0.0.1:1/w")
    found = in_warehouse(instance, away, declared(sa.Column("id", sa.Integer())))
    assert "check host and port" in failure(found).description
    assert "s3cr3t" not in str(failure(found))
