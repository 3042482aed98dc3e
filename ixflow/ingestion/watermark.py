"""The high watermark as it is kept: JSON in the comment of the metadata's first table. No I/O.

Key and format are the ones pg-bulk-ingest uses, so that its users resume where they stopped. The
record of the last run sits beside it, and whatever else is in the comment stays.
"""

from __future__ import annotations

import json
from typing import Any

from ixflow.errors import ValidationError

__all__ = ["changed_by", "facts_of", "record_of", "watermark_of", "with_facts", "with_watermark"]

_KEY, _WATERMARK = "pg-bulk-ingest", "high-watermark"
_RECORD = "ixflow"


def watermark_of(comment: str | None) -> Any:
    """Read the watermark out of a table comment; None where there is none.

    >>> watermark_of('{"pg-bulk-ingest": {"high-watermark": 7}}')
    7
    """
    found = _object(comment).get(_KEY)
    return found.get(_WATERMARK) if isinstance(found, dict) else None


def record_of(comment: str | None) -> dict[str, Any]:
    """Read the record of the last run out of a table comment; empty where there is none.

    >>> record_of(None)
    {}
    """
    found = _object(comment).get(_RECORD)
    return found if isinstance(found, dict) else {}


def changed_by(comment: str | None) -> dict[str, str]:
    """Read which run was the last to change each table; empty where nothing says so.

    >>> changed_by('{"ixflow": {"changed_by": {"shop.orders": "ix-1"}}}')
    {'shop.orders': 'ix-1'}
    """
    found = record_of(comment).get("changed_by")
    return found if isinstance(found, dict) else {}


def with_watermark(comment: str | None, watermark: Any, record: dict[str, Any]) -> str:
    """Write watermark and run record into a comment, keeping everything else that is in it.

    A comment that is not a JSON object is kept under the key ``comment``.

    Raises:
        ValidationError: the watermark cannot be written as JSON.

    >>> with_watermark("Orders of the shop", 7, {})
    '{"comment": "Orders of the shop", "pg-bulk-ingest": {"high-watermark": 7}, "ixflow": {}}'
    """
    parsed = _object(comment)
    if comment and not parsed and comment.strip() != "{}":
        parsed = {"comment": comment}
    inner = parsed.get(_KEY)
    try:
        json.dumps(watermark, allow_nan=False)
    except (RecursionError, TypeError, ValueError) as error:
        msg = (
            f"the high watermark {watermark!r} is not a JSON value ({error}); use text or a number"
        )
        raise ValidationError(msg, high_watermark=repr(watermark)) from None
    parsed[_KEY] = {**(inner if isinstance(inner, dict) else {}), _WATERMARK: watermark}
    parsed[_RECORD] = record
    # What others put into the comment may be NaN, which pg-bulk-ingest wrote too.
    return json.dumps(parsed)


def facts_of(comment: str | None) -> dict[str, Any]:
    """Read everything that is kept beside the watermark, and the watermark; empty if nothing is.

    >>> facts_of('{"pg-bulk-ingest": {"version": "1"}}')
    {'version': '1'}
    """
    found = _object(comment).get(_KEY)
    return found if isinstance(found, dict) else {}


def with_facts(comment: str | None, **facts: Any) -> str:
    """Write facts beside the watermark into a comment, keeping everything else that is in it.

    >>> with_facts('{"pg-bulk-ingest": {"high-watermark": 7}}', version="1")
    '{"pg-bulk-ingest": {"high-watermark": 7, "version": "1"}}'
    """
    parsed = _object(comment)
    parsed[_KEY] = {**facts_of(comment), **facts}
    return json.dumps(parsed)


def _object(comment: str | None) -> dict[str, Any]:
    try:
        parsed = json.loads(comment or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
