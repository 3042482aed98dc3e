"""What PostgreSQL's refusals of a read mean: the limit that was reached, and who can raise it."""

from __future__ import annotations

from dataclasses import dataclass

from ixflow.errors import (
    IxflowError,
    LockNotAvailable,
    ReadNotAllowed,
    SourceLimitReached,
    SourceUnavailable,
    StatementTimeout,
)

__all__ = ["advised", "is_cancelled_by_replay"]

_LATER = "another session holds the table; give the intent a longer lock_timeout, or try again"
_TRANSACTION = "raise transaction_timeout for this role (ALTER ROLE ... SET ...)"
_CONNECTIONS = (
    "use fewer workers, or raise max_connections on the server, or the role's CONNECTION LIMIT"
)
_REPLICA = (
    "raise max_standby_streaming_delay on the replica, or set hot_standby_feedback = on there, or "
    "read from the primary"
)
_IDLE = (
    "the server ends sessions that hold a snapshot; raise idle_in_transaction_session_timeout for "
    "this role (ALTER ROLE ... SET ...)"
)
_DISK = (
    "the server's disk is full, perhaps of the query's temporary files; make room there, or select "
    "fewer rows"
)


@dataclass(frozen=True, slots=True)
class _Advice:
    """What a refusal means: the error, the setting that is about, and what to do."""

    state: str
    kind: type[IxflowError]
    setting: str
    what: str


_ADVICE = (
    _Advice("55P03", LockNotAvailable, "lock_timeout", _LATER),
    _Advice("72000", SourceLimitReached, "old_snapshot_threshold", "raise it on the server"),
    _Advice("25P03", SourceLimitReached, "idle_in_transaction_session_timeout", _IDLE),
    _Advice(
        "25P04",
        SourceLimitReached,
        "transaction_timeout",
        "raise transaction_timeout for this role",
    ),
    _Advice("53300", SourceUnavailable, "max_connections", _CONNECTIONS),
    _Advice("53100", SourceLimitReached, "temp_file_limit", _DISK),
    _Advice("53400", SourceLimitReached, "temp_file_limit", "raise temp_file_limit for this role"),
    _Advice("53200", SourceLimitReached, "work_mem", "lower work_mem, or use fewer workers"),
)
_PERMISSION = "42501"


def advised(error: BaseException, table: str) -> IxflowError | None:
    """Make the typed error for what the server said; None: it says all there is to say."""
    state, said = _state(error), " ".join(str(error).split())
    if state == _PERMISSION or "permission denied" in said:
        msg = f"{said}; grant it: GRANT SELECT ON {table} TO the role, and USAGE on its schema"
        return ReadNotAllowed(msg, table=table)
    if is_cancelled_by_replay(error):
        setting = "max_standby_streaming_delay"
        return SourceLimitReached(f"{said}; {_REPLICA}", table=table, setting=setting)
    if "due to statement timeout" in said:
        msg = (
            f"{said}; give a longer statement_timeout (an intent: or more and smaller tasks; "
            f"incremental_batches: or batch_rows)"
        )
        return StatementTimeout(msg, table=table, setting="statement_timeout")
    for advice in _ADVICE:
        if state == advice.state:
            return advice.kind(f"{said}; {advice.what}", table=table, setting=advice.setting)
    return None


def is_cancelled_by_replay(error: BaseException) -> bool:
    """Say whether a replica ended the query, because it was in the way of what the primary sent."""
    return "conflict with recovery" in str(error) and _state(error) in ("40001", "", "57014")


def _state(error: BaseException) -> str:
    return str(getattr(getattr(error, "orig", error), "sqlstate", None) or "")
