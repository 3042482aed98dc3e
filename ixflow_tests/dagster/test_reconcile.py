"""A source against what was ingested of it: what differs is said, rows are not."""

import dagster as dg
import pytest

import ixflow.dagster as ixd
from ixflow.errors import ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow_tests.dagster.checking import check_alone, only_evaluation
from ixflow_tests.dagster.seen import failure
from ixflow_tests.servers import make_engine
from ixflow_tests.sources import intent_for, make

TABLE = (
    'CREATE TABLE {} ("Order id" bigint NOT NULL PRIMARY KEY, name varchar(20), '
    "price numeric(12,2), ok boolean, seen timestamp)"
)
ROWS = (
    "(1, 'a|b', 1.50, true, '2026-01-01 00:00:00.25'), "
    "(2, NULL, NULL, NULL, NULL), "
    "(3, 'Straße', -0.05, false, '1900-01-01')"
)


@pytest.fixture(params=["postgres", "sqlite"])
def source(request):
    """Give a source that computes checksums, and one that does not."""
    return filled(request.getfixturevalue(f"fresh_{request.param}"))


@pytest.fixture
def duckdb_source(tmp_path):
    """Give a DuckDB file beside the warehouse's own."""
    return filled(make_engine(f"duckdb:///{tmp_path}/source.duckdb"))


def filled(engine):
    make(engine, TABLE.format("orders"), f"INSERT INTO orders VALUES {ROWS}")
    return engine


@pytest.fixture
def copied(duckdb_warehouse):
    """Give a warehouse that has the same rows."""
    engine = duckdb_warehouse.engine
    make(engine, "CREATE SCHEMA raw", TABLE.format("raw.orders"))
    make(engine, f"INSERT INTO raw.orders VALUES {ROWS}")
    return duckdb_warehouse


@pytest.fixture
def compare(instance, tmp_path):
    """Run the check of a source and a warehouse; its result."""

    def run(source, warehouse, *, intent=None, **options):
        intent = intent or intent_for(source, "orders", tmp_path / "files")
        check = ixd.reconcile(source=intent, target="raw.orders", **options)
        return check_alone(check, instance, warehouse=warehouse)

    return run


def sums(source):
    return source.dialect.name != "sqlite"


# -- equal rows -------------------------------------------------------------------------------


def test_equal_rows_pass_and_it_says_how_they_were_compared(source, copied, compare):
    found = only_evaluation(compare(source, copied, key="Order id"))
    assert found.passed, found.description
    assert found.description == "both sides have the same rows"
    seen = {name: value.value for name, value in found.metadata.items()}
    assert (seen["ixflow/source_rows"], seen["ixflow/target_rows"]) == (3, 3)
    if sums(source):
        assert seen["ixflow/compared_by"] == "checksum"
        assert seen["ixflow/not_compared"] == "none"
        assert seen["ixflow/source_checksum"] == seen["ixflow/target_checksum"]
    else:
        assert seen["ixflow/compared_by"] == "count, least and greatest Order id"
        assert "name" in seen["ixflow/not_compared"]


def test_what_was_really_ingested_is_equal(source, warehouse, instance, tmp_path, compare):
    """The whole way, on servers of both kinds and across them."""
    intent = intent_for(source, "orders", tmp_path / "files")
    both = [ixd.extraction_asset(intent), ixd.ingest_extraction(intent, cursor="Order id")]
    resources = {"warehouse": warehouse, "planner": ixd.PlannerResource()}
    assert dg.materialize(both, instance=instance, resources=resources).success
    found = only_evaluation(compare(source, warehouse, cursor="Order id"))
    assert found.passed, found.description
    make(source, """INSERT INTO orders ("Order id") VALUES (9)""")
    assert only_evaluation(compare(source, warehouse, cursor="Order id")).passed
    assert not only_evaluation(compare(source, warehouse)).passed


def test_two_empty_tables_are_equal(source, copied, compare):
    make(source, "DELETE FROM orders")
    make(copied.engine, "DELETE FROM raw.orders")
    assert only_evaluation(compare(source, copied, cursor="Order id")).passed
    assert only_evaluation(compare(source, copied, key="Order id")).passed


# -- what differs -----------------------------------------------------------------------------


def test_missing_and_surplus_rows_are_counted(source, copied, compare):
    make(copied.engine, 'DELETE FROM raw.orders WHERE "Order id" = 2')
    found = only_evaluation(compare(source, copied))
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert found.description == "the target has 2 rows, the source 3: 1 are missing"
    make(source, "DELETE FROM orders")
    found = only_evaluation(compare(source, copied))
    assert found.description == "the target has 2 rows, the source 0: 2 too many"


