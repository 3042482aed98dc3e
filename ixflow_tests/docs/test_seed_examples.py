"""The examples of ixtract's documentation run as they are written.

Only the places are replaced: host, database, user and directories that no test machine has. The
module's name is ixflow's.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import sqlalchemy as sa

import ixflow
from ixflow.extraction.migrations import runs
from ixflow.extraction.state import StatePlace
from ixflow_tests.sources import intent_for, make

PLAN = """
from ixtract import plan, ExtractionIntent, RuntimeContext, CostConfig
result = plan(
    intent,
    runtime_context=None,  # optional RuntimeContext
    cost_config=None,      # optional CostConfig
)
"""

EXECUTE = """
from ixtract import execute
if result.is_safe:
    execution = execute(result)
    print(f"{execution.rows_extracted:,} rows in {execution.duration_seconds:.1f}s")
"""

EXECUTE_PLAN = """
from ixtract import execute_plan
execute_plan(stored_plan, intent)
"""

REPLAY = """
from ixtract import replay
replay_result = replay(run_id="run_001", intent=intent)
"""

PROFILE = """
from ixtract import profile
source_profile = profile(intent)
print(source_profile.row_count_estimate)
print(source_profile.cv)  # coefficient of variation (skew indicator)
"""

EXPLAIN = """
from ixtract import explain
explanation = explain(intent)
"""

INTENT = """
from ixtract import ExtractionIntent
intent = ExtractionIntent(
    source_type="postgresql",  # "postgresql" | "mysql" | "sqlserver"
    source_config={
        "host": "localhost",
        "port": 5432,
        "database": "mydb",
        "user": "app",
        "password": "secret",
    },
    object_name="orders",
    output_dir="./output",     # default: "./output"
    output_format="parquet",   # "parquet" | "csv" | "s3" | "gcs"
)
"""

CONTEXT = """
from ixtract import RuntimeContext
ctx = RuntimeContext(
    # Hard caps - override controller
    max_workers=4,
    min_workers=1,
    # Soft multipliers - scale the base worker count
    source_load="high",          # "low" | "normal" | "high"
    network_quality="degraded",  # "good" | "normal" | "degraded"
    priority="low",              # "low" | "normal" | "high"
    # Advisories - informational, produce warnings not blocks
    target_duration_seconds=60,
    maintenance_window_minutes=30,
    disk_budget_gb=10.0,
    egress_budget_gb=5.0,
)
"""

COST = """
from ixtract import CostConfig
cost_cfg = CostConfig(
    compute_rate=0.05,    # cost per worker-second
    egress_rate=0.01,     # cost per GB egressed
    connection_rate=0.0,  # cost per connection-second
)
# From file
cost_cfg = CostConfig.from_file("rates.json")
# From CLI args dict
cost_cfg = CostConfig.from_cli_args(args)
"""

RESULTS = """
result.is_safe             # True if verdict is SAFE TO RUN
result.is_not_recommended  # True if verdict is NOT RECOMMENDED
result.plan                # ExecutionPlan dataclass
result.verdict             # "SAFE TO RUN" | "SAFE WITH WARNINGS" | "NOT RECOMMENDED"
result.advisories          # list of advisory strings
result.cost_estimate       # CostEstimate or None
execution.rows_extracted       # int
execution.duration_seconds     # float
execution.throughput_rows_sec  # float
execution.run_id               # str
execution.output_files         # list[str]
"""

ERRORS = """
from ixtract import (
    IxtractError,            # base
    ValidationError,         # bad intent or config
    NotRecommendedError,     # verdict NOT RECOMMENDED, force=False
    ExecutionError,          # runtime failure during extraction
    PlanCorruptionError,     # replay: fingerprint mismatch
    UnsupportedPlanVersion,  # replay: incompatible plan version
)
"""

WHOLE = """
from ixtract import (
    plan, execute,
    ExtractionIntent, RuntimeContext, CostConfig,
    NotRecommendedError,
)
intent = ExtractionIntent(
    source_type="postgresql",
    source_config={"host": "db.prod", "database": "analytics", "user": "etl"},
    object_name="events",
    output_dir="/data/output",
)
ctx = RuntimeContext(
    source_load="high",
    network_quality="degraded",
    priority="low",
)
cost = CostConfig(compute_rate=0.05, egress_rate=0.01)
result = plan(intent, runtime_context=ctx, cost_config=cost)
print(f"Verdict: {result.verdict}")
if result.cost_estimate:
    print(f"Estimated cost: ${result.cost_estimate.total:.2f}")
