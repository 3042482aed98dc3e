"""The two positional orders of `ingest`: the documented one, and the one pg-bulk-ingest has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ixflow.errors import ValidationError
from ixflow.ingestion.checks import RowCheck

__all__ = ["either_order"]

P = ParamSpec("P")
R = TypeVar("R")

_SAME = 3
_PEERS_ORDER = (
    *("high_watermark", "visibility", "upsert", "delete", "get_pg_force_execute"),
    *("on_before_visible", "logger", "max_rows_per_table_buffer"),
)


def either_order(function: Callable[P, R]) -> Callable[P, R]:
    """Let a fourth positional argument that is not a callback be the high watermark.

    Neither a callable nor a check can be a watermark, so nothing is taken for anything else.

    >>> @either_order
    ... def ingest(conn, metadata, batches, on_before_visible=None, high_watermark=0):
    ...     return on_before_visible, high_watermark
    >>> ingest(1, 2, 3, "2026-11-21"), ingest(1, 2, 3, len)[0] is len
    ((None, '2026-11-21'), True)
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) <= _SAME or _is_callback(args[_SAME]):
            return function(*args, **kwargs)
        more = args[_SAME:]
        if len(more) > len(_PEERS_ORDER):
            msg = f"ingest takes at most {_SAME + len(_PEERS_ORDER)} positional arguments"
            raise ValidationError(msg, arguments=len(args))
        named = dict(zip(_PEERS_ORDER, more, strict=False))
        twice = sorted(set(named) & set(kwargs))
        if twice:
            msg = f"ingest got {', '.join(twice)} both by position and by name"
            raise ValidationError(msg, arguments=twice)
        return function(*args[:_SAME], **{**kwargs, **named})  # type: ignore[arg-type] # by name

    return call


def _is_callback(value: object) -> bool:
    items = value if isinstance(value, (list, tuple)) and value else [value]
    return all(callable(item) or isinstance(item, RowCheck) for item in items)
