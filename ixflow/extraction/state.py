"""The state database: which runs there were, what they ran, and the last plan of each table.

It is ``state_url`` if that is given, else the environment's ``IXFLOW_STATE_URL``, else a SQLite
file under the output directory (for output in a bucket: under the working directory). Any database
that SQLAlchemy speaks to will do, and several processes may write at once.

A run's row is there before its first row is read, with the process that runs it and, every few
seconds, a sign of life: so a run that died is seen.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.errors import (
    IxflowError,
    PlanCorruptionError,
    StateUnavailable,
    UnsupportedDatabase,
    ValidationError,
)
from ixflow.extraction.migrations import migrate, plans, runs, state_version, tasks
from ixflow.extraction.storage import writable
from ixflow.secrets import redact, redact_url

__all__ = ["ENVIRONMENT", "State", "StatePlace", "now"]

_log = logging.getLogger("ixflow")

ENVIRONMENT = "IXFLOW_STATE_URL"

_ATTEMPTS, _PAUSE = 5, 0.05

# No table's files have a name with a dot in front, so the file is never in the way of one.
_DEFAULT = Path(".ixflow", ".state.sqlite")


def now() -> str:
    """Give the time as it is stored: ISO 8601 in UTC, of one length, so that texts sort."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class StatePlace:
    """Where a state is, or will be; ``chosen`` says that somebody named it."""

    url: sa.URL
    chosen: bool = True

    @classmethod
    def of(cls, output_dir: str | Path, state_url: str | sa.URL | None = None) -> StatePlace:
        """Find the state of an output directory.

        Raises:
            ValidationError: the URL is none.

        """
        given = state_url or os.environ.get(ENVIRONMENT)
        if not given:
            return cls(sa.URL.create("sqlite", database=str(_default_file(output_dir))), False)
        try:
            return cls(sa.make_url(given))
        except (sa.exc.ArgumentError, ValueError, TypeError):
            msg = "the state URL is not a URL like sqlite:////data/state.sqlite"
            raise ValidationError(msg, argument="state_url") from None

    def __str__(self) -> str:
        """Show the URL without its password."""
        return redact_url(self.url)

    @contextlib.contextmanager
    def open(self) -> Iterator[State]:
        """Open the state, making or migrating it if need be.

        Raises:
            StateUnavailable: it cannot be reached, written or read.
            UnsupportedState: it was written by a newer release.
            OutputNotWritable: the output directory, its default place, cannot be made.

        """
        if not self.chosen:
            directory = Path(str(self.url.database)).parent
            with writable(directory):
                directory.mkdir(parents=True, exist_ok=True)
        with self._engine() as engine:
            migrate(engine)
            yield State(engine)

    @contextlib.contextmanager
    def look(self) -> Iterator[State | None]:
        """Open the state to read it; None if there is none. Nothing is made.

        Raises:
            StateUnavailable: it cannot be reached or read.
            UnsupportedState: it was written by a newer release.

        """
        if self._is_missing_file():
            yield None
            return
        with self._engine() as engine:
            with engine.connect() as conn:
                version = state_version(conn)
            if version:
                migrate(engine)
            yield State(engine) if version else None

    def _is_missing_file(self) -> bool:
        """Say that it would be a file, which looking at it would make."""
        path = self.url.database
        with contextlib.suppress(UnsupportedDatabase):
            is_file = dialect_of(self.url).default_port is None
            return is_file and bool(path) and not Path(str(path)).exists()
        return False

    @contextlib.contextmanager
    def _engine(self) -> Iterator[sa.Engine]:
        """Give an engine whose refusals become one typed error without a credential."""
        engine: sa.Engine | None = None
        try:
            engine = _make_engine(self.url)
            yield engine
        except IxflowError:
            raise
        except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
            said = " ".join(str(getattr(error, "orig", None) or error).split())
            said = redact(said, self.url.password and str(self.url.password))
            msg = f"cannot use the state database {self}: {said}"
            raise StateUnavailable(msg, url=str(self)) from None
        finally:
            if engine is not None:
                engine.dispose()


def _default_file(output_dir: str | Path) -> Path:
    root = Path() if "://" in str(output_dir) else Path(output_dir).expanduser()
    return root.absolute() / _DEFAULT


def _make_engine(url: sa.URL) -> sa.Engine:
    try:
        dialect = dialect_of(url)
    except UnsupportedDatabase:
        return sa.create_engine(url, poolclass=sa.NullPool)
    return dialect.engine(url)


