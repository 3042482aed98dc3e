"""pgbench_accounts to Parquet: ixflow and its peers over two connections, against COPY to nowhere.

``python -m benchmarks.cases.accounts CONTENDER URL TABLE`` is one contender.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Contender, contend
from benchmarks.peers import peer
from benchmarks.report import Target

TITLE = "pgbench_accounts to Parquet, two connections"
ROWS = 5_000_000
TABLE = "pgbench_accounts"

LIMIT, IXFLOW, ADBC = "COPY binary to nowhere", "ixflow, 2 workers", "ADBC to ParquetWriter"
IXTRACT = "ixtract.execute"
TARGETS = (
    Target(IXFLOW, "wall", 1.4, LIMIT),
    Target(IXFLOW, "client_cpu", 0.55, ADBC),
    Target(IXFLOW, "wall", 0.25, IXTRACT),
    Target(IXFLOW, "client_cpu", 0.25, IXTRACT),
    Target(IXFLOW, "over_mb", 128),
)


def prepare(url: str, rows: int) -> list[Contender]:
    """Fill the source; give the contenders, the limit first."""
    make_accounts(url, TABLE, rows)
    return [
        own(LIMIT, url, TABLE),
        own(IXFLOW, url, TABLE),
        own(ADBC, url, TABLE),
        peer("DuckDB scanner, 2 threads", "duckdb", "duckdb", url, TABLE, rows),
        peer("connectorx, 2 partitions", "connectorx", "connectorx", url, TABLE, rows),
        peer(IXTRACT, "ixtract", "ixtract", url, TABLE, rows),
    ]


def own(name: str, url: str, table: str, *, label: str = "", rows: int | None = None) -> Contender:
    """Describe a contender that runs here, by its key in `CONTENDERS`."""
    command = (sys.executable, "-m", "benchmarks.cases.accounts", name, url, table)
    return Contender(label or name, command, rows=rows)


def make_accounts(url: str, table: str, rows: int) -> None:
    """Make a table of pgbench's shape and content."""
    from benchmarks.cases.source import connect, quieten

    columns = "aid integer PRIMARY KEY, bid integer, abalance integer, filler char(84)"
    with connect(url) as conn:
        quieten(conn)
        conn.execute(f"CREATE TABLE {table} ({columns})")
        conn.execute(
            f"INSERT INTO {table} SELECT n, (n - 1) / 100000 + 1, 0, '' "
            f"FROM generate_series(1, %s::integer) n",
            (rows,),
        )
        conn.execute(f"VACUUM (FREEZE, ANALYZE) {table}")
        conn.execute("CHECKPOINT")


def halves(url: str, table: str) -> tuple[str, str]:
    """Write the conditions for the two halves of the table's pages."""
    from benchmarks.cases.source import connect

    query = "SELECT pg_relation_size(%s) / current_setting('block_size')::int / 2"
    with connect(url) as conn:
        row = conn.execute(query, (table,)).fetchone()
    assert row is not None
    return f"ctid < '({row[0]},0)'", f"ctid >= '({row[0]},0)'"


def copy_limit(url: str, table: str, output: Path) -> Callable[[], int]:
    """Let the server send every row as it does best, and drop what comes."""
    from benchmarks.wire import copy_to_nowhere

    del output
    queries = [f"SELECT * FROM {table} WHERE {half}" for half in halves(url, table)]
    return lambda: copy_to_nowhere(url.replace("+psycopg", ""), *queries)


def ixflow_execute(url: str, table: str, output: Path, *, workers: int = 2) -> Callable[[], int]:
    """Plan and execute, as a user would; but for what ixflow imports when it is needed."""
    import adbc_driver_postgresql.dbapi  # noqa: F401 - before the clock
    import psycopg  # noqa: F401 - before the clock
    import sqlalchemy.dialects.postgresql
    import sqlalchemy.dialects.sqlite  # noqa: F401 - before the clock

    import ixflow

    intent = ixflow_intent(url, table, output, max_workers=workers)
    context = ixflow.RuntimeContext(min_workers=workers)

    def work() -> int:
        planned = ixflow.plan(intent, context)
        assert planned.plan.worker_count == workers, planned.worker_resolution
        return rows_in(ixflow.execute(planned).output_files)

    return work


def ixflow_intent(url: str, table: str, output: Path, **options: Any) -> Any:
    """Make the intent that reads the table."""
    import sqlalchemy as sa

    import ixflow

    made = sa.make_url(url)
    source = {"host": made.host, "port": made.port, "user": made.username, "database": "postgres"}
    return ixflow.ExtractionIntent("postgresql", source, table, output, **options)


def adbc_to_parquet(url: str, table: str, output: Path) -> Callable[[], int]:
    """Stream halves of one snapshot through ADBC, all defaults: the obvious way without ixflow."""
    import adbc_driver_postgresql.dbapi as adbc
    import pyarrow.parquet as pq

    uri = url.replace("+psycopg", "")
    conditions = halves(url, table)

    @contextmanager
    def reading(*statements: str) -> Iterator[Any]:
        with adbc.connect(uri) as conn, conn.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            for statement in statements:
                cursor.execute(statement)
            yield cursor

    def one(snapshot: str, condition: str, file: Path) -> Path:
        with reading(f"SET TRANSACTION SNAPSHOT '{snapshot}'") as cursor:
            cursor.execute(f"SELECT * FROM {table} WHERE {condition}")
            batches = cursor.fetch_record_batch()
            with pq.ParquetWriter(file, batches.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
        return file

    def work() -> int:
        with ThreadPoolExecutor(2) as pool, reading("SELECT pg_export_snapshot()") as leader:
            snapshot = leader.fetchone()[0]
            files = [output / f"{number}.parquet" for number in range(2)]
            return rows_in(list(pool.map(partial(one, snapshot), conditions, files)))

    return work


def rows_in(files: list[str] | list[Path]) -> int:
    """Count what the files themselves say they hold."""
    import pyarrow.parquet as pq

    return sum(int(pq.read_metadata(file).num_rows) for file in files)


CONTENDERS: dict[str, Callable[[str, str, Path], Callable[[], int]]] = {
    LIMIT: copy_limit,
    IXFLOW: ixflow_execute,
    ADBC: adbc_to_parquet,
}


if __name__ == "__main__":
    _, chosen, server, relation = sys.argv
    with tempfile.TemporaryDirectory(prefix="ixflow-bench-") as place:
        contend(CONTENDERS[chosen](server, relation, Path(place)))
