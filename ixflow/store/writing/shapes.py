"""What happens to a table when rows with other columns come. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from ixflow.dialects.types import is_bytes, is_text
from ixflow.errors import ColumnMismatch, ValidationError
from ixflow.store.writing.options import Write
from ixflow.values import Column, TableName

__all__ = ["Shape", "decide", "of_one_kind"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns that the table is to have, and how it gets them."""

    columns: tuple[Column, ...]
    action: Literal["keep", "create", "add", "rebuild"] = "keep"
    added: tuple[Column, ...] = ()


def decide(
    table: TableName, live: Sequence[Column], given: Sequence[Column], how: Write, run: Column
) -> Shape:
    """Decide what the table becomes; ``live`` are its columns, none if it is not there.

    ``run`` is the column that tells the run of a row, which the rows do not bring themselves.

    Raises:
        ColumnMismatch: the columns differ, and what is wanted does not allow for it.
        ValidationError: the primary key is another one, or not among the columns.

    """
    _check_names(table, given, how)
    wanted = _keyed(given, how.primary_key)
    if how.marks_runs:
        wanted = (*wanted, run)
    if not live:
        return Shape(wanted, "create")
    have = {column.name: column for column in live}
    come = {column.name: column for column in wanted}
    added = [column for column in wanted if column.name not in have]
    missing = [column for column in live if column.name not in come]
    pairs = [(have[name], come[name]) for name in come if name in have]
    other_key = bool(how.primary_key) and _key(live) != how.primary_key
    if how.evolution == "recreate":
        retyped = [old.name for old, new in pairs if not _holds(old, new)]
        if not (added or missing or retyped or other_key):
            return Shape(tuple(live))
        kept = {old.name: old for old, _ in pairs if old.name not in retyped}
        columns = tuple(_typed_as(c, kept.get(c.name, c)) for c in wanted)
        return Shape(columns, "rebuild", tuple(added))
    if other_key:
        _refuse_key(table, live, how)
    others = [pair for pair in pairs if not of_one_kind(*pair)]
    strange = [c for c in added if c.name != run.name] if how.evolution == "fail" else []
    lacking = [c for c in missing if how.evolution == "fail" or not c.nullable]
    if strange or lacking or others:
        _refuse(table, strange, lacking, others, how)
    if added:
        return Shape((*live, *(_nullable(c) for c in added)), "add", tuple(added))
    return Shape(tuple(live))


def _typed_as(column: Column, other: Column) -> Column:
    return replace(column, sql_type=other.sql_type, type=other.type, as_text=other.as_text)


def _nullable(column: Column) -> Column:
    return replace(column, nullable=True, key_position=None)


def _keyed(given: Sequence[Column], key: Sequence[str]) -> tuple[Column, ...]:
    """Put the columns in the key that is wanted, and no others."""
    places = {name: place for place, name in enumerate(key, start=1)}
    return tuple(
        replace(c, nullable=c.name not in places, key_position=places.get(c.name)) for c in given
    )


def _key(columns: Sequence[Column]) -> tuple[str, ...]:
    inside = [(c.key_position, c.name) for c in columns if c.key_position is not None]
    return tuple(name for _, name in sorted(inside))


def _check_names(table: TableName, given: Sequence[Column], how: Write) -> None:
    names = [column.name for column in given]
    if how.marks_runs and how.run_column in names:
        msg = (
            f"the rows for {table} have a column {how.run_column!r}, in which ixflow writes the "
            f"run of each row; leave it out, or say stored(run_column=...)"
        )
        raise ValidationError(msg, table=str(table), column=how.run_column)
    needed = dict.fromkeys(how.primary_key)
    for one in how.slices or ():
        needed |= dict.fromkeys(one.columns)
    unknown = [name for name in needed if name not in names]
    if unknown:
        msg = (
            f"the rows for {table} have no columns {unknown}, which its primary key or "
            f"partition_expr names; they have {names}"
        )
        raise ValidationError(msg, table=str(table), columns=unknown)


