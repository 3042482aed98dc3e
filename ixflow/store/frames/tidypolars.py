"""tibbles of tidypolars, which are polars DataFrames with other verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from ixflow.store.frames.base import Frames, Wanted
from ixflow.tables.read import read_table
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["TidypolarsFrames"]


class TidypolarsFrames(Frames):
    """Takes and gives `tidypolars.tibble`."""

    def owns(self, obj: Any) -> bool:
        """Say whether it is a tibble."""
        return isinstance(obj, self.gives())

    def gives(self) -> tuple[type, ...]:
        """Name the types that `read` gives."""
        # Not for every Python that ixflow is for; who asks has an object or a type of it.
        import tidypolars as tp

        return (tp.tibble,)

    def arrow(self, obj: Any) -> pl.DataFrame:
        """Give the DataFrame, since a tibble hides the methods of polars."""
        frame: pl.DataFrame = obj.as_polars()
        return frame

    def read(self, engine: sa.Engine, table: TableName, wanted: Wanted) -> Any:
        """Read the table."""
        import tidypolars as tp

        del wanted
        return tp.from_polars(pl.DataFrame(read_table(engine, table)))
