"""`ParquetTableCache`: the tables that tasks read, as Parquet files on this machine.

A file is named after its table, and holds which writing of the table its rows are of: the run, the
moment and the key under which ixflow has recorded it. So rows of another writing are never taken
for it, whatever the keys of tasks say. A file appears whole or not at all. Whatever is wrong with
one is a warning, and the table is read from the database.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ixflow.errors import ValidationError
from ixflow.pipeline.blob_store import spelled

if TYPE_CHECKING:
    from ixflow.store.local_cache import Writing

__all__ = ["ParquetTableCache"]

_log = logging.getLogger("ixflow.pipeline")
_WRITING = b"ixflow_writing"


class ParquetTableCache:
    """Keeps tables as ``base_path/instance_id/schema/table.parquet``, one file a table.

    With ``store_input`` a table is kept when a task reads it, with ``store_output`` when one writes
    it (frames that are in memory, in the types that the database gives back). With
    ``use_stored_input_as_cache`` it is read from the file as long as the table is the one that was
    kept. SQL references are not cached. Rows that somebody changes in a published table by hand
    are not noticed. From a configuration the ``instance_id`` is that of the instance.

    >>> import tempfile
    >>> ParquetTableCache(tempfile.mkdtemp(), store_output=True).store_input
    True
    """

    def __init__(
        self,
        base_path: str | os.PathLike[str],
        *,
        store_input: bool = True,
        store_output: bool = False,
        use_stored_input_as_cache: bool = True,
        instance_id: str = "",
    ) -> None:
        if "://" in os.fspath(base_path):
            msg = f"ParquetTableCache(base_path=) takes a directory, not the URL {base_path!r}"
            raise ValidationError(msg, base_path=base_path)
        self.base_path = Path(base_path) / instance_id
        self.store_input = store_input
        self.store_output = store_output
        self.use_stored_input_as_cache = use_stored_input_as_cache

    @classmethod
    def _init_conf_(cls, args: dict[str, Any]) -> Self:
        from ixflow.pipeline.config import ConfigContext

        return cls(**{"instance_id": ConfigContext.get().instance_id} | args)

    def __repr__(self) -> str:
        """Show the directory."""
        return f"ParquetTableCache({str(self.base_path)!r})"

    def get(self, writing: Writing) -> pa.Table | None:
        """Give the rows of one writing of a table, None if they are not here or not wanted."""
        if not self.use_stored_input_as_cache:
            return None
        path = self._path(writing)
        try:
            if not path.exists():
                return None
            found = pq.read_table(path, partitioning=None)
            metadata = dict(found.schema.metadata or {})
        except Exception as error:  # noqa: BLE001 - whatever a broken file makes of itself
            _log.warning("%s cannot be read, so its table is read anew: %s", path, error)
            return None
        if metadata.pop(_WRITING, None) != writing.text().encode():
            return None
        return found.replace_schema_metadata(metadata or None)

    def put(self, writing: Writing, rows: pa.Table) -> None:
        """Keep the rows of one writing of a table in the place of any other's."""
        path = self._path(writing)
        metadata = {**(rows.schema.metadata or {}), _WRITING: writing.text().encode()}
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                pq.write_table(rows.replace_schema_metadata(metadata), file, compression="zstd")
            if not pq.read_schema(temporary).equals(rows.schema):
                _log.warning("%s would not keep the types of its table; it is not cached", path)
                return
            Path(temporary).replace(path)
            temporary = None
        except (OSError, pa.ArrowException) as error:
            _log.warning("%s cannot be written, so its table is not cached: %s", path, error)
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()

    def _path(self, writing: Writing) -> Path:
        return self.base_path / spelled(writing.schema) / f"{spelled(writing.table)}.parquet"
