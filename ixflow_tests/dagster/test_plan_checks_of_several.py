"""Plan checks of several tables in one step: each table is judged, a refused one stops none."""

import dagster as dg
import pytest

import ixflow.dagster as ixd
from ixflow.errors import ValidationError
from ixflow.extraction.api import published
from ixflow.extraction.cost import CostConfig
from ixflow_tests.dagster.seen import checks, failure, made, value
from ixflow_tests.sources import intent_for, make

# More than a few rows are estimated to take, and less than many do.
BUDGET = {"disk_budget_gb": 5e-5}


@pytest.fixture
def intents(fresh_postgres, tmp_path):
    for name, rows in (("few", 2), ("many", 2000)):
        make(
            fresh_postgres,
            f"CREATE TABLE {name} (id bigint NOT NULL PRIMARY KEY, word text)",
            f"INSERT INTO {name} SELECT n, 'word ' || n FROM generate_series(1, {rows}) AS n",
            f"ANALYZE {name}",
        )
    return [intent_for(fresh_postgres, name, tmp_path) for name in ("few", "many")]


@pytest.fixture
def asset(intents):
    return ixd.build_extraction_assets(
        intents, check=ixd.plan_check(rates=CostConfig(egress_rate=0.09))
    )


def run(asset, instance, config=None, selection=None):
    """Materialize with a planner; failures are in the result."""
    return dg.materialize(
        [asset],
        instance=instance,
        selection=selection,
        resources={"planner": ixd.PlannerResource()},
        run_config={"ops": {asset.op.name: {"config": config}}} if config else None,
        raise_on_error=False,
    )


def verdicts(result):
    """Give the verdicts by table."""
    found = result.get_asset_check_evaluations()
    return {one.asset_key.path[-1]: one for one in found}


def test_each_plan_is_judged_and_told_with_its_table(asset, instance):
    result = run(asset, instance)
    assert result.success
    assert sorted(made(result)) == ["extracted/few", "extracted/many"]
    found = verdicts(result)
    assert {name: one.passed for name, one in found.items()} == {"few": True, "many": True}
    assert found["many"].metadata["ixflow/estimated_rows"].value == 2000
    assert "ixflow/estimated_cost" in found["many"].metadata
    assert found["few"].target_materialization_data is not None


def test_a_refused_plan_does_not_stop_the_other_table(asset, intents, instance):
    result = run(asset, instance, BUDGET)
    assert not result.success
    assert list(made(result)) == ["extracted/few"]
    assert {name: one.passed for name, one in verdicts(result).items()} == {
        "few": True,
        "many": False,
    }
    few, many = intents
    assert published(few) is not None
    assert published(many) is None
    told = failure(result)
    assert "NOT RECOMMENDED" in told.description
    assert "many" in told.description


def test_what_is_forced_is_extracted_with_a_warning(asset, instance):
    result = run(asset, instance, {**BUDGET, "force": True})
    assert result.success
    assert len(made(result)) == 2
    refused = verdicts(result)["many"]
    assert (refused.passed, refused.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_the_checks_alone_read_no_rows(asset, intents, instance):
    result = run(asset, instance, selection=dg.AssetSelection.checks(*asset.check_keys))
    assert result.success
    assert made(result) == {}
    assert [published(intent) for intent in intents] == [None, None]
    assert checks(result) == {"plan": True}
    assert set(verdicts(result)) == {"few", "many"}


def test_one_check_alone_judges_one_table(asset, instance):
    (key,) = [key for key in asset.check_keys if key.asset_key.path[-1] == "many"]
    result = run(asset, instance, BUDGET, selection=dg.AssetSelection.checks(key))
    assert {name: one.passed for name, one in verdicts(result).items()} == {"many": False}


def test_a_table_without_its_check_is_extracted_all_the_same(asset, instance):
    wanted = dg.AssetSelection.assets(["extracted", "few"]).without_checks()
    result = run(asset, instance, selection=wanted)
    assert result.success
    assert value(made(result)["extracted/few"], "dagster/row_count") == 2
    assert verdicts(result) == {}


def test_partitions_and_a_plan_check_are_refused(intents):
    days = dg.DailyPartitionsDefinition(start_date="2026-01-01")
    with pytest.raises(ValidationError, match="leave check out"):
        ixd.build_extraction_assets(
            intents, check=ixd.plan_check(), partitions_def=days, partition_by="id"
        )
