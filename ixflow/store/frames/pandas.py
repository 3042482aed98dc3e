"""pandas DataFrames, with types that keep NULL apart from NaN and integers whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from ixflow.store.frames.base import Frames, TableSpec, Written, write_arrow
from ixflow.tables.read import read_table
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["PandasFrames"]


class PandasFrames(Frames):
    """Takes and gives `pandas.DataFrame`; the index is not written, columns are Arrow-backed."""

    def owns(self, obj: Any) -> bool:
        """Say whether it is a DataFrame."""
        return isinstance(obj, pd.DataFrame)

    def gives(self) -> tuple[type, ...]:
        """Name the types that `read` gives."""
        return (pd.DataFrame,)

    def write(self, conn: sa.Connection, table: TableName, obj: Any, spec: TableSpec) -> Written:
        """Create and fill the table."""
        # Arrow would write an index that is not a plain count as a column.
        return write_arrow(conn, table, pa.Table.from_pandas(obj, preserve_index=False), spec)

    def read(self, engine: sa.Engine, table: TableName, type_: type) -> Any:
        """Read the table; ``attrs["name"]`` is its name."""
        del type_
        frame = read_table(engine, table).to_pandas(types_mapper=_dtype)
        frame.attrs["name"] = table.name
        return frame


def _dtype(type_: pa.DataType) -> Any:
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return pd.StringDtype("pyarrow")
    return pd.ArrowDtype(type_)