try:
    execution = execute(result)
    print(f"{execution.rows_extracted:,} rows \u00b7 {execution.throughput_rows_sec:,.0f}/s")
except NotRecommendedError as e:
    print(f"Not recommended: {e}")
"""


@pytest.fixture(autouse=True)
def ixtract(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ixtract", ixflow)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def names(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE orders (id integer PRIMARY KEY)",
        "INSERT INTO orders SELECT generate_series(1, 1234)",
        "ANALYZE orders",
    )
    return {"intent": intent_for(fresh_postgres, "orders", tmp_path)}


def test_profile_plan_execute_explain_and_the_results(names, capsys):
    for example in (PROFILE, PLAN, EXECUTE, RESULTS, EXPLAIN):
        exec(example, names)  # noqa: S102 - the examples are the subject
    said = capsys.readouterr().out
    assert re.match(r"1234\n0\.\d+\n1,234 rows in \d+\.\ds\n", said)
    assert isinstance(names["execution"].output_files[0], str)
    assert "Verdict: SAFE TO RUN" in str(names["explanation"])


def test_a_stored_plan_is_executed_without_planning(names):
    exec(PLAN, names)  # noqa: S102
    names["stored_plan"] = names["result"].plan
    exec(EXECUTE_PLAN, names)  # noqa: S102
    manifest = ixflow.published(names["intent"])
    assert manifest is not None
    assert manifest.total_rows == 1234


def test_a_run_is_replayed(names):
    for example in (PLAN, EXECUTE):
        exec(example, names)  # noqa: S102
    with StatePlace.of(names["intent"].output_dir).open() as state, state._engine.begin() as conn:
        conn.execute(sa.update(runs).values(run_id="run_001"))
    exec(REPLAY, names)  # noqa: S102
    assert names["replay_result"].rows_extracted == 1234


def test_intent_context_and_errors(names):
    for example in (INTENT, CONTEXT, ERRORS):
        exec(example, names)  # noqa: S102
    kinds = [value for value in names.values() if isinstance(value, type)]
    errors = [kind for kind in kinds if issubclass(kind, Exception)]
    assert len(errors) == 6
    assert all(issubclass(kind, ixflow.IxtractError) for kind in errors)


def test_rates(tmp_path):
    (tmp_path / "rates.json").write_text('{"compute_rate": 0.5}', encoding="utf-8")
    names: dict[str, Any] = {"args": {"egress_rate": 0.25, "verbose": True}}
    exec(COST, names)  # noqa: S102
    assert names["cost_cfg"] == ixflow.CostConfig(egress_rate=0.25)


def test_the_whole_example(fresh_postgres, tmp_path, capsys):
    make(fresh_postgres, "CREATE TABLE events AS SELECT generate_series(1, 2000) AS id")
    url = fresh_postgres.url
    places = {
        '"host": "db.prod"': f'"host": "{url.host}", "port": {url.port}',
        '"analytics"': f'"{url.database}"',
        '"etl"': f'"{url.username}"',
        '"/data/output"': repr(str(tmp_path / "out")),
    }
    example = WHOLE
    for theirs, ours in places.items():
        assert theirs in example
        example = example.replace(theirs, ours)
    exec(example, {})  # noqa: S102
    said = capsys.readouterr().out
    assert "Verdict: SAFE TO RUN" in said
    assert "Estimated cost: $0." in said
    assert "2,000 rows" in said


@pytest.mark.parametrize("source_type", ["postgresql", "mysql", "sqlserver"])
def test_every_source_type_takes_the_same_configuration(source_type):
    example = INTENT.replace('source_type="postgresql"', f'source_type="{source_type}"')
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102
    assert names["intent"].source()["type"] == source_type
    assert "secret" not in repr(names["intent"])
