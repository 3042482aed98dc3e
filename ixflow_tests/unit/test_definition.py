"""Comparing definitions: the words for every difference, and no difference where there is none."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest

from ixflow.tables.definition import TableDefinition, differences
from ixflow.values import Column

ID = Column("id", "integer", pa.int32(), nullable=False, key_position=1)
NAME = Column("name", "text", pa.string())
LIVE = TableDefinition((ID, NAME), frozenset({"USING btree (name)"}))


def changed(**changes) -> TableDefinition:
    return dataclasses.replace(LIVE, **changes)


def test_equal_definitions_do_not_differ():
    assert differences(LIVE, changed()) == ()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (changed(columns=(ID, NAME, Column("x", "text", pa.string()))), "column x is added"),
        (changed(columns=(ID,)), "column name is dropped"),
        (changed(columns=(NAME, ID)), "the order of the columns changes"),
        (
            changed(columns=(ID, dataclasses.replace(NAME, sql_type="varchar(5)"))),
            "column name changes from text to varchar(5)",
        ),
        (
            changed(columns=(ID, dataclasses.replace(NAME, nullable=False))),
            "column name no longer takes NULL",
        ),
        (
            changed(columns=(dataclasses.replace(ID, key_position=None), NAME)),
            "the primary key changes from ('id',) to ()",
        ),
        (changed(indexes=frozenset()), "index USING btree (name) is dropped"),
        (
            changed(indexes=LIVE.indexes | {"USING gin (name)"}),
            "index USING gin (name) is added",
        ),
    ],
)
def test_each_difference_has_its_words(wanted, expected):
    assert differences(wanted, LIVE) == (expected,)


def test_the_key_is_in_the_keys_order_not_in_the_columns():
    second = dataclasses.replace(ID, key_position=2)
    first = dataclasses.replace(NAME, key_position=1)
    assert TableDefinition((second, first)).primary_key == ("name", "id")
    swapped = TableDefinition(
        (dataclasses.replace(ID, key_position=1), dataclasses.replace(NAME, key_position=2))
    )
    assert differences(TableDefinition((second, first)), swapped) == (
        "the primary key changes from ('id', 'name') to ('name', 'id')",
    )


def test_added_and_dropped_columns_are_told_in_the_order_of_the_table():
    more = tuple(Column(n, "text", pa.string()) for n in "zyxwv")
    wanted = changed(columns=(ID, NAME, *more))
    assert differences(wanted, LIVE) == tuple(f"column {n} is added" for n in "zyxwv")
