"""MariaDB to Parquet: ixflow and its peers, against the socket read to nowhere.

``python -m benchmarks.cases.mysql CONTENDER URL`` is one contender. Peers run in environments of
their own, so only the standard library may be imported here before a contender's work begins.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness import Contender, contend
from benchmarks.report import Target

TITLE = "MariaDB to Parquet"
DATABASE = "MariaDB"
TABLE, SCHEMA = "accounts", "bench"

LIMIT, IXFLOW = "socket to nowhere", "ixflow, 1 worker"
CONNECTORX, IXTRACT = "connectorx", "ixtract.execute"
TARGETS = (
    Target(IXFLOW, "wall", 1.1, CONNECTORX),
    Target(IXFLOW, "wall", 1 / 6, IXTRACT),
    Target(IXFLOW, "client_cpu", 1 / 6, IXTRACT),
)

_COLUMNS = """aid bigint NOT NULL PRIMARY KEY, branch int, filler text, balance decimal(12,2),
    changed_at timestamp(6) NULL"""
# All amounts have ten digits: ixtract takes the type from the first rows that it sees.
_FILL = f"""
    INSERT INTO {TABLE}
    SELECT seq, CASE WHEN seq % 10 <> 3 THEN seq % 1000 END,
           CASE WHEN seq % 10 <> 7 THEN concat(md5(seq), lpad(seq % 5000, 8, '0')) END,
           (1000000000 + seq * 7919 % 1000000000) / 100,
           timestamp('2020-01-01 00:00:00') + INTERVAL seq * 17000013 MICROSECOND
    FROM seq_1_to_"""
_PIECE = 100_000


def SERVER() -> AbstractContextManager[Any]:  # noqa: N802 - elsewhere it is a class
    """Describe the server that the case runs on; the `with` block starts it."""
    from ixflow_tests.servers import MariaDBServer

    return MariaDBServer()


def prepare(url: str, rows: int) -> list[Contender]:
    """Fill the source; give the contenders, the limit first."""
    with _connect(url, database=None) as conn, conn.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(f"CREATE DATABASE {SCHEMA} CHARACTER SET utf8mb4")
        cursor.execute(f"USE {SCHEMA}")
        cursor.execute(f"CREATE TABLE {TABLE} ({_COLUMNS}) ENGINE = InnoDB")
        cursor.execute(f"{_FILL}{rows}")
        conn.commit()
        cursor.execute(f"ANALYZE TABLE {TABLE}")
    return [_contender(name, url) for name in CONTENDERS]


def _contender(name: str, url: str) -> Contender:
    command = ("-m", "benchmarks.cases.mysql", name, url)
    if name in (CONNECTORX, IXTRACT):
        return Contender(name, command, peer=name.partition(".")[0])
    return Contender(name, (sys.executable, *command))


def _connect(url: str, *, database: str | None = SCHEMA) -> Any:
    import pymysql

    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname, port=parts.port or 0, user=parts.username, database=database
    )


def read_to_nowhere(url: str, output: Path) -> Callable[[], int]:
    """Take every byte that the server sends for the rows, look at none, and ask for the count."""
    del output
    conn, room = _connect(url), memoryview(bytearray(1 << 20))

    def work() -> int:
        conn.query(f"SELECT * FROM {TABLE}", unbuffered=True)
        conn._result.unbuffered_active = False  # noqa: SLF001 - else PyMySQL would read the rows
        file = conn._rfile  # noqa: SLF001 - PyMySQL has no other way to the bytes
        tail = bytes(file.read1(1 << 20))[-9:]
        # A row ends with a moment's digits or NULL: never like this.
        while not (tail[:3] == b"\5\0\0" and tail[4:5] == b"\xfe"):
            count = file.raw.readinto(room)
            assert count, "the server has hung up"
            tail = (tail + bytes(room[max(0, count - 9) : count]))[-9:]
        with conn.cursor() as cursor:
            cursor.execute("SELECT found_rows()")
            return int(cursor.fetchone()[0])

    return work


def ixflow_execute(url: str, output: Path, *, workers: int) -> Callable[[], int]:
    """Plan and execute, as a user would; but for the driver, which ixflow imports when needed."""
    import pymysql  # noqa: F401 - before the clock

    import ixflow
    from benchmarks.cases.accounts import rows_in

    parts = urlsplit(url)
    source = {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "database": SCHEMA,
    }
    intent = ixflow.ExtractionIntent("mysql", source, TABLE, output, max_workers=workers)
    context = ixflow.RuntimeContext(min_workers=workers)

    def work() -> int:
        return rows_in(ixflow.execute(ixflow.plan(intent, context)).output_files)

    return work


def pymysql_to_parquet(url: str, output: Path) -> Callable[[], int]:
    """Fetch rows from an unbuffered cursor and write them: the obvious way without ixflow."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pymysql.cursors import SSCursor

    schema = pa.schema(
        [
            ("aid", pa.int64()),
            ("branch", pa.int32()),
            ("filler", pa.string()),
            ("balance", pa.decimal128(12, 2)),
            ("changed_at", pa.timestamp("us")),
        ]
    )
    conn, file = _connect(url), output / "accounts.parquet"

    def work() -> int:
        count = 0
        with conn.cursor(SSCursor) as cursor, pq.ParquetWriter(file, schema) as writer:
            cursor.execute(f"SELECT * FROM {TABLE}")
            while rows := cursor.fetchmany(_PIECE):
                arrays = [
                    pa.array(values, type_)
                    for values, type_ in zip(zip(*rows, strict=True), schema.types, strict=True)
                ]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                count += len(rows)
        return count

    return work


