"""Stand-ins for tables that record what a function does with them, and refuse to be looked at.

Everything that is done with a stand-in is written down in order: attributes, calls, operators,
assignments, functions of NumPy. Stand-ins are known by the number of the record that made them, so
the records say the whole computation, also where it changes a table in place.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from ixflow.pipeline.auto_version_forms import TRACED, Forms, NotTraceable
from ixflow.pipeline.auto_version_names import TAKING_TEXT, named_in

__all__ = ["Traced", "Tracer", "is_traced", "type_of"]


class Tracer:
    """Takes the records of one call of a function.

    ``original(value)`` gives what a wrapper stands for, other things as they are. ``refused`` is
    the first thing that could not be recorded: it counts even if the function went on.
    """

    def __init__(self) -> None:
        self.refused: NotTraceable | None = None
        self.original: Callable[[Any], Any] = lambda value: value
        self._forms = Forms(self._known)
        self._records = hashlib.sha256()
        self._count = 0
        self._closed = False

    def record(
        self, kind: str, *parts: Any, name: str = "", known_type: type | None = None
    ) -> Traced:
        """Write down what is done; give the stand-in for what comes of it.

        ``name`` is what a method is called, ``known_type`` the type of what it stands for.
        """
        if self._closed:
            self.refuse("a table is used after the function has returned")
        try:
            form = json.dumps([kind, *(self._forms.of(part) for part in parts)])
        except NotTraceable as error:
            self.refuse(f"{kind}: {error}")
        self._records.update(f"{len(form)}:{form}".encode())
        self._count += 1
        return Traced(self, self._count, name, known_type)

    def form(self, value: Any) -> Any:
        """Write down a value that the function returned."""
        return self._forms.of(value)

    def digest(self) -> str:
        """Give the hash of the records; there will be no more."""
        self._closed = True
        return self._records.hexdigest()

    def refuse(self, what: str) -> NoReturn:
        """Stop, and remember why.

        Raises:
            NotTraceable: always.

        """
        error = NotTraceable(what)
        self.refused = self.refused or error
        raise error

    def _known(self, value: Any) -> Any:
        if type(value) is Traced:
            if _tracer(value) is not self:
                self.refuse("a table of another task's trace is used")
            return [TRACED, _number(value)]
        found = self.original(value)
        return None if found is value else self._forms.of(found)


class Traced:
    """Stands for a table, or for what a function made of one."""

    __slots__ = ("_ixflow_name", "_ixflow_number", "_ixflow_tracer", "_ixflow_type")
    # With these NumPy and pandas leave operators to us.
    __array_priority__ = 10_000
    __pandas_priority__ = 10_000

    def __init__(self, tracer: Tracer, number: int, name: str, known_type: type | None) -> None:
        object.__setattr__(self, "_ixflow_tracer", tracer)
        object.__setattr__(self, "_ixflow_name", name)
        object.__setattr__(self, "_ixflow_number", number)
        object.__setattr__(self, "_ixflow_type", known_type)

    # -- what is recorded -----------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("_"):
            what = (
                f"the private attribute {name} is used, by the function or by a part of pandas "
                f"that was reached otherwise than through its module"
            )
            _tracer(self).refuse(what)
        if name == "pipe":
            return lambda fn, *args, **kwargs: _piped(self, fn, args, kwargs)
        return _tracer(self).record("attribute", self, name, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        _tracer(self).record("set attribute", self, name, value)

    def __delattr__(self, name: str) -> None:
        _tracer(self).record("delete attribute", self, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Traced:
        """Record the call of a method, and the variables that its text names by @."""
        tracer = _tracer(self)
        if object.__getattribute__(self, "_ixflow_name") not in TAKING_TEXT:
            return tracer.record("call", self, args, kwargs)
        frame = sys._getframe(1)  # noqa: SLF001 - where pandas looks for them, too
        known = {**frame.f_globals, **frame.f_locals}
        names = named_in([*args, *kwargs.values()])
        if "level" in kwargs or not names <= known.keys():
            tracer.refuse(f"a query takes {sorted(names)} from elsewhere than its function")
        return tracer.record(
            "call", self, args, kwargs, {name: known[name] for name in sorted(names)}
        )

    def __getitem__(self, key: Any) -> Traced:
        return _tracer(self).record("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _tracer(self).record("set item", self, key, value)

    def __delitem__(self, key: Any) -> None:
        _tracer(self).record("delete item", self, key)

    def __copy__(self) -> Traced:
        return _tracer(self).record("copy", self)

    def __deepcopy__(self, memo: Any) -> Traced:
        return _tracer(self).record("deepcopy", self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        tracer = _tracer(self)
        if not all(is_traced(out) for out in kwargs.get("out", ())):
            tracer.refuse(f"numpy.{ufunc.__name__} writes into an array")
        made = tracer.record("ufunc", ufunc, method, inputs, kwargs)
        return made if ufunc.nout == 1 else tuple(made[place] for place in range(ufunc.nout))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Traced:
        if kwargs.get("out") is not None or func.__name__ in _WRITING:
            _tracer(self).refuse(f"numpy.{func.__name__} writes into an array")
        return _tracer(self).record("function", func, args, kwargs)

    def __repr__(self) -> str:
        """Say what it is, for those who look into an error; of no two it is different."""
        return "<a table that is traced>"


def _piped(traced: Traced, fn: Any, args: Any, kwargs: Any) -> Any:
    if isinstance(fn, tuple):
        return fn[0](*args, **{**kwargs, fn[1]: traced})
    return fn(traced, *args, **kwargs)


def _operator(name: str) -> Callable[..., Traced]:
    def operate(self: Traced, *others: Any) -> Traced:
        return _tracer(self).record(name, self, *others)

    return operate


def _refusing(how: str) -> Callable[..., NoReturn]:
    def refuse(self: Traced, *args: Any, **kwargs: Any) -> NoReturn:
        del args, kwargs
        what = "the function looks at a table, or at what it made of one: it "
        _tracer(self).refuse(what + how)

    return refuse


# What is written to is no table, so the records do not say what it is afterwards.
_WRITING = ("copyto", "fill_diagonal", "place", "put", "put_along_axis", "putmask")

_UNARY = ("neg", "pos", "abs", "invert", "round", "trunc", "floor", "ceil")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_ARITHMETIC = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow")
_BINARY = (*_ARITHMETIC, "lshift", "rshift", "and", "xor", "or")
_REFUSED = {
    "bool": "asks for its truth, as by if, and, or, not, in",
    "len": "asks for its length",
    "iter": "iterates over it or unpacks it",
    "contains": "asks what it contains, as by in",
    "hash": "hashes it, as for a set or a key",
    "int": "makes an int of it",
    "index": "uses it as an index or a count",
    "float": "makes a float of it",
    "complex": "makes a complex of it",
    "str": "makes text of it",
    "format": "makes text of it",
    "array": "makes a NumPy array of it, other than by a method",
    "reduce_ex": "pickles it",
}
for _name in (*_UNARY, *_COMPARISONS, *(p + name for name in _BINARY for p in ("", "r", "i"))):
    setattr(Traced, f"__{_name}__", _operator(_name))
for _name, _how in _REFUSED.items():
    setattr(Traced, f"__{_name}__", _refusing(_how))


def is_traced(value: Any) -> bool:
    """Say whether a value stands for a table, without looking at it."""
    return type(value) is Traced


def type_of(traced: Traced) -> type | None:
    """Give the type of what it stands for, if that is known: an input, or a new frame."""
    found: type | None = object.__getattribute__(traced, "_ixflow_type")
    return found


def _tracer(traced: Traced) -> Tracer:
    found: Tracer = object.__getattribute__(traced, "_ixflow_tracer")
    return found


def _number(traced: Traced) -> int:
    found: int = object.__getattribute__(traced, "_ixflow_number")
    return found
