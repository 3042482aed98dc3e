"""Arrow decimals as PostgreSQL's binary ``numeric``: base-10000 digits, all rows at once.

The binary form is: number of digits, weight of the first, sign, display scale, then the digits.
`numeric_recv` strips leading and trailing zero digits itself, so every row of a column can carry
the same number of digits: as many as its precision and scale need. That makes the field a record
of fixed width, which numpy fills a digit position at a time.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["numeric_fields"]

_BASE = 10_000
_DIGITS = 4
_NEGATIVE = 0x4000
# Unscaled values up to this many digits fit int64, also after alignment to four digits.
_INT64_DIGITS = 15
_INT64_MOST = (1 << 63) - 1


def numeric_fields(array: pa.Array) -> np.ndarray:
    """Return one record a row: room for its length, and binary numeric. Nulls come out as zero."""
    precision, scale = array.type.precision, array.type.scale
    fraction = -(-scale // _DIGITS)
    whole = -(-(precision - scale) // _DIGITS)
    count = whole + fraction
    record = [("length", ">i4"), ("count", ">i2"), ("weight", ">i2"), ("sign", ">u2")]
    record += [("scale", ">u2"), ("digits", ">i2", (count,))]  # type: ignore[list-item] # numpy's stubs want pairs only
    table = np.zeros(len(array), dtype=record)
    table["count"] = count
    table["weight"] = whole - 1
    table["scale"] = scale
    filled = pc.fill_null(array, pa.scalar(0, array.type)) if array.null_count else array
    factor = 10 ** (fraction * _DIGITS - scale)
    if precision <= _INT64_DIGITS or _fit_int64(filled, factor):
        negative, digits = _small(filled, factor, count)
    else:
        negative, digits = _large(filled, factor, count)
    table["sign"][negative] = _NEGATIVE
    for position, column in enumerate(digits):
        table["digits"][:, position] = column
    return table


def _limbs(array: pa.Array) -> np.ndarray:
    """See the two's complement values as rows of little-endian 32-bit limbs."""
    width = array.type.byte_width // 4
    flat = np.frombuffer(array.buffers()[1], dtype="<u4")
    return flat[array.offset * width : (array.offset + len(array)) * width].reshape(-1, width)


def _fit_int64(array: pa.Array, factor: int) -> bool:
    """Say whether what the values are multiplied to fits, though their type has room for more."""
    limbs = _limbs(array)
    low = np.ascontiguousarray(limbs[:, :2]).view("<i8").reshape(-1)
    # The limbs above only repeat the sign of those below.
    sign = (low >> 63).astype("<u4")
    if any((limbs[:, place] != sign).any() for place in range(2, limbs.shape[1])):
        return False
    most = _INT64_MOST // factor
    return not len(low) or bool(low.min() >= -most and low.max() <= most)


def _small(array: pa.Array, factor: int, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    limbs = _limbs(array)
    low = np.ascontiguousarray(limbs[:, :2]).view("<i8").reshape(-1)
    negative = low < 0
    rest = np.abs(low).view("<u8") * np.uint64(factor)
    digits = []
    for _ in range(count):
        # numpy divides by a constant without dividing; divmod does divide.
        higher = rest // np.uint64(_BASE)
        digits.append(rest - higher * np.uint64(_BASE))
        rest = higher
    return negative, digits[::-1]


def _large(array: pa.Array, factor: int, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    limbs = _limbs(array).astype(np.uint64)
    negative = limbs[:, -1] >= 1 << 31
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    # Absolute value: invert and add one, limb by limb; the factor goes in with the same carry.
    borrow = negative.astype(np.uint64)
    carry = np.zeros(len(array), dtype=np.uint64)
    aligned = []
    for index in range(limbs.shape[1]):
        limb = np.where(negative, limbs[:, index] ^ mask, limbs[:, index]) + borrow
        borrow = limb >> shift
        value = (limb & mask) * np.uint64(factor) + carry
        carry = value >> shift
        aligned.append(value & mask)
    aligned.append(carry)
    digits = []
    for _ in range(count):
        remainder = np.zeros(len(array), dtype=np.uint64)
        for index in reversed(range(len(aligned))):
            value = remainder << shift | aligned[index]
            aligned[index] = value // np.uint64(_BASE)
            remainder = value % np.uint64(_BASE)
        digits.append(remainder)
    return negative, digits[::-1]