def test_another_value_is_found_and_its_column_named_not_the_value(source, copied, compare):
    make(copied.engine, "UPDATE raw.orders SET price = 77.75 WHERE name = 'Straße'")
    found = only_evaluation(compare(source, copied))
    if not sums(source):
        assert found.passed
        return
    assert not found.passed
    assert "both have 3 rows, but the values of some differ" in found.description
    assert "values of price differ" in found.description
    assert "77.75" not in str(found)


def test_values_that_changed_places_are_found(source, copied, compare):
    make(copied.engine, "UPDATE raw.orders SET ok = NOT ok")
    found = only_evaluation(compare(source, copied))
    assert found.passed is not sums(source)
    assert ("each column has the same values, but in other rows" in found.description) is (
        sums(source)
    )


def test_the_ends_of_the_key_differ_where_no_checksum_tells(source, copied, compare):
    make(copied.engine, 'UPDATE raw.orders SET "Order id" = 4 WHERE "Order id" = 3')
    found = only_evaluation(compare(source, copied, checksum=False, key="Order id"))
    assert not found.passed
    assert found.description == "the greatest Order id is another"


def test_a_column_that_did_not_arrive_is_named(source, copied, compare):
    make(copied.engine, "ALTER TABLE raw.orders DROP COLUMN ok")
    found = only_evaluation(compare(source, copied))
    assert not found.passed
    assert found.description == "the target has no column ok"
    assert only_evaluation(compare(source, copied, columns=["Order id", "price"])).passed


# -- which rows are compared ------------------------------------------------------------------


def test_rows_that_still_arrive_are_not_called_missing(source, copied, compare):
    make(source, """INSERT INTO orders ("Order id") VALUES (10), (11)""")
    found = only_evaluation(compare(source, copied, cursor="Order id"))
    assert found.passed
    assert found.description == "both sides have the same rows (where Order id <= 3)"
    assert found.metadata["ixflow/bound"].value == "Order id <= 3"
    make(source, """INSERT INTO orders ("Order id") VALUES (0)""")
    found = only_evaluation(compare(source, copied, cursor="Order id"))
    assert found.description.startswith("the target has 3 rows, the source 4: 1 are missing")


def test_a_moment_can_be_the_bound(source, copied, compare):
    make(source, """INSERT INTO orders ("Order id", seen) VALUES (10, '2026-01-02 00:00:00')""")
    assert only_evaluation(compare(source, copied, cursor="seen")).passed
    assert not only_evaluation(compare(source, copied, cursor="seen", until="2026-01-03")).passed
    assert only_evaluation(compare(source, copied, cursor="seen", until="2025-01-01")).passed


def test_an_empty_target_misses_every_row(source, copied, compare):
    make(copied.engine, "DELETE FROM raw.orders")
    found = only_evaluation(compare(source, copied, cursor="Order id"))
    assert found.description == "the target has 0 rows, the source 3: 3 are missing"


def test_a_filter_of_the_intent_and_one_for_both_sides_hold(source, copied, compare, tmp_path):
    make(copied.engine, 'DELETE FROM raw.orders WHERE "Order id" = 1')
    intent = intent_for(source, "orders", tmp_path, where='orders."Order id" > 1')
    assert only_evaluation(compare(source, copied, intent=intent)).passed
    where = "name = 'a|b' OR \"Order id\" = 3"
    assert not only_evaluation(compare(source, copied, where=where)).passed
    assert only_evaluation(compare(source, copied, where='"Order id" = 3')).passed


def test_the_rows_of_a_query_are_compared(fresh_postgres, copied, compare, tmp_path):
    filled(fresh_postgres)
    query = 'SELECT "Order id", price FROM orders WHERE price IS NOT NULL'
    intent = intent_for(fresh_postgres, "orders", tmp_path, query=query)
    found = only_evaluation(compare(fresh_postgres, copied, intent=intent, cursor="Order id"))
    assert found.description.startswith("the target has 3 rows, the source 2: 1 too many")
    make(copied.engine, "DELETE FROM raw.orders WHERE price IS NULL")
    found = only_evaluation(compare(fresh_postgres, copied, intent=intent, cursor="Order id"))
    assert found.passed
    assert found.metadata["ixflow/compared_by"].value == "checksum"


