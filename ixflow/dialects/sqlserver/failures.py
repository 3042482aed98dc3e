"""Which failures of SQL Server pass by themselves, and which setting or right others ask for.

The driver does not tell the server's error numbers, only the SQLSTATE's name and the message; so
the numbered errors are known by their fixed words.
"""

from __future__ import annotations

import re

from ixflow.errors import (
    IxflowError,
    LockNotAvailable,
    ReadNotAllowed,
    SnapshotUnavailable,
    SourceLimitReached,
    SourceUnavailable,
)

__all__ = ["advised", "is_transient"]

# 08001, 08003, 08007, 08S01, HYT01, and 40001: the victim of a deadlock (1205).
_STATES = frozenset(
    {
        "Client unable to establish connection",
        "Connection not open",
        "Connection failure during transaction",
        "Communication link failure",
        "Connection timeout expired",
        "Serialization failure",
    }
)
_WORDS = re.compile(
    r"""
    deadlocked\ on                                       # 1205
    | is\ not\ currently\ available                      # 40613
    | service\ has\ encountered\ an\ error\ processing   # 40197
    | service\ is\ currently\ busy                       # 40501
    | limit\ for\ the\ (database|elastic\ pool)\ is\ \d+ # 10928
    | minimum\ guarantee\ is\ \d+                        # 10929
    | specified\ network\ name\ is\ no\ longer           # 64
    | no\ process\ is\ on\ the\ other\ end               # 233
    | TCP\ Provider:                                     # 10053, 10054, 10060 and their like
    | forcibly\ closed\ by\ the\ remote\ host            # 10054
    | rows\ arrived                                       # what the reader says
    | SHUTDOWN\ is\ in\ progress                         # 6005
    """,
    re.VERBOSE | re.IGNORECASE,
)


def is_transient(error: BaseException) -> bool:
    """Say whether a failed read can succeed on a new connection."""
    if isinstance(error, SourceUnavailable):
        return not error.fields.get("lasting") and _WORDS.search(str(error)) is not None
    cause: BaseException = getattr(error, "orig", None) or error
    if not type(cause).__module__.startswith("mssql_python"):
        return False
    state = getattr(cause, "driver_error", "")
    return state in _STATES or _WORDS.search(str(cause)) is not None


# Words of the server, what they are to the caller, the setting they are about, what to do.
_ADVICE: tuple[tuple[str, type[IxflowError], str, str], ...] = (
    (
        "permission was denied on the object",
        ReadNotAllowed,
        "GRANT",
        "grant it: GRANT SELECT ON {table} TO the user",
    ),
    (
        "lock request time out",
        LockNotAvailable,
        "LOCK_TIMEOUT",
        "another session holds the table; give the intent a longer lock_timeout, or try again",
    ),
    (
        "snapshot isolation is not allowed",
        SnapshotUnavailable,
        "ALLOW_SNAPSHOT_ISOLATION",
        "allow it with ALTER DATABASE ... SET ALLOW_SNAPSHOT_ISOLATION ON, and plan again",
    ),
    (
        "versioned row",
        SourceLimitReached,
        "tempdb",
        "old rows of the snapshot had no room: make room in tempdb, or read when less is written",
    ),
    (
        "'tempdb'",
        SourceLimitReached,
        "tempdb",
        "make room in tempdb, or select fewer rows",
    ),
    (
        "user connections",
        SourceUnavailable,
        "user connections",
        "use fewer workers, or raise the server's 'user connections'",
    ),
)


def advised(error: BaseException, table: str) -> IxflowError | None:
    """Make the typed error for what the server said; None: it says all there is to say."""
    cause: BaseException = getattr(error, "orig", None) or error
    if not type(cause).__module__.startswith("mssql_python"):
        return None
    said = " ".join(str(cause).split())
    for words, kind, setting, what in _ADVICE:
        if words in said.lower():
            return kind(f"{said}; {what.format(table=table)}", table=table, setting=setting)
    return None
