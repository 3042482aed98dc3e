"""Arrow into PostgreSQL, against the server's own limit: binary COPY of bytes that are ready.

``python -m benchmarks.cases.ingest CONTENDER URL`` is one contender. Each begins with the target
as it has to be and with its input in memory, so its peak of memory holds the input too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.cases.source import COLUMNS, TABLE, connect, make_source
from benchmarks.harness import Contender, contend

TITLE = "Arrow into a PostgreSQL table with a key"

_TARGET = "accounts_copy"


def prepare(url: str, rows: int) -> list[Contender]:
    """Fill the source that the contenders get their input from; the limit comes first."""
    make_source(url, rows)
    command = (sys.executable, "-m", "benchmarks.cases.ingest")
    return [Contender(name, (*command, name, url)) for name in CONTENDERS]


def copy_ready_bytes(url: str) -> Callable[[], int]:
    """Let the server take every row as it does best."""
    with connect(url) as conn:
        conn.execute(f"DROP TABLE IF EXISTS {_TARGET}")
        conn.execute(f"CREATE TABLE {_TARGET} ({COLUMNS}, PRIMARY KEY (aid))")
        ready = bytearray()
        with (
            conn.cursor() as cursor,
            cursor.copy(f"COPY {TABLE} TO STDOUT (FORMAT binary)") as copy,
        ):
            for piece in copy:
                ready += piece
        conn.execute("CHECKPOINT")

    def work() -> int:
        with connect(url) as conn:
            with (
                conn.cursor() as cursor,
                cursor.copy(f"COPY {_TARGET} FROM STDIN (FORMAT binary)") as copy,
            ):
                for start in range(0, len(ready), 1 << 20):
                    copy.write(ready[start : start + (1 << 20)])
            return _rows_in_target(conn)

    return work


def ixflow_ingest(url: str, *, again: bool) -> Callable[[], int]:
    """Ingest into a table that is not there, or that has all the rows already."""
    import sqlalchemy as sa

    import ixflow
    from ixflow.tables.read import read_table
    from ixflow.values import TableName

    engine = sa.create_engine(url)
    accounts = read_table(engine, TableName(TABLE))
    metadata = sa.MetaData()
    target = sa.Table(
        _TARGET,
        metadata,
        sa.Column("aid", sa.BigInteger, primary_key=True),
        sa.Column("branch", sa.Integer),
        sa.Column("filler", sa.Text),
        sa.Column("balance", sa.Numeric(12, 2)),
        sa.Column("changed_at", sa.DateTime(timezone=True)),
    )

    def batches(after: Any) -> Any:
        return [((after or 0) + 1, None, [(target, accounts)])]

    def ingest() -> None:
        with engine.connect() as conn:
            ixflow.ingest(conn, metadata, batches)

    with connect(url) as conn:
        conn.execute(f"DROP TABLE IF EXISTS {_TARGET}")
        if again:
            ingest()
            conn.execute(f"VACUUM (ANALYZE) {_TARGET}")
        conn.execute("CHECKPOINT")

    def work() -> int:
        ingest()
        with connect(url) as conn:
            return _rows_in_target(conn)

    return work


def _rows_in_target(conn: Any) -> int:
    return int(conn.execute(f"SELECT count(*) FROM {_TARGET}").fetchone()[0])


CONTENDERS: dict[str, Callable[[str], Callable[[], int]]] = {
    "COPY of ready bytes": copy_ready_bytes,
    "ixflow, new table": partial(ixflow_ingest, again=False),
    "ixflow, rows unchanged": partial(ixflow_ingest, again=True),
}


if __name__ == "__main__":
    _, chosen, server = sys.argv
    contend(CONTENDERS[chosen](server))
