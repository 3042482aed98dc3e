"""pandas DataFrames, with types that keep NULL apart from NaN and integers whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import pyarrow as pa

from ixflow.errors import ValidationError
from ixflow.store.frames.base import Frames, Wanted
from ixflow.tables.read import read_table
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["PandasFrames"]


class PandasFrames(Frames):
    """Takes and gives `pandas.DataFrame`; the index is not written.

    A NaN of a plain NumPy or object column is NULL, as everywhere in pandas; where a column can
    tell the two apart (nullable and Arrow-backed types), a NaN stays one.
    """

    backends: ClassVar[tuple[str, ...]] = ("arrow", "numpy")

    def owns(self, obj: Any) -> bool:
        """Say whether it is a DataFrame."""
        return isinstance(obj, pd.DataFrame)

    def in_memory(self, obj: Any) -> bool:
        """Say yes."""
        del obj
        return True

    def gives(self) -> tuple[type, ...]:
        """Name the types that `read` gives."""
        return (pd.DataFrame,)

    def arrow(self, obj: Any) -> pa.Table:
        """Give the columns, without the index, which Arrow would write unless it is a plain count.

        Raises:
            ValidationError: the columns' names are no names of a table.

        """
        wrong = [name for name in obj.columns if not isinstance(name, str)]
        if wrong:
            msg = f"a DataFrame has the column name {wrong[0]!r}; names must be text to be stored"
            raise ValidationError(msg, column=wrong[0])
        twice = obj.columns[obj.columns.duplicated()]
        if len(twice):
            msg = f"a DataFrame has several columns called {twice[0]!r}; rename them"
            raise ValidationError(msg, columns=list(twice))
        return pa.Table.from_pandas(obj, preserve_index=False)

    def read(self, engine: sa.Engine, table: TableName, wanted: Wanted) -> pd.DataFrame:
        """Read the table; ``attrs["name"]`` is its name."""
        read = read_table(engine, table)
        if wanted.backend == "numpy":
            columns = (_numpy(column) for column in read.columns)
            index = pd.RangeIndex(read.num_rows)
            frame = pd.DataFrame(dict(zip(read.column_names, columns, strict=True)), index=index)
        else:
            frame = read.to_pandas(types_mapper=_dtype)
        frame.attrs["name"] = table.name
        return frame


_TEXT = pd.StringDtype("pyarrow")


def _dtype(type_: pa.DataType) -> Any:
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return _TEXT
    return pd.ArrowDtype(type_)


_NULLABLE = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.string(): _TEXT,
    pa.large_string(): _TEXT,
}
_DIGITS_OF_INT64 = 18


def _numpy(column: pa.ChunkedArray) -> Any:
    """Give a column in NumPy's types, or in Arrow's where NumPy has none that is exact."""
    kind = column.type
    if pa.types.is_decimal(kind) and kind.scale == 0 and kind.precision <= _DIGITS_OF_INT64:
        column, kind = column.cast(pa.int64()), pa.int64()
    if kind in _NULLABLE:
        return _NULLABLE[kind].__from_arrow__(column)
    if pa.types.is_floating(kind):
        # What pandas makes of Arrow's floats takes NaN for NULL.
        missing = column.is_null().to_numpy()
        return pd.arrays.FloatingArray(column.fill_null(0).to_numpy().copy(), missing)
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("s")).to_pandas()
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return column.to_pandas()
    return pd.Series(pd.ArrowDtype(kind).__from_arrow__(column))
