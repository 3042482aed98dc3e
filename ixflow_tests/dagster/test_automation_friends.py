"""The friends of `on_change()`: at ticks, for data alone, for what is missing, with exceptions."""

import datetime as dt

import dagster as dg
import pytest

import ixflow.dagster as ixd

START = dt.datetime(2026, 1, 1, 5, 30, tzinfo=dt.UTC)


class Three:
    """``down`` depends on ``up`` and ``other``, under a condition."""

    def __init__(self, condition):
        self.instance = dg.DagsterInstance.ephemeral()
        self.condition = condition
        self.versions = {"up": "a", "other": "a"}
        self.code, self.cursor, self.now = "1", None, START

    @property
    def assets(self):
        @dg.asset
        def up():
            return dg.MaterializeResult(data_version=dg.DataVersion(self.versions["up"]))

        @dg.asset
        def other():
            return dg.MaterializeResult(data_version=dg.DataVersion(self.versions["other"]))

        @dg.asset(deps=[up, other], automation_condition=self.condition, code_version=self.code)
        def down():
            return dg.MaterializeResult(data_version=dg.DataVersion("d"))

        return [up, other, down]

    def materialize(self, *names):
        dg.materialize(self.assets, instance=self.instance, selection=list(names))

    def change(self, name):
        self.versions[name] += "a"
        self.materialize(name)

    def tick(self, minutes=1):
        """Say how many assets the condition asks for, some minutes later."""
        self.now += dt.timedelta(minutes=minutes)
        found = dg.evaluate_automation_conditions(
            defs=self.assets,
            instance=self.instance,
            cursor=self.cursor,
            evaluation_time=self.now,
        )
        self.cursor = found.cursor
        return found.total_requested


@pytest.fixture
def under():
    """Make the three under a condition."""
    made = []

    def start(condition, *names):
        made.append(Three(condition))
        if names:
            made[-1].materialize(*names)
        return made[-1]

    yield start
    for one in made:
        one.instance.dispose()


ALL = ("up", "other", "down")


def test_changes_of_what_is_ignored_do_not_count(under):
    three = under(ixd.on_change(ignore=dg.AssetSelection.assets("other")), *ALL)
    assert three.tick() == 0
    three.change("other")
    assert three.tick() == 0
    three.change("up")
    assert three.tick() == 1


def test_with_a_schedule_a_change_waits_for_the_tick(under):
    three = under(ixd.on_change(cron="0 6 * * *"), *ALL)
    assert three.tick() == 0
    three.change("up")
    assert three.tick() == 0
    assert three.tick(30) == 1
    three.materialize("down")
    assert three.tick() == 0


def test_a_tick_without_a_change_passes_and_so_does_one_with_the_same_data(under):
    three = under(ixd.on_change(cron="0 6 * * *"), *ALL)
    assert three.tick() == 0
    assert three.tick(60) == 0
    three.materialize("up", "other")
    assert three.tick(24 * 60) == 0
    three.change("up")
    assert three.tick() == 0
    assert three.tick(24 * 60) == 1


def test_the_schedule_is_in_its_own_time_zone(under):
    three = under(ixd.on_change(cron="0 7 * * *", timezone="Europe/Berlin"), *ALL)
    assert three.tick() == 0
    three.change("up")
    assert three.tick(30) == 1


def test_on_data_change_fires_on_data_only(under):
    three = under(ixd.on_data_change(), "up", "other")
    assert three.tick() == 0
    three.materialize("down")
    three.code = "2"
    assert three.tick() == 0
    three.materialize("up")
    assert three.tick() == 0
    three.change("up")
    assert three.tick() == 1
    assert three.tick() == 0


def test_on_missing_waits_for_inputs_asks_once_and_rests(under):
    three = under(ixd.on_missing(), "up")
    assert three.tick() == 0
    three.materialize("other")
    assert three.tick() == 1
    assert three.tick() == 0
    three.materialize("down")
    three.change("up")
    assert three.tick() == 0


def test_on_missing_asks_for_the_latest_day_or_those_of_its_lookback():
    days = dg.DailyPartitionsDefinition("2025-12-01")

    def asked(condition):
        @dg.asset(partitions_def=days, automation_condition=condition)
        def daily(): ...

        with dg.DagsterInstance.ephemeral() as instance:
            # The first look only learns what there is.
            first = dg.evaluate_automation_conditions([daily], instance, evaluation_time=START)
            later = dg.evaluate_automation_conditions(
                [daily], instance, cursor=first.cursor, evaluation_time=START
            )
        assert first.total_requested == 0
        return later.total_requested

    assert asked(ixd.on_missing()) == 1
    assert asked(ixd.on_missing(lookback=dt.timedelta(days=3))) == 3


def test_every_condition_can_be_stored_for_the_daemon():
    for condition in (ixd.on_change(cron="0 6 * * *"), ixd.on_data_change(), ixd.on_missing()):
        assert condition.is_serializable
