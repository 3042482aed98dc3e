"""`python -m ixflow.demo`: what a new user types, and gets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ixflow.demo.server_process import LOOPBACK, free_port

ROOT = Path(__file__).parents[2]


def command(home: Path, *arguments: str) -> list[str]:
    """Give the command line of a demo on a small shop."""
    return [
        sys.executable,
        "-m",
        "ixflow.demo",
        "--orders",
        "2000",
        "--home",
        str(home),
        *arguments,
    ]


def demo(tmp_path: Path, *arguments: str) -> str:
    """Run a demo to its end; give what it printed."""
    done = subprocess.run(
        command(tmp_path / "home", "--no-serve", *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def cells(output: str) -> dict[str, list[int]]:
    """Read rows and, for ingests, inserted rows from the printed table."""
    found = {}
    for line in output.splitlines():
        if match := re.match(r"(\w+/\w+)\s+([\d,]+)(?:\s+([\d,]+))?\s+[\d.]+$", line):
            numbers = [match[2], match[3]]
            found[match[1]] = [int(n.replace(",", "")) for n in numbers if n is not None]
    return found


@pytest.mark.parametrize("options", [[], ["--postgres"]], ids=["duckdb", "postgres"])
def test_the_second_run_ingests_only_what_is_new(reachable_tmp_path, options):
    first = demo(reachable_tmp_path, *options)
    table = cells(first)
    assert len(table) == 11
    assert table["raw/orders"] == [2_000, 2_000]
    assert table["mart/revenue_by_country"] == [4]
    assert "11 assets in" in first
    assert re.search(r"mart\.revenue_by_country: DE [\d,.]+, FR [\d,.]+, PL [\d,.]+, US", first)
    second = demo(reachable_tmp_path, *options)
    assert "The shop has 1,000 new orders." in second
    table = cells(second)
    assert table["extracted/orders"] == [3_000]
    assert table["raw/orders"] == [3_000, 1_000]
    assert table["raw/customers"] == [200, 0]
    progress = json.loads((reachable_tmp_path / "home" / "progress.json").read_text())
    assert progress == {"orders": 2_000, "new_orders": 1_000, "completed": 2}


def test_both_databases_come_to_the_same_totals(reachable_tmp_path):
    said = [
        demo(reachable_tmp_path / "duckdb"),
        demo(reachable_tmp_path / "postgres", "--postgres"),
    ]
    totals = {line for text in said for line in text.splitlines() if line.startswith("mart.")}
    assert len(totals) == 1


def test_outside_a_checkout_it_says_where_to_run_it(reachable_tmp_path):
    done = subprocess.run(
        command(reachable_tmp_path / "home", "--no-serve"),
        cwd=reachable_tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "run the demo in a checkout of ixflow" in done.stderr
    assert not (reachable_tmp_path / "home").exists()


def test_a_second_demo_in_the_same_home_waits_for_its_turn(reachable_tmp_path):
    first = subprocess.Popen(
        command(reachable_tmp_path / "home", "--no-serve"), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        lock = reachable_tmp_path / "home" / "lock"
        deadline = time.monotonic() + 60
        while not lock.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        second = subprocess.run(
            command(reachable_tmp_path / "home", "--no-serve"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        # On a machine so slow that the first has ended meanwhile, the second just runs.
        if second.returncode != 0:
            assert "another demo is running in" in second.stderr
            assert "Traceback" not in second.stderr
        assert first.wait(100) == 0
    finally:
        first.kill()
        first.wait()


# -- serving ----------------------------------------------------------------------------------


@contextlib.contextmanager
def served(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a demo that serves, in a session of its own; give it and its URL once it answers."""
    process = subprocess.Popen(
        command(tmp_path / "home", *options),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if match := re.search(r"Dagster UI: (\S+)", line):
                break
        else:
            raise AssertionError("".join(said))
        wait_for(match[1])
        yield process, match[1]
    finally:
        left = family(process.pid)
        process.kill()
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.stdout.close()
        process.wait()


def family(pid: int) -> list[psutil.Process]:
    """List the living descendants of a process."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def wait_for(url: str, seconds: float = 60) -> None:
    """Wait until the UI answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=5) as answer:  # noqa: S310
                assert answer.status == 200
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_leaves_no_process(reachable_tmp_path, end):
    port = str(free_port())
    options = ["--postgres"] if end == signal.SIGTERM else []
    with served(reachable_tmp_path, "--port", port, *options) as (process, url):
        assert url == f"http://{LOOPBACK}:{port}"
        children = family(process.pid)
        assert len(children) >= 2
        process.send_signal(end)
        assert process.wait(60) == 0
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert alive == []
        assert len(gone) == len(children)


def test_without_a_port_it_takes_a_free_one(reachable_tmp_path):
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        with contextlib.suppress(OSError):
            # If somebody else has it, it is taken as well.
            taken.bind((LOOPBACK, 3000))
            taken.listen()
        process, url = stack.enter_context(served(reachable_tmp_path))
        assert 3000 < int(url.rpartition(":")[2]) < 3100
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_when_it_is_killed_nothing_goes_on_serving(reachable_tmp_path):
    with served(reachable_tmp_path, "--port", str(free_port())) as (process, _):
        children = family(process.pid)
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=40)
        assert alive == []
