"""The command line, as another process: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from ixflow.cli import main
from ixflow.extraction.migrations import runs
from ixflow.extraction.state import StatePlace
from ixflow_tests.sources import make

ROOT = Path(__file__).parents[2]


class Shell:
    """Runs ixflow in a directory against one source."""

    def __init__(self, place: Path, *source: str) -> None:
        self.place, self.source = place, source
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}

    def bare(self, *arguments: str, code: int = 0) -> str:
        """Run ixflow; give what it says on stdout, or on stderr when it must fail."""
        done = subprocess.run(
            [sys.executable, "-m", "ixflow.cli", *arguments],
            cwd=self.place,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        if done.stderr:
            assert done.stderr.startswith("ixflow: ")
            assert done.stderr.count("\n") == 1
        return done.stderr or done.stdout

    def __call__(self, command: str, *arguments: str, code: int = 0) -> str:
        """Run a command on the source."""
        return self.bare(command, *self.source, *arguments, code=code)

    def json(self, command: str, *arguments: str, code: int = 0):
        """Run a command and read the document it prints."""
        return json.loads(self(command, "--json", *arguments, code=code))


@pytest.fixture(params=["postgres", "sqlite", "duckdb", "mariadb"])
def shell(request, tmp_path):
    """Give a shell for each kind of source, with three orders in it."""
    engine = request.getfixturevalue(f"fresh_{request.param}")
    make(
        engine,
        "CREATE TABLE orders (id integer PRIMARY KEY)",
        "INSERT INTO orders VALUES (1), (2), (3)",
    )
    url = engine.url
    source = ["--source-type", request.param, "--database", str(url.database)]
    if url.host:
        source += ["--host", url.host, "--port", str(url.port), "--user", str(url.username)]
    return Shell(tmp_path, *source)


@pytest.fixture
def orders(fresh_sqlite, tmp_path):
    """Give a shell for a file with three orders."""
    make(
        fresh_sqlite,
        "CREATE TABLE orders (id integer PRIMARY KEY)",
        "INSERT INTO orders VALUES (1), (2), (3)",
    )
    return Shell(tmp_path, "--connection-string", str(fresh_sqlite.url))


def test_from_profile_to_replay_on_every_source(shell):
    assert "id: " in shell("profile", "orders")
    assert "Verdict: SAFE TO RUN" in shell("plan", "orders")
    assert "Verdict: SAFE TO RUN" in shell("explain", "orders")
    said = shell("execute", "orders")
    assert "3 rows in" in said
    path = said.splitlines()[-1]
    assert pq.read_table(path).num_rows == 3
    (run,) = shell.json("history", "orders")
    assert run["run_id"] in said
    again = json.loads(shell.bare("replay", run["run_id"], *shell.source, "--json"))
    assert again["rows_extracted"] == 3
    assert shell.json("history", "orders")[0]["replay_of"] == run["run_id"]
    assert "success" in shell.bare("metrics", run["run_id"])
    judged = shell.json("inspect", "orders")
    assert (judged["health"], judged["reasons"]) == ("HEALTHY", [])
    assert judged["estimate"]["throughput_method"] == "cold start"


def test_json_documents_are_whole_and_alone(orders):
    seen = orders.json("profile", "orders")
    assert (seen["row_count_estimate"], seen["primary_key"]) == (3, ["id"])
    made = orders.json("plan", "orders", "--compute-rate", "1", "--max-workers", "1")
    assert made["verdict"] == "SAFE TO RUN"
    assert made["cost_estimate"]["compute"] >= 0
    assert orders.json("explain", "orders")["fingerprint"] == made["fingerprint"]
    done = orders.json("execute", "orders")
    assert done["rows_extracted"] == 3
    metrics = json.loads(orders.bare("metrics", done["run_id"], "--json"))
    assert [task["rows"] for task in metrics["tasks"]] == [3]
    assert metrics["run"]["status"] == "success"
    assert json.loads(orders.bare("metrics", "--json")) == metrics
    assert json.loads(orders.bare("metrics", "--object", "orders", "--json")) == metrics
    assert "no run of nothing" in orders.bare("metrics", "--object", "nothing", code=2)


def test_context_and_rates_can_come_from_files(orders, tmp_path):
    (tmp_path / "c.json").write_text('{"maintenance_window_minutes": 1, "min_workers": 2}')
    (tmp_path / "r.json").write_text('{"compute_rate": 5, "egress_rate": 7}')
    files = ("--context-file", "c.json", "--cost-file", "r.json", "--min-workers", "1")
    assert orders.json("plan", "orders", *files)["worker_resolution"] == [["base", 1]]
    assert orders.json("plan", "orders", "--context-file", "c.json")["verdict"] != "SAFE TO RUN"
    (tmp_path / "c.json").write_text('{"minworkers": 2}')
    assert "minworkers" not in orders("plan", "orders", "--context-file", "c.json", code=1)
    assert "high" in orders("plan", "orders", "--priority", "top", code=1)


def test_not_recommended_ends_with_2_and_nothing_is_extracted(orders, tmp_path):
    assert "NOT RECOMMENDED" in orders("execute", "orders", "--min-workers", "9", "--json", code=2)
    assert not (tmp_path / "output" / "orders").exists()
    assert orders.json("execute", "orders", "--min-workers", "9", "--force")["rows_extracted"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("plan", "nothing"), 1, "there is no table nothing"),
        (("execute", "nothing"), 1, "there is no table nothing"),
        (("explain", "orders"), 1, "no plan of orders"),
        (("replay", "ix-2"), 1, "no run ix-2"),
        (("replay",), 2, "name the run"),
        (("history", "orders"), 2, "no run of orders"),
        (("execute", "orders", "--output-format", "xml"), 1, "xml"),
        (("execute", "orders", "--unknown"), 2, "--unknown"),
        (("plan", "orders", "--state-url", "sqlite:////no/such/x"), 1, "state database"),
        (("plan", "orders", "--host", "h"), 2, "leave out --host"),
        (("profile", "orders", "--ask-password"), 1, "no terminal"),
        (("profile", "orders", "--password-env", "NOT_SET"), 1, "NOT_SET"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(orders, arguments, code, said):
    command, *rest = arguments
    assert said in orders(command, *rest, code=code)


def test_a_missing_database_is_a_wrong_usage(orders):
    assert "--database" in orders.bare("plan", "orders", code=2)
    assert "--database" in orders.bare("history", "orders", "--host", "h", code=2)
    assert orders.bare("metrics", "ix-2", code=1) == (
        f"ixflow: no run ix-2 is known in sqlite:///{orders.place}/output/.ixflow/.state.sqlite\n"
    )


def test_inspect_judges_by_exit_code(orders, tmp_path):
    assert orders.json("inspect", "orders", code=1)["health"] == "NEEDS ATTENTION"
    orders("execute", "orders")
    said = orders.bare("inspect", "orders")
    assert "HEALTHY" in said
    assert "(cold start, low confidence)" in said
    assert "source load low, 0 other runs" in orders.bare("diagnose")
    assert "older than 0 hours" in orders.bare(
        "inspect", "orders", "--profile-stale-hours=0", code=1
    )
    with StatePlace.of(tmp_path / "output").open() as state, state._engine.begin() as conn:
        conn.execute(sa.update(runs).values(status="failed"))
    assert "has failed" in orders.bare("inspect", "orders", code=2)
    assert orders.bare("history").splitlines()[1].split()[2] == "failed"


def test_a_tampered_plan_is_not_replayed(orders, tmp_path):
    run_id = orders.json("execute", "orders")["run_id"]
    with StatePlace.of(tmp_path / "output").open() as state, state._engine.begin() as conn:
        conn.execute(sa.update(runs).values(plan_json='{"plan_version": "2.0"}'))
    assert "was changed since" in orders("replay", "--run-id", run_id, code=1)


def test_a_password_comes_from_the_environment_and_goes_nowhere(fresh_mariadb, tmp_path):
    password = "p@:/%x s3cr3t"
    make(
        fresh_mariadb,
        f"CREATE OR REPLACE USER cli IDENTIFIED BY '{password}'",
        f"GRANT SELECT ON {fresh_mariadb.url.database}.* TO cli",
        "CREATE TABLE orders (id integer)",
    )
    url = fresh_mariadb.url
    place = f"{url.host}:{url.port}/{url.database}"
    shell = Shell(tmp_path, "--connection-string", f"mysql://cli@{place}", "--password-env", "PW")
    shell.env["PW"] = password
    said = shell("execute", "orders") + str(shell.json("history", "orders"))
    shell.env["PW"] = "wr0ng-s3cr3t"
    said += shell("execute", "orders", code=1)
    bad = Shell(tmp_path, "--connection-string", f"mysql://cli:wr0ng-s3cr3t@{place}")
    said += bad("plan", "orders", code=1)
    content = said.encode() + b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"s3cr3t" not in content


def _on_a_terminal(shell: Shell, answer: str, *arguments: str) -> tuple[int, str]:
    """Run ixflow on a pseudo-terminal and give it an answer."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(shell.place)
        os.execve(sys.executable, [sys.executable, "-m", "ixflow.cli", *arguments], shell.env)  # noqa: S606
    os.write(terminal, answer.encode())
    said = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        said += piece
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_terminal_is_asked_and_sees_progress(orders):
    command = ("execute", *orders.source, "orders")
    code, said = _on_a_terminal(orders, "n\n", *command, "--min-workers", "9")
    assert code == 0
    assert "Extract it all the same?" in said
    assert "3 rows in" not in said
    code, said = _on_a_terminal(orders, "y\n", *command, "--min-workers", "9")
    assert code == 0
    assert "Extracting orders" in said
    assert "1/1" in said
    assert "100%" in said
    assert re.search(r"3 rows, [\d,]+ rows/s", said)
    assert "3 rows in" in said


