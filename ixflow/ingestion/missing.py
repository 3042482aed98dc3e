"""Rows that the source no longer has: found by their keys, then deleted or marked.

The keys of everything that an ingest was given are kept in temporary tables of its session. When
the last batch is committed, one more transaction compares them with the table, so this needs an
ingest of all the source has, from the beginning. A brake keeps half an answer of the source from
emptying the table.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.errors import ArrivalDiffers, TooManyMissing, ValidationError
from ixflow.tables import declared
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    from ixflow.dialects import Dialect

__all__ = ["GivenKeys", "Missing"]


@dataclass(frozen=True)
class Missing:
    """Delete the rows that the source no longer has, as ``delete`` of `ingest`.

    Args:
        refuse_above: The share of a table's rows, 0 to 1, that may be missing; more of them, and
            nothing is deleted.
        mark: A column that gets the time instead, of rows that stay; rows that come again lose it,
            since their new values have none.

    >>> Missing(refuse_above=0.1).refuse_above
    0.1
    """

    refuse_above: float = 0.5
    mark: str | None = None

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if isinstance(self.refuse_above, bool) or not 0 <= self.refuse_above <= 1:
            msg = f"refuse_above is {self.refuse_above!r}; it is a share of the rows, from 0 to 1"
            raise ValidationError(msg, refuse_above=self.refuse_above)

    def check(self, tables: Sequence[sa.Table], *, upsert: bool, watermark: Any) -> None:
        """See that missing rows can be told from others.

        Raises:
            ValidationError: a table has no key or no such column, or not everything is ingested.

        """
        for table in tables:
            if not table.primary_key.columns or not upsert:
                msg = f"{table} has no primary key to upsert by, so nothing tells which rows miss"
                raise ValidationError(msg, table=str(table))
            if self.mark is not None and self.mark not in table.columns:
                msg = f"{table} has no column {self.mark} to mark missing rows with"
                raise ValidationError(msg, table=str(table), column=self.mark)
        if watermark is not None:
            msg = (
                f"missing rows are found in an ingest of everything, and this one continues behind "
                f"{watermark!r}; give high_watermark=HighWatermark.EARLIEST"
            )
            raise ValidationError(msg, high_watermark=repr(watermark))


class GivenKeys:
    """The keys that an ingest was given, table by table, while its session lasts."""

    def __init__(self, conn: sa.Connection, options: Missing) -> None:
        """Take the ingest's connection; nothing is made yet."""
        self._conn, self._options = conn, options
        self._dialect: Dialect = dialect_of(conn)
        self._kept: dict[TableName, TableName] = {}

    def remember(self, table: sa.Table, rows: TableName, columns: Sequence[Column]) -> None:
        """Keep the keys of a table that holds given rows; in the batch's transaction."""
        key = _key_columns(table, columns)
        kept = self._place(declared.name_of(table), key)
        values = ", ".join(f"CAST({self._dialect.quote(c.name)} AS {c.sql_type})" for c in key)
        source = self._dialect.qualified(rows)
        run(
            self._conn, f"INSERT INTO {self._dialect.qualified(kept)} SELECT {values} FROM {source}"
        )

    def _place(self, name: TableName, key: Sequence[Column]) -> TableName:
        if name not in self._kept:
            kept = TableName(f"_ixflow_keys_{uuid.uuid4().hex[:16]}")
            bare = [Column(c.name, c.sql_type, c.type) for c in key]
            self._dialect.create_table(self._conn, kept, bare, temporary=True)
            self._kept[name] = TableName(kept.name, self._dialect.temporary_schema)
        return self._kept[name]

    def delete_others(self, table: sa.Table, columns: Sequence[Column]) -> int:
        """Delete or mark the rows of a live table whose key was not given; count them.

        Raises:
            TooManyMissing: more than the share that may be missing are.

        """
        name, mark = declared.name_of(table), self._options.mark
        kept = self._place(name, _key_columns(table, columns))
        live, quote = self._dialect.qualified(name), self._dialect.quote
        same, there = self._same(table), self._there()
        given = f"SELECT 1 FROM {self._dialect.qualified(kept)} k WHERE {same}"
        counts = f"count(*), count(*) FILTER (WHERE NOT EXISTS ({given}))"
        total, missing = run(self._conn, f"SELECT {counts} FROM {live} t WHERE {there}").one()
        if missing > total * self._options.refuse_above:
            raise self._too_many(name, int(missing), int(total))
        change = f"DELETE FROM {live} AS t"
        if mark:
            change = f"UPDATE {live} AS t SET {quote(mark)} = now()"
        run(self._conn, f"{change} WHERE {there} AND NOT EXISTS ({given})")
        return int(missing)

    def prove_deleted(self, table: sa.Table) -> None:
        """See that exactly the given rows are left, behind `delete_others`.

        Raises:
            ArrivalDiffers: there are others, or given ones are gone.

        """
        name, same = declared.name_of(table), self._same(table)
        self._dialect.settle_deferred(self._conn)
        live = f"{self._dialect.qualified(name)} t"
        kept = f"{self._dialect.qualified(self._kept[name])} k"
        others = f"{live} WHERE {self._there()} AND NOT EXISTS (SELECT 1 FROM {kept} WHERE {same})"
        gone = f"{kept} WHERE NOT EXISTS (SELECT 1 FROM {live} WHERE {same})"
        more, fewer = (
            int(run(self._conn, f"SELECT count(*) FROM {rows}").scalar_one())
            for rows in (others, gone)
        )
        if more or fewer:
            msg = (
                f"{name}: {more} rows are there that were not given, and {fewer} that were given "
                f"are gone, before the commit; no missing row was deleted; look for triggers and "
                f"rules on the table"
            )
            raise ArrivalDiffers(msg, table=str(name), surplus=more, gone=fewer)

    def _same(self, table: sa.Table) -> str:
        quote = self._dialect.quote
        return " AND ".join(f"k.{quote(c.name)} = t.{quote(c.name)}" for c in table.primary_key)

    def _there(self) -> str:
        mark = self._options.mark
        return f"t.{self._dialect.quote(mark)} IS NULL" if mark else "true"

    def _too_many(self, name: TableName, missing: int, total: int) -> TooManyMissing:
        msg = (
            f"{missing} of {total} rows of {name} are missing in the source, more than the "
            f"{self._options.refuse_above:.0%} that may be; none was deleted; if it is right, "
            f"ingest again with delete=Missing(refuse_above=1)"
        )
        return TooManyMissing(msg, table=str(name), missing=missing, rows=total)

    def forget(self) -> None:
        """Drop the temporary tables, as far as they are there."""
        for kept in self._kept.values():
            with contextlib.suppress(sa.exc.DBAPIError), self._conn.begin():
                run(self._conn, f"DROP TABLE IF EXISTS {self._dialect.qualified(kept)}")


def _key_columns(table: sa.Table, columns: Sequence[Column]) -> list[Column]:
    by_name = {column.name: column for column in columns}
    return [by_name[column.name] for column in table.primary_key.columns]
