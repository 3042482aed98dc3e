"""Two sessions that make the same schema at the same time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ixflow.dialects import dialect_of, run

if TYPE_CHECKING:
    import sqlalchemy as sa


def test_a_schema_that_another_session_makes_meanwhile_is_there(fresh_postgres: sa.Engine):
    dialect = dialect_of(fresh_postgres)
    name = """r'a"w"""

    def make_too() -> bool:
        with fresh_postgres.begin() as conn:
            dialect.create_schema(conn, name)
            # The transaction goes on.
            run(conn, f"CREATE TABLE {dialect.quote(name)}.t (id int)")
            return dialect.schema_exists(conn, name)

    waiting = """SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'"""
    with ThreadPoolExecutor(1) as pool, fresh_postgres.connect() as conn:
        with conn.begin():
            dialect.create_schema(conn, name)
            other = pool.submit(make_too)
            end = time.monotonic() + 60
            while not _asked(fresh_postgres, waiting):
                assert time.monotonic() < end, "nobody waits"
                time.sleep(0.02)
        assert other.result()


def _asked(engine: sa.Engine, question: str) -> int:
    with engine.connect() as conn:
        return int(run(conn, question).scalar_one())
