"""What the cells of the matrix look at: the events of a run, and tables while a run goes on."""

import threading
import time
from collections.abc import Iterable
from typing import Any, Self

import dagster as dg
import sqlalchemy as sa
from dagster import DagsterEventType as Kind

__all__ = ["Looking", "Seen"]


class Seen:
    """One run, as the event log has it."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str) -> None:
        self._instance = instance
        self.run_id = run_id

    @property
    def success(self) -> bool:
        """Say whether the run succeeded."""
        run = self._instance.get_run_by_id(self.run_id)
        assert run is not None
        return run.is_success

    def _logged(self, kind: Kind) -> list[Any]:
        return [
            log.dagster_event
            for log in self._instance.all_logs(self.run_id, of_type=kind)
            if log.dagster_event is not None
        ]

    def recorded(self) -> dict[str, str | None]:
        """Give the data version of each materialization of the run, by asset key, in order."""
        found = {}
        for event in self._logged(Kind.ASSET_MATERIALIZATION):
            one = event.step_materialization_data.materialization
            found[one.asset_key.to_user_string()] = (one.tags or {}).get("dagster/data_version")
        return found

    def checked(self) -> dict[str, bool]:
        """Give the verdict of each check of the run."""
        evaluations = self._logged(Kind.ASSET_CHECK_EVALUATION)
        return {
            event.event_specific_data.check_name: event.event_specific_data.passed
            for event in evaluations
        }

    def steps(self) -> set[str]:
        """Name the steps that ended well."""
        return {str(event.step_key) for event in self._logged(Kind.STEP_SUCCESS)}

    def failed_steps(self) -> list[str]:
        """Name the steps that failed."""
        return [str(event.step_key) for event in self._logged(Kind.STEP_FAILURE)]


class Looking:
    """Reads all tables of a stage again and again, each time in one REPEATABLE READ transaction."""

    def __init__(self, engine: sa.Engine, tables: Iterable[str] = ("st.t1", "st.t2", "st.t3")):
        self._engine = engine.execution_options(isolation_level="REPEATABLE READ")
        self._tables = tuple(tables)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: dict[tuple[int, ...], int] = {}
        self.last: tuple[int, ...] = ()
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look once more, and stop."""
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _look(self) -> None:
        try:
            last = False
            while not last:
                last = self._stop.is_set()
                self.last = self.now()
                self.seen[self.last] = self.seen.get(self.last, 0) + 1
                time.sleep(0.005)
        except Exception as error:  # noqa: BLE001 - raised where the looking ends
            self.error = error

    def now(self) -> tuple[int, ...]:
        """Give the run that made each table, as one transaction sees them."""
        with self._engine.connect() as conn, conn.begin():
            return tuple(
                conn.exec_driver_sql(f"SELECT v FROM {table}").scalar_one()
                for table in self._tables
            )
