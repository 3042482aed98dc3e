"""A person approves what waits, looks at the pictures, and goes back to the version before."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from playwright.sync_api import Page, expect

from ixflow_tests.browser.ui import ROOT, SCREENSHOTS, Webserver, chromium, webserver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DEFINITIONS = """
import os
from pathlib import Path

import polars as pl

import ixflow.dagster as ixd
from ixflow.pipeline import AuditResult, Flow, Stage, Table, audit, materialize

HERE = Path(__file__).parent


@materialize
def customers():
    count = int((HERE / "count").read_text())
    return Table(pl.DataFrame({"id": range(count)}))


@materialize(version="1", input_type=pl.DataFrame)
def revenue(customers):
    return Table(pl.DataFrame({"customers": [customers.height]}))


with Flow("shop") as flow, Stage("mart", keep_versions=2) as mart:
    revenue(customers())


@audit(mart)
def enough(customers: pl.DataFrame):
    return AuditResult(customers.height > 1, f"{customers.height} customers")


warehouse = ixd.SQLTableStoreResource(url=f"duckdb:///{HERE}/warehouse.duckdb")
defs = flow.to_definitions(table_store=warehouse, publish="manual")
"""


@dataclass
class Shop:
    """The stage of the definitions, run in this process, and the page that shows it."""

    page: Page
    server: Webserver
    place: Path
    defs: dg.Definitions
    instance: dg.DagsterInstance

    def make(self, customers: int) -> None:
        """Run the stage; what it makes waits."""
        (self.place / "count").write_text(str(customers))
        assert self._run("shop_flow")

    def approve(self) -> None:
        """Publish what waits, without the browser."""
        assert self._run("approve_mart")

    def _run(self, job: str) -> bool:
        made = self.defs.resolve_job_def(job)
        # The browser's event loop runs in this thread, and Dagster wants one of its own.
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(made.execute_in_process, instance=self.instance)
            return done.result().success

    def open(self, path: str, *texts: str) -> None:
        """Open a page and wait until it shows the texts."""
        self.page.goto(path)
        for text in texts:
            expect(self.page.get_by_text(text).first).to_be_visible(timeout=45_000)

    def picture(self, name: str) -> dict[str, Any]:
        """Wait for a picture; give its sizes: a picture that the page blocks has none."""
        image = self.page.locator(f"img[alt={name}]").first
        expect(image).to_be_visible(timeout=45_000)
        found: dict[str, Any] = image.evaluate(
            "one => ({drawn: one.naturalWidth, shown: one.width, complete: one.complete})"
        )
        return found

    def launch(self, job: str) -> None:
        """Launch a job from its Launchpad as it stands, and wait for its success."""
        self.open(f"/locations/ixflow/jobs/{job}/playground", "No missing config")
        self.page.get_by_role("button", name="Launch Run").click()
        self.page.wait_for_url(re.compile("/runs/"), timeout=90_000)
        run_id = self.page.url.rpartition("/")[2]
        ended = self.server.wait_for_run(run_id)
        assert ended == "SUCCESS", [str(log) for log in self.instance.all_logs(run_id)][-8:]

    def keep(self, name: str) -> None:
        """Keep a screenshot."""
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Serve the definitions, and load them here too."""
    place = tmp_path_factory.mktemp("by_hand")
    file = place / "definitions.py"
    file.write_text(DEFINITIONS)
    (place / "workspace.yaml").write_text(
        "load_from: [{python_file: {relative_path: definitions.py, location_name: ixflow}}]"
    )
    spec = importlib.util.spec_from_file_location("by_hand_definitions", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    home = place / "home"
    with (
        webserver(home, environment, place) as server,
        dg.DagsterInstance.from_config(str(home)) as instance,
        chromium(server) as page,
    ):
        page.set_viewport_size({"width": 1500, "height": 1800})
        yield Shop(page, server, place, module.defs, instance)


def test_a_person_sees_what_waits_approves_it_and_rolls_it_back(shop):
    shop.make(customers=3)
    shop.approve()
    shop.make(customers=5)
    shop.open("/assets/mart/customers?view=events", "Waits for approval by job approve_mart")
    for name in ("diff", "timeline"):
        found = shop.picture(name)
        assert found["complete"]
        assert found["drawn"] == found["shown"] > 300
    assert "rows before" in shop.page.locator("body").inner_text()
    shop.keep("by-hand-waits")

    shop.launch("approve_mart")
    shop.keep("by-hand-approved")
    shop.open("/assets/mart/customers?view=overview", "Row count", "ixflow/stage_version")
    overview = shop.page.locator("body").inner_text()
    assert re.search(r"ixflow/stage_version\s[^i]*\b2\b", overview), overview
    assert re.search(r"Row count\s*5\b", overview), overview
    shop.open("/assets/mart/customers?view=checks", "enough", "5 customers")

    shop.launch("rollback_mart")
    shop.open("/assets/mart/customers?view=overview", "ixflow/rolled_back_to")
    overview = shop.page.locator("body").inner_text()
    assert re.search(r"Row count\s*3\b", overview), overview
    shop.keep("by-hand-rolled-back")