class State:
    """An open state: a few statements, each in a transaction of its own that begins with a write.

    (SQLite refuses a transaction that reads first and writes after somebody else has written.)
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Take the engine of a state that has this release's version."""
        self._engine = engine

    def begin_run(self, values: Mapping[str, Any]) -> None:
        """Insert the row of a run."""
        with self._engine.begin() as conn:
            conn.execute(sa.insert(runs).values(**values))

    def end_run(
        self,
        run_id: str,
        values: Mapping[str, Any],
        done: Sequence[Mapping[str, Any]],
        also: Callable[[sa.Connection], object] | None = None,
    ) -> None:
        """Write what came of a run, and of its tasks; ``also`` writes more in the transaction.

        What ``also`` cannot write is logged, and the run is ended without it.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._end_run(run_id, values, done, also)
                return
            except Exception as error:
                # Another run of the table may have ended at the same moment, and come first.
                if also is None:
                    raise
                if not isinstance(error, sa.exc.DBAPIError) or attempt + 1 >= _ATTEMPTS:
                    _log.warning("nothing is learned from %s: %s", run_id, error)
                    also = None
                time.sleep(_PAUSE * attempt)

    def _end_run(
        self,
        run_id: str,
        values: Mapping[str, Any],
        done: Sequence[Mapping[str, Any]],
        also: Callable[[sa.Connection], object] | None,
    ) -> None:
        with self._engine.begin() as conn:
            conn.execute(sa.update(runs).where(runs.c.run_id == run_id).values(**values))
            if done:
                conn.execute(sa.insert(tasks), [{**task, "run_id": run_id} for task in done])
            if also is not None:
                also(conn)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection to read with."""
        with self._engine.connect() as conn:
            yield conn

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction, which must begin with a write."""
        with self._engine.begin() as conn:
            yield conn

    def write_tasks(self, run_id: str, done: Sequence[Mapping[str, Any]]) -> None:
        """Write what came of some tasks of a run, in the place of what was said of them before."""
        these = tasks.c.chunk_id.in_([task["chunk_id"] for task in done])
        with self._engine.begin() as conn:
            conn.execute(sa.delete(tasks).where(tasks.c.run_id == run_id, these))
            conn.execute(sa.insert(tasks), [{**task, "run_id": run_id} for task in done])

    def note_run(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Write what is known of a run by now."""
        with self._engine.begin() as conn:
            conn.execute(sa.update(runs).where(runs.c.run_id == run_id).values(**values))

    def sign_of_life(self, run_id: str) -> None:
        """Note that the run's process lives."""
        with self._engine.begin() as conn:
            conn.execute(sa.update(runs).where(runs.c.run_id == run_id).values(seen_at=now()))

    def settle(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Write what became of a run whose process has ended without a word."""
        still = (runs.c.run_id == run_id) & (runs.c.status == "running")
        with self._engine.begin() as conn:
            conn.execute(sa.update(runs).where(still).values(**values))

    def save_plan(self, identity: str, object_name: str, result: Mapping[str, Any]) -> None:
        """Keep a plan's result as the last of its table."""
        values = {
            "object_name": object_name,
            "planned_at": now(),
            "result_json": json.dumps(result, ensure_ascii=False),
        }
        for _ in range(3):
            with contextlib.suppress(sa.exc.IntegrityError), self._engine.begin() as conn:
                update = sa.update(plans).where(plans.c.identity == identity).values(**values)
                if conn.execute(update).rowcount == 0:
                    # Another process may insert at the same moment; then there is one to update.
                    conn.execute(sa.insert(plans).values(identity=identity, **values))
                return

    def last_plan(self, identity: str) -> tuple[dict[str, Any], str] | None:
        """Give the last plan's result, and when it was made.

        Raises:
            PlanCorruptionError: it is not what was stored.

        """
        query = sa.select(plans).where(plans.c.identity == identity)
        with self._engine.connect() as conn:
            row = conn.execute(query).one_or_none()
        if row is None:
            return None
        with contextlib.suppress(ValueError):
            if isinstance(found := json.loads(row.result_json), dict):
                return found, row.planned_at
        msg = f"the last plan of {row.object_name} in the state cannot be read; plan it again"
        raise PlanCorruptionError(msg, object_name=row.object_name)

    def run_rows(
        self, *, identity: str | None = None, object_name: str | None = None, limit: int = 10
    ) -> list[dict[str, Any]]:
        """Read runs without their plans, the newest first."""
        query = sa.select(*(c for c in runs.c if c is not runs.c.plan_json))
        if identity is not None:
            query = query.where(runs.c.identity == identity)
        if object_name is not None:
            query = query.where(runs.c.object_name == object_name)
        return self._read(query.order_by(runs.c.started_at.desc()).limit(limit))

    def runs_like(self, start: str) -> list[dict[str, Any]]:
        """Read the runs, plans included, whose id begins like this."""
        query = sa.select(runs).where(runs.c.run_id.startswith(start, autoescape=True))
        # Some databases compare without regard to capitals.
        return [row for row in self._read(query) if row["run_id"].startswith(start)]

    def task_rows(self, run_id: str) -> list[dict[str, Any]]:
        """Read the tasks of a run."""
        query = sa.select(tasks).where(tasks.c.run_id == run_id).order_by(tasks.c.chunk_id)
        return self._read(query)

    def _read(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self._engine.connect() as conn:
            found = conn.execute(query).mappings()
            return [{str(name): value for name, value in row.items()} for row in found]
