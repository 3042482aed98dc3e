"""Which columns of which tables feed each column of a SQLAlchemy query, read off the query.

A column feeds another if its values go into the expression: also as the condition of a CASE, or
the partition and order of a window function. What only chooses rows (WHERE, ON, GROUP BY) feeds
nothing. Literal text cannot be read; a column that it is part of is unknown, and said to be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlalchemy.sql import elements, selectable

__all__ = ["ColumnSource", "column_sources", "ordered", "sources_of"]

_log = logging.getLogger("ixflow.store")


class ColumnSource(NamedTuple):
    """A column that feeds another one, by the names of the schema and the table it is in."""

    schema: str | None
    table: str
    column: str


def ordered(sources: Iterable[ColumnSource]) -> tuple[ColumnSource, ...]:
    """Sort sources, each once."""
    return tuple(sorted(set(sources), key=lambda one: (one.schema or "", one.table, one.column)))


_Found = frozenset[ColumnSource] | None
_NOTHING: frozenset[ColumnSource] = frozenset()


def sources_of(obj: Any) -> list[_Found] | None:
    """Give what feeds each column of a query; None if it is none, or cannot be read.

    What a task has returned is stored whether its lineage can be told or not.
    """
    try:
        return column_sources(obj)
    except (AttributeError, TypeError, LookupError, RecursionError):
        _log.warning("the column lineage of a query cannot be told", exc_info=True)
        return None


def column_sources(query: Any) -> list[_Found] | None:
    """Give what feeds each column of a query, in order; None for one that cannot be told.

    None altogether: not even the columns can be told, as those of a text.

    >>> import sqlalchemy as sa
    >>> t = sa.table("t", sa.column("a"), sa.column("b"), schema="s")
    >>> found = column_sources(sa.select((t.c.a + t.c.b).label("c"), sa.literal(1)))
    >>> [sorted(source.column for source in column) for column in found]
    [['a', 'b'], []]
    """
    if not isinstance(query, (selectable.ReturnsRows, elements.ClauseElement)):
        return None
    return _Walk().outputs(query)


def _union(found: Iterable[_Found]) -> _Found:
    parts = list(found)
    if any(part is None for part in parts):
        return None
    return _NOTHING.union(*(part for part in parts if part is not None))


class _Walk:
    """One walk over a query; what was seen is remembered, so that circles of CTEs end."""

    def __init__(self) -> None:
        self._outputs: dict[int, list[_Found] | None] = {}
        # The first that fits counts: the special ones come before the general.
        self._kinds: tuple[tuple[Any, Callable[[Any], list[_Found] | None]], ...] = (
            (selectable.Join, lambda join: [self.expression(column) for column in join.c]),
            (selectable.TableValuedAlias, self._row_function),
            (selectable.CTE, self._cte),
            (selectable.AliasedReturnsRows, lambda alias: self.outputs(alias.element)),
            (selectable.SelectStatementGrouping, lambda group: self.outputs(group.element)),
            (selectable.CompoundSelect, lambda all_: _combined(map(self.outputs, all_.selects))),
            (selectable.Select, lambda one: [self._selected(part) for part in one.inner_columns]),
            (selectable.Values, lambda values: [_NOTHING] * len(values.c)),
        )

    def outputs(self, source: Any) -> list[_Found] | None:
        """Give what feeds each column of something that has rows."""
        if isinstance(source, selectable.TableClause):
            names = ((source.schema, source.name, column.name) for column in source.c)
            return [frozenset({ColumnSource(*name)}) for name in names]
        if id(source) not in self._outputs:
            # A recursive CTE refers to itself: what it adds to itself is nothing new.
            width = len(source.c) if isinstance(source, selectable.FromClause) else 0
            self._outputs[id(source)] = [_NOTHING] * width
            self._outputs[id(source)] = self._of(source)
        return self._outputs[id(source)]

    def _of(self, source: Any) -> list[_Found] | None:
        found = (tell for kind, tell in self._kinds if isinstance(source, kind))
        tell = next(found, None)
        return None if tell is None else tell(source)

    def _row_function(self, source: selectable.TableValuedAlias) -> list[_Found]:
        return [self._children(source.element)] * len(source.c)

    def _cte(self, source: selectable.CTE) -> list[_Found] | None:
        """Ask the CTE that this one is a copy of, which a recursive one refers to."""
        if source._restates is not None:  # noqa: SLF001 - SQLAlchemy says it nowhere else
            self._outputs[id(source._restates)] = self._outputs[id(source)]  # noqa: SLF001
        return self.outputs(source.element)

    def _selected(self, part: Any) -> _Found:
        return None if getattr(part, "is_literal", False) else self.expression(part)

    def expression(self, part: Any) -> _Found:
        """Give what feeds an expression."""
        if isinstance(part, (elements.TextClause, selectable.TextualSelect)):
            return None
        if isinstance(part, elements.ColumnClause):
            return self._column(part)
        if isinstance(part, selectable.Exists):
            return self._chosen(part)
        if isinstance(part, (selectable.ScalarSelect, selectable.SelectBase)):
            found = self.outputs(getattr(part, "element", part))
            return None if found is None else _union(found)
        return self._children(part)

    def _children(self, part: Any) -> _Found:
        return _union(self.expression(child) for child in part.get_children())

    def _chosen(self, part: selectable.Exists) -> _Found:
        """Say that what chooses the rows of an EXISTS feeds it: there is nothing else to it."""
        inner: Any = part.element
        while hasattr(inner, "element"):
            inner = inner.element
        conditions = inner.whereclause if isinstance(inner, selectable.Select) else None
        return _NOTHING if conditions is None else self.expression(conditions)

    def _column(self, column: elements.ColumnClause[Any]) -> _Found:
        table = column.table
        if table is None or column.is_literal:
            # Only count(*) has a star within an expression.
            return _NOTHING if column.is_literal and column.name == "*" else None
        if isinstance(table, selectable.TableClause):
            return frozenset({ColumnSource(table.schema, table.name, column.name)})
        found = self.outputs(table)
        if found is None:
            return None
        names = [one.key for one in table.c]
        if column.key not in names or len(names) != len(found):
            return None
        return found[names.index(column.key)]


def _combined(found: Iterable[list[_Found] | None]) -> list[_Found] | None:
    """Put the columns of a UNION together, by their places."""
    parts = list(found)
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({len(part) for part in known}) != 1:
        return None
    return [_union(column) for column in zip(*known, strict=True)]
