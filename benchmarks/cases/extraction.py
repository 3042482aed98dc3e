"""PostgreSQL to Parquet, against the server's own limit: binary COPY to nowhere.

``python -m benchmarks.cases.extraction CONTENDER URL`` is one contender.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.cases import accounts
from benchmarks.cases.source import TABLE, make_source
from benchmarks.harness import Contender, contend

TITLE = "PostgreSQL to Parquet (zstd)"


def prepare(url: str, rows: int) -> list[Contender]:
    """Fill the source; give the contenders, the limit first."""
    make_source(url, rows)
    command = (sys.executable, "-m", "benchmarks.cases.extraction")
    return [Contender(name, (*command, name, url)) for name in CONTENDERS]


def copy_to_nowhere(url: str, output: Path) -> Callable[[], int]:
    """Let the server send every row as it does best, and drop what comes."""
    from benchmarks.wire import copy_to_nowhere as copied

    del output
    return lambda: copied(url.replace("+psycopg", ""), f"SELECT * FROM {TABLE}")


def ixflow_execute(url: str, output: Path, *, workers: int) -> Callable[[], int]:
    """Plan and execute, as a user would."""
    return accounts.ixflow_execute(url, TABLE, output, workers=workers)


def adbc_to_parquet(url: str, output: Path) -> Callable[[], int]:
    """Stream the table through ADBC into one file: the obvious way without ixflow."""
    import adbc_driver_postgresql.dbapi as adbc
    import pyarrow.parquet as pq

    uri = url.replace("+psycopg", "")

    def work() -> int:
        with adbc.connect(uri) as conn, conn.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {TABLE}")
            batches, file = cursor.fetch_record_batch(), output / "accounts.parquet"
            with pq.ParquetWriter(file, batches.schema, compression="zstd") as writer:
                for batch in batches:
                    writer.write_batch(batch)
        return accounts.rows_in([file])

    return work


CONTENDERS: dict[str, Callable[[str, Path], Callable[[], int]]] = {
    "COPY binary to nowhere": copy_to_nowhere,
    "ixflow, 1 worker": partial(ixflow_execute, workers=1),
    "ixflow, 2 workers": partial(ixflow_execute, workers=2),
    "ADBC to ParquetWriter": adbc_to_parquet,
}


if __name__ == "__main__":
    _, chosen, server = sys.argv
    with tempfile.TemporaryDirectory(prefix="ixflow-bench-") as place:
        contend(CONTENDERS[chosen](server, Path(place)))
