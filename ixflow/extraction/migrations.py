"""The tables of the state database, version by version.

A step takes a state from one version to the next; steps are never changed once released. A state
of a newer version is refused: an older release would write rows that the newer one misreads.
Several processes may migrate at once: whoever loses the race looks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import LONGTEXT

from ixflow.errors import UnsupportedState

__all__ = [
    "MIGRATIONS",
    "benchmarks",
    "controller",
    "deviations",
    "migrate",
    "plans",
    "runs",
    "state_version",
    "tasks",
]

_ATTEMPTS, _PAUSE, _LONGEST_PAUSE = 10, 0.02, 0.5

# MySQL's TEXT ends at 64 KB, which the plan of a large table exceeds.
_LONG = sa.UnicodeText().with_variant(LONGTEXT(), "mysql", "mariadb")
_ID = sa.String(64)
_TIME = sa.String(40)

_metadata = sa.MetaData()

_versions = sa.Table(
    "ixflow_extraction_state",
    _metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("migrated_at", _TIME, nullable=False),
)

runs = sa.Table(
    "ixflow_extraction_runs",
    _metadata,
    sa.Column("run_id", _ID, primary_key=True),
    sa.Column("identity", _ID, nullable=False),
    sa.Column("object_name", _LONG, nullable=False),
    sa.Column("source_type", _ID, nullable=False),
    sa.Column("source_json", _LONG, nullable=False),
    sa.Column("output_dir", _LONG, nullable=False),
    sa.Column("plan_json", _LONG, nullable=False),
    sa.Column("plan_fingerprint", _ID, nullable=False),
    sa.Column("plan_version", _ID, nullable=False),
    sa.Column("runtime_context_json", _LONG),
    sa.Column("replay_of", _ID),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("started_at", _TIME, nullable=False),
    sa.Column("finished_at", _TIME),
    sa.Column("seen_at", _TIME, nullable=False),
    sa.Column("machine", _LONG, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("process_started", sa.BigInteger, nullable=False),
    sa.Column("workers", sa.Integer, nullable=False),
    sa.Column("effective_workers", sa.Double),
    sa.Column("rows_extracted", sa.BigInteger),
    sa.Column("bytes_written", sa.BigInteger),
    sa.Column("seconds", sa.Double),
    sa.Column("error", _LONG),
    sa.Column("resumed_from", _ID),
    sa.Index("ixflow_extraction_runs_of", "identity", "started_at"),
)

_running = sa.Index("ixflow_extraction_runs_alive", runs.c.status, runs.c.seen_at)

tasks = sa.Table(
    "ixflow_extraction_tasks",
    _metadata,
    sa.Column("run_id", _ID, primary_key=True),
    sa.Column("chunk_id", _ID, primary_key=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("rows_extracted", sa.BigInteger),
    sa.Column("bytes_written", sa.BigInteger),
    sa.Column("seconds", sa.Double),
    sa.Column("error", _LONG),
)

plans = sa.Table(
    "ixflow_extraction_plans",
    _metadata,
    sa.Column("identity", _ID, primary_key=True),
    sa.Column("object_name", _LONG, nullable=False),
    sa.Column("planned_at", _TIME, nullable=False),
    sa.Column("result_json", _LONG, nullable=False),
)

controller = sa.Table(
    "ixflow_extraction_controller",
    _metadata,
    sa.Column("identity", _ID, primary_key=True),
    sa.Column("shape", _ID, primary_key=True),
    sa.Column("runs", sa.Integer, nullable=False),
    sa.Column("workers", sa.Integer),
    sa.Column("start_workers", sa.Integer),
    sa.Column("since", sa.Integer),
    sa.Column("converged", sa.Integer, nullable=False),
    sa.Column("converged_at", sa.Integer, nullable=False),
    sa.Column("cap", sa.Integer),
    sa.Column("baseline", sa.Double),
    sa.Column("reason", _LONG),
    sa.Column("updated_at", _TIME, nullable=False),
)

deviations = sa.Table(
    "ixflow_extraction_deviations",
    _metadata,
    sa.Column("run_id", _ID, primary_key=True),
    sa.Column("identity", _ID, nullable=False),
    sa.Column("shape", _ID, nullable=False),
    sa.Column("number", sa.Integer),
    sa.Column("noted_at", _TIME, nullable=False),
    sa.Column("workers", sa.Integer, nullable=False),
    sa.Column("rows_extracted", sa.BigInteger, nullable=False),
    sa.Column("rows_per_second", sa.Double, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("predicted_seconds", sa.Double),
    sa.Column("deviation_ratio", sa.Double),
    sa.Column("baseline_mean", sa.Double),
    sa.Column("baseline_sigma", sa.Double),
    sa.Column("baseline_runs", sa.Integer, nullable=False),
    sa.Column("skew", sa.Double),
    sa.Column("latency_ms", sa.Double),
    sa.Column("categories_json", _LONG, nullable=False),
    sa.Column("reasons_json", _LONG, nullable=False),
    sa.Column("not_learned", _LONG),
    sa.Column("circumstances_json", sa.String(500)),
    sa.Index("ixflow_extraction_deviations_of", "identity", "shape", "number"),
)

benchmarks = sa.Table(
    "ixflow_extraction_benchmarks",
    _metadata,
    sa.Column("identity", _ID, primary_key=True),
    sa.Column("object_name", _LONG, nullable=False),
    sa.Column("benchmarked_at", _TIME, nullable=False),
    sa.Column("optimal_workers", sa.Integer, nullable=False),
    sa.Column("confidence", sa.Double, nullable=False),
    sa.Column("signal_strength", sa.Double, nullable=False),
    sa.Column("curve", sa.String(16), nullable=False),
    sa.Column("row_estimate", sa.BigInteger, nullable=False),
    sa.Column("result_json", _LONG, nullable=False),
)


def _version_1(conn: sa.Connection) -> None:
    """Runs, their tasks, and the last plan of each table."""
    _metadata.create_all(conn, tables=[runs, tasks, plans])


def _version_2(conn: sa.Connection) -> None:
    """What the controller has learned, what every run deviated by, and benchmarks."""
    _metadata.create_all(conn, tables=[controller, deviations, benchmarks])


def _version_3(conn: sa.Connection) -> None:
    """The run that a run went on from; a state that is new has the column already."""
    known = {column["name"] for column in sa.inspect(conn).get_columns(runs.name)}
    if runs.c.resumed_from.name not in known:
        conn.exec_driver_sql(f"ALTER TABLE {runs.name} ADD COLUMN resumed_from VARCHAR(64)")


def _version_4(conn: sa.Connection) -> None:
    """The circumstances of a run, and a way to find those that run now without reading the rest."""
    looked = sa.inspect(conn)
    known = {column["name"] for column in looked.get_columns(deviations.name)}
    if deviations.c.circumstances_json.name not in known:
        conn.exec_driver_sql(f"ALTER TABLE {deviations.name} ADD circumstances_json VARCHAR(500)")
    if _running.name not in {index["name"] for index in looked.get_indexes(runs.name)}:
        _running.create(conn)


Step = Callable[[sa.Connection], None]

MIGRATIONS: tuple[Step, ...] = (_version_1, _version_2, _version_3, _version_4)
"""The step at place n makes version n + 1."""


def state_version(conn: sa.Connection) -> int:
    """Read the version of a state; 0: there is none yet.

    Raises:
        UnsupportedState: it is newer than this release.

    """
    if not sa.inspect(conn).has_table(_versions.name):
        return 0
    version = conn.execute(sa.select(sa.func.max(_versions.c.version))).scalar() or 0
    if version > len(MIGRATIONS):
        msg = (
            f"the state database has version {version}, this release reads up to "
            f"{len(MIGRATIONS)}; install a newer ixflow, or name another state database"
        )
        raise UnsupportedState(msg, version=version, supported=len(MIGRATIONS))
    return version


def migrate(engine: sa.Engine) -> None:
    """Bring a state to this release's version; nothing is written if it has it.

    Raises:
        UnsupportedState: it is newer than this release.

    """
    with engine.connect() as conn:
        if state_version(conn) == len(MIGRATIONS):
            return
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with engine.begin() as conn:
                _upgrade(conn)
            return
        except sa.exc.DBAPIError:
            # Another process makes the same tables, or writes to the same file.
            if attempt == _ATTEMPTS:
                raise
            time.sleep(min(_PAUSE * 2**attempt, _LONGEST_PAUSE))


def _upgrade(conn: sa.Connection) -> None:
    _metadata.create_all(conn, tables=[_versions])
    version = state_version(conn)
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        step(conn)
        row = {"version": number, "migrated_at": datetime.now(UTC).isoformat()}
        conn.execute(sa.insert(_versions).values(row))
