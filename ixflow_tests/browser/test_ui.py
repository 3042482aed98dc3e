"""A person opens the Dagster UI on the demo: what the pages show.

The screenshots are kept in artifacts/screenshots, for a person to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, expect

from ixflow.demo.shop import create_shop
from ixflow_tests.browser.ui import SCREENSHOTS, Webserver, chromium, webserver
from ixflow_tests.servers import make_engine

pytestmark = pytest.mark.timeout(300)


@dataclass
class Opened:
    """The browser's page on a server where everything was materialized by one run."""

    page: Page
    server: Webserver
    run_id: str

    def open(self, path: str, *texts: str) -> None:
        """Open a page and wait until it shows the texts."""
        self.page.goto(path)
        for text in texts:
            expect(self.page.get_by_text(text).first).to_be_visible(timeout=45_000)

    def keep(self, name: str) -> None:
        """Keep a screenshot once nothing moves any more."""
        expect(self.page.get_by_text("Loading...").first).to_be_hidden()
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(700)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def text(self) -> str:
        """Give all text that the page shows."""
        return self.page.locator("body").inner_text()


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Start the webserver on a small shop, materialize everything, open the browser."""
    home = tmp_path_factory.mktemp("ui")
    shop = make_engine(f"sqlite:///{home}/shop.sqlite")
    create_shop(shop, orders=2_000)
    environment = {
        "IXFLOW_HOME": str(home),
        "SHOP_URL": f"sqlite:///{home}/shop.sqlite",
        "WAREHOUSE_URL": f"duckdb:///{home}/warehouse.duckdb",
    }
    with webserver(home / "dagster", environment) as server:
        run_id = server.launch(server.materializable())
        assert server.wait_for_run(run_id) == "SUCCESS"
        with chromium(server) as page:
            yield Opened(page, server, run_id)


def test_the_global_lineage_shows_every_group(ui):
    ui.open("/asset-groups", "sources", "extracted", "raw", "staging", "mart")
    ui.keep("lineage")


def test_the_lineage_of_a_group_shows_its_tables_and_what_they_come_from(ui):
    ui.open("/locations/ixflow/asset-groups/staging/lineage", "customers", "1 / 1 Passed")
    ui.keep("lineage-staging")
    shown = ui.text()
    assert "DuckDB" in shown
    assert "revenue_by_country" in shown


def test_the_lineage_of_a_table_reaches_from_the_source_to_the_mart(ui):
    ui.open(
        "/assets/raw/orders?view=lineage&lineageScope=neighbors&lineageDepth=2",
        "revenue_by_country",
    )
    ui.keep("lineage-orders")
    shown = ui.text()
    for group in ("sources", "extracted", "raw", "staging", "mart"):
        assert group in shown


def test_the_page_of_an_ingested_table_shows_rows_and_columns(ui):
    ui.open("/assets/raw/orders?view=overview", "Row count", "order_id", "ordered_at")
    ui.keep("asset-raw-orders")
    shown = ui.text()
    assert "2,000" in shown or "2000" in shown
    for column in ("customer_id", "state", "total", "voucher"):
        assert column in shown
    assert "warehouse.raw.orders" in shown


def test_the_page_of_an_extraction_shows_its_plan(ui):
    ui.open("/assets/extracted/orders?view=overview", "Plan: orders", "SAFE TO RUN")
    ui.keep("asset-extracted-orders")


def test_the_page_of_a_stage_table_shows_its_version_and_check(ui):
    ui.open("/assets/staging/orders?view=overview", "stage_version", "Row count")
    ui.keep("asset-staging-orders")
    ui.open("/assets/staging/orders?view=checks", "no_negative_totals")
    ui.keep("checks-staging-orders")


def test_the_launchpad_offers_the_options_of_extraction_and_ingest(ui):
    ui.open("/locations/ixflow/jobs/everything/playground", "high_watermark", "No missing config")
    ui.keep("launchpad")
    shown = ui.text()
    for field in ("extracted__orders", "force", "ingest_raw_orders", "__LATEST__", "delete"):
        assert field in shown


def test_the_run_page_shows_every_step(ui):
    ui.open(f"/runs/{ui.run_id}", "Success", "stage_staging", "stage_mart")
    ui.keep("run")
    shown = ui.text()
    for step in ("extracted__orders", "ingest_raw_orders", "stage_staging", "stage_mart"):
        assert step in shown
