"""The arithmetic of keys: a guess for the middle between two of them, all in whole numbers.

A guess need not be a key, and need not even lie between the two as the server orders: whoever asks
looks for an existing key from the guess on, and lets the server say where it lies.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

__all__ = ["Kind", "extent", "is_plain", "middle"]

Kind = Literal[
    "integer", "decimal", "date", "datetime", "moment", "uuid", "node uuid", "binary", "text"
]
"""What a column's texts mean.

A ``moment`` is a datetime with its offset from UTC, a ``node uuid`` one that the server orders by
its last group first.
"""

_MICROSECOND = dt.timedelta(microseconds=1)
_Day = TypeVar("_Day", dt.date, dt.datetime)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_HEX = re.compile(r"(\\x)?([0-9A-Fa-f]{2})*")
# Symbols that a guess looks at behind what two keys have in common.
_SYMBOLS, _LONGEST = 4, 200
_BLANK, _NINE, _A = ord(" "), ord("9"), ord("a")
# Between digits and letters there are signs and capitals, which have no ranks of their own.
_SIGNS = _A - _NINE - 1
_ASCII = ord("~") - _SIGNS - _BLANK + 1
_SURROGATES = range(0xD800, 0xE000)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Two keys as whole numbers, and how a number between them is written as a key."""

    low: int
    high: int
    write: Callable[[int], str]


