"""The README's snippets run as they are, in their order, in an empty directory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def snippets() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def tour(tmp_path: Path) -> Path:
    script = tmp_path / "tour.py"
    check = "import dagster\nassert dagster.Definitions.validate_loadable(defs) is None\n"
    script.write_text("\n".join([*snippets(), check]), encoding="utf-8")
    return script


def run(script: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(script.parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_five_minute_tour_runs_and_prints_what_it_promises(tour):
    said = run(tour)
    assert "2 rows in" in said
    assert "2 new rows, watermark 2" in said
    assert "SAFE TO RUN" in said
    assert "9.99" in said


def test_ingesting_the_tour_again_finds_nothing_new(tour):
    run(tour)
    again = [snippet for snippet in snippets() if "CREATE TABLE" not in snippet]
    tour.write_text("\n".join(again), encoding="utf-8")
    assert "0 new rows, watermark 2" in run(tour)


def test_every_test_that_the_guarantees_name_exists():
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Guarantees")[1]
    for name in re.findall(r"`((?:behaviour|property|crash|dagster)/[\w*.]*)`", table):
        assert list((ROOT / "ixflow_tests").glob(name.rstrip("/"))), name
