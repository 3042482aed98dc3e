"""What PostgreSQL's refusals mean: its SQLSTATEs as errors that say what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ixflow.errors import ValueDoesNotFit

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["is_refused_value", "refusal", "state_of"]

_DATA_EXCEPTION = "22"
_PLACE = re.compile(r"COPY (?P<table>.+), line (?P<line>\d+)(?:, column (?P<column>.+?)(?::|$))?")


def state_of(error: sa.exc.DBAPIError) -> str:
    """Give the SQLSTATE of an error, whichever driver raised it; empty where there is none."""
    found = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return str(found or "")


def is_refused_value(error: sa.exc.DBAPIError) -> bool:
    """Say whether the server refused a value."""
    return state_of(error).startswith(_DATA_EXCEPTION)


def refusal(error: sa.exc.DBAPIError) -> Exception:
    """Say which value the server refused, or give back the error if it was not for a value."""
    if not is_refused_value(error):
        return error
    said = " ".join(str(error.orig).split())
    hint = " (a text cannot hold the NUL character)" if "0x00" in said else ""
    # COPY tells line and column in the error's context, one field a driver.
    place = _PLACE.search(_context(error.orig))
    if place is None:
        return ValueDoesNotFit(f"the server refuses a value{hint}: {said}", reason=said)
    row, column = int(place["line"]) - 1, place["column"]
    msg = f"{place['table']}.{column} in row {row} is refused by the server{hint}: {said}"
    return ValueDoesNotFit(msg, table=place["table"], column=column, row=row, reason=said)


def _context(error: Any) -> str:
    return str(getattr(getattr(error, "diag", None), "context", None) or "")
