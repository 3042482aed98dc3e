"""A function as it would be if pandas took stand-ins for tables; pandas itself stays untouched.

The function, and the user's functions that it calls, are rebuilt from their own code with other
globals: where these name pandas, or a function or class of pandas, they get a view of it. A view
records a call that is given a stand-in, and passes on every other.
"""

from __future__ import annotations

import builtins
import functools
import types
from collections.abc import Callable
from typing import Any

import pandas as pd

from ixflow.pipeline.auto_version_names import codes_in, is_library, library_name
from ixflow.pipeline.auto_version_trace import Traced, Tracer, is_traced, type_of

__all__ = ["Views"]

_CONTAINERS = (pd.DataFrame, pd.Series)
_CLASSES = (pd.DataFrame, pd.Series, pd.Index, pd.Categorical)
_STREAMS: tuple[type, ...] = (
    types.GeneratorType,
    map,
    filter,
    zip,
    type({}.values()),
    type({}.items()),
)


class Views:
    """Makes views for one trace."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._made: dict[int, Any] = {}
        self._originals: dict[int, Any] = {}
        tracer.original = self.original

    def of(self, value: Any) -> Any:
        """Give the view of a value, or the value if it needs none."""
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, types.FunctionType) and not is_library(value.__module__):
            return self._rebuilt(value)
        view = self._view(value)
        return view if view is value else self._remembered(value, view)

    def _view(self, value: Any) -> Any:
        if type(value) in (list, tuple, dict):
            return self._container(value)
        if isinstance(value, types.MethodType) and not is_library(value.__func__.__module__):
            return types.MethodType(self.of(value.__func__), value.__self__)
        if type(value) is functools.partial:
            return functools.partial(self.of(value.func), *value.args, **value.keywords)
        if isinstance(value, types.ModuleType):
            of_pandas = value.__name__.partition(".")[0] == "pandas"
            return _Module(value, self) if of_pandas or not is_library(value.__name__) else value
        if isinstance(value, type):
            return _Class(value, self) if issubclass(value, _CLASSES) else value
        named = library_name(value)
        of_pandas = named is not None and named[1].partition(".")[0] == "pandas"
        return _Function(value, self) if of_pandas else value

    def _container(self, value: Any) -> Any:
        """Rebuild a list, tuple or dict, such as a register of functions, that holds views."""
        self._made[id(value)] = self._originals[id(value)] = value  # it may hold itself
        if type(value) is dict:
            made: Any = {key: self.of(item) for key, item in value.items()}
            changed = any(made[key] is not item for key, item in value.items())
        else:
            made = type(value)(self.of(item) for item in value)
            changed = any(new is not old for new, old in zip(made, value, strict=True))
        return made if changed else value

    def original(self, value: Any) -> Any:
        """Give what a view was made for, and other things as they are."""
        return self._originals.get(id(value), value)

    def call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Call a function of pandas, or record the call."""
        args = tuple(list(arg) if type(arg) in _STREAMS else arg for arg in args)
        if function is pd.eval:
            self._tracer.refuse("pandas.eval takes variables by names that are within a text")
        if function in _CONTAINERS:
            # Also of nothing but constants: columns may be put into it.
            return self._tracer.record("function", function, args, kwargs, known_type=function)
        if _holds_traced([*args, *kwargs.values()]):
            return self._tracer.record("function", function, args, kwargs)
        plain = {name: self._settled(value) for name, value in kwargs.items()}
        return function(*(self._settled(arg) for arg in args), **plain)

    def is_instance(self, value: Any, kind: type) -> bool:
        """Say what isinstance says of the real table."""
        if not is_traced(value):
            return isinstance(value, kind)
        found = type_of(value)
        if found is None:
            self._tracer.refuse("isinstance() is asked of something that was made of a table")
        return issubclass(found, kind)

    def _settled(self, value: Any) -> Any:
        if type(value) in (list, tuple):
            return type(value)(self._settled(item) for item in value)
        if type(value) is dict:
            return {self._settled(key): self._settled(item) for key, item in value.items()}
        return self.original(value)

    def _remembered(self, value: Any, view: Any) -> Any:
        # Both are kept alive, so that their ids stay theirs.
        self._made[id(value)] = self._made[id(view)] = view
        self._originals[id(view)] = value
        return view

    def _rebuilt(self, fn: types.FunctionType) -> types.FunctionType:
        space = {**fn.__globals__, "__builtins__": {**vars(builtins), "__import__": self._import}}
        cells = tuple(types.CellType() for _ in fn.__closure__ or ())
        defaults = self.of(fn.__defaults__)
        made = types.FunctionType(fn.__code__, space, fn.__name__, defaults, cells)
        made.__kwdefaults__ = self.of(fn.__kwdefaults__)
        made.__dict__.update(fn.__dict__)
        self._remembered(fn, made)
        for name in {name for code in codes_in(fn.__code__) for name in code.co_names}:
            if name in space:
                space[name] = self.of(space[name])
        for old, new in zip(fn.__closure__ or (), cells, strict=True):
            try:
                new.cell_contents = self.of(old.cell_contents)
            except ValueError:  # it is still empty
                continue
        return made

    def _import(self, *args: Any, **kwargs: Any) -> Any:
        return self.of(builtins.__import__(*args, **kwargs))


class _Module(types.ModuleType):
    """A module whose functions and classes are views."""

    def __init__(self, module: types.ModuleType, views: Views) -> None:
        super().__init__(module.__name__)
        self.__dict__["_ixflow_get"] = lambda name: views.of(getattr(module, name))

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["_ixflow_get"](name)


class _Function:
    """A function of pandas."""

    def __init__(self, function: Callable[..., Any], views: Views) -> None:
        self._function = function
        self._views = views

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._views.call(self._function, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._function == self._views.original(other))

    def __hash__(self) -> int:
        return hash(self._function)


class _Class(_Function):
    """A class of pandas, to make objects with and to ask for."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._function, name)
        return _Function(found, self._views) if callable(found) else found

    def __instancecheck__(self, value: Any) -> bool:
        kind: Any = self._function
        return self._views.is_instance(value, kind)

    def __or__(self, other: Any) -> Any:
        kind: Any = self._function
        return kind | self._views.original(other)


def _holds_traced(value: Any) -> bool:
    if type(value) in (list, tuple, set, frozenset):
        return any(_holds_traced(item) for item in value)
    if type(value) is dict:
        return any(_holds_traced(item) for item in value.values())
    return type(value) is Traced
