"""The small values: how table names are parsed and shown, and what run ids look like."""

from __future__ import annotations

import dataclasses
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixflow.values import Column, TableName, new_run_id

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", TableName("orders")),
        ("shop.orders", TableName("orders", "shop")),
        ('"Shop"."Orders"', TableName("Orders", "Shop")),
        ('shop."odd.name"', TableName("odd.name", "shop")),
        ('shop."say ""hi"""', TableName('say "hi"', "shop")),
        ("shop.odd.name", TableName("odd.name", "shop")),
        ('"a.b"', TableName("a.b")),
    ],
)
def test_a_name_is_split_at_its_first_dot_outside_quotes(text, expected):
    assert TableName.parse(text) == expected


@given(NAMES, NAMES)
def test_quoted_parts_come_back_exactly(name, schema):
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))
    assert TableName.parse(quoted) == TableName(name, schema)


def test_a_name_is_shown_the_way_people_write_it():
    assert str(TableName("orders", "shop")) == "shop.orders"
    assert str(TableName("orders")) == "orders"


def test_renaming_keeps_the_schema():
    assert TableName("orders", "shop").renamed("new") == TableName("new", "shop")


@pytest.mark.parametrize("value", [TableName("a", "b"), Column("a", "text", None)])
def test_values_are_frozen_hashable_and_travel_between_processes(value):
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own bytes
    assert hash(value) == hash(dataclasses.replace(value))
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.name = "other"


def test_run_ids_are_unique_and_sort_by_time():
    ids = [new_run_id() for _ in range(100)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"ix-\d{8}-\d{6}-[0-9a-f]{6}", i) for i in ids)
    assert [i[:18] for i in ids] == sorted(i[:18] for i in ids)
