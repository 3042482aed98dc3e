"""pyarrow tables, batches and readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ixflow.store.frames.base import Frames, Wanted
from ixflow.tables.read import read_table
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["ArrowFrames"]


class ArrowFrames(Frames):
    """Takes `pyarrow.Table`, `RecordBatch` and `RecordBatchReader`; gives `pyarrow.Table`."""

    def owns(self, obj: Any) -> bool:
        """Say whether it is tabular."""
        return isinstance(obj, (pa.Table, pa.RecordBatch, pa.RecordBatchReader))

    def in_memory(self, obj: Any) -> bool:
        """Say whether it can be read more than once."""
        return not isinstance(obj, pa.RecordBatchReader)

    def gives(self) -> tuple[type, ...]:
        """Name the types that `read` gives."""
        return (pa.Table,)

    def read(self, engine: sa.Engine, table: TableName, wanted: Wanted) -> pa.Table:
        """Read the table."""
        del wanted
        return read_table(engine, table)
