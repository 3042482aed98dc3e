"""Objects that hold connections, and are made anew where a copy of them arrives."""

from __future__ import annotations

from typing import Any, Self

__all__ = ["Remade"]


class Remade:
    """Remembers the arguments that an object was made with, for a copy in another process.

    They are remembered here, so that the signature that people see is that of ``__init__``.

    >>> class Store(Remade):
    ...     def __init__(self, url, *, schema=""):
    ...         self.url = url
    >>> Store("duckdb://", schema="x").made_by
    (('duckdb://',), {'schema': 'x'})
    """

    made_by: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Remember the arguments."""
        made = super().__new__(cls)
        made.made_by = (args, options)
        return made
