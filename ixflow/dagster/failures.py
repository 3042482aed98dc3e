"""ixflow's errors as Dagster failures: what happened, to which object, whether to retry."""

import contextlib
from collections.abc import Iterator
from typing import Any

import dagster as dg

from ixflow.errors import (
    ApprovalRefused,
    AuditFailed,
    DataError,
    IxflowError,
    NotRecommendedError,
    OutputNotWritable,
    PlanCorruptionError,
    ReplacementRefused,
    SnapshotUnavailable,
    ValidationError,
)

__all__ = ["as_failure", "failures"]

# A person has to mend or decide something before another try can end differently.
_LASTING = (
    ApprovalRefused,
    AuditFailed,
    DataError,
    NotRecommendedError,
    OutputNotWritable,
    PlanCorruptionError,
    ReplacementRefused,
    SnapshotUnavailable,
    ValidationError,
)


@contextlib.contextmanager
def failures(but: type[IxflowError] | tuple[()] = ()) -> Iterator[None]:
    """Turn an ixflow error inside the block into a `dagster.Failure`, all but one kind."""
    try:
        yield
    except but:
        raise
    except IxflowError as error:
        raise as_failure(error) from error


def as_failure(error: IxflowError) -> dg.Failure:
    """Make the failure: the error's sentence, its fields as metadata, retries where they may help.

    Whether there are retries at all is for the asset's retry policy to say.
    """
    metadata: dict[str, Any] = {"ixflow/error": type(error).__name__}
    for name, value in error.fields.items():
        metadata[f"ixflow/{name}"] = value if isinstance(value, (int, float, str)) else repr(value)
    return dg.Failure(description=str(error), metadata=metadata, allow_retries=_may_help(error))


def _may_help(error: BaseException) -> bool:
    """Say whether trying again may end differently, judging by the innermost known cause."""
    cause = error.__cause__
    if isinstance(cause, (IxflowError, dg.Failure)):
        return _may_help(cause)
    if isinstance(error, dg.Failure):
        return error.allow_retries
    return not isinstance(error, _LASTING) and not getattr(error, "fields", {}).get("lasting")
