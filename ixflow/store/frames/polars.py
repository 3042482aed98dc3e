"""polars DataFrames and LazyFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from ixflow.store.frames.base import Frames, TableSpec, Written, write_arrow
from ixflow.tables.read import read_table
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["PolarsFrames"]


class PolarsFrames(Frames):
    """Takes and gives `polars.DataFrame` and `polars.LazyFrame`."""

    def owns(self, obj: Any) -> bool:
        """Say whether it is a frame."""
        return isinstance(obj, (pl.DataFrame, pl.LazyFrame))

    def gives(self) -> tuple[type, ...]:
        """Name the types that `read` gives."""
        return (pl.DataFrame, pl.LazyFrame)

    def write(self, conn: sa.Connection, table: TableName, obj: Any, spec: TableSpec) -> Written:
        """Create and fill the table; a LazyFrame is computed batch by batch."""
        return write_arrow(conn, table, obj, spec)

    def read(self, engine: sa.Engine, table: TableName, type_: type) -> Any:
        """Read the table; as a LazyFrame it is read too, and lazy from there on."""
        frame = pl.DataFrame(read_table(engine, table))
        return frame.lazy() if type_ is pl.LazyFrame else frame
