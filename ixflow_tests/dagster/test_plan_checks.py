"""The plan of an extraction as a check: a dry run alone, a barrier before the rows."""

import dagster as dg
import pytest

import ixflow.dagster as ixd
from ixflow.extraction.api import published
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.intent import ExtractionIntent
from ixflow_tests.dagster.checking import only_evaluation
from ixflow_tests.dagster.seen import failure, made, value
from ixflow_tests.sources import intent_for, make

# About a byte, for two rows.
REFUSED = {"disk_budget_gb": 1e-9}


@pytest.fixture
def orders(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY, name varchar(20))",
        "INSERT INTO orders VALUES (1, 'a'), (2, NULL)",
        "ANALYZE orders",
    )
    return intent_for(fresh_postgres, "orders", tmp_path)


def run(intent, instance, *, alone=False, config=None, check=None):
    """Materialize the extraction and its check, or execute the check alone."""
    asset = ixd.extraction_asset(intent, check=check or ixd.plan_check())
    selection: dg.AssetSelection = dg.AssetSelection.assets(asset)
    if alone:
        selection = dg.AssetSelection.checks(*asset.check_keys)
    return dg.materialize(
        [asset],
        instance=instance,
        selection=selection,
        resources={"planner": ixd.PlannerResource()},
        run_config={"ops": {asset.op.name: {"config": config}}} if config else None,
        raise_on_error=False,
    )


def test_alone_it_is_a_dry_run_that_shows_the_plan(orders, instance):
    result = run(orders, instance, alone=True)
    assert result.success
    assert made(result) == {}
    assert published(orders) is None
    found = only_evaluation(result)
    assert (found.passed, found.check_name) == (True, "plan")
    assert found.metadata["ixflow/verdict"].value == "SAFE TO RUN"
    assert found.metadata["ixflow/estimated_rows"].value == 2
    assert found.metadata["ixflow/tasks"].value == 1
    shown = found.metadata["ixflow/dry_run"]
    assert isinstance(shown, dg.MarkdownMetadataValue)
    text = str(shown.value)
    assert "| verdict | **SAFE TO RUN** |" in text
    assert "| workers | 1 (base: 1) |" in text
    assert "| cost | no rates are given |" in text
    assert "Plan: orders" in text


def test_with_rates_it_shows_the_cost(orders, instance):
    check = ixd.plan_check(rates=CostConfig(egress_rate=1e9))
    found = only_evaluation(run(orders, instance, alone=True, check=check))
    assert found.metadata["ixflow/estimated_cost"].value > 0
    assert "egress" in str(found.metadata["ixflow/dry_run"].value)


def test_the_extraction_tells_its_check_with_its_rows(orders, instance):
    result = run(orders, instance)
    assert list(made(result)) == ["extracted/orders"]
    found = only_evaluation(result)
    assert found.passed
    assert found.target_materialization_data.run_id == result.run_id


def test_what_is_not_recommended_fails_the_check_and_nothing_is_extracted(orders, instance):
    result = run(orders, instance, config=REFUSED)
    assert not result.success
    assert made(result) == {}
    assert published(orders) is None
    found = only_evaluation(result)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert found.description.startswith("NOT RECOMMENDED; ")
    assert found.metadata["ixflow/verdict"].value == "NOT RECOMMENDED"
    assert "NOT RECOMMENDED" in failure(result).description


def test_the_dry_run_of_what_is_not_recommended_fails(orders, instance):
    result = run(orders, instance, config=REFUSED, alone=True)
    found = only_evaluation(result)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert published(orders) is None


def test_forced_it_warns_and_the_rows_come(orders, instance):
    result = run(orders, instance, config={**REFUSED, "force": True})
    assert result.success
    assert list(made(result)) == ["extracted/orders"]
    found = only_evaluation(result)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description.endswith("extracted all the same, it is forced")


def test_the_check_stops_what_comes_after_and_loading_asks_no_database(tmp_path):
    config = {"host": "127.0.0.1", "port": 1, "database": "shop", "password": "s3cr3t"}
    away = ExtractionIntent("postgresql", config, "orders", tmp_path)
    asset = ixd.extraction_asset(away, check=ixd.plan_check(name="dry_run"))
    [spec] = asset.check_specs
    assert (spec.name, spec.blocking) == ("dry_run", True)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(away, instance, alone=True)
    assert "check host and port" in failure(result).description
    assert "s3cr3t" not in str(failure(result))


def test_a_replayed_run_is_not_judged_again(orders, instance):
    first = made(run(orders, instance))["extracted/orders"]
    config = {"replay_run_id": value(first, "ixflow/run_id")}
    result = run(orders, instance, config=config)
    assert result.success
    assert list(made(result)) == ["extracted/orders"]
    assert result.get_asset_check_evaluations() == []