def test_the_console_script_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"ixflow": "ixflow.cli:main"}
    assert any(name.startswith("click") for name in project["dependencies"])
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0


def test_a_pipe_sees_no_progress(orders):
    # A shell's stderr has no line but that of an error.
    assert "Extracting" not in orders("execute", "orders")


def test_plan_takes_force_and_shows_the_same(orders):
    usual = orders.json("plan", "orders", "--min-workers", "9")
    forced = orders.json("plan", "orders", "--min-workers", "9", "--force")
    # How long the database took to answer is measured each time.
    forced["plan"]["latency_ms"] = usual["plan"]["latency_ms"]
    assert forced == usual
    assert usual["verdict"] == "NOT RECOMMENDED"


def test_columns_rows_and_masks_are_chosen_by_options(fresh_sqlite, tmp_path):
    make(
        fresh_sqlite,
        "CREATE TABLE people (id integer PRIMARY KEY, name text, mail text)",
        "INSERT INTO people VALUES (1, 'ann', 'a@x'), (2, 'bob', 'b@x'), (3, 'cid', 'c@x')",
    )
    shell = Shell(tmp_path, "--connection-string", str(fresh_sqlite.url))
    chosen = ("--column", "id", "--column", "mail", "--mask", "mail=redact")
    done = shell.json("execute", "people", *chosen, "--where", "id > 1", "--compression", "gzip")
    found = pq.read_table(done["output_files"][0])
    assert found.column_names == ["id", "mail"]
    assert found.column("id").to_pylist() == [2, 3]
    assert "b@x" not in str(found)
    # The rows of a condition are another thing than the table.
    assert len(shell.json("history", "people", "--where", "id > 1")) == 1
    assert "no run of people" in shell("history", "people", code=2)
    query = ("--query", "SELECT max(id) AS most FROM people", "--as-text", "most")
    done = shell.json("execute", "newest", *query)
    assert pq.read_table(done["output_files"][0]).to_pylist() == [{"most": "3"}]
    assert shell.json("plan", "people", "--drop", "mail")["plan"]["columns"][-1]["name"] == "name"


