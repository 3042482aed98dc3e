"""The kinds of frame that tasks take and return: one small class each, loaded when first met."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

from ixflow.errors import UnsupportedType
from ixflow.store.frames.base import Frames, TableSpec, Wanted, Written

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.values import TableName

__all__ = [
    "Frames",
    "TableSpec",
    "Wanted",
    "Written",
    "frames_for",
    "frames_giving",
    "is_frame",
    "read_frame",
    "wanted_frame",
]

# Keyed by the package that an object's class comes from, so that no library is imported for asking.
_CLASSES = {
    "_duckdb": "ixflow.store.frames.duckdb:DuckDBFrames",
    "ibis": "ixflow.store.frames.ibis:IbisFrames",
    "pandas": "ixflow.store.frames.pandas:PandasFrames",
    "polars": "ixflow.store.frames.polars:PolarsFrames",
    "pyarrow": "ixflow.store.frames.arrow:ArrowFrames",
    "sqlalchemy": "ixflow.store.frames.sqlalchemy:SQLAlchemyFrames",
    "tidypolars": "ixflow.store.frames.tidypolars:TidypolarsFrames",
}
_TYPES = (
    "pandas.DataFrame, polars.DataFrame, polars.LazyFrame, pyarrow.Table, sqlalchemy.Table, "
    "duckdb.DuckDBPyRelation, ibis.Table and tidypolars.tibble"
)


@cache
def _frames_of(package: str) -> Frames:
    module, _, name = _CLASSES[package].partition(":")
    made: Frames = getattr(importlib.import_module(module), name)()
    return made


def _packages(kind: type) -> list[str]:
    """Name the packages of a class and its bases, nearest first, that have frames."""
    roots = [base.__module__.partition(".")[0] for base in kind.__mro__]
    return [root for root in dict.fromkeys(roots) if root in _CLASSES]


def frames_for(obj: Any) -> Frames | None:
    """Find the frames that can write this object; None: it is not a frame."""
    found = (_frames_of(package) for package in _packages(type(obj)))
    return next((frames for frames in found if frames.owns(obj)), None)


def is_frame(obj: Any) -> bool:
    """Say whether the object is something a store can write as a table.

    >>> import pyarrow as pa
    >>> is_frame(pa.table({"id": [1]})), is_frame([1])
    (True, False)
    """
    return frames_for(obj) is not None


def frames_giving(type_: Any) -> Frames:
    """Find the frames that can read a table as this type.

    Raises:
        UnsupportedType: there are none.

    """
    if isinstance(type_, type):
        for package in _packages(type_):
            frames = _frames_of(package)
            if type_ in frames.gives():
                return frames
    hint = "; is the package of the type installed?" if type_ is object else ""
    msg = f"a table cannot be read as {type_!r}; the types are {_TYPES}{hint}"
    raise UnsupportedType(msg, type=repr(type_))


def wanted_frame(input_type: Any) -> Wanted:
    """Understand a type, a pair ``(type, backend)`` or ``{"type": ..., "backend": ...}``.

    Raises:
        UnsupportedType: a table cannot be read as that.

    >>> import pandas as pd
    >>> wanted_frame((pd.DataFrame, "numpy")).backend
    'numpy'
    """
    if isinstance(input_type, Wanted):
        return input_type
    type_, backend = input_type, None
    if isinstance(input_type, tuple) and len(input_type) == 2:  # noqa: PLR2004 - a pair
        type_, backend = input_type
    elif isinstance(input_type, dict) and "type" in input_type:
        if surplus := sorted(map(str, input_type.keys() - {"type", "backend"})):
            msg = f"input_type={input_type!r} has {surplus}; its keys are 'type' and 'backend'"
            raise UnsupportedType(msg, type=repr(input_type))
        type_, backend = input_type["type"], input_type.get("backend")
    frames = frames_giving(type_)
    if backend is not None and backend not in frames.backends:
        known = " or ".join(map(repr, frames.backends)) or "none"
        msg = f"{type_.__name__} has no backend {backend!r}; it has {known}"
        raise UnsupportedType(msg, type=repr(type_), backend=backend)
    return Wanted(type_, backend)


def read_frame(engine: sa.Engine, table: TableName, input_type: Any) -> Any:
    """Read a committed table as what `wanted_frame` understands.

    Raises:
        TableNotFound: there is no such table.
        UnsupportedType: a table cannot be read as that.

    """
    wanted = wanted_frame(input_type)
    return frames_giving(wanted.type).read(engine, table, wanted)
