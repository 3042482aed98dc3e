"""Reading what is published of a task without a run, and tables as aliases."""

from __future__ import annotations

import polars as pl
import pytest
import sqlalchemy as sa

from ixflow import Flow, Stage, Table, create_basic_pipedag_config, materialize
from ixflow.errors import CacheError


@pytest.fixture
def config(warehouse_engine):
    return create_basic_pipedag_config(warehouse_engine.url).get("default")


def pair_of(start):
    """Declare a stage whose task makes two tables of one row."""

    @materialize(version="1", nout=2)
    def pair(start):
        frames = (pl.DataFrame({"n": [start + place]}) for place in (0, 1))
        return tuple(Table(frame, f"part_{place}") for place, frame in enumerate(frames))

    with Flow("f") as flow, Stage("staging"):
        made = pair(start)
    return flow, made


def test_what_is_published_of_a_task_is_read_without_a_run(config):
    flow, pair = pair_of(5)
    with pytest.raises(CacheError, match=r"nothing is published of task staging\.pair; run"):
        pair.get_output_from_store(as_type=pl.DataFrame, config=config)
    flow.run(config=config)
    with config:
        found = pair.get_output_from_store(as_type=pl.DataFrame)
        assert [frame.rows() for frame in found] == [[(5,)], [(6,)]]
        assert pair[1].get_output_from_store(as_type=pl.DataFrame).rows() == [(6,)]


def test_a_task_with_other_arguments_counts_only_if_it_is_asked_for(config):
    flow, _ = pair_of(5)
    flow.run(config=config)
    _, other = pair_of(7)
    with config, pytest.raises(CacheError, match="nothing is published"):
        other.get_output_from_store(as_type=pl.DataFrame)
    with config:
        found = other[0].get_output_from_store(as_type=pl.DataFrame, ignore_position_hashes=True)
    assert found.rows() == [(5,)]


def test_a_table_can_arrive_as_an_alias_that_is_called_like_it(config):
    names = []

    @materialize(version="1")
    def numbers():
        return Table(pl.DataFrame({"n": [1, 2]}), "numbers")

    @materialize(input_type=sa.Alias, lazy=True)
    def pairs(one, two):
        names.extend([one.name, one.original.name, two.name])
        joined = one.join(two, one.c.n < two.c.n)
        return Table(sa.select(one.c.n, two.c.n.label("m")).select_from(joined), "pairs")

    with Flow("f") as flow, Stage("staging"):
        made = numbers()
        both = pairs(made, made)
    flow.run(config=config)
    assert names == ["numbers", "numbers", "numbers_1"]
    found = both.get_output_from_store(as_type=pl.DataFrame, config=config)
    assert found.rows() == [(1, 2)]
