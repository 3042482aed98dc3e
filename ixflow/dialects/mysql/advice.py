"""What MySQL's and MariaDB's refusals of a read mean, and which setting or right is missing."""

from __future__ import annotations

from ixflow.errors import (
    IxflowError,
    LockNotAvailable,
    ReadNotAllowed,
    SnapshotUnavailable,
    SourceLimitReached,
    SourceUnavailable,
    StatementTimeout,
)

__all__ = ["advised"]

_TIMEOUT = "give the intent a longer statement_timeout, or more and smaller tasks"
_ROOM = "make room on the server's disk, perhaps in its tmpdir, or select fewer rows"
_ADVICE: dict[int, tuple[type[IxflowError], str, str]] = {
    1969: (StatementTimeout, "max_statement_time", _TIMEOUT),
    3024: (StatementTimeout, "max_execution_time", _TIMEOUT),
    1205: (
        LockNotAvailable,
        "lock_wait_timeout",
        "another session holds the table; give the intent a longer lock_timeout, or try again",
    ),
    1040: (
        SourceUnavailable,
        "max_connections",
        "use fewer workers, or raise max_connections on the server",
    ),
    1203: (
        SourceUnavailable,
        "max_user_connections",
        "use fewer workers, or raise max_user_connections for this user",
    ),
    1226: (
        SourceUnavailable,
        "max_user_connections",
        "use fewer workers, or raise the limit of this user (ALTER USER ... WITH ...)",
    ),
    1153: (
        SourceLimitReached,
        "max_allowed_packet",
        "raise max_allowed_packet on the server above the longest value",
    ),
    1412: (
        SnapshotUnavailable,
        "",
        "it was altered after the snapshot was taken, which cannot see it now; extract again",
    ),
    1021: (SourceLimitReached, "tmpdir", _ROOM),
    1114: (SourceLimitReached, "tmp_table_size", _ROOM),
    1038: (SourceLimitReached, "sort_buffer_size", "raise sort_buffer_size for this session"),
}
_PERMISSION = (1142, 1143, 1044)


def advised(error: BaseException, table: str) -> IxflowError | None:
    """Make the typed error for what the server said; None: it says all there is to say."""
    cause: BaseException = getattr(error, "orig", None) or error
    code = cause.args[0] if cause.args else None
    said = " ".join(str(cause.args[-1] if cause.args else cause).split())
    if code in _PERMISSION:
        msg = f"{said}; grant it: GRANT SELECT ON {table} TO the user"
        return ReadNotAllowed(msg, table=table)
    if not isinstance(code, int) or code not in _ADVICE:
        return None
    kind, setting, what = _ADVICE[code]
    return kind(f"{said}; {what}", table=table, setting=setting)
