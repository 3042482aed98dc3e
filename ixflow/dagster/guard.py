"""Metadata can never fail a load: what cannot be told is left out, and the log says which piece."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import dagster as dg

from ixflow.secrets import redact

__all__ = ["guarded", "taken", "tried"]

T = TypeVar("T")
U = TypeVar("U")


def guarded(
    piece: str, make: Callable[[], Mapping[str, Any]], *secrets: str | None
) -> dict[str, Any]:
    """Give the metadata that a function makes, as far as it can be had and Dagster takes it.

    Whatever the function raises becomes a warning in the log that names the ``piece``, without the
    ``secrets``: the rows are where they belong, and the step goes on.

    >>> guarded("rows", lambda: {"dagster/row_count": 3})
    {'dagster/row_count': IntMetadataValue(value=3)}
    >>> guarded("rows", lambda: {"rows": 1 // 0})
    {}
    """
    nothing: dict[str, Any] = {}
    return taken(piece, tried(piece, make, nothing, *secrets))


def tried(piece: str, make: Callable[[], T], instead: U, *secrets: str | None) -> T | U:
    """Give what a function makes, or something else and a warning if it raises."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing of the load depends on it
        _say(piece, error, *secrets)
        return instead


def taken(piece: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the values that Dagster does not take, each with a warning.

    >>> taken("what the audit says", {"rows": 3, "odd": object()})
    {'rows': IntMetadataValue(value=3)}
    """
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        # A number that is none cannot be written as JSON, which the UI asks for.
        odd = isinstance(value, float) and not math.isfinite(value)
        told = str(value) if odd else value
        try:
            # Dagster checks the values where it makes an event of them.
            found |= dg.AssetObservation("ixflow", metadata={key: told}).metadata
        except Exception as error:  # noqa: BLE001 - as above
            _say(f"{piece} ({key})", error)
    return found


def _say(piece: str, error: Exception, *secrets: str | None) -> None:
    said = redact(" ".join(str(error).split()), *secrets)
    kind = type(error).__name__
    dg.get_dagster_logger("ixflow").warning(
        "the metadata of this step lacks %s, which could not be made: %s: %s", piece, kind, said
    )
