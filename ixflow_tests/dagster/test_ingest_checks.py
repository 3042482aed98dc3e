"""Rules of an ingest as asset checks, and what an asset says about missing rows."""

from typing import Any

import dagster as dg
import pytest

from ixflow.ingestion.checks import RowCheck
from ixflow.ingestion.missing import Missing
from ixflow_tests.dagster.seen import failure, made, rows, value
from ixflow_tests.dagster.test_ingest_assets import Orders, materialize

KEY = dg.AssetKey(["raw", "orders"])


@pytest.fixture
def orders():
    return Orders()


def named(orders: Orders, on_fail: Any = "quarantine") -> RowCheck:
    return RowCheck("has a name", "name <> ''", table=orders.orders, on_fail=on_fail)


def evaluations(result) -> list[tuple[str, bool, Any]]:
    return [
        (found.check_name, found.passed, found.metadata["ixflow/rows_quarantined"].value)
        for found in result.get_asset_check_evaluations()
    ]


def test_a_rule_is_an_asset_check_that_counts_the_rows_put_aside(orders, warehouse, instance):
    asset = orders.asset(on_before_visible=[named(orders)])
    assert [spec.asset_key for spec in asset.check_specs] == [KEY]
    good = materialize([asset], warehouse, instance)
    assert evaluations(good) == [("has_a_name", True, 0)]
    orders.batches = [(3, None, [(orders.orders, (3, "")), (orders.orders, (4, "d"))])]
    bad = materialize([asset], warehouse, instance)
    assert bad.success
    assert evaluations(bad) == [("has_a_name", False, 1)]
    assert value(made(bad)["raw/orders"], "ixflow/rows_quarantined") == 1
    assert [row[0] for row in rows(warehouse.engine, "raw.orders")] == [1, 2, 4]


def test_a_rule_that_refuses_fails_the_run_and_records_nothing(orders, warehouse, instance):
    asset = orders.asset(on_before_visible=named(orders, "refuse"))
    orders.batches = [(3, None, [(orders.orders, (3, ""))])]
    result = materialize([asset], warehouse, instance)
    assert not result.success
    assert "break the rule 'has a name'" in str(failure(result))
    assert result.asset_materializations_for_node("raw_orders") == []


def test_what_an_asset_says_about_missing_rows_holds_unless_the_launchpad_says_otherwise(
    orders, warehouse, instance
):
    orders.metadata.remove(orders.items)
    asset = orders.asset(delete=Missing(refuse_above=1))
    everything = {"high_watermark": "__EARLIEST__"}
    materialize([asset], warehouse, instance)
    orders.batches = [(3, None, [(orders.orders, (1, "a"))])]
    result = materialize([asset], warehouse, instance, everything)
    assert value(made(result)["raw/orders"], "ixflow/rows_deleted") == 1
    assert rows(warehouse.engine, "raw.orders") == [(1, "a")]
