"""Partitions of a table as extractions of their own: an intent for each slice of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ixflow.errors import ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.profile import source_connection
from ixflow.extraction.run import refusals_named
from ixflow.extraction.selection import hidden_columns
from ixflow.extraction.source_object import known_columns
from ixflow.tables.slices import Slice, inside
from ixflow.values import Column

__all__ = ["SlicedTable"]


@dataclass(frozen=True)
class SlicedTable:
    """A table, or a query in its place, that is extracted slice by slice."""

    intent: ExtractionIntent
    columns: Mapping[str, Column]

    @classmethod
    def of(cls, intent: ExtractionIntent) -> SlicedTable:
        """Ask the source which columns there are; nothing else is read.

        Raises:
            SourceUnavailable: the database cannot be reached or refuses us.
            TableNotFound: there is no such table, or the role may not see it.

        """
        with refusals_named(intent), source_connection(intent) as (conn, _):
            known = known_columns(intent, intent.dialect, conn)
        return cls(intent, {column.name: column for column in known})

    def intent_of(self, slice_: Slice) -> ExtractionIntent:
        """Give the intent that extracts a slice, to the place of its partition.

        Raises:
            ValidationError: a column cannot tell exactly which rows these are, or is hidden.

        """
        if hidden := sorted({*slice_.columns} & {*hidden_columns(self.intent)}):
            msg = (
                f"the values of {hidden} would be shown as partitions of {self.intent.object_name};"
                f" such columns cannot be dropped or masked"
            )
            raise ValidationError(msg, columns=hidden, table=self.intent.object_name)
        condition = inside(self.intent.dialect, slice_, self.columns.values())
        if self.intent.where is not None:
            condition = f"({self.intent.where}\n) AND {condition}"
        return dataclasses.replace(self.intent, where=condition, partition=slice_.path)

    def nullable(self, slice_: Slice) -> tuple[str, ...]:
        """Name the columns of a slice that can be NULL: such rows are in no slice."""
        return tuple(name for name in slice_.columns if self.columns[name].nullable)

    def intents(self, slices: Iterable[Slice]) -> dict[Slice, ExtractionIntent]:
        """Give the intents of several slices."""
        return {slice_: self.intent_of(slice_) for slice_ in slices}
