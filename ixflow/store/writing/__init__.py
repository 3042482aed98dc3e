"""Writing one table of a warehouse: whole, row by row, by key or a slice at a time."""

from __future__ import annotations

from ixflow.store.writing.options import (
    EVOLUTIONS,
    MODES,
    RUN_COLUMN,
    Write,
    WrittenTable,
    check_words,
)
from ixflow.store.writing.slices import Slices
from ixflow.store.writing.write import write_table

__all__ = [
    "EVOLUTIONS",
    "MODES",
    "RUN_COLUMN",
    "Slices",
    "Write",
    "WrittenTable",
    "check_words",
    "write_table",
]
