"""The SQL Server that the tests run on: a real one, or the stand-in.

Where IXFLOW_TEST_MSSQL_URL names a real server (its login may create databases), the tests run
there, and those for which a stand-in is not enough run too. Else the stand-in is started.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ixflow.dialects import dialect_named
from ixflow_tests.tds import TDSServer

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["URL_VARIABLE", "SQLServer", "named_server"]

URL_VARIABLE = "IXFLOW_TEST_MSSQL_URL"


def named_server() -> str | None:
    """Give the URL of the real server, if there is one."""
    return os.environ.get(URL_VARIABLE) or None


class SQLServer:
    """A server that makes databases, for as long as the ``with`` block."""

    def __init__(self) -> None:
        self.stand_in: TDSServer | None = None
        self._stack = ExitStack()
        self._name = f"ixflow_test_{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        """Find the server, or start the stand-in."""
        url = named_server()
        if url is None:
            self.stand_in = self._stack.enter_context(TDSServer())
            self.url = self.stand_in.url
        else:
            self.url = dialect_named("sqlserver").url({"connection_string": url})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the stand-in."""
        self._stack.close()

    @contextmanager
    def database(self, *, snapshots: bool = True) -> Iterator[sa.Engine]:
        """Give an empty database, by default one that allows SNAPSHOT isolation."""
        name = f"{self._name}_{next(self._numbers)}"
        self.administer(f"CREATE DATABASE [{name}]")
        if snapshots:
            self.administer(f"ALTER DATABASE [{name}] SET ALLOW_SNAPSHOT_ISOLATION ON")
        engine = dialect_named("sqlserver").engine(self.url.set(database=name))
        try:
            yield engine
        finally:
            engine.dispose()
            self.administer(f"DROP DATABASE [{name}]")

    def administer(self, statement: str) -> None:
        """Run a statement that no transaction may hold."""
        engine = dialect_named("sqlserver").engine(self.url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql(statement)

    @contextmanager
    def recorded(self) -> Iterator[Callable[[], list[str]]]:
        """Give what the stand-in has been sent in the block so far."""
        assert self.stand_in is not None
        before = len(self.stand_in.statements())

        def since() -> list[str]:
            assert self.stand_in is not None
            return self.stand_in.statements()[before:]

        yield since
