"""DuckDB relations, as queries in memory over what was read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from ixflow.errors import UnsupportedType, ValueDoesNotFit
from ixflow.store.frames.base import Frames, Wanted
from ixflow.tables.read import read_table
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["DuckDBFrames"]

# Relations can be joined only if they share a connection, and a connection does one thing at a
# time: the inputs of a task share that of its thread.
_of_thread = threading.local()


# Arrow gets no zone, no number above 2 to the 127th, or DuckDB's own bytes.
_CHANGED = {"TIME WITH TIME ZONE", "UHUGEINT", "BIT", "BIGNUM", "VARINT"}


class DuckDBFrames(Frames):
    """Takes and gives `duckdb.DuckDBPyRelation`, streamed out and read whole.

    What it gives belongs to a database in memory, so that it can be kept while others use the
    warehouse, and joined with the other inputs of the task.
    """

    def owns(self, obj: Any) -> bool:
        """Say whether it is a relation."""
        return isinstance(obj, duckdb.DuckDBPyRelation)

    def gives(self) -> tuple[type, ...]:
        """Name the types that `read` gives."""
        return (duckdb.DuckDBPyRelation,)

    def arrow(self, obj: Any) -> Any:
        """Stream the rows; asked again, the relation is computed again.

        Raises:
            UnsupportedType: a column is of a type that DuckDB changes on its way to Arrow.

        """
        for name, type_ in zip(obj.columns, obj.types, strict=True):
            if str(type_) in _CHANGED:
                msg = f"column {name} of a relation is {type_}, which Arrow cannot hold; cast it"
                raise UnsupportedType(msg, column=name, type=str(type_))
        reader = obj.to_arrow_reader()
        if not any(str(type_) == "HUGEINT" for type_ in obj.types):
            return reader
        batches = (_within_precision(batch) for batch in reader)
        return pa.RecordBatchReader.from_batches(reader.schema, batches)

    def read(self, engine: sa.Engine, table: TableName, wanted: Wanted) -> duckdb.DuckDBPyRelation:
        """Read the table; the relation's alias is its name."""
        del wanted
        return _connection().from_arrow(read_table(engine, table)).set_alias(table.name)

    def apart(self, obj: Any, number: int) -> Any:
        """Give it another alias, without which it could not be joined with itself."""
        return obj.set_alias(f"{obj.alias}_{number}")


def _within_precision(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Refuse a HUGEINT that is too long for the decimal that DuckDB declares for it."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            msg = f"column {name} of a relation: {error}; cast it to a type that holds it"
            raise ValueDoesNotFit(msg, column=name) from error
    return batch


def _connection() -> duckdb.DuckDBPyConnection:
    if not hasattr(_of_thread, "connection"):
        made = duckdb.connect()
        # As everywhere in ixflow: what zone the machine is in must not change what is computed.
        made.execute("SET TimeZone = 'UTC'")
        _of_thread.connection = made
    connection: duckdb.DuckDBPyConnection = _of_thread.connection
    return connection
