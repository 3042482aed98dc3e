"""What is published of a stage: what the records say, and which of its tables are there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from ixflow.store.metadata import Publication, StageState

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.store.sql_store import SQLTableStore

__all__ = ["Published"]


@dataclass(frozen=True, slots=True)
class Published:
    """The records of a published stage, and the names that are taken in its schema."""

    publication: Publication | None
    records: StageState
    present: frozenset[str]

    @classmethod
    def read(
        cls, store: SQLTableStore, conn: sa.Connection, stage: str, earlier: Self | None = None
    ) -> Self:
        """Read it; the records of an earlier time are right if nothing was published since."""
        place = store.schema(stage)
        # First of all: what is read behind it is that publication's, or a later one's.
        publication = store.metadata.publication(conn, place)
        present = frozenset(store.dialect.tables_in(conn, place))
        if earlier is not None and publication is not None and earlier.publication == publication:
            return replace(earlier, present=present)
        version = 0 if publication is None else publication.version
        return cls(publication, store.metadata.state(conn, place, version=version), present)

    @property
    def state(self) -> StageState:
        """The records, without tables that were dropped behind our back."""
        tables = self.records.tables.items()
        there = {name: table for name, table in tables if name in self.present}
        return replace(self.records, tables=there)
