"""The values that pass between tasks, as JSON that is the same for equal values.

Lists, tuples and dicts are walked only when they are exactly that, and so are users' dataclasses
and named tuples (records); everything else is a leaf. What JSON has no word for is a dict with the
marker key.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from ixflow.errors import FlowError

__all__ = ["MARKER", "decoded", "encoded", "fields_of", "leaves", "mapped"]

MARKER = "$ixflow"
_TIMES: dict[str, Any] = {"datetime": dt.datetime, "date": dt.date, "time": dt.time}


def fields_of(value: Any) -> dict[str, Any] | None:
    """Give the fields of a user's dataclass or named tuple; None for other things.

    >>> from collections import namedtuple
    >>> fields_of(namedtuple("Point", "x y", module="shop")(1, 2))
    {'x': 1, 'y': 2}
    """
    kind = type(value)
    if kind.__module__.partition(".")[0] == "ixflow":
        return None
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return dict(zip(kind._fields, value, strict=True))
    if not dataclasses.is_dataclass(kind):
        return None
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}


def mapped(value: Any, change: Callable[[Any], Any], *, whole: tuple[type, ...] = ()) -> Any:
    """Rebuild a nested value with every leaf changed; what is of a ``whole`` type is a leaf.

    >>> mapped({"a": [1, (2,)]}, lambda leaf: leaf + 1)
    {'a': [2, (3,)]}
    """
    if whole and isinstance(value, whole):
        return change(value)
    if type(value) is list:
        return [mapped(item, change, whole=whole) for item in value]
    if type(value) is tuple:
        return tuple(mapped(item, change, whole=whole) for item in value)
    if type(value) is dict:
        return {key: mapped(item, change, whole=whole) for key, item in value.items()}
    found = fields_of(value)
    if found is None:
        return change(value)
    return _with(value, {name: mapped(item, change, whole=whole) for name, item in found.items()})


def _with(record: Any, fields: Mapping[str, Any]) -> Any:
    """Copy a record with other values, which its class need not accept: they may be references."""
    if isinstance(record, tuple):
        return type(record)._make(fields.values())  # type: ignore[attr-defined] # a named tuple
    made = copy.copy(record)
    for name, item in fields.items():
        object.__setattr__(made, name, item)
    return made


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
    if found is None and (fields := fields_of(value)) is not None:
        items = {name: _form(item, special, where) for name, item in fields.items()}
        found = {MARKER: "record", "class": _class_name(type(value), where), "fields": items}
    if found is None:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        msg = (
            f"{where} holds a {kind}, which cannot pass between tasks; use numbers, text, dates, "
            f"paths, lists, tuples, dicts, dataclasses and Table(...)"
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


def _class_name(kind: type, where: str) -> str:
    # In a process that was spawned, the script of the leader has another name.
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    name = f"{module}:{kind.__qualname__}"
    if _class_named(name) is None:
        msg = f"{where} holds a {name}, which its module does not have; define the class there"
        raise FlowError(msg, type=name)
    return name


def _class_named(name: str) -> Any:
    module, _, path = name.partition(":")
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
    except ImportError:
        return None
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _record(form: dict[str, Any], special: Callable[[dict[str, Any]], Any]) -> Any:
    """Read a record back as it was, without asking its class to make it again."""
    fields = {name: _value(item, special) for name, item in form["fields"].items()}
    kind = _class_named(form["class"])
    if kind is None:
        msg = f"a stored value holds a {form['class']}, which is gone; run its task again"
        raise FlowError(msg, type=form["class"])
    if issubclass(kind, tuple):
        return kind(**fields)
    made = kind.__new__(kind)
    for name, item in fields.items():
        object.__setattr__(made, name, item)
    return made


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
    if form[MARKER] == "record":
        return _record(form, special)
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
