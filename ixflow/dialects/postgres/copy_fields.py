"""Encoded columns side by side as the rows of a binary COPY stream.

A column is encoded as parts. Records of one width are numpy arrays: those of neighbouring columns
are laid next to each other, and where a row has a NULL, the bytes of its value are left out. Values
of any length stay Arrow binary arrays. Joining all of them element by element makes an array whose
data buffer *is* the rows, because Arrow stores the values of a binary array end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["NULL_LENGTH", "Part", "Records", "join_rows", "nulls_of", "sized"]

NULL_LENGTH = -1
"""The length of a field that is NULL."""

_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Records:
    """Bytes of one width a row; in the rows of ``nulls`` only the first ``kept`` of them."""

    table: npt.NDArray[Any]
    nulls: npt.NDArray[np.bool_] | None = None
    kept: int = _LENGTH_BYTES

    @property
    def width(self) -> int:
        """Count the bytes of a row without NULL."""
        return int(self.table.dtype.itemsize)


Part: TypeAlias = Records | pa.Array
"""Records, or Arrow binary values of any length; a null there is no bytes."""


def nulls_of(array: pa.Array) -> npt.NDArray[np.bool_] | None:
    """Say which rows are NULL; None: no row is."""
    if not array.null_count:
        return None
    found: npt.NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return found


def sized(table: npt.NDArray[Any], nulls: npt.NDArray[np.bool_] | None) -> Records:
    """Write the lengths into records that have room for them under the name ``length``."""
    table["length"] = table.dtype.itemsize - _LENGTH_BYTES
    if nulls is not None:
        table["length"][nulls] = NULL_LENGTH
    return Records(table, nulls)


def join_rows(parts: Sequence[Part], rows: int) -> memoryview:
    """Put the parts of all columns together, row by row."""
    joined = _joined_records(parts, rows)
    if len(joined) == 1:
        return _bytes_of(joined[0])
    separator = pa.scalar(b"", pa.large_binary())
    return _bytes_of(
        pc.binary_join_element_wise(
            *joined, separator, null_handling="replace", null_replacement=b""
        )
    )


def _bytes_of(array: pa.Array) -> memoryview:
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)
    first, last = offsets[array.offset], offsets[array.offset + len(array)]
    return memoryview(array.buffers()[2]).cast("B")[first:last]


def _joined_records(parts: Sequence[Part], rows: int) -> list[pa.Array]:
    """Make one array of each run of records, which costs less than joining every column."""
    joined: list[pa.Array] = []
    run: list[Records] = []
    for part in parts:
        if isinstance(part, Records):
            run.append(part)
            continue
        if run:
            joined.append(_as_binary(run, rows))
            run = []
        joined.append(part)
    return [*joined, _as_binary(run, rows)] if run else joined


def _as_binary(run: Sequence[Records], rows: int) -> pa.Array:
    """Lay records side by side, without the bytes that a NULL leaves out."""
    names = [str(number) for number in range(len(run))]
    table = np.empty(rows, dtype=[(n, f"V{r.width}") for n, r in zip(names, run, strict=True)])
    for name, records in zip(names, run, strict=True):
        table[name] = records.table.view(f"V{records.width}")
    data, width = table.view(np.uint8), table.dtype.itemsize
    offsets = np.arange(0, rows * width + 1, width, dtype=np.int64)
    if any(records.nulls is not None for records in run):
        keep = np.ones((rows, width), dtype=np.bool_)
        place = 0
        for records in run:
            if records.nulls is not None:
                keep[:, place + records.kept : place + records.width][records.nulls] = False
                offsets[1:] -= np.cumsum(records.nulls) * (records.width - records.kept)
            place += records.width
        data = data[keep.reshape(-1)]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), rows, buffers)
