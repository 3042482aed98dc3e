"""What a statement of a client does: to the databases, to its session, to its result."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import duckdb
import sqlglot

from ixflow_tests.tds.definitions import declared_types, define
from ixflow_tests.tds.translate import translate
from ixflow_tests.tds.types import SQLType, from_duckdb

__all__ = ["Databases", "Fault", "Result", "Session", "TSQLError"]

_DATABASE = re.compile(
    r"(?P<what>create|drop|alter)\s+database\s+(?P<name>\[[^\]]+\]|\w+)(?:\s+set\s+(?P<option>.+))?$",
    re.IGNORECASE,
)
_FAULT = re.compile(r"exec\s+stand_in_fault\s+'(\w+)'\s*,\s*(\d+)\s*,\s*(\d+)$", re.IGNORECASE)
_ISOLATION = re.compile(
    r"set\s+transaction\s+isolation\s+level\s+(?P<level>.+)$", re.IGNORECASE | re.DOTALL
)
_TRANSACTION = re.compile(
    r"(?:if\s+@@trancount\s*>\s*0\s+)?(?P<what>begin|commit|rollback)(?:\s+tran(?:saction)?)?$",
    re.IGNORECASE,
)
_ROW_COUNT = re.compile(r"\browcount_big\s*\(\s*\)", re.IGNORECASE)
_DENY = re.compile(r"deny\s+view\s+server\s+state\b", re.IGNORECASE)
_IGNORED = re.compile(r"(set|use|exec|declare)\b", re.IGNORECASE)
_OPTIONS = {
    "ALLOW_SNAPSHOT_ISOLATION ON": "snapshot_isolation_state = 1",
    "ALLOW_SNAPSHOT_ISOLATION OFF": "snapshot_isolation_state = 0",
    "READ_ONLY": "is_read_only = true",
    "READ_WRITE": "is_read_only = false",
}
_NUMBERS = {
    "CatalogException": 208,
    "ConstraintException": 2627,
    "ParserException": 102,
    "BinderException": 207,
    "ConversionException": 245,
    "OutOfRangeException": 8115,
}


class TSQLError(Exception):
    """An error with SQL Server's number."""

    def __init__(self, message: str, number: int = 50000) -> None:
        super().__init__(message)
        self.number = number


@dataclass
class Fault:
    """What shall go wrong in the next results after so many bytes.

    ``cut`` resets the connection, ``close`` ends it in peace behind exactly so many bytes of rows,
    ``deadlock`` and ``fail`` are errors.
    """

    kind: str = ""
    after_bytes: int = 0
    times: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self) -> tuple[str, int] | None:
        """Give the fault for one result."""
        with self.lock:
            if self.times == 0:
                return None
            self.times -= 1
            return self.kind, self.after_bytes


class Databases:
    """The databases of the server; each is a DuckDB of its own, in memory."""

    def __init__(self) -> None:
        self.fault = Fault()
        self._lock = threading.Lock()
        self._open: dict[str, duckdb.DuckDBPyConnection] = {}
        self.create("master")

    def create(self, name: str) -> None:
        """Make a database with the catalogue of an empty one."""
        con = duckdb.connect(":memory:")
        con.execute(resources.files(__package__).joinpath("catalogue.sql").read_text())
        con.execute("INSERT INTO sys.databases VALUES (?, 5, 0, false, NULL)", [name])
        with self._lock:
            self._open[name.lower()] = con

    def drop(self, name: str) -> None:
        """Forget a database."""
        with self._lock:
            self._open.pop(name.lower())

    def connect(self, name: str) -> duckdb.DuckDBPyConnection:
        """Open a connection to one."""
        with self._lock:
            if name.lower() not in self._open:
                msg = f'Cannot open database "{name}" requested by the login. The login failed.'
                raise TSQLError(msg, 4060)
            con = self._open[name.lower()].cursor()
        con.execute("SET search_path = 'dbo,main'")
        return con


@dataclass(frozen=True)
class Result:
    """Rows with the types they are sent as; without `columns` only a count of changed rows."""

    columns: list[tuple[str, SQLType]] | None = None
    rows: Iterable[tuple[Any, ...]] = ()
    changed: int = 0
    fault: tuple[str, int] | None = None


