"""The ingest cases' contenders: who loads what into which tables, made and checked around a run."""

from __future__ import annotations

import sys

from psycopg import Connection, sql

from benchmarks.cases.source import connect, quieten
from benchmarks.harness import BenchmarkFailed, Contender
from benchmarks.loading import Job
from benchmarks.shapes import SHAPES, TAILS, tails

__all__ = ["ADBC", "IXFLOW", "PG_BULK_INGEST", "load", "make_tails"]

IXFLOW, PG_BULK_INGEST, ADBC = "ixflow", "pg-bulk-ingest", "adbc"

STATES = ("new", "empty", "unchanged", "changed")
"""What is there before a run: no table, one without rows, one with all rows, all of them others."""


def make_tails(url: str, *shapes: str) -> None:
    """Fill the tables that hold the tails of all rows, to make targets of them and to check."""
    with connect(url) as conn:
        quieten(conn)
        for shape in shapes:
            columns = _columns(shape)[1:]
            conn.execute(_create(f"tails_{shape}", {"number": "integer", **dict(columns)}))
            statement = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(f"tails_{shape}"))
            with conn.cursor() as cursor, cursor.copy(statement) as copy:
                for number, tail in enumerate(tails(shape)):
                    copy.write_row((number, *tail))
            conn.execute(
                sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(sql.Identifier(f"tails_{shape}"))
            )


def load(
    name: str,
    url: str,
    rows: int,
    *,
    who: str = IXFLOW,
    kind: str = "tuples",
    shape: str = "narrow",
    state: str = "empty",
    key: bool = False,
    tables: int = 1,
) -> Contender:
    """Describe who loads rows of which kind and shape, in equal parts, into tables in a state."""
    targets = tuple(f"target_{number}" for number in range(tables))
    shift = 1 if state == "changed" else 0
    rows -= rows % tables
    job = Job(kind, shape, rows, shift, key, url, targets)
    command = ("-m", "benchmarks.loading", who, *job.arguments())
    own = who == IXFLOW
    return Contender(
        name,
        (sys.executable, *command) if own else command,
        peer=None if own else who,
        rows=rows,
        before=lambda: _make(job, state),
        check=lambda: _check(job),
    )


def _columns(shape: str) -> list[tuple[str, str]]:
    return [(name, sql_type) for name, (sql_type, _) in SHAPES[shape].items()]


def _create(table: str, columns: dict[str, str], key: str | None = None) -> sql.Composed:
    lines = [sql.SQL(f"{{}} {kind}").format(sql.Identifier(name)) for name, kind in columns.items()]
    if key is not None:
        lines.append(sql.SQL("PRIMARY KEY ({})").format(sql.Identifier(key)))
    return sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(table), sql.SQL(", ").join(lines))


def _make(job: Job, state: str) -> None:
    """Put the tables into the state."""
    with connect(job.url) as conn:
        for target in job.tables:
            conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(target)))
            if state == "new":
                continue
            columns = _columns(job.shape)
            conn.execute(_create(target, dict(columns), columns[0][0] if job.key else None))
            if state != "empty":
                _fill(conn, job, target)
        conn.execute("CHECKPOINT")


def _fill(conn: Connection, job: Job, target: str) -> None:
    names = [sql.SQL("s.{}").format(sql.Identifier(name)) for name, _ in _columns(job.shape)[1:]]
    statement = sql.SQL(
        "INSERT INTO {} SELECT n, {} FROM generate_series(1, {}) n "
        "JOIN {} s ON s.number = n % {} ORDER BY n"
    )
    parts = (sql.Identifier(target), sql.SQL(", ").join(names), sql.Literal(_each(job)))
    source = sql.Identifier(f"tails_{job.shape}")
    conn.execute(statement.format(*parts, source, sql.Literal(TAILS)))
    conn.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(target)))


def _each(job: Job) -> int:
    return job.rows // len(job.tables)


def _check(job: Job) -> None:
    """See that every row has arrived, whole and once."""
    names = [sql.Identifier(name) for name, _ in _columns(job.shape)]
    pairs = [sql.SQL("t.{0} IS NOT DISTINCT FROM s.{0}").format(name) for name in names[1:]]
    statement = sql.SQL(
        "SELECT count(*), count(DISTINCT t.{}), count(*) FILTER (WHERE {}), min(t.{}), max(t.{}) "
        "FROM {} t LEFT JOIN {} s ON s.number = (t.{} + {}) % {}"
    )
    source = sql.Identifier(f"tails_{job.shape}")
    numbers = (sql.Literal(job.shift), sql.Literal(TAILS))
    with connect(job.url) as conn:
        for target in job.tables:
            where = (sql.Identifier(target), source, names[0], *numbers)
            same = sql.SQL(" AND ").join(pairs)
            query = statement.format(names[0], same, names[0], names[0], *where)
            found, rows = conn.execute(query).fetchone(), _each(job)
            if found != (rows, rows, rows, 1, rows):
                msg = f"{target} has (rows, keys, right rows, first, last) {found}, not {rows:,}"
                raise BenchmarkFailed(msg)
