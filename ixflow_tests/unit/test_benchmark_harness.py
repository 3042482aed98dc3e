"""The benchmark harness counts right, and does not time a contender that skips rows."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import (
    BenchmarkFailed,
    Contender,
    Measurement,
    Run,
    WrongRows,
    measure,
    server_cpu_seconds,
)
from benchmarks.loading import Job
from benchmarks.peers import peer, with_interpreters
from benchmarks.report import Target, judged, table
from benchmarks.shapes import SHAPES, arrow_table, tuples
from benchmarks.wire import copy_to_nowhere

SLEEPS = "import time; from benchmarks.harness import contend; contend(lambda: time.sleep({}) or 7)"


def sleeper(name, seconds=0.0):
    return Contender(name, (sys.executable, "-c", SLEEPS.format(seconds)))


def measured(name, *walls):
    return Measurement(name, 10, tuple(Run(wall, 2 * wall, 0.0, 5.0) for wall in walls))


def test_a_ratio_is_that_of_the_medians():
    limit, other = measured("limit", 1.0, 2.0, 90.0), measured("other", 6.0, 5.0, 1.0)
    assert other.median("wall") == 5.0
    assert other.ratio("wall", limit) == 2.5
    assert other.rows_per_second == 2.0


def test_there_is_no_ratio_to_nothing():
    limit = measured("limit", 1.0)
    assert limit.ratio("server_cpu", limit) is None
    assert " - " in table("title", "facts", [limit])


def test_the_json_form_holds_every_run():
    limit, other = measured("limit", 2.0), measured("other", 3.0, 5.0)
    found = other.as_json(limit)
    assert found["ratios"]["wall"] == 2.0
    assert [run["wall"] for run in found["runs"]] == [3.0, 5.0]


def test_contenders_take_turns_and_each_has_a_row():
    heard: list[str] = []
    contenders = [sleeper("quick"), sleeper("slow", 0.2)]
    found = measure(contenders, rows=7, repeat=2, progress=heard.append)
    assert [line.split(": ")[1] for line in heard] == ["quick", "slow"] * 3
    assert [len(one.runs) for one in found] == [2, 2]
    assert found[1].median("wall") >= 0.2
    assert found[0].median("peak_mb") > 1
    printed = table("a title", "some facts", found)
    assert "ratios, not clocks: x is the median divided by that of quick" in printed
    assert [line.split()[0] for line in printed.splitlines()[-2:]] == ["quick", "slow"]


def test_a_contender_may_have_rows_of_its_own():
    own = Contender("own", sleeper("other").command, rows=7)
    found = measure([own, sleeper("half")], rows=7, repeat=1)
    assert [one.rows for one in found] == [7, 7]
    with pytest.raises(WrongRows, match="own reported 7 rows instead of 9"):
        measure([Contender("own", own.command, rows=9)], rows=7, repeat=1)


def test_memory_is_told_with_and_without_what_starting_up_took():
    takes = "(bytearray(b'x') * ({} << 20))"
    work = "from benchmarks.harness import contend; contend(lambda: len({}) and 7)"
    command = f"before = {takes.format(64)}; del before; {work.format(takes.format(32))}"
    found = measure([Contender("big", (sys.executable, "-c", command))], rows=7, repeat=1)[0]
    assert 31 < found.median("over_mb") < 60
    assert found.median("peak_mb") > found.median("over_mb") + 5


def test_a_peer_that_is_not_there_is_left_out_and_said(tmp_path):
    said: list[str] = []
    contenders = [sleeper("ours"), peer("theirs", "ixtract", "ixtract"), peer("x", "duckdb", "x")]
    pythons = {"duckdb": str(tmp_path / "python"), "connectorx": sys.executable}
    assert with_interpreters(contenders, pythons, said.append) == contenders[:1]
    assert said[0].startswith("left out: theirs: no --peer-python ixtract=PATH")
    assert said[1] == f"left out: x: {tmp_path}/python does not run: No such file or directory"


def test_a_peer_without_its_library_is_left_out_and_said():
    said: list[str] = []
    bare = peer("bare", "no_such_module", "work")
    assert with_interpreters([bare], {"no_such_module": sys.executable}, said.append) == []
    assert "cannot import no_such_module: ModuleNotFoundError" in said[0]


def test_a_peer_runs_in_the_interpreter_of_its_own():
    [found] = with_interpreters([peer("p", "json", "work", 7)], {"json": sys.executable}, print)
    assert found.command == (sys.executable, "-m", "benchmarks.peers", "work", "7")


@pytest.mark.parametrize("given", ["duckdb", "duckdb=", "psql=/bin/psql"])
def test_a_peer_is_named_with_its_path(given, capsys):
    with pytest.raises(SystemExit):
        main(["--peer-python", given])
    assert f"{given} is not NAME=PATH with one of " in capsys.readouterr().err


def test_targets_are_reached_or_missed_or_not_measured():
    targets = [
        Target("other", "wall", 3, "limit"),
        Target("other", "wall", 2, "limit"),
        Target("other", "peak_mb", 5),
        Target("other", "wall", 2, "peer"),
        Target("other", "server_cpu", 2, "limit"),
    ]
    lines = list(judged(targets, [measured("limit", 2.0), measured("other", 5.0)]))
    assert [line.split("  ")[0] for line in lines] == [
        "reached",
        "MISSED",
        "reached",
        "not measured",
        "MISSED",
    ]
    assert lines[0] == "reached       other: wall of limit: 2.5, at most 3"


def test_a_target_can_be_what_comes_on_top_of_others():
    found = [measured("limit", 2.0), measured("other", 5.0), measured("both", 8.0)]
    targets = [
        Target("both", "wall", 1, over=("limit", "other")),
        Target("both", "wall", 2, over=("limit",)),
        Target("both", "wall", 1, over=("peer",)),
    ]
    lines = list(judged(targets, found))
    assert lines[0] == "reached       both: wall over limit and other: 1, at most 1"
    assert [line.split("  ")[0] for line in lines] == ["reached", "MISSED", "not measured"]


def test_the_limit_counts_what_the_server_has_sent(fresh_postgres):
    url = fresh_postgres.url.set(drivername="postgresql").render_as_string()
    queries = ["SELECT n FROM generate_series(1, 200000) n", "SELECT repeat('x', 5000000)"]
    assert copy_to_nowhere(url, *queries) == 200_001
    with pytest.raises(ValueError, match="the server did not copy"):
        copy_to_nowhere(url, "SELECT 1 / 0")


def test_starting_up_is_not_measured():
    command = "import time; time.sleep(0.5); " + SLEEPS.format(0)
    found = measure([Contender("late", (sys.executable, "-c", command))], rows=7, repeat=1)
    assert found[0].median("wall") < 0.4


def test_wrong_rows_stop_it():
    with pytest.raises(WrongRows, match="honest reported 7 rows instead of 8"):
        measure([sleeper("honest")], rows=8, repeat=1)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("raise SystemExit('no server')", "no server"),
        ("print('ready', flush=True); input(); print('many')", "it was silent"),
        ("print('ready', flush=True); input(); print(7); raise SystemExit('too late')", "too late"),
    ],
)
def test_a_contender_that_fails_stops_it_and_says_why(command, said):
    broken = Contender("broken", (sys.executable, "-c", command))
    with pytest.raises(BenchmarkFailed, match=f"(?s)broken did not do its work.*{said}"):
        measure([broken], rows=7, repeat=1)


def test_a_server_is_its_process_and_its_children():
    # A process of its own: this one has had servers and browsers as children.
    code = (
        "import os, subprocess, sys\n"
        "burn = 'sum(range(5_000_000))'\n"
        "exec(burn)\n"
        "subprocess.run([sys.executable, '-c', burn], check=True)\n"
        "print(sum(os.times()[:4]), flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        here = float(server.stdout.readline())
        assert here > 0.05
        assert server_cpu_seconds(server.pid) == pytest.approx(here, abs=0.1)
        server.communicate("\n")
    assert server_cpu_seconds(None) == 0.0


def test_a_contender_is_prepared_before_each_run_and_checked_behind_it():
    heard: list[str] = []

    def check() -> None:
        heard.append("checked")
        if len(heard) == 4:
            raise BenchmarkFailed("a row is missing")

    before = functools.partial(heard.append, "made")
    one = Contender("one", sleeper("one").command, before=before, check=check)
    with pytest.raises(BenchmarkFailed, match="one: a row is missing"):
        measure([one], rows=7, repeat=2)
    assert heard == ["made", "checked", "made", "checked"]


@pytest.mark.parametrize("shape", SHAPES)
def test_tuples_and_frames_of_the_ingest_cases_hold_the_same_rows(shape):
    given = arrow_table(shape, 50, shift=3)
    columns = [column.to_pylist() for column in given.columns]
    floats = {name for name, (kind, _) in SHAPES[shape].items() if kind == "real"}
    for name, column, values in zip(
        given.column_names, columns, zip(*tuples(shape, 50, shift=3), strict=True), strict=True
    ):
        assert name in floats or list(values) == column, name


def test_the_job_of_an_ingest_case_survives_the_command_line():
    job = Job("polars", "mixed", 7, 1, True, "postgresql://x", ("target_0", "target_1"))
    assert Job.of(job.arguments()) == job
