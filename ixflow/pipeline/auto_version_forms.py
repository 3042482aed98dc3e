"""Writing down code and constants so that different ones never look alike, or refusing them.

What belongs to an installed library is named, with the library's version; functions of the user
are written as their byte code with the constants, defaults, closures and globals that they use.
What can be written in no such way is refused, or, where it only completes what a trace says, named
by its type.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ixflow.pipeline.auto_version_names import (
    class_name,
    is_core,
    is_library,
    library_name,
    names_used,
)

__all__ = ["TRACED", "Forms", "NotTraceable"]

#: The first word of the form of what stands for a table.
TRACED = "traced"
_PLAIN = (bool, int, float, complex, str, bytes, range, type(None), type(Ellipsis))
_CALLABLES: dict[type, tuple[str, ...]] = {
    types.MethodType: ("__self__", "__func__"),
    types.BuiltinFunctionType: ("__self__", "__name__"),
    types.MethodWrapperType: ("__self__", "__name__"),
    functools.partial: ("func", "args", "keywords"),
    functools.cached_property: ("func",),
    property: ("fget", "fset", "fdel"),
}


class NotTraceable(Exception):
    """What a function does with its tables cannot be written down."""


class Forms:
    """Writes values as nested lists of texts.

    ``known(value)`` gives the form of what only the caller knows, else None. If ``lenient``, what
    cannot be written is named by its type instead of refused.
    """

    def __init__(self, known: Callable[[Any], Any], *, lenient: bool = False) -> None:
        self._known = known
        self._lenient = lenient
        self._seen: dict[int, int] = {}
        self._depth = 0

    def of(self, value: Any) -> Any:
        """Write a value.

        Raises:
            NotTraceable: another value could have the same form.

        """
        found = self._known(value)
        if found is None and type(value) in _PLAIN:
            found = [type(value).__name__, repr(value)]
        if found is None:
            found = library_name(value)
        if found is not None:
            return found
        if self._depth == 0:
            self._seen.clear()
        self._depth += 1
        try:
            return self._container(value) or self._once(value)
        except (NotTraceable, RecursionError) as error:
            if self._lenient:
                return ["some", *class_name(type(value))]
            if isinstance(error, RecursionError):
                msg = f"a {'.'.join(class_name(type(value)))} is too deep to be written down"
                raise NotTraceable(msg) from error
            raise
        finally:
            self._depth -= 1

    def _once(self, value: Any) -> Any:
        """Write a function or object where it is met first, then refer to that place."""
        if id(value) in self._seen:
            return ["seen", self._seen[id(value)]]
        self._seen[id(value)] = len(self._seen)
        return self._code(value) or self._object(value)

    def _container(self, value: Any) -> Any:
        kind = type(value)
        if kind in (list, tuple):
            return [kind.__name__, *(self.of(item) for item in value)]
        if kind in (dict, types.MappingProxyType):
            return ["dict", *([self.of(key), self.of(item)] for key, item in value.items())]
        if kind in (set, frozenset):
            return [kind.__name__, *sorted((self.of(item) for item in value), key=json.dumps)]
        if kind is slice:
            return ["slice", self.of(value.start), self.of(value.stop), self.of(value.step)]
        return None

    def _code(self, value: Any) -> Any:
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.CodeType):
            return self._byte_code(value)
        if isinstance(value, types.MethodType) and is_library(value.__func__.__module__):
            return ["method", self.of(value.__self__), value.__name__]
        for kind, parts in _CALLABLES.items():
            if isinstance(value, kind):
                return [kind.__name__, *(self.of(getattr(value, part)) for part in parts)]
        wrapped = getattr(value, "__wrapped__", None)
        known = is_library if self._lenient else is_core
        if isinstance(wrapped, types.FunctionType) and known(type(value).__module__):
            # A functools.cache; a task that is called by a task.
            return ["wrapped", self.of(type(value)), self.of(wrapped)]
        return None

    def _function(self, fn: types.FunctionType) -> Any:
        cells = [_content(cell) for cell in fn.__closure__ or ()]
        used = [[path, self.of(value)] for path, value in sorted(names_used(fn).items())]
        parts = (cells, fn.__defaults__, fn.__kwdefaults__, vars(fn))
        return ["function", self.of(fn.__code__), used, *(self.of(part) for part in parts)]

    def _byte_code(self, code: types.CodeType) -> Any:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        raw = (code.co_code.hex(), code.co_exceptiontable.hex())
        return ["code", *raw, repr(counts), repr(names), self.of(code.co_consts)]

    def _object(self, value: Any) -> Any:
        if self._lenient:
            if isinstance(value, types.ModuleType):
                return ["module", value.__name__, _text_of(value)]
            if isinstance(value, type):
                return self._class(value)
            if not is_library(type(value).__module__):
                return ["object", self._class(type(value)), self.of(_state(value))]
            if not is_core(type(value).__module__):
                return ["some", *class_name(type(value))]
        if isinstance(value, (type, types.ModuleType)):
            msg = f"{value!r} is no part of a library whose version is known"
            raise NotTraceable(msg)
        return ["pickled", library_name(type(value)), _pickled(value, self._known)]

    def _class(self, kind: type) -> Any:
        bases = [self.of(base) for base in kind.__bases__]
        skipped = ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__")
        parts = {name: part for name, part in vars(kind).items() if name not in skipped}
        return ["class", *class_name(kind), bases, self.of(parts)]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "a cell that is still empty"


def _state(value: Any) -> Any:
    """Give what an object of the user's own class holds."""
    slots: list[str] = []
    for kind in type(value).__mro__:
        given = vars(kind).get("__slots__", ())
        slots += [given] if isinstance(given, str) else given
    held = {name: getattr(value, name, None) for name in slots} | getattr(value, "__dict__", {})
    if isinstance(value, Mapping):
        return [held, dict(value)]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [held, list(value)]
    if isinstance(value, (str, bytes, int, float)):
        plain: Any = next(kind for kind in type(value).__mro__ if kind in _PLAIN)
        return [held, plain.__repr__(value)]
    return [held]


