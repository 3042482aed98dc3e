"""kill -9 between any two steps of an incremental run: the next run gives what no kill gives."""

from __future__ import annotations

import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ixflow.extraction.api import execute, plan, published
from ixflow_tests.sources import intent_for, make

KILLED = """
import os, signal, sys
from ixflow.extraction import storage, table_run
from ixflow.extraction.api import execute, plan
from ixflow.extraction.intent import ExtractionIntent

def die(*given, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def after(owner, name):
    real = getattr(owner, name)
    def both(*given, **options):
        real(*given, **options)
        die()
    setattr(owner, name, both)

url, output, moment = sys.argv[1:]
intent = ExtractionIntent("postgresql", {"connection_string": url}, "t", output,
                          mode="incremental", incremental_key="id")
made = plan(intent)
match moment:
    case "nothing was read":
        table_run.TaskRun.run = die
    case "all was read":
        table_run.TableRun.publish = die
    case "one file was carried over":
        after(storage, "_link")
    case "the files are there":
        after(storage.RunDirectory, "carry")
    case "the manifest is written":
        storage.OutputPlace.replace_link = die
    case "it was published":
        after(storage.OutputPlace, "replace_link")
    case "nothing was said":
        table_run.Recording.finished = die
execute(made)
"""
MOMENTS = [
    "nothing was read",
    "all was read",
    "one file was carried over",
    "the files are there",
    "the manifest is written",
    "it was published",
    "nothing was said",
]


def read(place):
    """Read all rows of what is published, which must be what its manifest says."""
    manifest = published(place)
    assert manifest is not None
    files = sorted(path for path in place.glob("*.parquet"))
    assert [path.name for path in files] == [file.name for file in manifest.files]
    rows = pa.concat_tables([pq.read_table(path) for path in files])
    assert rows.num_rows == manifest.total_rows
    assert manifest.window is not None
    return sorted(rows["id"].to_pylist()), manifest.window.high_watermark


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_is_as_if_it_had_not_been(fresh_postgres, tmp_path, moment):
    make(
        fresh_postgres, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2), (3)"
    )
    options = {"mode": "incremental", "incremental_key": "id"}
    intent = intent_for(fresh_postgres, "t", tmp_path, **options)
    for number in (3, 4):
        execute(plan(intent))
        make(fresh_postgres, f"INSERT INTO t VALUES ({number + 1})")
    assert read(tmp_path / "t") == ([1, 2, 3, 4], "4")
    url = fresh_postgres.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", KILLED, url, str(tmp_path), moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    done = moment in MOMENTS[-2:]
    assert read(tmp_path / "t") == (([1, 2, 3, 4, 5], "5") if done else ([1, 2, 3, 4], "4"))
    make(fresh_postgres, "INSERT INTO t VALUES (6)")
    execute(plan(intent))
    assert read(tmp_path / "t") == ([1, 2, 3, 4, 5, 6], "6")
