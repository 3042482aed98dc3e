"""kill -9 at any moment of an extraction leaves the last publication whole."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from ixflow.extraction.api import execute, plan, published
from ixflow.extraction.context import RuntimeContext
from ixflow_tests.sources import intent_for, make

ROWS, KILLS = 30_000, 10
EXTRACTS_FOREVER = """
import sys
from ixflow.extraction.api import execute, plan
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.intent import ExtractionIntent
intent = ExtractionIntent("postgresql", {"connection_string": sys.argv[1]}, "t", sys.argv[2])
made = plan(intent, RuntimeContext(min_workers=2))
while True:
    print("ready", flush=True)
    execute(made)
"""


def assert_whole(place: Path) -> str:
    """Check that what is published is one whole extraction; give its run."""
    manifest = published(place)
    assert manifest is not None
    directory = place.resolve()
    assert {path.name for path in directory.glob("*.parquet")} == {f.name for f in manifest.files}
    rows = 0
    for file in manifest.files:
        content = (directory / file.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256
        rows += pq.read_metadata(directory / file.name).num_rows
    assert rows == manifest.total_rows == ROWS
    return manifest.run_id


def test_a_killed_extraction_leaves_the_last_publication(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        f"CREATE TABLE t AS SELECT n, repeat('x', 200) AS x FROM generate_series(1, {ROWS}) n",
    )
    intent = intent_for(fresh_postgres, "t", tmp_path)
    took = execute(plan(intent, RuntimeContext(min_workers=2))).duration_seconds
    url = fresh_postgres.url.render_as_string(hide_password=False)
    chance = random.Random(7)
    runs = set()
    for number in range(KILLS):
        command = [sys.executable, "-c", EXTRACTS_FOREVER, url, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            # Every other process has published once before it is killed.
            for _ in range(1 + number % 2):
                process.stdout.readline()
            time.sleep(chance.uniform(0.0, 2 * took))
            process.send_signal(signal.SIGKILL)
            process.wait()
        runs.add(assert_whole(tmp_path / "t"))
    assert len(runs) > KILLS // 2
    result = execute(plan(intent, RuntimeContext(min_workers=2)))
    assert assert_whole(tmp_path / "t") == result.run_id
    left = [path for path in (tmp_path / ".ixflow" / "t").iterdir() if path.name != ".lock"]
    assert len(left) == 2
