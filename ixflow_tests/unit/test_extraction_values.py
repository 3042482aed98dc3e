"""Intents, contexts, rates and plans: what they accept, and that they keep their secrets."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pyarrow as pa
import pytest

from ixflow.errors import UnsupportedPlanVersion, ValidationError
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.plan import ExecutionPlan, ExtractionTask
from ixflow.extraction.storage import safe_name
from ixflow.values import Column, TableName, TablePart

CONFIG = {"host": "db", "database": "shop", "user": "app", "password": "s3cret"}


def intent(**changes) -> ExtractionIntent:
    given = {"source_type": "postgresql", "source_config": CONFIG, "object_name": "orders"}
    return ExtractionIntent(**{**given, **changes})


def example_plan() -> ExecutionPlan:
    name = TableName("orders", "shop")
    part = TablePart(name, only=True, pages=10, rows=5, size_bytes=7)
    return ExecutionPlan(
        identity=intent().identity(),
        source_type="postgresql",
        object_name="shop.orders",
        table=name,
        columns=(
            Column("id", "bigint", pa.int64(), nullable=False, key_position=1),
            Column("at", "timestamp with time zone", pa.timestamp("us", "UTC")),
            Column("n", "numeric(50,3)", pa.decimal256(50, 3)),
        ),
        strategy="page_ranges",
        tasks=(
            ExtractionTask("001", part, (0, 5), None, 2, 3),
            ExtractionTask("002", part, (5, None), None, 2, 3),
        ),
        worker_count=2,
        consistency="one snapshot",
        require_snapshot=False,
        all_columns=True,
        output_format="parquet",
        compression="zstd",
        estimated_rows=5,
        estimated_bytes=7,
        estimated_seconds=0.5,
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_type": "oracle"}, ["oracle", "postgresql", "mysql", "duckdb", "sqlite"]),
        ({"source_type": ""}, ["source_type"]),
        ({"source_config": "postgresql://x"}, ["source_config", "Mapping"]),
        ({"source_config": {"host": "db"}}, ["database"]),
        ({"source_config": {**CONFIG, "port": "many"}}, ["port", "many"]),
        ({"source_config": {**CONFIG, "hots": "db"}}, ["hots"]),
        ({"object_name": ""}, ["object_name"]),
        ({"output_dir": None}, ["output_dir"]),
        ({"output_format": "orc"}, ["orc", "this release", "parquet, csv, s3, gcs"]),
        ({"output_format": "s3"}, ["'s3'", "s3://"]),
        ({"output_format": "gcs", "output_dir": "s3://lake"}, ["'gcs'", "gs://"]),
        ({"storage_options": "region=eu"}, ["storage_options", "Mapping"]),
        ({"compression": "brotli"}, ["brotli", "zstd"]),
        ({"columns": []}, ["columns"]),
        ({"columns": "id"}, ["columns", "list"]),
        ({"columns": ["id", "id"]}, ["id", "more than once"]),
        ({"as_text": [1]}, ["as_text"]),
        ({"max_workers": 0}, ["max_workers", "1 to 64"]),
        ({"max_workers": True}, ["max_workers"]),
    ],
)
def test_an_intent_that_cannot_work_is_refused_by_name(changes, words):
    with pytest.raises(ValidationError) as caught:
        intent(**changes)
    assert all(word in str(caught.value) for word in words)
    assert "s3cret" not in str(caught.value)


def test_of_storage_options_only_what_is_plain_is_shown():
    options = {
        "region": "eu-central-1",
        "endpoint": "https://app:pw1@store",
        "secret_access_key": "s3cret",
        "service_account_key": '{"private_key": "pr1vate"}',
        "an_option_of_next_year": "hidden",
        "allow_http": True,
    }
    given = ExtractionIntent(
        "postgresql", CONFIG, "orders", "s3://lake/raw", storage_options=options
    )
    for secret in ("pw1", "s3cret", "pr1vate", "hidden"):
        assert secret not in repr(given)
        assert any(secret in found for found in given.secrets)
    assert "eu-central-1" in repr(given)
    assert "eu-central-1" not in given.secrets


def test_an_intent_takes_the_seeds_arguments_in_the_seeds_order():
    made = ExtractionIntent("postgresql", CONFIG, "orders", "/data", "parquet")
    assert made.output_dir == "/data"
    assert intent().output_dir == "./output"
    assert intent().output_format == "parquet"


def test_an_intent_never_shows_its_password():
    shown = repr(intent()) + str(intent())
    assert "s3cret" not in shown
    assert "orders" in shown
    by_url = intent(source_config={"connection_string": "postgresql://app:s3cret@db/shop"})
    assert "s3cret" not in repr(by_url)


def test_intents_for_one_table_have_one_identity_whatever_the_credentials():
    other = intent(source_config={**CONFIG, "user": "me", "password": "x", "port": 5432})
    assert intent().identity() == other.identity()
    assert intent(source_type="postgres").identity() == intent().identity()
    assert intent(object_name="items").identity() != intent().identity()
    assert intent(source_config={**CONFIG, "host": "b"}).identity() != intent().identity()


def test_an_intent_can_be_compared_hashed_and_sent_to_another_process():
    assert intent() == intent()
    assert len({intent(), intent()}) == 1
    assert pickle.loads(pickle.dumps(intent())) == intent()  # noqa: S301 - our own bytes


def test_a_context_names_every_wrong_field():
    with pytest.raises(ValidationError) as caught:
        RuntimeContext(
            max_workers=0,
            source_load="heavy",
            network_quality="poor",
            priority="urgent",
            disk_budget_gb=-1,
            target_duration_seconds=float("nan"),
        )
    names = "max_workers source_load network_quality priority disk_budget_gb target_duration"
    assert all(name in str(caught.value) for name in names.split())
    with pytest.raises(ValidationError, match="min_workers 5 is above max_workers 4"):
        RuntimeContext(min_workers=5, max_workers=4)


@pytest.mark.parametrize("rate", [-1, float("inf"), "1", None, True])
def test_a_rate_is_a_number_from_zero(rate):
    with pytest.raises(ValidationError, match="compute_rate"):
        CostConfig(compute_rate=rate)


def test_rates_come_from_a_file_and_from_options(tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"compute_rate": 0.05, "egress_rate": 0.01}))
    assert CostConfig.from_file(path) == CostConfig(0.05, 0.01)
    options = {"compute_rate": 0.05, "egress_rate": None, "verbose": True}
    assert CostConfig.from_cli_args(options) == CostConfig(0.05)
    path.write_text(json.dumps({"compute_cost_per_hour": 1}))
    with pytest.raises(ValidationError, match="compute_cost_per_hour"):
        CostConfig.from_file(path)
    with pytest.raises(ValidationError, match=r"none\.json"):
        CostConfig.from_file(tmp_path / "none.json")


def test_a_plan_survives_json():
    plan = example_plan()
    assert ExecutionPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_fingerprint_is_of_the_decisions_not_of_the_estimates():
    plan = example_plan()
    slower = dataclasses.replace(plan, estimated_seconds=9.0, estimated_rows=6)
    narrower = dataclasses.replace(plan, worker_count=1)
    assert plan.fingerprint == slower.fingerprint
    assert plan.fingerprint != narrower.fingerprint


def test_a_plan_of_another_version_is_refused_before_it_is_read():
    with pytest.raises(UnsupportedPlanVersion, match=r"1\.0"):
        ExecutionPlan.from_dict({"plan_version": "1.0"})
    with pytest.raises(ValidationError, match="not a plan"):
        ExecutionPlan.from_dict({**example_plan().to_dict(), "tasks": [{}]})


@pytest.mark.parametrize(
    "name", ["orders", "Orders", "shop.orders", "order_items", "v2-final", "_x"]
)
def test_a_plain_name_stays_as_it_is(name):
    assert safe_name(name) == name


def test_other_names_become_safe_and_stay_different():
    names = ["a/b", "a_b", "a b", 'a"b', "..", ".", ".hidden", "ü", "x" * 300, "a\nb", "*", "a%b"]
    names += [safe_name("a/b"), safe_name("ü")]
    made = [safe_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 for name in made)
