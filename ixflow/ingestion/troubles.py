"""What went wrong with a batch, told in the words of those who gave it.

Errors of the ingest's own connection become `IngestError`. What the caller's own functions raise
arrives unchanged, also when it comes from a database: the source may be one. Tables in the making
have temporary names, which say nothing to anybody; messages name the table that they are for.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from ixflow.errors import DataError, IngestError, IxflowError, ValidationError, ValueDoesNotFit
from ixflow.secrets import redact

if TYPE_CHECKING:
    from ixflow.values import TableName

__all__ = ["Troubles", "check_arguments", "closed", "in_table", "iterable", "renamed"]

T = TypeVar("T")


class Troubles:
    """Tells errors of the caller's functions from those of the ingest's own statements."""

    def __init__(self, conn: sa.Connection, tables: str) -> None:
        """Take the ingest's connection, and its tables in words."""
        self._conn, self._tables = conn, tables
        self._theirs: BaseException | None = None

    def notice(self, error: Exception) -> None:
        """Remember an error that the caller's own code raised."""
        self._theirs = error

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function of the caller's, noticing what it raises."""
        try:
            return function(*args)
        except Exception as error:
            self._theirs = error
            raise

    def told(
        self, error: Exception, temporary: Mapping[str, TableName], *, batch: int, run_id: str
    ) -> Exception:
        """Give the error that the caller shall see."""
        if error is self._theirs:
            return error
        if isinstance(error, IxflowError):
            return renamed(error, temporary)
        module = type(error).__module__.partition(".")[0]
        if module not in ("sqlalchemy", "psycopg", "psycopg2", "duckdb", "_duckdb", "sqlite3"):
            return error
        cause = getattr(error, "orig", None) or error
        url = self._conn.engine.url
        said = redact(" ".join(str(cause).split()), url.password and str(url.password))
        said = _renamed(said, temporary)
        lost = getattr(error, "connection_invalidated", False)
        if _NO_PARTITION in said:
            return self._without_partition(said)
        what = (
            "may have been rolled back; the stored watermark tells" if lost else "was rolled back"
        )
        msg = (
            f"batch {batch} into {self._tables} {what}: {said}; "
            f"{batch - 1} earlier batches of this run stay"
        )
        return IngestError(msg, run_id=run_id, batch=batch, cause=said)

    def _without_partition(self, said: str) -> DataError:
        """Say which partition is wanted; which ones there shall be, only its owner can know."""
        found = _NO_PARTITION_FOR.search(said)
        table, key, value = found.groups() if found else (self._tables, "its key", "such a value")
        msg = (
            f"{table} has no partition for a row with {key} = {value}, so the batch was rolled "
            f"back; make one before the ingest (CREATE TABLE ... PARTITION OF {table} FOR VALUES "
            f"..., or DEFAULT), and, if it is not there yet, the table itself before that, with "
            f"metadata.create_all(engine)"
        )
        return DataError(msg, table=table, value=value)


_NO_PARTITION = "no partition of relation"
_NO_PARTITION_FOR = re.compile(
    r'no partition of relation "(.+?)" found for row.*? row contains (\(.*?\)) = (\(.*\))\.'
)


def in_table(error: ValueDoesNotFit, table: str) -> ValueDoesNotFit:
    """Restate an error about a column with the table that the row is for, not where it waits.

    >>> in_table(ValueDoesNotFit("t.c in row 1", table="t", column="c"), "shop.t").message
    'shop.t.c in row 1'
    """
    told = error.fields.get("table")
    if told == table or error.fields.get("column") is None:
        return error
    message = error.message.removeprefix(f"{told}.").replace(f"COPY {told},", f"COPY {table},")
    return ValueDoesNotFit(f"{table}.{message}", **{**error.fields, "table": table})


def renamed(error: IxflowError, temporary: Mapping[str, TableName]) -> IxflowError:
    """Restate an error about a table in the making with the name that it is to have."""
    if not any(name in error.message for name in temporary):
        return error
    fields = {
        key: _renamed(value, temporary) if isinstance(value, str) else value
        for key, value in error.fields.items()
    }
    found = type(error)(_renamed(error.message, temporary), **fields)
    return found.with_traceback(error.__traceback__)


def _renamed(text: str, temporary: Mapping[str, TableName]) -> str:
    for name, place in temporary.items():
        text = text.replace(f"{place.schema}.{name}", str(place)).replace(name, str(place))
    return text


def check_arguments(conn: Any, metadata: Any, batches: Any) -> None:
    """Refuse what is no connection, no metadata or no function.

    Raises:
        ValidationError: it says what is wanted.

    """
    if not isinstance(conn, sa.Connection):
        msg = f"conn is a {type(conn).__name__}; give a connection, as engine.connect() makes it"
        raise ValidationError(msg, argument="conn")
    if not isinstance(metadata, sa.MetaData):
        msg = f"metadata is a {type(metadata).__name__}; give a sqlalchemy.MetaData of the tables"
        raise ValidationError(msg, argument="metadata")
    if not callable(batches):
        msg = f"batches is a {type(batches).__name__}; give a function of the high watermark"
        raise ValidationError(msg, argument="batches")


def iterable(given: Any, what: str) -> Iterable[Any]:
    """Refuse what nothing can be read from, such as the None of a function without yield.

    Raises:
        ValidationError: naming it.

    """
    if not hasattr(given, "__iter__") and not hasattr(given, "__getitem__"):
        msg = f"{what} must be something to iterate over, not {given!r:.60}"
        raise ValidationError(msg)
    found: Iterable[Any] = given
    return found


@contextlib.contextmanager
def closed(given: T) -> Generator[T, None, None]:
    """Close a generator behind the block, so that a source does not wait for a traceback to go."""
    try:
        yield given
    except BaseException:
        if isinstance(given, Generator):
            # What went wrong is told, not what closing says to it.
            with contextlib.suppress(Exception):
                given.close()
        raise
    if isinstance(given, Generator):
        given.close()