def _refuse_key(table: TableName, live: Sequence[Column], how: Write) -> None:
    have = ", ".join(_key(live)) or "none"
    msg = (
        f"the primary key of {table} is to be ({', '.join(how.primary_key)}), but the table's is "
        f"{have}; change one of them, or say schema_evolution='recreate'"
    )
    raise ValidationError(msg, table=str(table), primary_key=how.primary_key)


def _refuse(
    table: TableName,
    strange: Sequence[Column],
    lacking: Sequence[Column],
    others: Sequence[tuple[Column, Column]],
    how: Write,
) -> None:
    parts = []
    if strange:
        parts.append(f"the table lacks {_listed(strange)}")
    if lacking:
        parts.append(f"the rows lack {_listed(lacking)}")
    parts += [f"{old.name} is {old.sql_type} and comes as {new.sql_type}" for old, new in others]
    better = "'add' or 'recreate'" if not (lacking or others) else "'recreate'"
    msg = (
        f"the rows do not have the columns of {table}: {'; '.join(parts)}. Nothing was written; "
        f"with schema_evolution={how.evolution!r} that is refused, see {better}"
    )
    raise ColumnMismatch(
        msg,
        table=str(table),
        surplus=[c.name for c in strange],
        missing=[c.name for c in lacking],
        retyped=[old.name for old, _ in others],
    )


def _listed(columns: Sequence[Column]) -> str:
    return ", ".join(f"{c.name} ({c.sql_type})" for c in columns)


_KINDS = (
    ("boolean", pa.types.is_boolean),
    ("number", lambda t: pa.types.is_integer(t) or pa.types.is_floating(t)),
    ("number", pa.types.is_decimal),
    ("text", is_text),
    ("bytes", is_bytes),
    ("date", pa.types.is_date),
    ("moment", lambda t: pa.types.is_timestamp(t) and t.tz is not None),
    ("clock", pa.types.is_timestamp),
    ("time", pa.types.is_time),
)


def _kind(type_: pa.DataType) -> str:
    return next((kind for kind, test in _KINDS if test(type_)), str(type_))


def _plain(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def of_one_kind(live: Column, given: Column) -> bool:
    """Say whether values of one column may be values of the other; each of them is looked at.

    >>> of_one_kind(Column("n", "bigint", pa.int64()), Column("n", "integer", pa.int32()))
    True
    """
    new = _plain(given.type)
    if live.as_text or given.as_text or pa.types.is_null(new):
        return True
    return _kind(live.type) == _kind(new)


def _holds(live: Column, given: Column) -> bool:
    """Say whether a column takes every value of another one's type."""
    new = _plain(given.type)
    same = live.sql_type.lower() == given.sql_type.lower()
    if same or live.as_text or pa.types.is_null(new):
        return True
    if not of_one_kind(live, given):
        return False
    return _kind(new) != "number" or _holds_number(_plain(live.type), new)


def _holds_number(old: pa.DataType, new: pa.DataType) -> bool:
    if pa.types.is_floating(old) or pa.types.is_floating(new):
        both = pa.types.is_floating(old) and pa.types.is_floating(new)
        return bool(both and old.bit_width >= new.bit_width)
    if pa.types.is_integer(old) and pa.types.is_integer(new):
        return bool(old == new or old.bit_width > new.bit_width)
    (digits, scale), (needed, behind) = _digits(old), _digits(new)
    return scale >= behind and digits - scale >= needed - behind


_DIGITS_OF_BITS = {8: 3, 16: 5, 32: 10, 64: 20}


def _digits(type_: pa.DataType) -> tuple[int, int]:
    """Give the digits of a number's type, and those behind the point."""
    if pa.types.is_decimal(type_):
        return type_.precision, type_.scale
    return _DIGITS_OF_BITS[type_.bit_width], 0
