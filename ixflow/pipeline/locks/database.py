"""`DatabaseLockManager`: locks in the database that the tables are in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable
from typing import Any, Self

import sqlalchemy as sa

from ixflow.dialects import connected, dialect_of, unavailable
from ixflow.errors import UnsupportedDatabase
from ixflow.pipeline.locks.base import BaseLockManager, LockState, holder_name
from ixflow.secrets import redact_url

__all__ = ["DatabaseLockManager"]


class DatabaseLockManager(BaseLockManager):
    """PostgreSQL's advisory locks, all on one connection that is kept for them.

    The server lets them go when that connection ends, however it ends. Between us and the server
    there must be no pooler that gives a session to several clients, such as PgBouncer in
    transaction mode; a lock that is lost there is noticed. ``lock_schema`` and
    ``create_lock_schema`` have no effect here: advisory locks need no table.

    Raises:
        UnsupportedDatabase: the database has no such locks; `FileLockManager` needs none.

    >>> config = create_basic_pipedag_config(url)  # doctest: +SKIP
    >>> locks = DatabaseLockManager(store.engine, "shop_full")  # doctest: +SKIP
    """

    # Longer than the second after which the server looks for a circle of waits.
    slice_seconds = 2.0

    def __init__(
        self,
        engine: sa.Engine,
        instance_id: str = "",
        lock_schema: str | None = None,
        create_lock_schema: bool = True,  # noqa: FBT001, FBT002 - its place is part of the contract
        **options: Any,
    ) -> None:
        del lock_schema, create_lock_schema
        super().__init__(instance_id, **options)
        found = dialect_of(engine.url).session_locks
        if found is None:
            msg = (
                f"DatabaseLockManager is for PostgreSQL; for {engine.url.get_backend_name()} take "
                f"FileLockManager with a base_path that all processes see, or ZooKeeperLockManager"
            )
            raise UnsupportedDatabase(msg, database=engine.url.get_backend_name())
        self._locks = found
        self._engine = engine
        self._conn: sa.Connection | None = None
        self._closing = contextlib.ExitStack()
        self._guard = threading.RLock()

    @classmethod
    def _init_conf_(cls, args: dict[str, Any]) -> Self:
        from ixflow.pipeline.config import ConfigContext

        config = ConfigContext.get()
        return cls(config.table_store.engine, **{"instance_id": config.instance_id} | args)

    def __repr__(self) -> str:
        """Show the database without a password."""
        return f"DatabaseLockManager({redact_url(self._engine.url)!r}, {self.instance_id!r})"

    @property
    def scope(self) -> Hashable:
        """The database and the instance."""
        url = self._engine.url.set(username=None, password=None)
        return ("database", url.render_as_string(), self.instance_id)

    def _key(self, name: str) -> str:
        return f"{self.instance_id}#{name}"

    def _session(self) -> sa.Connection:
        """Give the one connection, opened when it is first needed or was lost."""
        if self._conn is not None and self._conn.invalidated:
            self._lose()
        if self._conn is None:
            with contextlib.ExitStack() as stack:
                conn = stack.enter_context(connected(self._engine))
                conn = conn.execution_options(isolation_level="AUTOCOMMIT")
                # The pool's places are for those that work.
                conn.detach()
                self._locks.prepare(conn, f"ixflow {self.instance_id}, {holder_name()}")
                self._closing, self._conn = stack.pop_all(), conn
        return self._conn

    def _lose(self) -> None:
        """Give up the connection, and with it all locks."""
        self._conn = None
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            self._closing.close()
        self._change_all(LockState.INVALID)

    def _take(self, name: str, seconds: float) -> bool:
        with self._guard:
            try:
                return self._locks.take(self._session(), self._key(name), seconds)
            except sa.exc.DBAPIError as error:
                if error.connection_invalidated:
                    self._lose()
                raise unavailable(self._engine.url, error.orig or error) from error

    def _drop(self, name: str) -> None:
        with self._guard:
            if self._conn is None or self._conn.invalidated:
                return
            try:
                self._locks.drop(self._conn, self._key(name))
            except sa.exc.DBAPIError:
                self._lose()

    def _look(self, name: str, known: LockState) -> LockState:
        with self._guard:
            held = False
            # A connection that was cut would open itself again.
            if self._conn is not None and not self._conn.invalidated:
                with contextlib.suppress(sa.exc.DBAPIError):
                    held = self._locks.holds(self._conn, self._key(name))
            return known if held else LockState.INVALID

    def _holder(self, name: str) -> str | None:
        with self._guard, contextlib.suppress(sa.exc.DBAPIError):
            return self._locks.holder(self._session(), self._key(name))
        return None

    def _close(self) -> None:
        with self._guard:
            self._conn = None
            self._closing.close()
