"""The high watermark of an incremental ingest, as a JSON value and back. No I/O.

Keys and numbers of transactions are texts in it, in the database's own exact spelling, so that no
reader of JSON rounds them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ixflow.errors import ValidationError

__all__ = ["KeyMark", "Reading", "TransactionMark", "mark_of"]


@dataclass(frozen=True, slots=True)
class KeyMark:
    """The greatest cursor that was read; None: only rows without one were there."""

    cursor: str | None
    after: str | None

    def as_json(self) -> dict[str, Any]:
        """Give the JSON value that is stored."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was begun: rows of transactions below ``until``, of which those up to ``after`` are in.

    ``since`` is for the mark behind it.
    """

    until: int
    since: str | None
    after: str


@dataclass(frozen=True, slots=True)
class TransactionMark:
    """All rows of transactions below ``below`` (None: of none) of this history of a server.

    Every row of any other has a cursor from ``since`` on (None: nobody knows).
    """

    cursor: str | None
    server: str
    below: int | None
    since: str | None = None
    reading: Reading | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the JSON value that is stored."""
        below = None if self.below is None else str(self.below)
        found: dict[str, Any] = {"cursor": self.cursor, "server": self.server}
        found |= {"transactions_below": below, "since": self.since}
        if self.reading is not None:
            found["reading"] = {**asdict(self.reading), "until": str(self.reading.until)}
        return found


Mark = KeyMark | TransactionMark


def mark_of(stored: Any, cursor: str | None) -> Mark | None:
    """Read a mark; a plain text or whole number is a value of the cursor.

    Raises:
        ValidationError: it is none, or of another cursor.

    >>> mark_of(7, "id")
    KeyMark(cursor='id', after='7')
    """
    if stored is None:
        return None
    if isinstance(stored, (str, int)) and not isinstance(stored, bool):
        if cursor is None:
            raise _unknown(stored, "no cursor is given that it could be a value of")
        return KeyMark(cursor, str(stored))
    try:
        found = _parsed(stored)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _unknown(stored, "it is not one of incremental_batches") from None
    if found.cursor != cursor:
        raise _unknown(stored, f"it is of the cursor {found.cursor}, not of {cursor}")
    return found


def _parsed(stored: dict[str, Any]) -> Mark:
    if "after" in stored:
        return KeyMark(stored["cursor"], _text(stored["after"]))
    reading = stored.get("reading")
    begun = reading and Reading(int(reading["until"]), _text(reading["since"]), reading["after"])
    below = stored["transactions_below"]
    return TransactionMark(
        cursor=stored["cursor"],
        server=str(stored["server"]),
        below=None if below is None else int(below),
        since=_text(stored["since"]),
        reading=begun,
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _unknown(stored: Any, why: str) -> ValidationError:
    msg = (
        f"the high watermark {stored!r:.200} cannot be used: {why}; give a value of the cursor as "
        f"high_watermark, or HighWatermark.EARLIEST to read everything once more"
    )
    return ValidationError(msg, high_watermark=stored)
