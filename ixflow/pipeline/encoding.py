"""The values that pass between tasks, as JSON that is the same for equal values.

Lists, tuples and dicts are walked only when they are exactly that; everything else is a leaf. What
JSON has no word for is a dict with the marker key.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from ixflow.errors import FlowError

__all__ = ["MARKER", "decoded", "encoded", "leaves", "mapped"]

MARKER = "$ixflow"
_TIMES: dict[str, Any] = {"datetime": dt.datetime, "date": dt.date, "time": dt.time}


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Rebuild a nested value with every leaf changed.

    >>> mapped({"a": [1, (2,)]}, lambda leaf: leaf + 1)
    {'a': [2, (3,)]}
    """
    if type(value) is list:
        return [mapped(item, change) for item in value]
    if type(value) is tuple:
        return tuple(mapped(item, change) for item in value)
    if type(value) is dict:
        return {key: mapped(item, change) for key, item in value.items()}
    return change(value)


def leaves(value: Any) -> list[Any]:
    """List the leaves of a nested value, in order.

    >>> leaves({"a": [1, (2,)]})
    [1, 2]
    """
    found: list[Any] = []
    mapped(value, found.append)
    return found


def encoded(value: Any, special: Callable[[Any], dict[str, Any] | None], *, where: str) -> str:
    """Write a value as JSON; ``special`` gives the form of leaves that only its caller knows.

    Raises:
        FlowError: something in it cannot pass between tasks.

    """
    form = _form(value, special, where)
    return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _form(value: Any, special: Callable[[Any], dict[str, Any] | None], where: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if type(value) is list:
        return [_form(item, special, where) for item in value]
    if type(value) is tuple:
        return {MARKER: "tuple", "items": [_form(item, special, where) for item in value]}
    if type(value) is dict:
        return _dict_form(value, special, where)
    if isinstance(value, float):
        return _finite(value, where)
    found = special(value)
    if found is None:
        found = _simple_form(value)
    if found is None:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        msg = (
            f"{where} holds a {kind}, which cannot pass between tasks; use numbers, text, dates, "
            f"paths, lists, tuples, dicts and Table(...)"
        )
        raise FlowError(msg, type=kind)
    return found


def _finite(value: float, where: str) -> float:
    if math.isfinite(value):
        return value
    msg = f"{where} holds the float {value}, which is not equal to itself as JSON; use None or text"
    raise FlowError(msg, value=value)


def _dict_form(value: dict[Any, Any], special: Any, where: str) -> dict[str, Any]:
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        msg = f"{where} holds a dict with the key {wrong[0]!r}; keys must be text"
        raise FlowError(msg, key=wrong[0])
    form = {key: _form(item, special, where) for key, item in value.items()}
    return {MARKER: "dict", "items": form} if MARKER in form else form


def _simple_form(value: Any) -> dict[str, Any] | None:
    for name, kind in _TIMES.items():  # datetime first: it is a date too
        if isinstance(value, kind):
            return {MARKER: name, "value": value.isoformat()}
    if isinstance(value, dt.timedelta):
        return {MARKER: "timedelta", "value": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, PurePath):
        return {MARKER: "path", "value": str(value)}
    return None


def decoded(text: str, special: Callable[[dict[str, Any]], Any]) -> Any:
    """Read a value back; ``special`` rebuilds the leaves that its caller wrote."""
    return _value(json.loads(text), special)


def _value(form: Any, special: Callable[[dict[str, Any]], Any]) -> Any:
    if isinstance(form, list):
        return [_value(item, special) for item in form]
    if not isinstance(form, dict):
        return form
    if form.get(MARKER, "dict") == "dict":
        items = form["items"] if MARKER in form else form
        return {key: _value(item, special) for key, item in items.items()}
    if form[MARKER] == "tuple":
        return tuple(_value(item, special) for item in form["items"])
    return _READERS.get(form[MARKER], special)(form)


_READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "datetime": lambda form: dt.datetime.fromisoformat(form["value"]),
    "date": lambda form: dt.date.fromisoformat(form["value"]),
    "time": lambda form: dt.time.fromisoformat(form["value"]),
    "timedelta": lambda form: dt.timedelta(*form["value"]),
    "path": lambda form: Path(form["value"]),
}