class Session:
    """One client's connection to one database."""

    def __init__(self, databases: Databases, name: str) -> None:
        self._databases = databases
        self._con = databases.connect(name)
        self._level = "READ COMMITTED"
        self.in_transaction = False
        self.rows_sent = 0
        self._prepared: dict[int, tuple[str, str]] = {}

    def close(self) -> None:
        """End the session; what was not committed is gone."""
        self._con.close()

    def run(self, batch: str, given: Mapping[str, Any] | None = None) -> Iterator[Result]:
        """Carry out a batch, statement by statement.

        Raises:
            TSQLError: with the number that SQL Server would give.

        """
        try:
            for statement in _statements(batch):
                yield from self._carry_out(statement, given or {})
        except sqlglot.errors.ParseError as error:
            message = f"Incorrect syntax: {error}"
            raise TSQLError(message, 102) from error
        except duckdb.Error as error:
            raise TSQLError(str(error), _NUMBERS.get(type(error).__name__, 50000)) from error

    def prepare(self, text: str, declaration: str) -> int:
        """Remember a statement; give its handle."""
        handle = len(self._prepared) + 1
        self._prepared[handle] = (text, declaration)
        return handle

    def prepared(self, handle: int) -> tuple[str, str]:
        """Give a statement and the declaration of its parameters."""
        return self._prepared[handle]

    def transact(self, what: str) -> None:
        """Begin or end a transaction."""
        if what == "begin" and not self.in_transaction:
            self._con.execute("BEGIN")
        elif what != "begin" and self.in_transaction:
            self._con.execute(what)
        self.in_transaction = what == "begin"

    def _carry_out(self, statement: str, given: Mapping[str, Any]) -> Iterator[Result]:
        if found := _TRANSACTION.match(statement):
            self.transact(found["what"].lower())
        elif found := _ISOLATION.match(statement):
            self._level = found["level"].strip().upper()
        elif found := _DATABASE.match(statement):
            self._change_database(found)
        elif _ROW_COUNT.search(statement):
            counted = _ROW_COUNT.sub(f"CAST({self.rows_sent} AS bigint)", statement)
            yield from self._query(counted, given)
            return
        elif found := _FAULT.match(statement):
            fault = self._databases.fault
            fault.kind, fault.after_bytes, fault.times = found[1], int(found[2]), int(found[3])
        elif _DENY.match(statement):
            self._con.execute("UPDATE sys.permissions SET view_server_state = false")
        elif not _IGNORED.match(statement) and not define(self._con, statement):
            self._check_isolation(statement)
            yield from self._query(statement, given)
            return
        yield Result()

    def _change_database(self, found: re.Match[str]) -> None:
        name, what = found["name"].strip("[]"), found["what"].lower()
        if what == "create":
            self._databases.create(name)
        elif what == "drop":
            self._databases.drop(name)
        else:
            option = _OPTIONS[found["option"].strip().upper()]
            self._databases.connect(name).execute(f"UPDATE sys.databases SET {option}")

    def _check_isolation(self, statement: str) -> None:
        """Refuse, as SQL Server does, to read tables in a snapshot where it is not allowed."""
        if self._level != "SNAPSHOT" or re.search(r"\bsys\.", statement):
            return
        query = "SELECT name FROM sys.databases WHERE snapshot_isolation_state <> 1"
        if row := self._con.execute(query).fetchone():
            msg = (
                f"Snapshot isolation transaction failed accessing database '{row[0]}' because "
                f"snapshot isolation is not allowed in this database."
            )
            raise TSQLError(msg, 3952)

    def _query(self, statement: str, given: Mapping[str, Any]) -> Iterator[Result]:
        if "dm_exec_describe_first_result_set" in statement:
            yield self._described(str(next(iter(given.values()))))
            return

        def declared(schema: str | None, table: str) -> dict[str, SQLType]:
            return declared_types(self._con, schema, table)

        for one in translate(statement, given, declared):
            found = self._con.execute(one.sql, one.arguments or None)
            if not one.rows:
                row = found.fetchone() if found.description else None
                yield Result(changed=int(row[0]) if row else 0)
                continue
            own = [(str(name), from_duckdb(str(type_))) for name, type_, *_ in found.description]
            columns = [
                (name, known or type_)
                for (name, known), (_, type_) in zip(one.columns or own, own, strict=True)
            ]
            # Names in brackets are those of the tables that somebody reads.
            fault = self._databases.fault.take() if "FROM [" in statement else None
            yield Result(columns, _rows(found), fault=fault)

    def _described(self, query: str) -> Result:
        """Do as sys.dm_exec_describe_first_result_set does, which gives errors as rows."""
        names = ("name", "system_type_name", "is_nullable", "error_message")
        columns = [(name, SQLType.parse("nvarchar(max)")) for name in names]
        columns[2] = (names[2], SQLType.parse("bit"))
        nothing = f"SELECT TOP (0) * FROM ({query}) AS [q]"
        try:
            (found,) = self._query(nothing, {})
        except (duckdb.Error, sqlglot.errors.ParseError) as error:
            return Result(columns, [(None, None, None, f"The query is not valid: {error}")])
        return Result(columns, [_as_row(name, type_) for name, type_ in found.columns or []])


def _as_row(name: str, type_: SQLType) -> tuple[Any, ...]:
    written = ",".join("max" if size < 0 else str(size) for size in type_.args)
    return name, f"{type_.base}({written})" if written else type_.base, True, None


def _rows(found: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while some := found.fetchmany(1000):
        yield from some


def _statements(batch: str) -> Iterator[str]:
    """Cut a batch where statements of settings stand one after the other; else it is one."""
    text = batch.strip().rstrip(";").strip()
    pieces = [piece.strip() for piece in text.split(";")]
    if all(re.match(r"set\b", piece, re.IGNORECASE) for piece in pieces):
        yield from pieces
    elif text:
        yield text