def test_the_limits_of_each_run_are_options(orders):
    limits = ("--table-max-workers", "3", "--memory-budget", "64MB", "--require-snapshot")
    times = ("--statement-timeout", "5min", "--lock-timeout", "9s", "--max-snapshot-age", "1h")
    assert orders.json("execute", "orders", *limits, *times)["rows_extracted"] == 3
    assert "1 to 64" in orders("plan", "orders", "--table-max-workers", "99", code=1)
    assert "memory_budget" in orders("plan", "orders", "--memory-budget", "much", code=1)
    assert "resume" in orders("plan", "orders", "--resume", "never", code=1)


def test_only_what_is_new_is_extracted(orders, fresh_sqlite):
    by_id = ("--incremental", "id", "--incremental-value", "1", "--semantics", "exclusive")
    assert orders.json("execute", "orders", *by_id)["rows_extracted"] == 2
    make(fresh_sqlite, "INSERT INTO orders VALUES (4)")
    assert orders.json("execute", "orders", *by_id)["rows_extracted"] == 1
    assert "--incremental names" in orders("plan", "orders", "--overlap", "9", code=2)
    assert "learned" in orders.bare("diagnose")


def test_the_secrets_of_a_bucket_are_shown_nowhere(orders, tmp_path):
    place = ("--output", "s3://lake/raw", "--output-format", "s3", "--state-url", "sqlite:///s.db")
    (tmp_path / "s3.json").write_text('{"secret_access_key": "s3cr3t-key", "region": "r"}')
    files = ("--storage-options-file", "s3.json")
    bad = ("--storage-option", "endpoint=http://127.0.0.1:1/s3cr3t-path")
    said = orders("execute", "orders", *place, *files, *bad, code=1)
    said += orders("execute", "orders", *place, "--storage-option", "unknown=s3cr3t-x", code=1)
    said += orders("plan", "orders", *place, "--storage-option", "s3cr3t", code=2)
    (tmp_path / "s3.json").write_text("s3cr3t is not JSON")
    said += orders("plan", "orders", *place, *files, code=1)
    assert "s3cr3t" not in said
    assert "s3cr3t" not in orders.bare("history", "--state-url", "sqlite:///s.db")


