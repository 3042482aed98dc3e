"""kill -9 at each step of an extraction: the next run equals one that nobody killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow import execute_together, hold_snapshot, plan, published
from ixflow.extraction.history import history, tasks_of
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.plan import PlanResult
from ixflow.extraction.state import StatePlace
from ixflow_tests.behaviour.test_extraction_resume import ROWS, by_key, one_worker
from ixflow_tests.behaviour.test_object_stores import rows
from ixflow_tests.sources import intent_for, make

if TYPE_CHECKING:
    import sqlalchemy as sa

ROOT = Path(__file__).parents[2]
NEVER = ("never", 0)


@pytest.fixture
def source(fresh_postgres):
    """Give 20,000 rows on about 700 pages, which are several tasks."""
    make(
        fresh_postgres,
        "CREATE TABLE t (id int PRIMARY KEY, x text)",
        f"INSERT INTO t SELECT n, repeat('x', 220) FROM generate_series(1, {ROWS}) n",
        "ANALYZE t",
    )
    return fresh_postgres


class Outside:
    """Runs of one plan in other processes, which die where they are told to."""

    def __init__(self, made: PlanResult, place: Path, moment: str | None = None) -> None:
        self.made, self.moment = made, moment
        self.plan = place / "plan.json"
        self.plan.write_text(json.dumps(made.plan.to_dict()))

    def run(self, dies: tuple[str, int] = NEVER) -> dict[str, Any] | None:
        """Run; give what the process says, or None if it was killed."""
        intent = self.made.intent
        asked = {
            "dies": dies,
            "plan": str(self.plan),
            "moment": self.moment,
            "intent": {
                "source_type": intent.source_type,
                "source_config": dict(intent.source_config),
                "object_name": intent.object_name,
                "output_dir": str(intent.output_dir),
                "storage_options": dict(intent.storage_options),
                "resume": intent.resume,
            },
        }
        command = [sys.executable, "-W", "ignore", "-m", "ixflow_tests.crash.resume_script"]
        done = subprocess.run(
            [*command, json.dumps(asked)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode == -9:
            return None
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said


def seen(made: PlanResult) -> Manifest:
    manifest = published(made.intent)
    assert manifest is not None
    return manifest


def local_rows(made: PlanResult) -> pa.Table:
    """Read the directory as a reader does, and see that it is what the manifest says."""
    directory = Path(made.intent.output_dir) / made.intent.object_name
    manifest = seen(made)
    files = sorted(directory.glob("*.parquet"))
    assert [file.name for file in files] == [file.name for file in manifest.files]
    table = pa.concat_tables([pq.read_table(file) for file in files])
    assert table.num_rows == manifest.total_rows
    return table.sort_by("id")


STEPS = [
    # What dies, and how many tasks the checkpoint names then. Its first write names none.
    *[(("checkpoint", n), max(0, n - 1)) for n in (0, 3)],
    *[(("checkpointed", n), n) for n in (0, 2)],
    (("half a line", 2), 1),
    (("manifest", 0), None),
    (("publish", 0), None),
]


@pytest.mark.parametrize(("dies", "tasks"), STEPS)
def test_a_run_that_was_killed_is_resumed_behind_its_last_line(source, tmp_path, dies, tasks):
    made = one_worker(intent_for(source, "t", tmp_path / "out"))
    ids = [task.chunk_id for task in made.plan.tasks]
    done = len(ids) if tasks is None else tasks
    with hold_snapshot(made) as moment:
        outside = Outside(made, tmp_path, moment.token)
        assert outside.run(dies) is None
        make(source, "UPDATE t SET x = 'new'", "DELETE FROM t WHERE id % 3 = 0")
        assert published(made.intent) is None
        said = outside.run()
    assert said is not None
    assert (said["read"], said["resumed"]) == (ids[done:], done)
    rows = local_rows(made)
    assert rows["id"].to_pylist() == list(range(1, ROWS + 1))
    assert set(rows["x"].to_pylist()) == {"x" * 220}
    newest, oldest = history(made.intent)
    assert (newest.status, oldest.status) == ("success", "abandoned")
    homes = [p.name for p in (tmp_path / "out" / ".ixflow" / "t").iterdir() if p.is_dir()]
    assert homes == [said["run_id"]]


@pytest.mark.parametrize("dies", [("adopt", 0), ("adopted", 0), ("checkpoint", 0)])
def test_a_run_that_was_killed_while_it_took_over_loses_nothing(source, tmp_path, dies):
    made = one_worker(intent_for(source, "t", tmp_path / "out"))
    with hold_snapshot(made) as moment:
        outside = Outside(made, tmp_path, moment.token)
        assert outside.run(("checkpointed", 3)) is None
        assert outside.run(dies) is None
        said = outside.run()
    assert said is not None
    assert said["resumed"] == 3
    assert local_rows(made).num_rows == ROWS


def test_a_run_that_was_killed_behind_its_publication_is_not_resumed(source, tmp_path):
    made = one_worker(intent_for(source, "t", tmp_path / "out"))
    with hold_snapshot(made) as moment:
        outside = Outside(made, tmp_path, moment.token)
        assert outside.run(("published", 0)) is None
        (killed,) = history(made.intent)
        assert (killed.status, seen(made).run_id) == ("success", killed.run_id)
        for _ in range(2):
            said = outside.run()
            assert said is not None
            assert said["resumed"] == 0
    assert local_rows(made).num_rows == ROWS


WAITS = """
import time, ixflow_tests.crash.resume_script as script
script.die = lambda: time.sleep(100)
script.main()
"""


def test_tasks_of_a_killed_run_are_in_the_state(source, tmp_path):
    made = one_worker(intent_for(source, "t", tmp_path / "out"))
    with hold_snapshot(made) as moment:
        outside = Outside(made, tmp_path, moment.token)
        command = [sys.executable, "-W", "ignore", "-c", WAITS]
        asked = json.dumps(
            {
                "dies": ["checkpointed", 3],
                "plan": str(outside.plan),
                "moment": moment.token,
                "intent": {
                    "source_type": made.intent.source_type,
                    "source_config": dict(made.intent.source_config),
                    "object_name": "t",
                    "output_dir": str(made.intent.output_dir),
                },
            }
        )
        place = StatePlace.of(made.intent.output_dir)
        with subprocess.Popen([*command, asked], cwd=ROOT) as process:
            deadline = time.monotonic() + 60
            while not (found := history(made.intent)) or len(tasks_of(found[0], place)) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.kill()
            process.wait()
    (run,) = history(made.intent)
    assert run.status == "abandoned"
    told = tasks_of(run, place)
    assert {task.status for task in told} == {"success"}
    assert [task.chunk_id for task in told][:3] == [t.chunk_id for t in made.plan.tasks[:3]]


def content(engine: sa.Engine) -> pa.ChunkedArray:
    """Read the texts that the source has now, by key."""
    with engine.connect() as conn:
        texts = conn.exec_driver_sql("SELECT x FROM t ORDER BY id").scalars().all()
    return pa.chunked_array([texts], pa.string())


KILLS = st.lists(
    st.sampled_from(
        [
            *[("checkpoint", n) for n in range(5)],
            *[("checkpointed", n) for n in range(5)],
            *[("half a line", n) for n in range(1, 4)],
            *[("adopt", 0), ("adopted", 0), ("manifest", 0), ("publish", 0), ("published", 0)],
        ]
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=6)
@given(
    kills=KILLS,
    how=st.tuples(st.sampled_from(["same snapshot", "newer snapshot"]), st.booleans()),
    seed=st.integers(0, 999),
)
def test_wherever_runs_die_every_row_is_there_once(
    tmp_path_factory, fresh_postgres, kills, how, seed
):
    resume, keyed = how
    make(
        fresh_postgres,
        "DROP TABLE IF EXISTS t",
        "CREATE TABLE t (id int PRIMARY KEY, x text)",
        f"INSERT INTO t SELECT n, repeat('x', 220) FROM generate_series(1, {ROWS}) n",
        "ANALYZE t",
    )
    place, chance = tmp_path_factory.mktemp("kills"), random.Random(seed)
    made = one_worker(intent_for(fresh_postgres, "t", place / "out", resume=resume))
    made = by_key(made) if keyed else made
    outside = Outside(made, place)
    # What each run found: a run may publish the whole work of one that died, of its moment.
    found = []
    for number, dies in enumerate(kills):
        found.append(content(fresh_postgres))
        outside.run(dies)
        if chance.random() < 0.7:
            make(fresh_postgres, f"UPDATE t SET x = 'new {number}' WHERE id % 7 = {number}")
    found.append(content(fresh_postgres))
    said = outside.run()
    assert said is not None
    rows, manifest = local_rows(made), seen(made)
    assert rows["id"].to_pylist() == list(range(1, ROWS + 1))
    if len(manifest.snapshots) == 1:
        assert manifest.consistency == "one snapshot"
        possible = found if resume == "newer snapshot" and not said["read"] else found[-1:]
        assert any(rows["x"].equals(one) for one in possible)
    else:
        assert (resume, keyed) == ("newer snapshot", True)
    chunks = [chunk for one in manifest.snapshots for chunk in one.chunk_ids]
    assert sorted(chunks) == sorted(task.chunk_id for task in made.plan.tasks)


@pytest.fixture
def into_bucket(source, object_server, tmp_path, monkeypatch):
    """Give a plan of several tasks into a bucket, and the prefix there."""
    monkeypatch.setenv("IXFLOW_STATE_URL", f"sqlite:///{tmp_path}/state.sqlite")
    prefix = f"kill/{tmp_path.name}"
    options = object_server.place(prefix)
    output_dir, storage = options["output_dir"], options["storage_options"]
    return one_worker(intent_for(source, "t", output_dir, storage_options=storage)), prefix


@pytest.mark.parametrize("dies", [("checkpointed", 2), ("publish", 0)])
def test_a_run_into_a_bucket_that_was_killed_is_resumed(
    source, object_server, into_bucket, tmp_path, dies
):
    made, prefix = into_bucket
    done = {"checkpointed": 2}.get(dies[0], len(made.plan.tasks))
    with hold_snapshot(made) as moment:
        outside = Outside(made, tmp_path, moment.token)
        assert outside.run(dies) is None
        make(source, "DELETE FROM t")
        said = outside.run()
    assert said is not None
    assert said["resumed"] == done
    assert len(said["read"]) == len(made.plan.tasks) - done
    assert sorted(rows(made.intent, object_server)["id"].to_pylist()) == list(range(1, ROWS + 1))
    there = {key.split("/")[-2] for key in object_server.keys(prefix)}
    assert there == {"t", said["run_id"]}


def test_a_run_into_a_bucket_that_was_killed_behind_its_publication_is_a_success(
    into_bucket, tmp_path
):
    made, _ = into_bucket
    outside = Outside(made, tmp_path)
    assert outside.run(("published", 0)) is None
    (killed,) = history(made.intent)
    assert (killed.status, killed.rows) == ("success", ROWS)
    assert seen(made).run_id == killed.run_id
    said = outside.run()
    assert said is not None
    assert said["resumed"] == 0


TOGETHER = """
import sys
from ixflow import ExtractionIntent, execute_together, plan
from ixflow.extraction import storage
from ixflow_tests.crash.resume_script import Counter, around
url, place, step, times = sys.argv[1:]
around(storage.OutputPlace, "replace_link", Counter(step, int(times)), "publish", "published")
config = {"connection_string": url}
names = ("a", "b", "c")
execute_together([plan(ExtractionIntent("postgresql", config, n, place)) for n in names])
"""


@pytest.mark.parametrize(
    ("step", "times", "new"), [("publish", 0, 0), ("published", 0, 1), ("publish", 2, 2)]
)
def test_publications_of_several_tables_end_between_two_of_them(
    fresh_postgres, tmp_path, step, times, new
):
    for name in ("a", "b", "c"):
        make(fresh_postgres, f"CREATE TABLE {name} AS SELECT n AS id FROM generate_series(1, 9) n")
    made = [plan(intent_for(fresh_postgres, name, tmp_path)) for name in ("a", "b", "c")]
    before = [result.manifest for result in execute_together(made)]
    url = fresh_postgres.url.render_as_string(hide_password=False)
    command = [sys.executable, "-W", "ignore", "-c", TOGETHER, url, str(tmp_path), step, str(times)]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=120).returncode == -9
    now = [seen(result) for result in made]
    fresh = [a.run_id != b.run_id for a, b in zip(now, before, strict=True)]
    assert fresh == [True] * new + [False] * (3 - new)
    assert len({manifest.moment for manifest in now}) == (1 if new == 0 else 2)
    assert all(local_rows(result).num_rows == 9 for result in made)
    said = [history(result.intent)[0].status for result in made]
    assert said == ["success"] * new + ["abandoned"] * (3 - new)
    again = execute_together(made)
    assert len({result.manifest.moment for result in again}) == 1
    assert [seen(result).run_id for result in made] == [result.run_id for result in again]