def _text_of(module: types.ModuleType) -> str:
    try:
        return Path(str(module.__file__)).read_text("utf-8")
    except (OSError, UnicodeDecodeError, AttributeError):
        return ""


class _Pickler(pickle.Pickler):
    """Pickles objects of libraries: equal bytes are equal objects."""

    def __init__(self, file: io.BytesIO, known: Callable[[Any], Any]) -> None:
        super().__init__(file, protocol=5)
        # Without a memo, which would show whether equal parts are one object.
        self.fast = True
        self._form = known

    def persistent_id(self, obj: Any) -> str | None:
        """Write what the caller knows in its form, but refuse what stands for a table.

        It is in a cell of a real frame or array, whose methods take it for a value.
        """
        found = self._form(obj)
        if found is not None and found[0] == TRACED:
            msg = "what was made of a table is within a cell of another frame or array"
            raise NotTraceable(msg)
        return None if found is None else json.dumps(found)

    def reducer_override(self, obj: Any) -> Any:
        """Refuse what would be pickled by name though its name does not say what it is."""
        named = isinstance(obj, (type, types.FunctionType))
        if isinstance(obj, types.BuiltinFunctionType):
            named = obj.__self__ is None or isinstance(obj.__self__, types.ModuleType)
        if named and library_name(obj) is None:
            msg = f"{obj!r} is no part of a library whose version is known"
            raise NotTraceable(msg)
        return NotImplemented


def _pickled(value: Any, known: Callable[[Any], Any]) -> str:
    file = io.BytesIO()
    try:
        _Pickler(file, known).dump(value)
    except NotTraceable:
        raise
    except Exception as error:
        msg = f"a {'.'.join(class_name(type(value)))} cannot be written down: {error}"
        raise NotTraceable(msg) from error
    return file.getvalue().hex()
