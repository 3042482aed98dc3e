"""Every error that ixflow raises on purpose, grouped by what the caller can do about it.

IxflowError (IxtractError)
├── ValidationError (ValueError)     mend the call: an argument, an intent, a configuration
│   ├── FlowError                    ... the way a flow is declared
│   │   ├── StageError               ...... or one of its stages
│   │   ├── DuplicateNameError       ...... two things of one name
│   │   └── NoConfiguration          ...... none is open and no file is found (LookupError)
│   ├── ConfigError                  ... a key or value of a configuration file, or what it names
│   ├── TableNotFound                ... the table that is named does not exist
│   ├── UnsupportedDatabase          ... no dialect, or a package is missing for it
│   ├── UnsupportedState             ... ixflow's tables in the database are of a newer release
│   ├── UnsupportedType              ... a column type that cannot be written from this input
│   └── UnsupportedPlanVersion       ... a stored plan of another version
├── DataError                        mend the data: nothing of the batch was kept
│   ├── ValueDoesNotFit              ... one value does not fit its column
│   └── ColumnMismatch               ... missing or surplus columns
├── SourceUnavailable                try again later: the database cannot be reached or refuses us
│   └── NoConnectionLeft             ... our own runs on this machine use all it may give us
├── LockNotAvailable                 try again later: others hold the table, or the stage's lock
├── SourceLimitReached               mend the source's or the intent's setting that is named
│   ├── StatementTimeout             ... a query took longer than it may
│   └── SnapshotTooOld               ... the snapshot was open for longer than it may
├── ReadNotAllowed                   mend the role: it may not read what is named
├── InputChanged                     try again later: an input was published anew meanwhile
├── OutputNotWritable                mend the place: directory, disk, permissions
├── StateUnavailable                 mend the place: the state database cannot be used
├── ReplacementRefused               decide: something hangs on the table that would be lost
├── AuditFailed                      decide: an audit refused the stage, nothing was published
├── ApprovalRefused                  decide: what waits to be published by hand can be no more
├── NotRecommendedError              decide: the plan's verdict is NOT RECOMMENDED
├── SnapshotUnavailable              decide: one snapshot for all workers cannot be had
├── PlanCorruptionError              give up: a stored plan is not what was stored
├── ExecutionError                   look at the cause: an extraction stopped, nothing published
├── IngestError                      look at the cause: a batch was rolled back
│   ├── ArrivalDiffers               ... what is there is not what was sent
│   ├── CheckFailed                  ... rows break a rule that refuses
│   ├── TooManyMissing               ... the source lacks more rows than it may
│   └── DuplicatePartitionError      ... a version has the rows of the one before
├── TaskError                        look at the cause: the user's task raised
├── CacheError                       run the producing task: a stored result is missing
└── LockError                        a stage lock was lost, or is needed and not held
    └── NoStageLockContext           ... none is open (LookupError)

The docstring is the default message; fields say which object is meant. No text ever holds a
credential: whoever builds a message from a driver's words passes them through
`ixflow.secrets.redact` first.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ApprovalRefused",
    "ArrivalDiffers",
    "AuditFailed",
    "CacheError",
    "CheckFailed",
    "ColumnMismatch",
    "ConfigError",
    "DataError",
    "DuplicateNameError",
    "DuplicatePartitionError",
    "ExecutionError",
    "FlowError",
    "IngestError",
    "InputChanged",
    "IxflowError",
    "IxtractError",
    "LockError",
    "LockNotAvailable",
    "NoConfiguration",
    "NoConnectionLeft",
    "NoStageLockContext",
    "NotRecommendedError",
    "OutputNotWritable",
    "PlanCorruptionError",
    "ReadNotAllowed",
    "ReplacementRefused",
    "SnapshotTooOld",
    "SnapshotUnavailable",
    "SourceLimitReached",
    "SourceUnavailable",
    "StageError",
    "StateUnavailable",
    "StatementTimeout",
    "TableNotFound",
    "TaskError",
    "TooManyMissing",
    "UnsupportedDatabase",
    "UnsupportedPlanVersion",
    "UnsupportedState",
    "UnsupportedType",
    "ValidationError",
    "ValueDoesNotFit",
]


class IxflowError(Exception):
    """Something went wrong in ixflow.

    ``fields`` holds what the message names, for code that wants to act on it; each is also an
    attribute: ``TableNotFound("...", table="shop.orders").table``.
    """

    def __init__(self, message: str | None = None, **fields: Any) -> None:
        """Take the message (default: the class's own sentence) and the named fields."""
        self.message = message or (type(self).__doc__ or "").split("\n", 1)[0]
        self.fields = fields
        super().__init__(self.message)

    def __getattr__(self, name: str) -> Any:
        """Give the named field."""
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        msg = f"{type(self).__name__} has no field {name!r}"
        raise AttributeError(msg)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes with message and fields."""
        return (_rebuild, (type(self), self.message, self.fields))


def _rebuild(kind: type[IxflowError], message: str, fields: dict[str, Any]) -> IxflowError:
    return kind(message, **fields)


IxtractError = IxflowError


class ValidationError(IxflowError, ValueError):
    """An argument, an intent or a configuration is not valid."""


class FlowError(ValidationError):
    """The flow is not declared in a way that can run."""


class StageError(FlowError):
    """The stage is not declared or used in a way that can run."""


class DuplicateNameError(FlowError):
    """Two things that need different names have the same one."""


class NoConfiguration(FlowError, LookupError, FileNotFoundError):
    """No configuration is open, and no configuration file is found."""


class ConfigError(ValidationError):
    """A key or a value of the configuration is wrong."""


class TableNotFound(ValidationError):
    """The table does not exist, or the role may not see it."""


class UnsupportedDatabase(ValidationError):
    """There is no dialect for this database, or the package that speaks to it is missing."""


class UnsupportedState(ValidationError):
    """The tables that ixflow keeps in this database were written by a newer release."""


class UnsupportedType(ValidationError):
    """A column's type cannot be filled from this kind of input."""


class UnsupportedPlanVersion(ValidationError):
    """The stored plan has a version that this release cannot run."""


class DataError(IxflowError):
    """The data do not fit the table; nothing of the batch was kept."""


class ValueDoesNotFit(DataError):
    """A value does not fit its column."""


class ColumnMismatch(DataError):
    """The columns of the data are not the columns of the table."""


class SourceUnavailable(IxflowError):
    """The database cannot be reached, or refuses the connection."""


class NoConnectionLeft(SourceUnavailable):
    """Other runs on this machine use all connections that the source may give us."""


class LockNotAvailable(IxflowError):
    """Others held the table, or the lock of the stage, for longer than the limit."""


class SourceLimitReached(IxflowError):
    """A limit of the source, or of our visit there, stopped the reading."""


class StatementTimeout(SourceLimitReached):
    """A query took longer than it may."""


class SnapshotTooOld(SourceLimitReached):
    """The snapshot was open for longer than it may."""


class ReadNotAllowed(IxflowError):
    """The role may not read the table."""


class InputChanged(IxflowError):
    """An input of the stage was published anew while the stage was computed."""


class OutputNotWritable(IxflowError):
    """The output directory cannot be written."""


class StateUnavailable(IxflowError):
    """The database that remembers runs and plans cannot be used."""


class ReplacementRefused(IxflowError):
    """The table cannot be replaced without losing something that hangs on it."""


class AuditFailed(IxflowError):
    """An audit refused the tables of the stage; nothing was published."""


class ApprovalRefused(IxflowError):
    """What was to be published by hand does not wait any more, or is superseded."""


class NotRecommendedError(IxflowError):
    """The plan's verdict is NOT RECOMMENDED and force is not set."""


class SnapshotUnavailable(IxflowError):
    """One snapshot for all workers cannot be had, and the intent requires it."""


class PlanCorruptionError(IxflowError):
    """The stored plan does not match its stored fingerprint."""


class ExecutionError(IxflowError):
    """The extraction failed; nothing was published."""


class IngestError(IxflowError):
    """The batch failed and was rolled back."""


class DuplicatePartitionError(IngestError):
    """The version has exactly the rows of the version before it; it was not kept."""


class ArrivalDiffers(IngestError):
    """What is there is not what was sent; the batch was rolled back."""


class CheckFailed(IngestError):
    """Rows break a rule; their batch was rolled back."""


class TooManyMissing(IngestError):
    """More rows than may be are missing in the source; none was deleted."""


class TaskError(IxflowError):
    """A task of the flow raised an exception."""


class CacheError(IxflowError):
    """A stored result is missing."""


class LockError(IxflowError):
    """A stage lock was lost, or is needed and not held."""


class NoStageLockContext(LockError, LookupError):
    """No `StageLockContext` is open."""
