"""polars DataFrames and LazyFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from ixflow.store.frames.base import Frames, Wanted
from ixflow.tables.read import read_table
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["PolarsFrames"]


class PolarsFrames(Frames):
    """Takes and gives `polars.DataFrame` and `polars.LazyFrame`.

    A LazyFrame is computed batch by batch when it is written, and read whole, lazy from there on.
    """

    def owns(self, obj: Any) -> bool:
        """Say whether it is a frame."""
        return isinstance(obj, (pl.DataFrame, pl.LazyFrame))

    def in_memory(self, obj: Any) -> bool:
        """Say whether it is not lazy."""
        return isinstance(obj, pl.DataFrame)

    def gives(self) -> tuple[type, ...]:
        """Name the types that `read` gives."""
        return (pl.DataFrame, pl.LazyFrame)

    def read(self, engine: sa.Engine, table: TableName, wanted: Wanted) -> Any:
        """Read the table."""
        frame = pl.DataFrame(read_table(engine, table))
        return frame.lazy() if wanted.type is pl.LazyFrame else frame
