"""Frames as tables of a flow, written and read, on PostgreSQL and on DuckDB."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from psycopg import sql

from benchmarks.cases.source import connect, quieten
from benchmarks.harness import Contender
from benchmarks.report import Target

__all__ = ["Work", "clear", "contender"]

TITLE = "a frame of six columns as a table of a flow, written and read"

_TIMES = {"write-pandas": 5, "write-polars": 1.8, "read-pandas": 5, "read-polars": 1.2}
TARGETS = tuple(
    target
    for what, times in _TIMES.items()
    for target in (
        Target(f"ixflow, {what}, PostgreSQL", "wall", 1 / times, f"pipedag, {what}, PostgreSQL"),
        Target(f"ixflow, {what}, PostgreSQL", "wall", 1.2, f"adbc, {what}, PostgreSQL"),
        Target(f"ixflow, {what}, DuckDB", "wall", 1.2, f"duckdb, {what}, DuckDB"),
    )
)


@dataclass(frozen=True, slots=True)
class Work:
    """What is done by all of them: by name, with so many rows, of which ``done`` are reported."""

    name: str
    rows: int
    done: int


def contender(who: str, work: Work, url: str, store: str) -> Contender:
    """Describe who does the work, in which kind of store."""
    place = url if store == "PostgreSQL" else "duckdb"
    command = ("-m", "benchmarks.flows", who, work.name, str(work.rows), place)
    own = who in ("ixflow", "duckdb")
    return Contender(
        f"{who}, {work.name}, {store}",
        (sys.executable, *command) if own else command,
        peer=None if own else who,
        rows=work.done,
        before=lambda: clear(url),
    )


def prepare(url: str, rows: int) -> list[Contender]:
    """Give all for each kind of work and each store; pipedag, the measure, first."""
    with connect(url) as conn:
        quieten(conn)
    return [
        contender(who, Work(work, rows, rows), url, store)
        for work in _TIMES
        for store, plain in (("PostgreSQL", "adbc"), ("DuckDB", "duckdb"))
        for who in ("pipedag", "ixflow", plain)
    ]


def clear(url: str) -> None:
    """Drop what the one before has left."""
    schemas = (
        "SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' "
        "AND nspname NOT IN ('information_schema', 'public')"
    )
    with connect(url) as conn:
        for (name,) in conn.execute(schemas).fetchall():
            conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
        conn.execute("CHECKPOINT")
