"""Which rows of a batch are of which partition, by Arrow alone."""

import datetime as dt
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.cast import cast_column
from ixflow.errors import ValidationError, ValueDoesNotFit
from ixflow.tables.slices import PartitionBy, RowsOfKey, Slice, TimeWindow, on_the_clock
from ixflow.values import Column

__all__ = ["Masks"]

_SHOWN = 60


class Masks:
    """Finds the rows of partitions in batches of one schema; what it compares is made once."""

    def __init__(self, schema: pa.Schema, slices: Sequence[Slice], asset: str) -> None:
        """Take the schema and the partitions.

        Raises:
            ValidationError: there is no such column, or a key is no value of its type.

        """
        self._schema, self._asset = schema, asset
        self._tests = [
            [self._test(term, key) for term, key in zip(one.terms, one.path, strict=True)]
            for one in slices
        ]

    def of(self, batch: pa.RecordBatch) -> list[pa.BooleanArray]:
        """Say for each partition which rows are its own."""
        return [_all([test(batch) for test in tests]) for tests in self._tests]

    def stranger(self, batch: pa.RecordBatch) -> str:
        """Show what tells the partition of a row that is of none of them."""
        ours = self.of(batch)
        inside = ours[0]
        for mask in ours[1:]:
            inside = pc.or_(inside, mask)
        row = batch.filter(pc.invert(inside)).slice(0, 1)
        places = dict.fromkeys(test.place for tests in self._tests for test in tests)
        return ", ".join(f"{self._schema.names[p]} = {_shown(row.column(p)[0])}" for p in places)

    def _test(self, term: TimeWindow | RowsOfKey, key: str) -> "_Test":
        name = term.by.column
        place = self._schema.get_field_index(name)
        if place < 0:
            msg = (
                f"the rows of {self._asset} have no column {name!r}, which partition_expr names; "
                f"they have {self._schema.names}"
            )
            raise ValidationError(msg, asset=self._asset, column=name)
        type_ = self._schema.field(place).type
        column = Column(name, str(type_), type_)
        if isinstance(term, TimeWindow) and pa.types.is_timestamp(type_):
            return _Test(place, [_moment(m, column, term.by) for m in _ends(term)])
        if isinstance(term, TimeWindow) and pa.types.is_date(type_):
            days = [self._day(on_the_clock(column, term.by, m), column) for m in _ends(term)]
            return _Test(place, days)
        if pa.types.is_null(type_):  # no row, or only NULLs
            return _Test(place, [])
        return _Test(place, [self._value(key, name, type_)])

    def _day(self, moment: dt.datetime, column: Column) -> pa.Scalar:
        name = column.name
        if moment.time() != dt.time():
            msg = f"{self._asset}: {name} is a date, and partitions begin within a day ({moment})"
            raise ValidationError(msg, asset=self._asset, column=name)
        return pa.scalar(moment.date(), column.type)

    def _value(self, key: str, name: str, type_: pa.DataType) -> pa.Scalar:
        try:
            return cast_column(pa.array([key]), Column(name, str(type_), type_), table=self._asset)[
                0
            ]
        except ValueDoesNotFit:
            msg = f"the partition key {key!r} is no value of {self._asset}.{name}, which is {type_}"
            raise ValidationError(msg, asset=self._asset, column=name) from None


class _Test:
    """Says of rows whether their value is one, or lies from one to before another; none is: no."""

    def __init__(self, place: int, values: Sequence[pa.Scalar]) -> None:
        self.place, self._values = place, values

    def __call__(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        column = batch.column(self.place)
        if not self._values:
            return pa.nulls(batch.num_rows, pa.bool_())
        low, *high = self._values
        if not high:
            return pc.equal(column, low)
        return pc.and_(pc.greater_equal(column, low), pc.less(column, high[0]))


def _all(masks: Sequence[pa.BooleanArray]) -> pa.BooleanArray:
    found = masks[0]
    for mask in masks[1:]:
        found = pc.and_(found, mask)
    # A row whose column is NULL is of no partition.
    return pc.fill_null(found, False)


def _ends(window: TimeWindow) -> tuple[dt.datetime, dt.datetime]:
    return window.start, window.end


def _moment(moment: dt.datetime, column: Column, by: PartitionBy) -> pa.Scalar:
    type_ = column.type
    there = on_the_clock(column, by, moment) if type_.tz is None else moment.astimezone(dt.UTC)
    return pa.scalar(there, pa.timestamp("us", type_.tz)).cast(type_)


def _shown(value: pa.Scalar) -> str:
    return str(value)[:_SHOWN] if value.is_valid else "NULL"
