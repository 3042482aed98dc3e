"""A table of a source against its copy: rows counted, checksums summed, nothing fetched.

Both sides are looked at up to one bound of a cursor column, so that rows which arrive meanwhile are
on neither side. A checksum does not depend on the order of rows. Where one of the databases writes
none, or a column means something else on both sides, it says what was not compared.
"""

import datetime as dt
import decimal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import Dialect, connected, run
from ixflow.dialects.types import is_bytes, split_sql_type
from ixflow.errors import UnsupportedDatabase, ValidationError
from ixflow.values import Column, TableName, TablePart

__all__ = ["Measured", "Side", "can_sum", "chosen", "comparable", "differences", "literal_text"]

_DOCUMENTS = ("json", "jsonb")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one side says: rows, a checksum in hexadecimal digits, the least and greatest key."""

    rows: int
    checksum: str | None = None
    ends: tuple[Any, Any] | None = None


@dataclass(frozen=True)
class Side:
    """One table, or a query in its place, and the conditions on its rows."""

    dialect: Dialect
    engine: sa.Engine
    table: TableName
    query: str | None = None
    where: tuple[str, ...] = ()
    masked: frozenset[str] = field(default_factory=frozenset)

    def columns(self) -> dict[str, Column]:
        """Read the columns by name, and let the server read the conditions; no row is.

        Raises:
            TableNotFound: there is no such table.

        """
        part, alias = TablePart(self.table), "q" if self.query else self.table.name
        with connected(self.engine) as conn:
            if self.query is None:
                found = self.dialect.columns(conn, self.table)
            else:
                found = self.dialect.describe(conn, self.query)
            for text in self.where:
                self.dialect.check_filter(conn, part, text, alias, self.query)
        return {column.name: column for column in found}

    def relation(self, bound: str | None = None) -> str:
        """Write the rows as a relation with an alias; ``bound`` is one more condition."""
        quote = self.dialect.quote
        rows = f"{self.dialect.qualified(self.table)} AS {quote(self.table.name)}"
        if self.query is not None:
            rows = f"({self.query}\n) AS {quote('q')}"
        conditions = [f"({text}\n)" for text in (*self.where, *([bound] if bound else []))]
        kept = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"(SELECT * FROM {rows}{kept}) AS {quote('t')}"

    def greatest(self, cursor: Column) -> Any:
        """Read the greatest value of a column; None: there is none."""
        name = self.dialect.quote(cursor.name)
        [found] = self._read(f"SELECT max({name}) AS {name} FROM {self.relation()}", [cursor])
        return found

    def counted(self, bound: str | None) -> Measured:
        """Count the rows."""
        with connected(self.engine) as conn, conn.begin():
            sql = f"SELECT count(*) FROM {self.relation(bound)}"
            return Measured(int(run(conn, sql).scalar_one()))

    def ranged(self, bound: str | None, key: Column) -> Measured:
        """Count the rows, and read the least and the greatest key."""
        quote = self.dialect.quote
        name, ends = quote(key.name), (quote("low"), quote("high"))
        rows = Column("n", "bigint", pa.int64())
        low, high = (Column(n, key.sql_type, key.type) for n in ("low", "high"))
        items = f"count(*) AS {quote('n')}, min({name}) AS {ends[0]}, max({name}) AS {ends[1]}"
        sql = f"SELECT {items} FROM {self.relation(bound)}"
        count, *found = self._read(sql, [rows, low, high])
        return Measured(int(count), ends=(found[0], found[1]))

    def summed(self, bound: str | None, columns: Sequence[Column]) -> Measured:
        """Count the rows and sum their hashes, in one statement."""
        with connected(self.engine) as conn, conn.begin():
            found = self.dialect.checksum(conn, self.relation(bound), columns)
        return Measured(found.rows, checksum=found.text)

    def _read(self, sql: str, columns: Sequence[Column]) -> list[Any]:
        with self.dialect.reader(self.engine.url) as reader, reader.read(sql, columns) as batches:
            table = batches.read_all()
        return [table.column(place)[0].as_py() for place in range(len(columns))]


def can_sum(dialect: Dialect) -> bool:
    """Say whether a database computes checksums of rows."""
    try:
        dialect.row_hash("''")
    except UnsupportedDatabase:
        return False
    return True


def comparable(source: Side, one: Column, target: Side, other: Column) -> bool:
    """Say whether equal values of both columns have the same canonical text."""
    if one.name in source.masked:
        return False
    same = source.dialect.name == target.dialect.name and one.sql_type == other.sql_type
    if same or one.as_text or other.as_text:
        return same
    bases = [split_sql_type(column.sql_type)[0] for column in (one, other)]
    plain = [_is_plain(source.dialect, one), _is_plain(target.dialect, other)]
    if pa.types.is_string(one.type) and pa.types.is_string(other.type):
        padded = bases.count("character")
        return all(plain) and padded != 1 and not any(base in _DOCUMENTS for base in bases)
    # A number whose canonical text is that of a text is of a type that has none of its own.
    return not any(plain) and bool(_kind(one.type) == _kind(other.type) is not None)


def _is_plain(dialect: Dialect, column: Column) -> bool:
    text = Column(column.name, dialect.text_type(), pa.string())
    return dialect.canonical_form(column, "x") == dialect.canonical_form(text, "x")


def _kind(type_: pa.DataType) -> Any:
    """Give what two types have in common that write equal values the same; None: unknown."""
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_decimal(type_):
        return ("decimal", type_.scale)
    if pa.types.is_timestamp(type_):
        return ("timestamp", type_.tz is not None, type_.unit == "ns")
    if pa.types.is_time(type_):
        return ("time", type_.unit == "ns")
    if is_bytes(type_):
        return "bytes"
    known = (pa.types.is_boolean, pa.types.is_floating, pa.types.is_date)
    return str(type_) if any(test(type_) for test in known) else None


def literal_text(value: Any) -> str:
    """Write a value of a cursor the way every database reads it.

    >>> literal_text(dt.datetime(2026, 1, 2, 3, 4)), literal_text(decimal.Decimal("1E-9"))
    ('2026-01-02 03:04:00', '0.000000001')
    """
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ")
    return f"{value:f}" if isinstance(value, decimal.Decimal) else str(value)


def differences(source: Measured, target: Measured, key: str | None = None) -> Iterator[str]:
    """Say how both sides differ, without a value of a row.

    >>> list(differences(Measured(3), Measured(1)))
    ['the target has 1 rows, the source 3: 2 are missing']
    """
    away = target.rows - source.rows
    if away:
        how = f"{away} too many" if away > 0 else f"{-away} are missing"
        yield f"the target has {target.rows} rows, the source {source.rows}: {how}"
    elif source.checksum != target.checksum:
        yield f"both have {source.rows} rows, but the values of some differ"
    if source.ends is not None and target.ends is not None:
        words = zip(("least", "greatest"), source.ends, target.ends, strict=True)
        yield from (
            f"the {word} {key} is another"
            for word, one, two in words
            if _moment(one) != _moment(two)
        )


def _moment(value: Any) -> Any:
    """Let dates, and times with and without a zone, be compared: all of them in UTC."""
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
    return dt.datetime.combine(value, dt.time()) if isinstance(value, dt.date) else value


def chosen(columns: dict[str, Column], name: str, what: str, table: TableName) -> Column:
    """Give the column that shall bound or tell rows.

    Raises:
        ValidationError: there is none, or its values have no order that both sides share.

    """
    found = columns.get(name)
    if found is None:
        msg = f"{table} has no column {name!r}; the {what} is one of {', '.join(columns)}"
        raise ValidationError(msg, table=str(table), column=name)
    if found.as_text or pa.types.is_string(found.type):
        msg = (
            f"{table}.{name} is {found.sql_type}: databases order texts differently; choose a "
            f"number or a time as the {what}"
        )
        raise ValidationError(msg, table=str(table), column=name)
    return found
