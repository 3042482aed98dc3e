"""What is looked at in the rows that wait, before a row of the table is touched."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.errors import DataError, ValidationError, ValueDoesNotFit
from ixflow.store.writing.slices import Slices
from ixflow.tables.slices import Slice
from ixflow.values import TableName

__all__ = ["check_key", "check_values", "count_slices"]

_COUNTED_AT_ONCE = 100
_SHOWN = 60


def check_key(conn: sa.Connection, stage: TableName, key: Sequence[str], table: TableName) -> None:
    """Refuse rows without a key, and rows that have one and the same.

    Raises:
        DataError: saying how many.

    """
    if not key:
        return
    dialect = dialect_of(conn)
    place, names = dialect.qualified(stage), dialect.column_list(key)
    shown = ", ".join(key)
    absent = " OR ".join(f"{dialect.quote(name)} IS NULL" for name in key)
    without = run(conn, f"SELECT count(*) FROM {place} WHERE {absent}").scalar_one()
    if without:
        msg = f"{without} rows for {table} have NULL in their primary key ({shown})"
        raise DataError(msg, table=str(table), primary_key=tuple(key), rows=without)
    query = (
        f"SELECT count(*) FROM (SELECT {names} FROM {place} GROUP BY {names} HAVING count(*) > 1"
    )
    twice = run(conn, f"{query}) AS q").scalar_one()
    if twice:
        msg = (
            f"{twice} values of the primary key ({shown}) of {table} come in several rows, and "
            f"nothing says which of them counts; keep one row of each"
        )
        raise DataError(msg, table=str(table), primary_key=tuple(key), rows=twice)


def check_values(conn: sa.Connection, writes: Slices, slices: Sequence[Slice]) -> None:
    """Let the server read the keys as values of their columns' types.

    Raises:
        ValidationError: one of them is no such value.

    """
    values = writes.values(slices)
    try:
        if values:
            run(conn, f"SELECT {', '.join(values)}").close()
    except sa.exc.DataError as error:
        columns = sorted({name for one in slices for name in one.columns})
        keys = ", ".join(repr(one.name) for one in slices[:3])
        msg = f"a partition key is no value of its column ({', '.join(columns)}): {keys}"
        raise ValidationError(msg, columns=columns) from error


def count_slices(
    conn: sa.Connection, stage: TableName, writes: Slices, slices: Sequence[Slice], table: TableName
) -> dict[str, int]:
    """Count the rows of each partition.

    Raises:
        ValueDoesNotFit: rows belong to none of them, and would be there twice or be overlooked.

    """
    dialect = dialect_of(conn)
    place = dialect.qualified(stage)
    outside = f"({writes.condition(slices)}) IS NOT TRUE"
    strangers = run(conn, f"SELECT count(*) FROM {place} WHERE {outside}").scalar_one()
    if strangers:
        names = list(dict.fromkeys(name for one in slices for name in one.columns))
        first = run(
            conn, f"SELECT {dialect.column_list(names)} FROM {place} WHERE {outside} LIMIT 1"
        ).one()
        shown = ", ".join(
            f"{name} = {'NULL' if value is None else str(value)[:_SHOWN]}"
            for name, value in zip(names, first, strict=True)
        )
        keys = _listed([one.name for one in slices])
        msg = (
            f"{strangers} rows for {table} are not of the partition {keys}, such as {shown}; "
            f"nothing was written"
        )
        raise ValueDoesNotFit(msg, table=str(table), columns=names, rows=strangers, partition=keys)
    counts: dict[str, int] = {}
    for start in range(0, len(slices), _COUNTED_AT_ONCE):
        some = slices[start : start + _COUNTED_AT_ONCE]
        tests = ", ".join(f"count(*) FILTER (WHERE {writes.condition([one])})" for one in some)
        found = run(conn, f"SELECT {tests} FROM {place}").one()
        counts |= {one.name: int(n) for one, n in zip(some, found, strict=True)}
    return counts


def _listed(keys: Sequence[str]) -> str:
    """Name partitions.

    >>> _listed(["a", "b", "c"])
    'a to c (3 partitions)'
    """
    return keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]} ({len(keys)} partitions)"
