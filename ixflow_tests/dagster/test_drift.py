"""The number of rows is compared with what it was, from the event log alone."""

import datetime as dt

import dagster as dg
import pytest

import ixflow.dagster as ixd
from ixflow.dagster.drift import Limit
from ixflow.errors import ValidationError


class Counted:
    """An asset whose number of rows the test says, and its check."""

    def __init__(self, instance, **options):
        self.instance, self.options = instance, options
        self.rows: float | None = 0

    def evaluation(self, rows=None):
        """Materialize so many rows and check; without a number only check."""

        @dg.asset
        def orders():
            metadata = {} if self.rows is None else {"dagster/row_count": self.rows}
            return dg.MaterializeResult(metadata=metadata)

        check = ixd.row_count_drift(orders, **self.options)
        self.rows = rows
        selection: dg.AssetSelection = dg.AssetSelection.checks(check)
        if rows is not None:
            selection |= dg.AssetSelection.assets(orders)
        result = dg.materialize([orders, check], instance=self.instance, selection=selection)
        [found] = result.get_asset_check_evaluations()
        return found

    def verdicts(self, *numbers):
        return [self.evaluation(rows).passed for rows in numbers]


def test_the_first_materialization_passes_with_a_note(instance):
    found = Counted(instance).evaluation(5)
    assert found.passed
    assert found.description == "5 rows; nothing to compare them with yet"
    assert found.metadata["ixflow/compared_with"].value == 0


def test_a_number_far_from_the_median_before_fails_and_says_both(instance):
    orders = Counted(instance)
    assert orders.verdicts(100, 110, 90) == [True, True, True]
    found = orders.evaluation(60)
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.WARN
    assert found.description == (
        "orders has 60 rows, the median of 3 before is 100: 40 fewer, which is more than 20%"
    )
    assert found.metadata["ixflow/drift_percent"].value == -40
    assert found.metadata["ixflow/median_rows"].value == 100


def test_checking_again_compares_the_same_materializations(instance):
    orders = Counted(instance)
    assert orders.verdicts(100, 100, 10, None) == [True, True, False, False]


def test_only_the_window_counts(instance):
    assert Counted(instance, window=1).verdicts(1, 1000, 1000) == [True, False, True]


def test_a_window_of_time_counts_what_was_made_in_it(instance):
    day = Counted(instance, window=dt.timedelta(days=1))
    assert day.verdicts(100, 10) == [True, False]
    moment = Counted(instance, window=dt.timedelta(microseconds=1))
    assert moment.verdicts(1000) == [True]


def test_a_limit_in_rows_holds_also_for_an_empty_table(instance):
    assert Counted(instance, at_most=5).verdicts(0, 5, 10) == [True, True, False]


def test_the_first_rows_of_an_empty_table_are_a_drift_in_percent(instance):
    assert Counted(instance).verdicts(0, 0, 1) == [True, True, False]


def test_a_number_that_was_recorded_as_a_float_counts(instance):
    assert Counted(instance).verdicts(100.0, 100, 50.0) == [True, True, False]


def test_a_partition_is_compared_with_the_partitions_before_it(instance):
    days = dg.DailyPartitionsDefinition("2026-01-01")
    rows = {"2026-01-01": 100, "2026-01-02": 110, "2026-01-03": 10}
    total = 0

    @dg.asset(partitions_def=days)
    def orders(context: dg.AssetExecutionContext):
        nonlocal total
        total += rows[context.partition_key]
        counts = {"dagster/row_count": total}
        counts["dagster/partition_row_count"] = rows[context.partition_key]
        return dg.MaterializeResult(metadata=counts)

    check = ixd.row_count_drift(orders)
    verdicts = []
    for day in rows:
        dg.materialize([orders], instance=instance, partition_key=day)
        result = dg.materialize(
            [orders, check], instance=instance, selection=dg.AssetSelection.checks(check)
        )
        verdicts += [one.passed for one in result.get_asset_check_evaluations()]
    assert verdicts == [True, True, False]


def test_an_asset_that_records_no_rows_is_told_so(instance):
    found = Counted(instance).evaluation()
    assert not found.passed
    assert "orders has no materialization with dagster/row_count; materialize it" in (
        found.description
    )


@pytest.mark.parametrize("at_most", ["20", "", "-5%", "a lot", -1, True, 0.2])
def test_a_limit_that_means_nothing_is_refused(at_most):
    with pytest.raises(ValidationError, match="give a text like '20%', or a number of rows"):
        ixd.row_count_drift("orders", at_most=at_most)


@pytest.mark.parametrize("window", [0, -1, dt.timedelta(0)])
def test_a_window_that_holds_nothing_is_refused(window):
    with pytest.raises(ValidationError, match="give a number of materializations from 1"):
        ixd.row_count_drift("orders", window=window)


def test_the_limit_itself_is_within():
    assert Limit("20%").holds(80, 100)
    assert not Limit("20%").holds(79.9, 100)
    assert str(Limit("2.5 %")) == "2.5%"