def test_masked_and_dropped_columns_are_not_compared(fresh_postgres, copied, compare, tmp_path):
    filled(fresh_postgres)
    make(copied.engine, "UPDATE raw.orders SET name = 'x', price = 0")
    intent = intent_for(fresh_postgres, "orders", tmp_path, mask={"name": "hash"}, drop=["price"])
    found = only_evaluation(compare(fresh_postgres, copied, intent=intent))
    assert found.passed
    assert found.metadata["ixflow/not_compared"].value == "name"


def test_columns_that_mean_something_else_there_are_left_out(
    fresh_postgres, copied, compare, tmp_path
):
    make(
        fresh_postgres,
        "CREATE TABLE orders (id integer, uid uuid, doc jsonb, n numeric, code char(3), f real, "
        "h numeric(38, 0), o oid)",
        "INSERT INTO orders VALUES (1, gen_random_uuid(), '{\"a\":1}', 1.10, 'a', 0.1, 5, 6)",
    )
    make(
        copied.engine,
        "DROP TABLE raw.orders",
        "CREATE TABLE raw.orders (id bigint, uid text, doc text, n text, code text, f double, "
        "h hugeint, o bigint)",
        "INSERT INTO raw.orders VALUES (1, 'u', '', '', '', 0.1, 5, 6)",
    )
    found = only_evaluation(compare(fresh_postgres, copied))
    assert found.passed
    assert found.metadata["ixflow/not_compared"].value == "uid, doc, n, code, f, h, o"


# -- what cannot be compared ------------------------------------------------------------------


def test_what_is_wrong_is_said_by_name(source, copied, compare):
    def told(**options):
        return failure(compare(source, copied, **options)).description

    assert "has no column 'nope'; the cursor is one of Order id" in told(cursor="nope")
    assert "databases order texts differently" in told(cursor="name")
    assert "orders has no column nope; it has Order id" in told(columns=["nope"])
    assert "raw.orders cannot be compared with orders" in told(where="nope = 1")
    make(copied.engine, "DROP TABLE raw.orders")
    assert "there is no table raw.orders" in told()


def test_a_bound_without_a_column_and_a_condition_that_is_none_are_refused(tmp_path):
    intent = ExtractionIntent("sqlite", {"database": str(tmp_path / "x.db")}, "orders")
    with pytest.raises(ValidationError, match="until is given without cursor"):
        ixd.reconcile(source=intent, target="raw.orders", until=3)
    with pytest.raises(ValidationError, match="semicolon"):
        ixd.reconcile(source=intent, target="raw.orders", where="1 = 1; DROP TABLE x")


def test_a_database_that_is_away_is_contacted_only_by_the_check(duckdb_warehouse, compare):
    config = {"host": "127.0.0.1", "port": 1, "database": "shop", "password": "s3cr3t"}
    found = compare(None, duckdb_warehouse, intent=ExtractionIntent("postgresql", config, "o"))
    assert "check host and port" in failure(found).description
    assert "s3cr3t" not in str(failure(found))


def test_two_files_of_duckdb_are_compared(duckdb_source, copied, compare):
    found = only_evaluation(compare(duckdb_source, copied, cursor="seen"))
    assert found.passed
    assert found.metadata["ixflow/compared_by"].value == "checksum"
    make(copied.engine, "UPDATE raw.orders SET seen = NULL")
    found = only_evaluation(compare(duckdb_source, copied))
    assert found.description.endswith("values of seen differ")


def test_mariadb_is_counted_up_to_the_bound(fresh_mariadb, copied, compare):
    table = TABLE.format("orders").replace('"', "`").replace("timestamp", "datetime(6)")
    make(
        fresh_mariadb,
        table,
        f"INSERT INTO orders VALUES {ROWS}, (7, '', 0, true, '2026-01-01 00:00:00.26')",
    )
    for cursor in ("Order id", "seen"):
        options = {"cursor": cursor, "key": cursor}
        assert only_evaluation(compare(fresh_mariadb, copied, **options)).passed
    assert not only_evaluation(compare(fresh_mariadb, copied)).passed


def test_the_check_belongs_to_the_asset_of_the_target_or_another():
    intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    check = ixd.reconcile(source=intent, target="raw.orders", name="same", blocking=True)
    [spec] = check.check_specs
    assert (spec.asset_key.path, spec.name, spec.blocking) == (["raw", "orders"], "same", True)
    other = ixd.reconcile(source=intent, target="raw.orders", asset=["mart", "orders"])
    assert other.check_key.asset_key.path == ["mart", "orders"]
