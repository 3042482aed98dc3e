"""Parts of outputs wired by attribute, index and key, also of dataclasses and named tuples."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import polars as pl
import pytest

from ixflow import ConfigContext, Flow, SQLTableStore, Stage, Table, ValidationError, materialize
from ixflow.errors import FlowError
from ixflow.pipeline import TaskState
from ixflow_tests.stages import rows


@dataclasses.dataclass(frozen=True)
class Shop:
    """What a task returns: tables and constants by name."""

    orders: Any
    limits: Any
    name: str = "shop"

    def __post_init__(self) -> None:
        if not isinstance(self.limits, list):
            msg = "limits must be a list"
            raise TypeError(msg)


class Pair(NamedTuple):
    """Two of a kind."""

    left: Any
    right: Any


@materialize(version="1", outputs=["orders"])
def shop():
    return Shop(Table(pl.DataFrame({"id": [1, 2, 3]})), [2, 5])


@materialize(version="1", outputs=["left", "right"])
def pair():
    return Pair(Table(pl.DataFrame({"a": [1]})), Table(pl.DataFrame({"a": [2]})))


@materialize(version="1", input_type=pl.DataFrame)
def most(frame: pl.DataFrame, limit: int, name: str):
    return Table(frame.filter(pl.col("id") <= limit).with_columns(name=pl.lit(name)), "most")


@materialize(version="1", input_type=pl.DataFrame)
def both(made: Pair, whole: Shop):
    assert isinstance(made, Pair)
    assert isinstance(whole, Shop)
    return [made.left["a"][0], made.right["a"][0], whole.orders.height, whole.limits[1]]


@pytest.fixture
def config(warehouse_engine):
    store = SQLTableStore(warehouse_engine.url)
    with ConfigContext.of_store(store, fail_fast=True) as made:
        yield made
    store.dispose()


def declared() -> Flow:
    with Flow("wiring") as flow:
        with Stage("staging"):
            made, two = shop(), pair()
        with Stage("mart"):
            most(made.orders, made.limits[0], made["name"])
            both(two, made)
    return flow


def test_fields_are_wired_by_attribute_index_and_key(config):
    flow = declared()
    result = flow.run(config=config)
    assert rows(config.table_store, "mart", "most") == [
        {"id": 1, "name": "shop"},
        {"id": 2, "name": "shop"},
    ]
    assert result.get(flow["mart"]["both"]) == [1, 2, 3, 5]
    assert {"left", "right"} <= set(config.table_store.published("staging").tables)
    loaded = result.get(flow["staging"]["shop"], as_type=pl.DataFrame)
    assert isinstance(loaded, Shop)
    assert loaded.orders.height == 3
    again = declared().run(config=config)
    assert set(again.task_states.values()) == {TaskState.CACHE_VALID}
    assert result.get(flow["mart"]["both"]) == [1, 2, 3, 5]


def test_a_task_takes_a_dataclass_that_holds_another_tasks_output(config):
    @materialize(version="1", input_type=pl.DataFrame)
    def height(given: Shop):
        return given.orders.height * given.limits[0]

    with Flow("nested") as flow, Stage("staging"):
        found = height(Shop(shop()["orders"], [10]))
    assert found.upstream == (flow["staging"]["shop"],)
    assert flow.run(config=config).get(found) == 30


def test_a_field_that_is_not_there_is_an_error_when_the_flow_runs(config):
    with Flow("wrong") as flow, Stage("staging"):
        most(shop().cellar, 1, "x")
    with pytest.raises(ValidationError, match=r"Shop, which has no element 'cellar'.*\.cellar"):
        flow.run(config=config)


def test_outside_of_a_declaration_a_task_has_no_other_attributes():
    flow = declared()
    with pytest.raises(AttributeError, match="no attribute 'orders'"):
        _ = flow["staging"]["shop"].orders  # type: ignore[attr-defined] # that is the point


def test_a_class_that_no_module_has_is_refused(config):
    @dataclasses.dataclass
    class Hidden:
        x: int

    @materialize(version="1")
    def hides():
        return Hidden(1)

    with Flow("hidden") as flow, Stage("staging"):
        hides()
    with pytest.raises(FlowError, match=r"Hidden, which its module does not have"):
        flow.run(config=config)
