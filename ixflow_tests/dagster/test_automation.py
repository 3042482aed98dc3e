"""`on_change()` fires on changed data, changed code and missing tables, and on nothing else."""

import dagster as dg
import pytest

import ixflow.dagster as ixd


class Pair:
    """A source and what is made of it under `on_change()`."""

    def __init__(self):
        """Begin with nothing materialized."""
        self.instance = dg.DagsterInstance.ephemeral()
        self.version = "a"
        self.code = "1"
        self.cursor = None

    @property
    def assets(self):
        @dg.asset
        def up():
            return dg.MaterializeResult(data_version=dg.DataVersion(self.version))

        @dg.asset(deps=[up], automation_condition=ixd.on_change(), code_version=self.code)
        def down():
            return dg.MaterializeResult(data_version=dg.DataVersion("d"))

        return [up, down]

    def materialize(self, *names):
        dg.materialize(self.assets, instance=self.instance, selection=list(names))

    def tick(self):
        """Say how many assets the condition asks for now."""
        found = dg.evaluate_automation_conditions(
            defs=self.assets, instance=self.instance, cursor=self.cursor
        )
        self.cursor = found.cursor
        return found.total_requested


@pytest.fixture
def pair():
    made = Pair()
    yield made
    made.instance.dispose()


def test_it_waits_for_inputs_that_are_missing_then_makes_what_is_missing(pair):
    assert pair.tick() == 0
    pair.materialize("up")
    assert pair.tick() == 1
    assert pair.tick() == 0


def test_it_fires_on_another_data_version_and_not_on_the_same(pair):
    pair.materialize("up", "down")
    assert pair.tick() == 0
    pair.materialize("up")
    assert pair.tick() == 0
    pair.version = "b"
    pair.materialize("up")
    assert pair.tick() == 1
    pair.materialize("down")
    assert pair.tick() == 0


def test_it_fires_on_another_code_version(pair):
    pair.materialize("up", "down")
    assert pair.tick() == 0
    pair.code = "2"
    assert pair.tick() == 1
    assert pair.tick() == 0


def test_eager_would_fire_on_the_same_data(pair):
    """The reason for `on_change()`: when this fails, Dagster's own condition will do."""

    @dg.asset
    def up():
        return dg.MaterializeResult(data_version=dg.DataVersion("a"))

    @dg.asset(deps=[up], automation_condition=dg.AutomationCondition.eager())
    def down(): ...

    dg.materialize([up, down], instance=pair.instance)
    first = dg.evaluate_automation_conditions([up, down], pair.instance)
    dg.materialize([up], instance=pair.instance)
    second = dg.evaluate_automation_conditions([up, down], pair.instance, cursor=first.cursor)
    assert second.total_requested == 1
