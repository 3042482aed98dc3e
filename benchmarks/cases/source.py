"""The table that the cases share: an account with a key, text, money, a moment, and NULLs."""

from __future__ import annotations

import psycopg
import sqlalchemy as sa

__all__ = ["COLUMNS", "TABLE", "connect", "make_source", "quieten"]

TABLE = "accounts"
COLUMNS = "aid bigint, branch integer, filler text, balance numeric(12,2), changed_at timestamptz"

_FILL = f"""
    INSERT INTO {TABLE}
    SELECT n, CASE WHEN mod(n, 10) <> 3 THEN mod(n, 1000) END,
           CASE WHEN mod(n, 10) <> 7 THEN md5(n::text) || lpad(mod(n, 5000)::text, 8, '0') END,
           (mod(n * 7919, 2000000000) - 1000000000) / 100.0,
           timestamptz '2020-01-01 00:00:00+00' + n * interval '17.000013 seconds'
    FROM generate_series(1, %s::bigint) n
"""
_QUIET = ("autovacuum = off", "max_wal_size = '8GB'", "checkpoint_timeout = '1h'")


def connect(url: str) -> psycopg.Connection:
    """Connect with psycopg alone, each statement for itself."""
    plain = sa.make_url(url).set(drivername="postgresql")
    return psycopg.connect(plain.render_as_string(hide_password=False), autocommit=True)


def quieten(conn: psycopg.Connection) -> None:
    """Keep the server's own chores out of the measurements."""
    for setting in _QUIET:
        conn.execute(f"ALTER SYSTEM SET {setting}")
    conn.execute("SELECT pg_reload_conf()")


def make_source(url: str, rows: int) -> None:
    """Make and fill the table."""
    with connect(url) as conn:
        quieten(conn)
        conn.execute(f"CREATE TABLE {TABLE} ({COLUMNS}, PRIMARY KEY (aid))")
        conn.execute(_FILL, (rows,))
        conn.execute(f"VACUUM (FREEZE, ANALYZE) {TABLE}")
        conn.execute("CHECKPOINT")
