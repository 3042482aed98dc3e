"""What a table is made of, as a value, and how two such values differ. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ixflow.values import Column

__all__ = ["TableDefinition", "differences"]


@dataclass(frozen=True, slots=True)
class TableDefinition:
    """Columns (with their places in the key) and indexes (as the dialect describes them).

    ``details`` are texts by column and by what they are about, such as its collation; of the live
    table's those count that the wanted one has too. Two definitions are equal when the database
    would make the same table from both; names of keys and indexes, comments and defaults do not
    count.
    """

    columns: tuple[Column, ...]
    indexes: frozenset[str] = frozenset()
    details: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The names of the key's columns, in the key's order."""
        inside = [(c.key_position, c.name) for c in self.columns if c.key_position is not None]
        return tuple(name for _, name in sorted(inside))


def differences(wanted: TableDefinition, live: TableDefinition) -> tuple[str, ...]:
    """Say in words how the live table differs from the wanted one; empty when it does not.

    >>> differences(TableDefinition(()), TableDefinition(()))
    ()
    """
    return tuple(_differences(wanted, live))


def _differences(wanted: TableDefinition, live: TableDefinition) -> Iterator[str]:
    have = {column.name: column for column in live.columns}
    want = {column.name: column for column in wanted.columns}
    yield from (f"column {name} is added" for name in want if name not in have)
    yield from (f"column {name} is dropped" for name in have if name not in want)
    for name in sorted(want.keys() & have.keys()):
        yield from _column_differences(want[name], have[name])
        known = live.details.get(name, {})
        for what, text in wanted.details.get(name, {}).items():
            if text != known.get(what, ""):
                old, new = known.get(what) or "none", text or "none"
                yield f"the {what} of column {name} changes from {old} to {new}"
    common = [name for name in have if name in want]
    if common != [name for name in want if name in have]:
        yield "the order of the columns changes"
    if wanted.primary_key != live.primary_key:
        yield f"the primary key changes from {live.primary_key} to {wanted.primary_key}"
    for index in sorted(wanted.indexes - live.indexes):
        yield f"index {index} is added"
    for index in sorted(live.indexes - wanted.indexes):
        yield f"index {index} is dropped"


def _column_differences(wanted: Column, live: Column) -> Iterator[str]:
    if wanted.sql_type != live.sql_type:
        yield f"column {wanted.name} changes from {live.sql_type} to {wanted.sql_type}"
    if wanted.nullable != live.nullable:
        yield f"column {wanted.name} {'takes' if wanted.nullable else 'no longer takes'} NULL"
