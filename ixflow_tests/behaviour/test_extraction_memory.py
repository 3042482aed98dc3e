"""Memory is a number: what a run holds, whatever the width of its rows and the size of a table."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.dialects.guest import Guest, visiting
from ixflow.dialects.rows import rows_reader
from ixflow.errors import ExecutionError, SourceLimitReached, ValidationError
from ixflow.extraction import writer
from ixflow.extraction.bucket import parts_within
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.limits import RunLimits, bytes_of, workers_within
from ixflow.values import Column
from ixflow_tests.behaviour import extract_measured
from ixflow_tests.sources import extract, intent_for, make, rows_of
from ixflow_tests.unit.test_extraction_values import example_plan

MB = 1 << 20
WIDE_ROWS, WIDE_BYTES = 60, 5 * MB

Measure = Callable[..., dict[str, Any]]


@pytest.fixture(params=["postgres", "mariadb", "duckdb", "sqlite"])
def source(request: pytest.FixtureRequest) -> sa.Engine:
    """Give a fresh database of each kind."""
    engine: sa.Engine = request.getfixturevalue(f"fresh_{request.param}")
    return engine


@pytest.fixture
def measured(tmp_path: Path) -> Measure:
    """Give a function that extracts a table in a process of its own and says what it held."""

    def extract_there(
        engine: sa.Engine,
        table: str,
        *,
        limit: int = 0,
        output_dir: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        given = {
            "kind": engine.dialect.name,
            "url": engine.url.render_as_string(hide_password=False),
            "table": table,
            "output": output_dir or str(tmp_path / "measured"),
            "options": options,
            "limit": limit,
        }
        command = [sys.executable, extract_measured.__file__, json.dumps(given)]
        # Each arena of malloc takes 64 MB of addresses, used or not.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2", "PYTHONPATH": os.getcwd()}  # noqa: PTH109 - where pytest runs
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=110, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return extract_there


def make_wide(engine: sa.Engine, rows: int = WIDE_ROWS) -> None:
    """Make a table of some rows with a text of 5 MB each, which does not compress well."""
    types = {"mysql": "longtext", "mssql": "varchar(max)"}
    make(engine, f"CREATE TABLE wide (id int, v {types.get(engine.dialect.name, 'text')})")
    if engine.dialect.name == "mysql":
        make(engine, "SET GLOBAL max_allowed_packet = 67108864")
    engine.dispose()
    add_wide(engine, rows)


def add_wide(engine: sa.Engine, rows: int) -> None:
    """Add the rows."""
    if engine.dialect.name == "mssql":
        piece = random.Random(1).randbytes(512).hex()
        cell = f"REPLICATE(CAST('{piece}' AS varchar(max)), {WIDE_BYTES // len(piece)})"
        make(engine, *[f"INSERT INTO wide VALUES ({number}, {cell})" for number in range(rows)])
        return
    value = random.Random(1).randbytes(WIDE_BYTES // 2).hex()
    insert = sa.text("INSERT INTO wide VALUES (:id, :v)")
    with engine.begin() as conn:
        for number in range(rows):
            conn.execute(insert, {"id": number, "v": value[number:] + value[:number]})


def test_sixty_rows_of_5_mb_stay_within_the_default_budget(source, measured):
    make_wide(source)
    found = measured(source, "wide")
    assert found["rows"] == WIDE_ROWS
    assert found["bytes"] > WIDE_ROWS * WIDE_BYTES // 3
    assert found["held"] < 256 * MB


def test_what_is_sent_to_a_bucket_is_in_the_budget_too(fresh_postgres, s3_server, measured):
    make_wide(fresh_postgres, rows=24)
    found = measured(
        fresh_postgres, "wide", memory_budget="96MB", **s3_server.place("measured/memory")
    )
    assert found["rows"] == 24
    assert found["bytes"] > 24 * WIDE_BYTES // 3
    assert found["held"] < 96 * MB


def test_sql_servers_long_rows_behind_short_ones_are_in_the_budget(
    fresh_sqlserver, measured, tmp_path
):
    make_wide(fresh_sqlserver, rows=0)
    short = ", ".join(f"({number}, 'short')" for number in range(100, 300))
    make(fresh_sqlserver, f"INSERT INTO wide VALUES {short}")
    add_wide(fresh_sqlserver, 24)
    found = measured(fresh_sqlserver, "wide")
    assert found["rows"] == 200 + 24
    assert found["held"] < 256 * MB
    # The driver has a long value in more places than others do.
    with pytest.raises(ExecutionError, match=r"needs a memory_budget of 1\d\dMB or more"):
        extract(fresh_sqlserver, "wide", tmp_path, memory_budget="96MB")


@pytest.mark.parametrize("kind", ["postgres", "mariadb", "sqlite", "duckdb"])
def test_a_row_that_cannot_be_held_names_the_budget_that_has_room(request, tmp_path, kind):
    engine = request.getfixturevalue(f"fresh_{kind}")
    make_wide(engine, rows=1)
    make(engine, "UPDATE wide SET v = concat(v, v, v)" if kind != "sqlite" else LONG_IN_SQLITE)
    with pytest.raises(ExecutionError, match=r"memory_budget of \d+MB") as caught:
        extract(engine, "wide", tmp_path / "small", memory_budget="64MB")
    assert isinstance(caught.value.__cause__, SourceLimitReached)
    named = re.search(r"memory_budget of (\d+MB)", str(caught.value))
    assert named is not None
    done = extract(engine, "wide", tmp_path / "large", memory_budget=named[1])
    assert done.rows_extracted == 1


LONG_IN_SQLITE = "UPDATE wide SET v = v || v || v"

VIEWS = {
    "postgresql": "SELECT n, repeat(md5(n::text), 30) AS v FROM generate_series(1, {}) n",
    "mysql": "SELECT seq AS n, repeat(md5(seq), 30) AS v FROM seq_1_to_{}",
    "duckdb": "SELECT n, repeat(md5(n::varchar), 30) AS v FROM range(1, {} + 1) t(n)",
    "sqlite": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < {}) "
    "SELECT n, printf('%0960d', n) AS v FROM t",
}


@pytest.mark.slow
def test_a_table_of_twenty_budgets_is_extracted_under_a_hard_limit_of_addresses(source, measured):
    rows = 20 * 64 * MB // 968
    make(source, f"CREATE VIEW large AS {VIEWS[source.dialect.name].format(rows)}")
    # Beside the budget: the stacks and arenas of threads, and what Arrow reserves but never uses.
    found = measured(source, "large", limit=(64 + 128) * MB, memory_budget="64MB")
    assert found["rows"] == rows
    # What a database that computes within this process takes is not in the budget.
    inside = 32 if source.dialect.name == "duckdb" else 8
    assert found["held"] < (64 + inside) * MB


def test_a_jump_from_narrow_to_wide_rows_does_not_fill_the_memory():
    fetched: list[int] = []
    rows = [(n, "x" * (10 if n < 5_000 else 100_000)) for n in range(5_200)]
    left = iter(rows)

    def fetch(count: int) -> list[tuple[int, str]]:
        found = [row for _, row in zip(range(count), left, strict=False)]
        fetched.append(sum(len(row[1]) for row in found))
        return found

    def nothing() -> None:
        """Have nothing to close."""

    columns = [Column("id", "int", pa.int64()), Column("v", "text", pa.string())]
    with visiting(Guest(batch_bytes=MB)):
        reader = rows_reader(
            fetch, columns, lambda values, column: pa.array(values, column.type), close=nothing
        )
        batches = list(reader)
    assert sum(batch.num_rows for batch in batches) == len(rows)
    assert max(batch.nbytes for batch in batches) < MB + 200_000


def test_the_rows_of_a_wide_duckdb_table_are_all_there_once(fresh_duckdb, tmp_path):
    make_wide(fresh_duckdb, rows=7)
    make(fresh_duckdb, "INSERT INTO wide SELECT n, 'short' FROM range(100, 5000) t(n)")
    make(fresh_duckdb, "DELETE FROM wide WHERE id = 3 OR id = 200")
    make(fresh_duckdb, "UPDATE wide SET v = repeat('u', 3000000) WHERE id = 300")
    found = rows_of(extract(fresh_duckdb, "wide", tmp_path))
    wanted = [*range(7), *range(100, 5000)]
    wanted.remove(3)
    wanted.remove(200)
    assert sorted(found["id"].to_pylist()) == wanted
    lengths = {
        i: len(v) for i, v in zip(found["id"].to_pylist(), found["v"].to_pylist(), strict=True)
    }
    assert lengths[0] > WIDE_BYTES // 2
    assert lengths[300] == 3_000_000


def test_a_value_that_duckdb_cannot_hold_within_the_budget_names_it(fresh_duckdb, tmp_path):
    make(
        fresh_duckdb,
        "CREATE VIEW v AS SELECT string_agg(repeat(md5(n::varchar), 40000), '') AS v "
        "FROM range(200) t(n)",
    )
    with pytest.raises(Exception, match="memory_budget") as caught:
        extract(fresh_duckdb, "v", tmp_path, memory_budget="64MB")
    assert isinstance(caught.value.__cause__, SourceLimitReached)


@pytest.mark.parametrize(
    ("given", "bytes_"), [("256MB", 256 * MB), ("1 gb", 1024 * MB), (100 * MB, 100 * MB)]
)
def test_an_amount_of_memory_is_bytes_or_a_text(given, bytes_):
    assert bytes_of("memory_budget", given) == bytes_


def test_a_bucket_needs_a_larger_budget_and_says_which():
    config, place = {"database": "x.db"}, "s3://lake/raw"
    with pytest.raises(ValidationError, match="give it 96MB or more"):
        ExtractionIntent("sqlite", config, "t", place, memory_budget="64MB")
    intent = ExtractionIntent("sqlite", config, "t", place, memory_budget="96MB")
    limits = RunLimits.of(intent, example_plan(), workers=1)
    part, at_once = parts_within(limits.upload_bytes)
    assert part >= 5 * MB  # S3 takes none that is shorter
    assert part * 10_000 > 2 * writer.FILE_BYTES  # and has no more in one object
    assert part * (at_once + 1) <= limits.upload_bytes
    assert 3 * limits.group_bytes + 3 * limits.batch_bytes + limits.upload_bytes <= 64 * MB


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("place", ["out", "s3://lake/raw", "gs://lake/raw"])
def test_what_all_workers_hold_is_within_the_budget(workers, place):
    intent = ExtractionIntent("sqlite", {"database": "x.db"}, "t", place)
    limits = RunLimits.of(intent, example_plan(), workers=workers)
    part, at_once = parts_within(limits.upload_bytes)
    sent = part * (at_once + 1) if "://" in place else 0
    each = 3 * limits.batch_bytes + 3 * limits.group_bytes + sent
    assert workers * each <= bytes_of("memory_budget", "256MB")
    # As it was before parts were counted, on a machine of two cores.
    assert workers > 2 or (part, at_once) == (8 * MB, 2)


@pytest.mark.parametrize("given", ["63MB", 0, -1, "lots", None, True, "64 XB", float("nan")])
def test_a_budget_that_cannot_work_is_refused(given):
    with pytest.raises(ValidationError, match="memory_budget"):
        ExtractionIntent("sqlite", {"database": "x.db"}, "t", memory_budget=given)


def test_workers_share_the_budget(fresh_sqlite, tmp_path):
    intent = intent_for(fresh_sqlite, "t", tmp_path, memory_budget="128MB")
    one = RunLimits.of(intent, example_plan(), workers=1)
    two = RunLimits.of(intent, example_plan(), workers=2)
    assert one.group_bytes == 2 * two.group_bytes
    assert one.batch_bytes == 2 * two.batch_bytes
    assert (workers_within(256 * MB), workers_within(144 * MB)) == (4, 2)
    assert (workers_within(128 * MB), workers_within(64 * MB)) == (1, 1)
