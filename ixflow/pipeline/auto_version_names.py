"""What a function's code refers to by name, and what of it belongs to an installed library."""

from __future__ import annotations

import builtins
import dis
import re
import sys
import types
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from typing import Any

__all__ = [
    "TAKING_TEXT",
    "class_name",
    "codes_in",
    "core_versions",
    "is_core",
    "is_library",
    "library_name",
    "named_in",
    "names_used",
]

# Their versions are part of every automatic version of a traced task.
_CORE = {"numpy", "pandas", "pyarrow", "dateutil", "pytz", "tzdata"} | sys.stdlib_module_names
_INSTALLED = ("/site-packages/", "/dist-packages/")


def core_versions() -> str:
    """Name the versions of what computes, since another one may compute something else."""
    found = [f"{name} {metadata.version(name)}" for name in ("numpy", "pandas", "pyarrow")]
    return ", ".join([f"python {'.'.join(map(str, sys.version_info[:3]))}", *found])


def is_core(module: str | None) -> bool:
    """Say whether a module is of Python itself, or of a library that is in `core_versions`.

    >>> is_core("pandas.core.frame"), is_core("sqlalchemy"), is_core("__main__")
    (True, False, False)
    """
    return _root(module) in _CORE


def is_library(module: str | None) -> bool:
    """Say whether a module is of an installed library whose version can be told.

    >>> is_library("json"), is_library("sqlalchemy.orm"), is_library("__main__")
    (True, True, False)
    """
    return is_core(module) or _version(_root(module)) is not None


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]


@cache
def _version(root: str) -> str | None:
    """Find the version of an installed library; None for modules of the user's own."""
    module = sys.modules.get(root)
    file = (getattr(module, "__file__", None) or "").replace("\\", "/")
    if root != "ixflow" and not any(place in file for place in _INSTALLED):
        return None
    try:
        return metadata.version(root)
    except metadata.PackageNotFoundError:
        found = getattr(module, "__version__", None)
        return found if isinstance(found, str) else None


def class_name(kind: type) -> list[str]:
    """Give the module and the name of a class.

    >>> class_name(dict)
    ['builtins', 'dict']
    """
    return [kind.__module__, kind.__qualname__]


def library_name(value: Any) -> list[str] | None:
    """Name a function, class or module that is found in a library under its own name.

    >>> library_name(len), library_name(lambda: 1)
    (['library', 'builtins', 'len', ''], None)
    """
    module: Any = None
    name: Any = None
    if isinstance(value, types.ModuleType):
        module, name = value.__name__, ""
    elif callable(value):
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(name, str) or not isinstance(module, str) or not is_library(module):
        return None
    found = sys.modules.get(module)
    for part in name.split(".") if name else ():
        found = getattr(found, part, None)
    if found is not value:
        return None
    return ["library", module, name, "" if is_core(module) else str(_version(_root(module)))]


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """Give a function's code and that of the functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_in(constant)


_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "IMPORT_NAME")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")


def names_used(fn: types.FunctionType) -> dict[str, Any]:
    """Find what a function takes from its globals, and from the user's modules among them.

    The keys are paths such as ``tools.clean``. A library's module stands for all of it.

    >>> list(names_used(lambda: _root("a")))
    ['_root']
    """
    found: dict[str, Any] = {}
    for code in codes_in(fn.__code__):
        found |= _named_in_queries(fn, code)
        path, value = "", None
        for step in dis.get_instructions(code):
            if step.opname == "PUSH_NULL":
                continue
            open_module = isinstance(value, types.ModuleType) and not is_library(value.__name__)
            if path and open_module and step.opname in _ATTRIBUTES:
                path, value = f"{path}.{step.argval}", getattr(value, str(step.argval), None)
                continue
            if path:
                found[path] = value
            path, value = "", None
            if step.opname in _LOADS:
                path = str(step.argval)
                value = _loaded(fn, path, imported=step.opname == "IMPORT_NAME")
    return found


#: The methods of pandas whose text may name variables of the function that calls them.
TAKING_TEXT = ("query", "eval")


def named_in(values: Iterable[Any]) -> set[str]:
    """Find the variables that texts name by @; an empty name is one that is not written out.

    >>> sorted(named_in(["x > @least and y in @known.values", 3]))
    ['known', 'least']
    """
    texts = [value for value in values if isinstance(value, str)]
    return {name for text in texts for name in re.findall(r"@\s*(\w*)", text)}


def _named_in_queries(fn: types.FunctionType, code: types.CodeType) -> dict[str, Any]:
    if not set(TAKING_TEXT) & set(code.co_names):
        return {}
    names = named_in(code.co_consts) - {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    unknown = types.ModuleType("of a name in a query")
    return {f"@{name}": fn.__globals__.get(name, unknown) for name in names}


def _loaded(fn: types.FunctionType, name: str, *, imported: bool) -> Any:
    if imported:
        return sys.modules.get(name, types.ModuleType(name))
    return fn.__globals__.get(name, getattr(builtins, name, f"the missing name {name}"))
