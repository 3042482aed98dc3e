"""Which rows of a table are a slice of it: a window of time, the rows of a key, or both. No I/O.

A window is half-open, so windows that follow each other hold each row exactly once. Its bounds are
written in the words of the column's type, or refused where they could not be exact: nothing is
rounded, cast or compared as something else. A row whose column is NULL is in no slice.

    timestamp with time zone    the bounds, in UTC
    timestamp, date             the bounds as a clock in a time zone shows them
    whole number                the bounds as a count since 1970 in UTC, in a unit that is said
    text, yes or no, and others no window; a key says which rows are meant
"""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from ixflow.dialects import Dialect
from ixflow.dialects.types import split_sql_type
from ixflow.errors import ValidationError
from ixflow.values import Column

__all__ = [
    "UNITS",
    "PartitionBy",
    "RowsOfKey",
    "Slice",
    "TimeWindow",
    "inside",
    "on_the_clock",
    "outside",
]

UNITS = {"days": 86_400_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
"""What a number may count since 1970, with its microseconds."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
_NUMBERS = ("numeric", "decimal", "hugeint", "uhugeint")
_NO_KEYS = ("json", "jsonb", "xml", "float", "real", "double", "time", "interval")
# Types whose values travel as text, since Arrow has no type for every digit of them.
_AS_TEXT = {"datetime2": "timestamp", "datetimeoffset": "zoned"}


@dataclass(frozen=True, slots=True)
class PartitionBy:
    """The column that says in which partition a row is, and what its values count.

    Args:
        column: its name.
        unit: what a whole number counts since 1970: ``s``, ``ms``, ``us`` or ``days``.
        zone: the time zone whose clock a timestamp without time zone, or a date, shows; None: that
            of the partitions.

    >>> PartitionBy("created_at", unit="ms").unit
    'ms'
    """

    column: str
    unit: str | None = None
    zone: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        _check_name(self.column)
        if self.unit not in (None, *UNITS):
            msg = f"the unit of {self.column} is {self.unit!r}; it can be {', '.join(UNITS)}"
            raise ValidationError(msg, column=self.column, unit=self.unit)
        if self.zone is not None:
            _zone(self.zone)


def _check_name(column: object) -> None:
    if not isinstance(column, str) or not column:
        msg = f"partition_by is {column!r}; it must be the name of a column"
        raise ValidationError(msg, argument="partition_by")


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The rows from ``start`` until before ``end``, two moments in the partitions' time zone.

    >>> day = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
    >>> str(TimeWindow(PartitionBy("created_at"), day, day + dt.timedelta(days=1)))
    '2024-05-01 00:00:00+00:00 <= created_at < 2024-05-02 00:00:00+00:00'
    """

    by: PartitionBy
    start: dt.datetime
    end: dt.datetime

    def __post_init__(self) -> None:
        """Refuse a window that is none."""
        for moment in (self.start, self.end):
            if moment.tzinfo is None or moment.microsecond:
                msg = f"a window of {self.by.column} is bounded by {moment}; give whole seconds"
                raise ValidationError(f"{msg} with a time zone", column=self.by.column)
        # Two moments of one time zone compare as its clock shows them, which may be set back.
        if self.start.astimezone(dt.UTC) >= self.end.astimezone(dt.UTC):
            msg = f"a window of {self.by.column} ends at {self.end}, not behind {self.start}"
            raise ValidationError(msg, column=self.by.column)

    def __str__(self) -> str:
        """Show it the way people write it."""
        start, end = (_shown(moment) for moment in (self.start, self.end))
        return f"{start} <= {self.by.column} < {end}"


@dataclass(frozen=True, slots=True)
class RowsOfKey:
    """The rows whose column is exactly what a key says.

    >>> str(RowsOfKey(PartitionBy("country"), "de"))
    "country = 'de'"
    """

    by: PartitionBy
    key: str

    def __str__(self) -> str:
        """Show it the way people write it."""
        return f"{self.by.column} = {self.key!r}"


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows of one partition: those that meet all of its terms.

    ``path`` names it, a text for each dimension: ``("2024-05-01", "de")``.
    """

    path: tuple[str, ...]
    terms: tuple[TimeWindow | RowsOfKey, ...]

    @property
    def name(self) -> str:
        """Give the key of the partition."""
        return "|".join(self.path)

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the columns that decide."""
        return tuple(term.by.column for term in self.terms)

    @property
    def window(self) -> TimeWindow | None:
        """Give its window of time, with ``start`` and ``end``; None: it has none."""
        return next((term for term in self.terms if isinstance(term, TimeWindow)), None)

    def __str__(self) -> str:
        """Show it the way people write it."""
        return " and ".join(str(term) for term in self.terms)


def inside(dialect: Dialect, slice_: Slice, columns: Iterable[Column]) -> str:
    """Write the SQL condition for the rows of a slice of a table with these columns.

    Rows for which it is not true are outside; where a column is NULL, it is NULL.

    Raises:
        ValidationError: there is no such column, or its type cannot tell exactly.

    >>> import pyarrow as pa
    >>> from ixflow.dialects import dialect_named
    >>> day = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
    >>> window = TimeWindow(PartitionBy("day"), day, day + dt.timedelta(days=1))
    >>> columns = [Column("day", "date", pa.date32())]
    >>> print(inside(dialect_named("postgresql"), Slice(("2024-05-01",), (window,)), columns))
    "day" >= '2024-05-01'::date AND "day" < '2024-05-02'::date
    """
    known = {column.name: column for column in columns}
    return " AND ".join(
        condition for term in slice_.terms for condition in _conditions(dialect, term, known)
    )


def outside(dialect: Dialect, slice_: Slice, columns: Iterable[Column]) -> str:
    """Write the SQL condition for all other rows, also those where a column is NULL.

    Raises:
        ValidationError: as `inside`.

    """
    return f"CASE WHEN {inside(dialect, slice_, columns)} THEN 0 ELSE 1 END = 1"


def _conditions(
    dialect: Dialect, term: TimeWindow | RowsOfKey, known: Mapping[str, Column]
) -> Iterator[str]:
    column = known.get(term.by.column)
    if column is None:
        msg = f"partition_by names the column {term.by.column}, and there are {sorted(known)}"
        raise ValidationError(msg, column=term.by.column)
    if isinstance(term, RowsOfKey):
        yield _equal(dialect, column, term)
        return
    name = dialect.quote(column.name)
    for sign, moment in ((">=", term.start), ("<", term.end)):
        text = _bound(column, term.by, moment, texts=dialect.moments_are_texts)
        yield f"{name} {sign} {dialect.literal(text, column.sql_type)}"


def _bound(column: Column, by: PartitionBy, moment: dt.datetime, *, texts: bool) -> str:
    """Write a bound as a value of the column's type; ``texts``: the database compares texts."""
    kind = _kind(column)
    if kind == "number":
        return _count(column, by, moment)
    if by.unit is not None:
        raise _refused(column, f"the unit {by.unit} is for whole numbers; leave it out")
    if kind == "zoned":
        if by.zone is not None:
            raise _refused(column, f"it knows its time zone; leave zone={by.zone!r} out")
        if texts:
            raise _refused(column, "texts with several offsets do not sort as their moments do")
        return _shown(moment.astimezone(dt.UTC))
    if kind not in ("timestamp", "date"):
        reason = "no window of time is exact in it; timestamps, dates and whole numbers can tell"
        raise _refused(column, reason)
    clock = on_the_clock(column, by, moment)
    if kind == "date" or texts:
        if clock.time() != dt.time(0):
            raise _refused(column, f"a window of it cannot begin or end at {clock}, within a day")
        return clock.date().isoformat()
    return clock.isoformat(sep=" ")


def on_the_clock(column: Column, by: PartitionBy, moment: dt.datetime) -> dt.datetime:
    """Give what the clock of a time zone shows at a moment, unless it shows that twice.

    Raises:
        ValidationError: it does.

    """
    there = moment if by.zone is None else moment.astimezone(_zone(by.zone))
    clock = there.replace(tzinfo=None, fold=0)
    if there.replace(fold=0).utcoffset() != there.replace(fold=1).utcoffset():
        reason = (
            f"the clock shows {clock} twice when it is set back, so rows of it could be of two "
            f"partitions; use a column with time zone, or partitions that end at another time"
        )
        raise _refused(column, reason)
    return clock


def _count(column: Column, by: PartitionBy, moment: dt.datetime) -> str:
    """Write a moment as a count since 1970."""
    if by.unit is None:
        reason = (
            f"say what it counts since 1970: PartitionBy({column.name!r}, unit=...), "
            f"one of {', '.join(UNITS)}"
        )
        raise _refused(column, reason)
    if by.zone is not None:
        raise _refused(column, f"counts are in UTC; leave zone={by.zone!r} out")
    count, rest = divmod((moment - _EPOCH) // _MICROSECOND, UNITS[by.unit])
    if rest:
        raise _refused(column, f"{_shown(moment)} is no whole number of {by.unit} since 1970")
    if pa.types.is_integer(column.type):
        try:
            pa.scalar(count, column.type)
        except (pa.ArrowInvalid, OverflowError):
            reason = f"{count} {by.unit} since 1970 do not fit, so it counts something else"
            raise _refused(column, reason) from None
    return str(count)


def _equal(dialect: Dialect, column: Column, term: RowsOfKey) -> str:
    """Write the condition that a column is exactly what a key says."""
    name, key, kind = dialect.quote(column.name), term.key, _kind(column)
    if term.by.unit is not None or term.by.zone is not None:
        raise _refused(column, "unit and zone are for windows of time, not for keys")
    if kind == "text":
        return dialect.text_is(column, key)
    if kind == "number" and _NUMBER.fullmatch(key):
        return f"{name} = {dialect.literal(key, column.sql_type)}"
    if kind == "date" and _is_date(key):
        return f"{name} = {dialect.literal(key, column.sql_type)}"
    if kind == "boolean" and key in ("true", "false"):
        return f"{name} = CAST({int(key == 'true')} AS {column.sql_type})"
    wanted = {
        "number": "a whole number, like 42",
        "date": "a date, like 2024-05-01",
        "boolean": "true or false",
    }.get(kind)
    if wanted is None:
        reason = "only texts, whole numbers, dates and booleans are exactly what a key says"
        raise _refused(column, reason)
    raise _refused(column, f"the key {key!r} is not written as {wanted}")


def _kind(column: Column) -> str:
    """Say how a column's values are written and compared."""
    base, type_ = split_sql_type(column.sql_type)[0], column.type
    zoned = pa.types.is_timestamp(type_) and type_.tz is not None
    kinds = (
        (column.as_text and base in _AS_TEXT, _AS_TEXT.get(base, "")),
        (pa.types.is_integer(type_) or pa.types.is_decimal(type_), "number"),
        (column.as_text and base in _NUMBERS, "number"),
        (pa.types.is_date(type_), "date"),
        (zoned, "zoned"),
        (pa.types.is_timestamp(type_), "timestamp"),
        (pa.types.is_boolean(type_), "boolean"),
        (pa.types.is_string(type_) and not base.startswith(_NO_KEYS), "text"),
    )
    return next((kind for matches, kind in kinds if matches), "other")


def _is_date(text: str) -> bool:
    try:
        return dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        msg = f"there is no time zone {name!r}; give one like 'Europe/Berlin' or 'UTC'"
        raise ValidationError(msg, zone=name) from None


def _shown(moment: dt.datetime) -> str:
    return moment.isoformat(sep=" ")


def _refused(column: Column, reason: str) -> ValidationError:
    msg = f"{column.name} is {column.sql_type}, which cannot say the partition: {reason}"
    return ValidationError(msg, column=column.name, sql_type=column.sql_type)
