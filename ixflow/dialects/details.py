"""Options of the tables that are made, such as UNLOGGED: what each database has, and passing them.

They are set around the making of a table, so that what is in between need not know of them.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["NO_DETAILS", "details", "making_with"]

NO_DETAILS: Mapping[str, Any] = MappingProxyType({})
_details: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar(
    "ixflow_details", default=NO_DETAILS
)


def details() -> Mapping[str, Any]:
    """Give the options of the tables that are made now."""
    return _details.get()


@contextlib.contextmanager
def making_with(options: Mapping[str, Any]) -> Iterator[None]:
    """Make tables with these options in the block.

    >>> with making_with({"unlogged": True}):
    ...     details()["unlogged"]
    True
    """
    token = _details.set(options)
    try:
        yield
    finally:
        _details.reset(token)