def middle(kind: Kind, low: str, high: str) -> str | None:
    """Give a text behind ``low`` and not behind ``high``, about half way; None: there is none.

    >>> middle("integer", "1", "2"), middle("integer", "2", "2")
    ('2', None)
    >>> middle("integer", "0", "18446744073709551615")
    '9223372036854775808'
    """
    scale = _scale(kind, low, high)
    if scale is None or scale.low >= scale.high:
        return None
    return scale.write((scale.low + scale.high + 1) // 2)


def extent(kind: Kind, low: str, high: str) -> int:
    """Give how far two keys are apart, at least 1, in a unit that holds for this pair alone.

    >>> extent("date", "2024-02-28", "2024-03-01")
    2
    """
    scale = _scale(kind, low, high)
    return 1 if scale is None else max(1, abs(scale.high - scale.low))


def is_plain(kind: Kind, text: str) -> bool:
    """Say whether a text is an ordinary value of its type: no infinity, no zero date.

    >>> is_plain("date", "2024-00-01"), is_plain("decimal", "NaN"), is_plain("integer", "-7")
    (False, False, True)
    """
    if kind in ("integer", "decimal"):
        return _NUMBER.fullmatch(text) is not None
    if kind == "binary":
        return _HEX.fullmatch(text) is not None
    if kind == "date":
        return _day(text) is not None
    return kind in ("text", "uuid", "node uuid") or _moment(text) is not None


def _scale(kind: Kind, low: str, high: str) -> _Scale | None:
    if kind == "text":
        return _of_text(low, high)
    if kind == "date":
        first, last = (
            (_day(_calendar(text)) or _end(text, dt.date)).toordinal() for text in (low, high)
        )
        return _Scale(first, last, lambda n: dt.date.fromordinal(n).isoformat())
    if kind in ("datetime", "moment"):
        return _of_moments(low, high, "+00:00" if kind == "moment" else "")
    if not is_plain(kind, low) or not is_plain(kind, high):
        return None
    if kind in ("uuid", "node uuid"):
        return _of_uuids(low.lower(), high.lower(), -1 if kind == "node uuid" else 1)
    return _of_bytes(low, high, str) if kind == "binary" else _of_numbers(low, high)


def _of_numbers(low: str, high: str) -> _Scale:
    """Shift the points of both away; no arithmetic with a precision is involved."""
    digits = max(len(text.partition(".")[2]) for text in (low, high))

    def number(text: str) -> int:
        whole, _, fraction = text.partition(".")
        return int(whole + fraction.ljust(digits, "0"))

    def write(found: int) -> str:
        text = str(abs(found)).rjust(digits + 1, "0")
        sign = "-" if found < 0 else ""
        return f"{sign}{text[:-digits]}.{text[-digits:]}" if digits else f"{sign}{text}"

    return _Scale(number(low), number(high), write)


def _of_moments(low: str, high: str, offset: str) -> _Scale:
    start = dt.datetime.min  # noqa: DTZ901 - all of them are UTC
    first, last = (_moment(_calendar(text)) or _end(text, dt.datetime) for text in (low, high))

    def write(found: int) -> str:
        return (start + found * _MICROSECOND).isoformat(" ") + offset

    return _Scale((first - start) // _MICROSECOND, (last - start) // _MICROSECOND, write)


def _calendar(text: str) -> str:
    """Move MySQL's dates without a month or day, which sort before all others, into the year."""
    return text.replace("-00", "-01", 2)


def _end(text: str, kind: type[_Day]) -> _Day:
    """Take what Python has no date for as the end of time on which a server puts it."""
    return kind.max if text == "infinity" else kind.min


def _day(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return None


def _moment(text: str) -> dt.datetime | None:
    try:
        found = dt.datetime.fromisoformat(text)
        return found if found.tzinfo is None else found.astimezone(dt.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def _of_bytes(low: str, high: str, finish: Callable[[str], str]) -> _Scale:
    """Read hexadecimal digits, in whole bytes, behind what both have in common."""
    mark = r"\x" if low.startswith(r"\x") else ""
    low, high = low.removeprefix(mark).lower(), high.removeprefix(mark).lower()
    same = _common(low, high) // 2 * 2
    width = 2 * _SYMBOLS
    first, last = (int(text[same : same + width].ljust(width, "0"), 16) for text in (low, high))
    prefix = low[:same]
    return _Scale(first, last, lambda n: finish(f"{mark}{prefix}{n:0{width}x}"))


def _of_uuids(low: str, high: str, step: int) -> _Scale:
    """Order by groups, the first or the last one first.

    Some servers refuse what is no version of a UUID, so the digits behind the guess stay.
    """
    first, last = ("".join(text.split("-")[::step]) for text in (low, high))
    widths = (8, 4, 4, 4, 12)[::step]

    def finish(digits: str) -> str:
        full, groups = digits + first[len(digits) :], []
        for width in widths:
            groups.append(full[:width])
            full = full[width:]
        return "-".join(groups[::step])

    return _of_bytes(first, last, finish)


def _of_text(low: str, high: str) -> _Scale:
    """Order letters without case and accents, behind digits, as most collations do at first sight.

    The first symbol may be any; those behind it count as far as they are ASCII.
    """
    first, last = ([_rank(char) for char in text[:_LONGEST]] for text in (low, high))
    same = _common(first, last)
    prefix = low[:same]

    def number(ranks: Sequence[int]) -> int:
        found = ranks[0] if ranks else 0
        for place in range(1, _SYMBOLS):
            rank = ranks[place] if place < len(ranks) else _BLANK
            found = found * _ASCII + min(max(rank - _BLANK, 0), _ASCII - 1)
        return found

    def write(found: int) -> str:
        rest = ""
        for _ in range(1, _SYMBOLS):
            found, rank = divmod(found, _ASCII)
            rest = _symbol(rank + _BLANK) + rest
        return (prefix + _symbol(found) + rest).rstrip(" ")

    return _Scale(number(first[same:]), number(last[same:]), write)


def _rank(char: str) -> int:
    """Give the place of a symbol: letters follow digits, and signs come before both."""
    code = ord(unicodedata.normalize("NFKD", char.lower())[0])
    if code <= _NINE:
        return code
    return code - _SIGNS if code >= _A else _NINE - 10


def _symbol(rank: int) -> str:
    code = rank if rank <= _NINE else rank + _SIGNS
    return chr(_SURROGATES.stop if code in _SURROGATES else max(_BLANK, code))


def _common(low: Sequence[object], high: Sequence[object]) -> int:
    """Count what two sequences have in common at their start."""
    pairs = enumerate(zip(low, high, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(low), len(high)))
