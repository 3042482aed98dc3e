"""ixflow's errors as Dagster failures: what happened, to which object, whether to retry."""

import contextlib
from collections.abc import Iterator
from typing import Any

import dagster as dg

from ixflow.errors import IxflowError, LockNotAvailable, SourceUnavailable

__all__ = ["as_failure", "failures"]

# Trying again can help only where the cause lies outside the data and the definitions.
_RETRYABLE = (SourceUnavailable, LockNotAvailable)


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
    """Make the failure: the error's sentence, its fields as metadata, retries where they help."""
    metadata: dict[str, Any] = {"ixflow/error": type(error).__name__}
    for name, value in error.fields.items():
        metadata[f"ixflow/{name}"] = value if isinstance(value, (int, float, str)) else repr(value)
    retry = isinstance(error, _RETRYABLE)
    return dg.Failure(description=str(error), metadata=metadata, allow_retries=retry)