def test_diagnose_says_what_a_run_deviated_by(orders):
    assert "no run of any table" in orders.bare("diagnose", code=2)
    run_id = orders.json("execute", "orders")["run_id"]
    said = orders.bare("diagnose")
    assert said.startswith(f"{run_id}: orders, success, 1 workers")
    assert "stable: nothing unusual" in said
    assert "converged, the next run has 1 workers" in said
    found = json.loads(orders.bare("diagnose", run_id[:-2], "--json"))
    assert found["note"]["categories"] == ["stable"]
    assert found["controller"]["runs"] == 1
    orders("execute", "orders", "--max-workers", "1")
    assert "Nothing was learned from it: it had a runtime context" in orders.bare(
        "diagnose", "--object", "orders"
    )
    assert "no run of nothing" in orders("diagnose", "--object", "nothing", code=2)


def test_a_failed_run_is_diagnosed_by_its_error(orders):
    orders("execute", "orders")
    with StatePlace.of(orders.place / "output").open() as state, state._engine.begin() as conn:
        conn.execute(sa.update(runs).values(status="failed", error="the disk is full"))
        conn.exec_driver_sql("DELETE FROM ixflow_extraction_deviations")
    said = orders.bare("diagnose")
    assert "the disk is full" in said
    assert "Nothing was noted" in said


def test_slow_runs_need_attention_and_then_degrade(orders):
    for _ in range(5):
        orders("execute", "orders")
    assert orders.json("inspect", "orders")["health"] == "HEALTHY"
    with StatePlace.of(orders.place / "output").open() as state, state._engine.begin() as conn:
        names = [row["run_id"] for row in state.run_rows()]
        mark = (
            "UPDATE ixflow_extraction_deviations SET categories_json = '[\"throughput_drop\"]' "
            "WHERE run_id = '%s'"
        )
        conn.exec_driver_sql(mark % names[2])
    assert "throughput_drop" in orders.bare("inspect", "orders", code=1)
    with StatePlace.of(orders.place / "output").open() as state, state._engine.begin() as conn:
        conn.exec_driver_sql(mark % names[0])
    assert "2 of the last 3 runs" in orders.bare("inspect", "orders", code=2)


def test_what_was_learned_is_forgotten(orders):
    orders("execute", "orders")
    assert "controller converged" in orders("plan", "orders")
    assert "starts from the profile" in orders("forget", "orders")
    assert "profiler recommended" in orders("plan", "orders")
    assert orders.json("forget", "orders") == {"forgotten": "orders"}


def test_a_table_that_cannot_be_benchmarked_says_why(shell):
    assert "not benchmarked" in shell("benchmark", "orders")
    assert shell.json("benchmark", "orders", "--worker-grid", "1", "--force")["skipped"]
    assert "numbers of workers" in shell("benchmark", "orders", "--worker-grid", "1,x", code=2)
    assert "from 1" in shell("benchmark", "orders", "--worker-grid", "0,2", code=1)
