"""kill -9 during an extraction is seen by whoever looks afterwards, and only afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from ixflow.extraction.api import published
from ixflow.extraction.history import history
from ixflow_tests.sources import intent_for, make

ROOT = Path(__file__).parents[2]

EXTRACTS = """
import sys, time
from ixflow import ExtractionIntent, execute, plan
from ixflow.events import listen
intent = ExtractionIntent(sys.argv[1], {"connection_string": sys.argv[2]}, "t", sys.argv[3])
def stop(event):
    print("in the middle", flush=True)
    time.sleep(100)
with listen(stop):
    execute(plan(intent))
"""


def test_a_killed_run_is_abandoned(any_engine, tmp_path):
    make(any_engine, "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (1)")
    intent = intent_for(any_engine, "t", tmp_path)
    url = intent.source_config["connection_string"]
    command = [sys.executable, "-W", "ignore", "-c", EXTRACTS, intent.source_type, url]
    with subprocess.Popen([*command, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in the middle\n"
        (running,) = history(intent)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (killed,) = history(intent)
    assert (running.status, killed.status) == ("running", "abandoned")
    assert "ended without a word" in str(killed.error)
    assert published(intent) is None
