"""Rows of Arrow as the canonical texts of `ixflow.dialects.checksums`, and their checksum.

This is the client's side of a proof: nothing here asks the database, nor uses the encoder that
writes rows for it. Arrow and numpy write the texts a column at a time; MD5 is DuckDB's, in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.checksums import SEPARATOR, Checksum
from ixflow.dialects.types import is_bytes, is_text, split_sql_type
from ixflow.values import Column

__all__ = ["RowHasher", "canonical_rows"]

_PIECE_BYTES = 8 << 20
_PIECE_ROWS = 64_000
_STRING = pa.large_string()
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype="<u2")

Spelled = Callable[[pa.Array, Column], pa.Array]
"""Writes texts the way the database writes the values that it makes of them."""


class RowHasher:
    """Computes checksums of Arrow batches; close it in the end."""

    def __init__(self) -> None:
        """Open a DuckDB in memory, of which only MD5 is used."""
        import duckdb

        self._duckdb = duckdb.connect(":memory:", config={"threads": 1})
        self._lock = threading.Lock()

    def close(self) -> None:
        """Free the memory."""
        self._duckdb.close()

    def set_time_zone(self, zone: str) -> None:
        """Spell moments within lists and structs as in this time zone."""
        self._duckdb.execute("SET TimeZone = ?", [zone])

    def can_spell(self, column: Column) -> bool:
        """Say whether the type is one that DuckDB has without more."""
        try:
            self._duckdb.execute(f"SELECT CAST(NULL AS {column.sql_type})")
        except self._errors:
            return False
        return True

    @property
    def _errors(self) -> type[Exception]:
        import duckdb

        return duckdb.Error

    def spelled(self, array: pa.Array, column: Column) -> pa.Array:
        """Write texts the way DuckDB writes the values that it makes of them.

        A text that is no value of the type stays as it is: the database will refuse it.
        """
        cast = f"SELECT CAST(CAST(v AS {column.sql_type}) AS VARCHAR) FROM given"
        try:
            return self._query(cast, array)
        except self._errors:
            return array

    def checksum(
        self,
        batch: pa.RecordBatch,
        given: Sequence[Column],
        columns: Sequence[Column],
        spelled: Spelled | None = None,
    ) -> Checksum:
        """Compute the checksum of a batch that has the given ones of a table's columns."""
        total = Checksum()
        for piece in _pieces(batch):
            rows = canonical_rows(piece, given, columns, spelled)
            hashes = self._query("SELECT md5_number_upper(v) FROM given", rows)
            numbers = hashes.to_numpy(zero_copy_only=False)
            # DuckDB reads the bytes as a little-endian number. numpy's sum is modulo 2**64.
            value = np.add.reduce(numbers.byteswap(), dtype=np.uint64)
            total += Checksum(len(numbers), int(value))
        return total

    def _query(self, query: str, array: pa.Array) -> pa.Array:
        with self._lock:
            self._duckdb.register("given", pa.table({"v": array}))
            try:
                found = self._duckdb.execute(query).to_arrow_table()
            finally:
                self._duckdb.unregister("given")
        return found.column(0).combine_chunks()


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch so that the texts of a piece do not need much memory."""
    width = batch.get_total_buffer_size() // max(1, batch.num_rows)
    rows = int(max(1, min(_PIECE_ROWS, _PIECE_BYTES // max(1, width))))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def canonical_rows(
    batch: pa.RecordBatch,
    given: Sequence[Column],
    columns: Sequence[Column],
    spelled: Spelled | None = None,
) -> pa.Array:
    """Write a text a row, of all columns of the table; those that are not given are NULL.

    >>> batch = pa.record_batch({"id": [1, None], "name": ["a|b", ""]})
    >>> of = [Column("id", "bigint", pa.int64()), Column("name", "text", pa.string())]
    >>> canonical_rows(batch, of, of).to_pylist()
    [b'1|3:a|b', b'|0:']
    """
    arrays = {column.name: array for column, array in zip(given, batch.columns, strict=True)}
    parts: list[Any] = []
    for column in columns:
        array = arrays.get(column.name)
        if array is None:
            parts.append(_constant(""))
        else:
            if spelled is not None and column.as_text:
                array = spelled(array, column)
            parts.append(_text(array, column))
    joined = pc.binary_join_element_wise(
        *parts, _constant(SEPARATOR), null_handling="replace", null_replacement=""
    )
    return joined.cast(pa.large_binary())


def _text(array: pa.Array, column: Column) -> pa.Array:
    """Write the canonical texts of an array, as large strings."""
    base = split_sql_type(column.sql_type)[0]
    if pa.types.is_temporal(column.type) and is_text(array.type):
        return _moments_in_text(array.cast(_STRING), column)
    if base == "uuid" and not column.as_text:
        return pc.utf8_lower(pc.replace_substring_regex(array.cast(_STRING), "[-{}]", ""))
    if base == "character":
        array = pc.utf8_rtrim(array, " ")
    found = next((how for test, how in _FORMS if test(column.type)), _length_and_text)
    return found(array)


def _joined(*parts: Any, separator: str = "") -> pa.Array:
    texts = [_constant(part) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*texts, _constant(separator))


def _constant(text: str | None) -> pa.Scalar:
    return pa.scalar(text, _STRING)


def _moments_in_text(array: pa.Array, column: Column) -> pa.Array:
    """Write texts of dates and timestamps, some of which are infinite."""
    lower = pc.utf8_lower(pc.utf8_trim_whitespace(array))
    infinite = pc.match_substring_regex(lower, "^-?infinity$")
    finite = pc.if_else(infinite, _constant(None), array)
    return pc.if_else(infinite, lower, _moment(finite.cast(column.type)))


def _length_and_text(array: pa.Array) -> pa.Array:
    text = (array if is_text(array.type) else array.cast(pa.string())).cast(_STRING)
    return _joined(_digits(pc.utf8_length(text)), text, separator=":")


def _digits(array: pa.Array) -> pa.Array:
    return array.cast(_STRING)


def _boolean(array: pa.Array) -> pa.Array:
    return pc.if_else(array, _constant("1"), _constant("0"))


def _moment(array: pa.Array) -> pa.Array:
    """Write days, or micro- or nanoseconds since 1970."""
    type_ = array.type
    if pa.types.is_date(type_):
        return _digits(array.cast(pa.date32()).cast(pa.int32()))
    count = _digits(array.cast(pa.int64()))
    zeros = {"s": "000000", "ms": "000"}.get(type_.unit)
    if zeros is None:
        return count
    return pc.if_else(pc.equal(count, "0"), count, _joined(count, zeros))


def _decimal(array: pa.Array) -> pa.Array:
    """Write all digits of the scale; Arrow itself would write small numbers as 1E-9."""
    type_ = array.type
    kind = pa.decimal128 if pa.types.is_decimal128(type_) else pa.decimal256
    whole = pa.Array.from_buffers(
        kind(type_.precision, 0), len(array), array.buffers(), offset=array.offset
    )
    unscaled = whole.cast(_STRING)
    if type_.scale == 0:
        return unscaled
    digits = pc.utf8_lpad(pc.utf8_ltrim(unscaled, "-"), type_.scale + 1, "0")
    sign = pc.if_else(pc.starts_with(unscaled, "-"), _constant("-"), _constant(""))
    before = pc.utf8_slice_codeunits(digits, 0, -type_.scale)
    after = pc.utf8_slice_codeunits(digits, -type_.scale)
    return _joined(sign, before, ".", after)


def _float(array: pa.Array) -> pa.Array:
    values = pc.fill_null(array, pa.scalar(0, array.type)).to_numpy(zero_copy_only=False)
    # A sum with zero is never -0.0.
    big = (values + values.dtype.type(0)).astype(values.dtype.newbyteorder(">"))
    digits = _HEX[np.frombuffer(big.tobytes(), dtype=np.uint8)].tobytes()
    width = pa.binary(2 * big.dtype.itemsize)
    made = pa.Array.from_buffers(width, len(array), [None, pa.py_buffer(digits)])
    text = made.cast(pa.large_binary()).cast(_STRING)
    # NULL is not NaN, and stays NULL.
    return pc.if_else(pc.is_nan(array), _constant("nan"), text)


def _bytes(array: pa.Array) -> pa.Array:
    large = array.cast(pa.large_binary())
    buffer, data = large.buffers()[1:]
    if buffer is None or data is None or not len(large):
        return pc.if_else(array.is_valid(), _constant("x"), _constant(None))
    ends = np.frombuffer(buffer, dtype=np.int64)[large.offset : large.offset + len(large) + 1]
    digits = _HEX[np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]]].tobytes()
    places = pa.py_buffer(np.ascontiguousarray((ends - ends[0]) * 2))
    text = pa.Array.from_buffers(_STRING, len(large), [None, places, pa.py_buffer(digits)])
    return pc.if_else(array.is_valid(), _joined("x", text), _constant(None))


_FORMS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.Array]], ...] = (
    (pa.types.is_boolean, _boolean),
    (pa.types.is_integer, _digits),
    (pa.types.is_floating, _float),
    (pa.types.is_decimal, _decimal),
    (pa.types.is_temporal, _moment),
    (is_bytes, _bytes),
)
