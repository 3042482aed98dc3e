"""The kinds of frame that tasks take and return: one small class each, loaded when first met."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from ixflow.errors import UnsupportedType
from ixflow.store.frames.base import Frames, TableSpec, Written

__all__ = ["Frames", "TableSpec", "Written", "frames_for", "frames_giving", "is_frame"]

# Keyed by the package that an object's class comes from, so that no library is imported for asking.
_CLASSES = {
    "pandas": "ixflow.store.frames.pandas:PandasFrames",
    "polars": "ixflow.store.frames.polars:PolarsFrames",
    "pyarrow": "ixflow.store.frames.arrow:ArrowFrames",
    "sqlalchemy": "ixflow.store.frames.sqlalchemy:SQLAlchemyFrames",
}


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
    msg = (
        f"a table cannot be read as {type_!r}; the types are pandas.DataFrame, polars.DataFrame, "
        f"polars.LazyFrame, pyarrow.Table and sqlalchemy.Table"
    )
    raise UnsupportedType(msg, type=repr(type_))
