"""A data engineer's day in the Dagster UI: dry run, failure, schedule, sensor, backfill, diff.

Everything runs by one webserver and one daemon; screenshots are kept in artifacts/screenshots.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from ixflow.demo.shop import add_orders, create_shop
from ixflow_tests.browser.test_ui import Opened
from ixflow_tests.browser.ui import ROOT, chromium, daemon, webserver
from ixflow_tests.servers import make_engine

pytestmark = pytest.mark.timeout(400)

# The demo, and a location with a plan check, partitions, a schedule, a sensor and a failure.
WORKSPACE = f"""\
load_from:
  - python_file: {{relative_path: {ROOT}/definitions.py, location_name: ixflow}}
  - python_file: {{relative_path: {ROOT}/ixflow_tests/dagster/day.py, location_name: day}}
"""
STAGES = (["staging", "orders"], ["staging", "customers"], ["mart", "revenue_by_country"])


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Serve both locations; the demo ran twice, with new orders between, and one run failed."""
    home = tmp_path_factory.mktemp("day")
    (home / "workspace.yaml").write_text(WORKSPACE)
    shop = make_engine(f"sqlite:///{home}/shop.sqlite")
    create_shop(shop, orders=2_000)
    environment = {
        "IXFLOW_HOME": str(home),
        "SHOP_URL": f"sqlite:///{home}/shop.sqlite",
        "WAREHOUSE_URL": f"duckdb:///{home}/warehouse.duckdb",
        "PYTHONPATH": str(ROOT),
    }
    with (
        webserver(home / "dagster", environment, home) as server,
        daemon(home / "dagster", environment, home),
    ):
        rows = [[place, name] for name in ("orders", "customers") for place in ("extracted", "raw")]
        first = server.launch([*rows, *STAGES])
        failed = server.launch([["day", "ordres"]], "day")
        assert server.wait_for_run(first) == "SUCCESS"
        add_orders(shop, 500)
        again = server.launch([*rows, *STAGES])
        assert server.wait_for_run(failed) == "FAILURE"
        assert server.wait_for_run(again) == "SUCCESS"
        with chromium(server) as page:
            # So that what stands below the columns of an asset is in the screenshot too.
            page.set_viewport_size({"width": 1600, "height": 2400})
            yield Opened(page, server, failed)


def test_a_failed_run_says_what_to_do(day):
    day.open(f"/runs/{day.run_id}", "Failure")
    day.page.get_by_text("View full message").first.click()
    expect(day.page.get_by_text("ordres").first).to_be_visible()
    day.keep("run-failed")
    shown = day.text()
    assert "there is no table ordres" in shown.lower()


def test_execute_check_is_a_dry_run_that_shows_the_plan(day):
    day.open("/assets/day/customers?view=checks", "Not evaluated")
    day.page.get_by_role("button", name="Execute").first.click()
    expect(day.page.get_by_text("Passed").first).to_be_visible(timeout=120_000)
    day.page.get_by_text("[Show Markdown]").first.click()
    expect(day.page.get_by_text("estimated time").first).to_be_visible()
    day.keep("check-dry-run")
    shown = day.text()
    for words in ("SAFE TO RUN", "ixflow/estimated_rows", "no rates are given"):
        assert words in shown
    day.open("/assets/day/customers?view=overview", "Never materialized")


def test_the_page_of_an_extraction_shows_plan_timeline_and_columns(day):
    day.open("/assets/extracted/orders?view=overview", "Plan: orders", "timeline", "ordered_at")
    expect(day.page.locator("img[src^='data:image/svg+xml']").first).to_be_visible()
    day.keep("day-extraction")


def test_the_page_of_an_ingest_shows_watermark_and_rows(day):
    day.open("/assets/raw/orders?view=overview", "high_watermark", "rows_inserted")
    day.keep("day-ingest")
    shown = day.text()
    assert "2500" in shown.replace(",", "")


def test_the_page_of_a_stage_shows_what_changed_and_its_audit(day):
    day.open("/assets/staging/orders?view=overview", "rows_more", "diff")
    day.keep("day-stage")
    day.open("/assets/staging/orders?view=checks", "no_negative_totals", "Passed")
    day.keep("day-audit")


def test_numbers_are_plotted_over_runs(day):
    day.open("/assets/raw/orders?view=overview", "Plots")
    day.page.get_by_text("Plots").first.click()
    expect(day.page.locator("canvas").first).to_be_visible()
    day.keep("day-plots")


def test_a_backfill_of_ten_partitions_is_one_run(day):
    keys = [f"{number}" for number in range(1, 11)]
    backfill = day.server.backfill(["day", "by_customer"], keys)
    [run] = day.server.wait_for_backfill(backfill)
    day.open(f"/runs/b/{backfill}", "by_customer", "Completed")
    day.keep("backfill")
    day.open("/assets/day/by_customer?view=partitions", "Materialized")
    day.keep("partitions")
    assert "10" in day.text()
    day.open(f"/runs/{run}", "Success")


def test_a_sensor_sees_new_rows_and_launches_a_run(day):
    run = day.server.run_tagged("dagster/sensor_name", "watch_orders")
    assert day.server.wait_for_run(run) == "SUCCESS"
    day.open("/locations/day/sensors/watch_orders", "watch_orders", "Running")
    day.keep("sensor")
    day.open(f"/runs/{run}", "Success", "day__orders")


def test_a_schedule_ticks_and_launches_a_run(day):
    run = day.server.run_tagged("dagster/schedule_name", "nightly_schedule")
    assert day.server.wait_for_run(run) == "SUCCESS"
    day.open("/locations/day/schedules/nightly_schedule", "nightly", "Running")
    day.keep("schedule")
