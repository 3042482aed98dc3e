"""The Dagster webserver and daemon on a home of their own, and what GraphQL answers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from ixflow.demo.server_process import LOOPBACK, Account, free_port, spawn, stop

__all__ = ["Webserver", "chromium", "daemon", "webserver"]

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "artifacts" / "screenshots"

# No telemetry, no first-visit dialog, and runs that start without a daemon.
_SETTINGS = """\
telemetry:
  enabled: false
nux:
  enabled: false
run_coordinator:
  module: dagster.core.run_coordinator
  class: DefaultRunCoordinator
"""

_CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)

_LOADED = """{ workspaceOrError { __typename
  ... on PythonError { message stack }
  ... on Workspace { locationEntries { loadStatus locationOrLoadError { __typename
    ... on PythonError { message stack } } } } } }"""

_ASSETS = "{ assetNodes { assetKey { path } isMaterializable } }"

_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } }
  ... on PythonError { message stack } } }"""

_BACKFILL = """mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename
  ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message stack } } }"""

_BACKFILLED = """query($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename
  ... on PartitionBackfill { status runs(limit: 20) { runId } } } }"""

_TAGGED = """query($tags: [ExecutionTag!]) { runsOrError(filter: {tags: $tags}) {
  ... on Runs { results { runId } } } }"""

_STATUS = "query($id: ID!) { runOrError(runId: $id) { __typename ... on Run { status } } }"


class Webserver:
    """A running webserver: its address, and questions to it."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        """Take what was started."""
        self.url = url
        self._process = process
        self._log = log

    def ask(self, query: str, **variables: Any) -> Any:
        """Ask GraphQL."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return found["data"]

    def wait_until_up(self, seconds: float = 90) -> None:
        """Wait for the server to answer and for the code location to be loaded."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text()
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.url}/server_info", timeout=5).close()  # noqa: S310
                break
            time.sleep(0.2)
        while time.monotonic() < deadline:
            workspace = self.ask(_LOADED)["workspaceOrError"]
            assert workspace["__typename"] == "Workspace", workspace
            entries = workspace["locationEntries"]
            if all(entry["loadStatus"] == "LOADED" for entry in entries):
                for location in (entry["locationOrLoadError"] for entry in entries):
                    assert location["__typename"] == "RepositoryLocation", location
                return
            time.sleep(0.2)
        raise AssertionError(self._log.read_text())

    def materializable(self) -> list[list[str]]:
        """List the keys of the assets that can be materialized."""
        nodes = self.ask(_ASSETS)["assetNodes"]
        return [node["assetKey"]["path"] for node in nodes if node["isMaterializable"]]

    def launch(self, keys: Sequence[Sequence[str]], location: str = "ixflow") -> str:
        """Start a run that materializes assets; give its id."""
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": list(key)} for key in keys],
        }
        params = {"selector": selector, "runConfigData": "{}", "executionMetadata": {"tags": []}}
        launched = self.ask(_LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def backfill(self, key: Sequence[str], partitions: Sequence[str]) -> str:
        """Start a backfill of an asset; give its id."""
        params = {"assetSelection": [{"path": list(key)}], "partitionNames": list(partitions)}
        launched = self.ask(_BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def wait_for_backfill(self, backfill_id: str, seconds: float = 120) -> list[str]:
        """Wait for the backfill to succeed; give the ids of its runs."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.ask(_BACKFILLED, id=backfill_id)["partitionBackfillOrError"]
            if found["status"] == "COMPLETED_SUCCESS":
                return [str(run["runId"]) for run in found["runs"]]
            assert found["status"] in {"REQUESTED", "COMPLETED"}, found
            time.sleep(0.5)
        raise AssertionError(found)

    def run_tagged(self, tag: str, value: str, seconds: float = 120) -> str:
        """Wait until a run with the tag is there, as a schedule or a sensor launches it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            tags = [{"key": tag, "value": value}]
            if found := self.ask(_TAGGED, tags=tags)["runsOrError"]["results"]:
                return str(found[-1]["runId"])
            time.sleep(0.5)
        raise AssertionError(self._log.with_name("daemon.log").read_text()[-4000:])

    def wait_for_run(self, run_id: str, seconds: float = 120) -> str:
        """Wait for the run to end; give its status."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = str(self.ask(_STATUS, id=run_id)["runOrError"]["status"])
            if status in {"SUCCESS", "FAILURE", "CANCELED"}:
                return status
            time.sleep(0.3)
        raise AssertionError(self._log.read_text())


@contextlib.contextmanager
def webserver(
    home: Path, environment: Mapping[str, str], directory: Path = ROOT
) -> Iterator[Webserver]:
    """Serve the workspace of a directory, by default of this checkout, from a new DAGSTER_HOME."""
    home.mkdir()
    (home / "dagster.yaml").write_text(_SETTINGS)
    port, log = free_port(), home / "webserver.log"
    command = ["dagster_webserver", "-w", "workspace.yaml", "-h", LOOPBACK, "-p", str(port)]
    with _running(command, log, environment, directory) as process:
        server = Webserver(f"http://{LOOPBACK}:{port}", process, log)
        server.wait_until_up()
        yield server


@contextlib.contextmanager
def daemon(home: Path, environment: Mapping[str, str], directory: Path = ROOT) -> Iterator[None]:
    """Run the daemon of a webserver that is up: backfills, schedules and sensors."""
    command = ["dagster._daemon", "run", "-w", "workspace.yaml"]
    with _running(command, home / "daemon.log", environment, directory):
        yield


@contextlib.contextmanager
def _running(
    command: Sequence[str], log: Path, environment: Mapping[str, str], directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    own = {"DAGSTER_HOME": str(log.parent), "DAGSTER_DISABLE_TELEMETRY": "yes"}
    with log.open("wb") as out:
        process = spawn(
            [sys.executable, "-m", *command],
            account=Account(os.geteuid(), os.getegid()),
            directory=directory,
            log=out,
            end=signal.SIGINT,
            environment={**os.environ, **environment, **own},
        )
    try:
        yield process
    finally:
        stop(process, signal.SIGINT, patience=30)


@contextlib.contextmanager
def chromium(server: Webserver) -> Iterator[Page]:
    """Open a page in the machine's Chromium, which can reach nothing but the server."""
    program = shutil.which("chromium")
    assert program is not None, "chromium is not on PATH; install Debian's package `chromium`"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_CHROMIUM))
        try:
            context = browser.new_context(
                base_url=server.url, viewport={"width": 1600, "height": 1000}
            )
            context.set_default_timeout(45_000)
            own = server.url
            context.route(
                lambda url: not url.startswith(own), lambda route: route.abort("blockedbyclient")
            )
            yield context.new_page()
        finally:
            browser.close()