def connectorx_to_parquet(url: str, output: Path) -> Callable[[], int]:
    """Read the table into one Arrow table by the binary protocol, and write it."""
    import pyarrow.parquet as pq

    connectorx: Any = importlib.import_module("connectorx")
    plain = f"mysql://{urlsplit(url).netloc}/{SCHEMA}"

    def work() -> int:
        query = f"SELECT * FROM {TABLE}"
        found = connectorx.read_sql(plain, query, return_type="arrow", protocol="binary")
        pq.write_table(found, output / "table.parquet", compression="zstd")
        return int(found.num_rows)

    return work


def ixtract_execute(url: str, output: Path) -> Callable[[], int]:
    """Execute a plan that was made before, with one worker."""
    ixtract: Any = importlib.import_module("ixtract")
    kinds: Any = importlib.import_module("ixtract.intent")
    parts, state = urlsplit(url), str(output / "state.db")
    source = {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "password": "",
        "database": SCHEMA,
    }
    intent = ixtract.ExtractionIntent(
        source_type=kinds.SourceType.MYSQL,
        source_config=source,
        object_name=TABLE,
        target_config={"output_path": str(output)},
        constraints=kinds.ExtractionConstraints(max_workers=1),
    )
    planned = ixtract.plan(intent, state_db=state)

    def work() -> int:
        done = ixtract.execute(planned, force=True, state_db=state)
        assert done.status == "success"
        return int(done.rows_extracted)

    return work


CONTENDERS: dict[str, Callable[[str, Path], Callable[[], int]]] = {
    LIMIT: read_to_nowhere,
    IXFLOW: partial(ixflow_execute, workers=1),
    "ixflow, 2 workers": partial(ixflow_execute, workers=2),
    "PyMySQL to ParquetWriter": pymysql_to_parquet,
    CONNECTORX: connectorx_to_parquet,
    IXTRACT: ixtract_execute,
}


def main(arguments: Sequence[str]) -> None:
    """Be one contender."""
    chosen, url = arguments
    with tempfile.TemporaryDirectory(prefix="ixflow-bench-") as place:
        contend(CONTENDERS[chosen](url, Path(place)))


if __name__ == "__main__":
    main(sys.argv[1:])
