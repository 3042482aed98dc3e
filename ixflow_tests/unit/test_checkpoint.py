"""Checkpoints: what a torn one says, and which of its tasks may be kept."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixflow.extraction.checkpoint import (
    Attempt,
    Checkpoint,
    mixing_refused,
    resume_advisories,
    tasks_to_keep,
)
from ixflow.extraction.manifest import FileRecord, Left
from ixflow.extraction.plan import ExecutionPlan, ExtractionTask
from ixflow.extraction.snapshot import MomentRecord
from ixflow.values import Column, KeyRange, TableName, TablePart
from ixflow_tests.unit.test_extraction_values import example_plan

ID = Column("id", "bigint", pa.int64(), key_position=1)
GRADE = Column("grade", "bigint", pa.int64())


def moment(name: str | None = None, id_: str = "m1", hours: float = 0, one: bool = True):
    taken = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    return MomentRecord(id_, "0-1", name, taken, one)


def keyed_plan(*columns: str, part: str = "t") -> ExecutionPlan:
    """Make a plan of three ranges."""
    types = ("bigint",) * len(columns)
    bounds = [(None, ("1",)), (("1",), ("2",)), (("2",), None)]
    tasks = tuple(
        ExtractionTask(
            f"{number:03d}", TablePart(TableName(part)), keys=KeyRange(columns, types, low, high)
        )
        for number, (low, high) in enumerate(bounds, 1)
    )
    return dataclasses.replace(
        example_plan(), tasks=tasks, columns=(ID, GRADE), consistency="one snapshot"
    )


class Place:
    """A run that keeps its checkpoint in a text, and a moment that lives as long as it is told."""

    run_id = "ix-1"

    def __init__(self, record: MomentRecord) -> None:
        self.text, self.record, self.lives, self.full = "", record, True, False

    def checkpoint(self, text: str, *, first: bool = False) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.text = text if first else self.text + text

    def alive(self) -> bool:
        return self.lives


def written(plan: ExecutionPlan, record: MomentRecord, tasks: int) -> Place:
    """Write the checkpoint of a run that has done so many tasks."""
    place = Place(record)
    checkpoint = Checkpoint(place, plan, "me", place)  # type: ignore[arg-type] # both stand-ins
    checkpoint.start([], "ix-1")
    for task in plan.tasks[:tasks]:
        file = FileRecord(f"t_{task.chunk_id}.parquet", task.chunk_id, 5, 100, "ab")
        checkpoint.done(task.chunk_id, 0.5, [file])
    return place


def attempt_of(place: Place) -> Attempt:
    found = Attempt.parse(Left("ix-1", place.text))
    assert found is not None
    return found


def test_what_was_written_is_read():
    plan = keyed_plan("id")
    found = attempt_of(written(plan, moment("x"), 2))
    assert (found.run_id, found.fingerprint, found.reader) == ("ix-1", plan.fingerprint, "me")
    assert [(task.chunk_id, task.rows) for task in found.tasks] == [("001", 5), ("002", 5)]


@given(st.data())
def test_a_torn_checkpoint_says_only_what_was_whole(data):
    text = written(keyed_plan("id"), moment("x"), 3).text
    cut = data.draw(st.integers(0, len(text)))
    found = Attempt.parse(Left("ix-1", text[:cut] + data.draw(st.sampled_from(["", "\0\0", '{"']))))
    whole = text[:cut].count("\n")
    assert (found is None) == (whole == 0)
    if found is not None:
        assert [task.chunk_id for task in found.tasks] == ["001", "002", "003"][: whole - 1]


@pytest.mark.parametrize(
    "text", ["", "{}\n", "[]\n", '{"attempt": {"version": 9}}\n', '{"task": {}}\n', "x" * 99]
)
def test_what_is_no_checkpoint_is_none(text):
    assert Attempt.parse(Left("ix-1", text)) is None


def test_no_line_is_written_when_the_moment_is_lost():
    plan, place = keyed_plan("id"), Place(moment())
    checkpoint = Checkpoint(place, plan, "me", place)  # type: ignore[arg-type] # both stand-ins
    checkpoint.start([], "ix-1")
    place.lives = False
    checkpoint.done("001", 0.5, [])
    assert attempt_of(place).tasks == ()


def test_a_checkpoint_that_cannot_be_written_fails_nothing(caplog):
    plan, place = keyed_plan("id"), Place(moment())
    checkpoint = Checkpoint(place, plan, "me", place)  # type: ignore[arg-type] # both stand-ins
    checkpoint.start([], "ix-1")
    place.full = True
    checkpoint.done("001", 0.5, [])
    place.full = False
    checkpoint.done("002", 0.5, [])
    assert attempt_of(place).tasks == ()
    assert "cannot be resumed" in caplog.text


def test_tasks_of_two_moments_stay_apart():
    plan = keyed_plan("id")
    first = attempt_of(written(plan, moment("x", "m1"), 1))
    place = Place(moment("y", "m2"))
    checkpoint = Checkpoint(place, plan, "me", place)  # type: ignore[arg-type] # both stand-ins
    checkpoint.start(first.tasks, first.run_id)
    checkpoint.done("002", 0.5, [])
    again = attempt_of(place)
    assert [(task.chunk_id, task.moment.id) for task in again.tasks] == [
        ("001", "m1"),
        ("002", "m2"),
    ]
    kept, _ = tasks_to_keep(again, plan, "me", moment("y", "m3"), "same snapshot")
    assert [task.chunk_id for task in kept] == ["002"]
    kept, _ = tasks_to_keep(again, plan, "me", moment("z", "m3"), "newer snapshot")
    assert [task.chunk_id for task in kept] == ["001", "002"]


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (moment("x", "other"), 2),
        (moment("y", "other"), 0),
        (moment(None, "other"), 0),
        (moment("y", "m1"), 2),
        (moment("x", "m1", one=False), 0),
    ],
)
def test_only_an_equal_moment_is_read_on(now, kept):
    plan = keyed_plan("id")
    found = attempt_of(written(plan, moment("x"), 2))
    tasks, why = tasks_to_keep(found, plan, "me", now, "same snapshot")
    assert len(tasks) == kept
    assert kept or "is gone" in why


def test_rows_that_no_snapshot_holds_are_never_read_on():
    plan = dataclasses.replace(keyed_plan("id"), consistency="per connection")
    found = attempt_of(written(plan, moment("x"), 2))
    assert tasks_to_keep(found, plan, "me", moment("x"), "same snapshot")[0] == ()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reader": "somebody else"}, "another user"),
        ({"plan": keyed_plan("grade")}, "another plan"),
        ({"tasks": 0}, "none of its tasks"),
        ({"hours": 25}, "ago"),
    ],
)
def test_a_newer_snapshot_has_its_limits(changes, why):
    plan = keyed_plan("id")
    found = attempt_of(
        written(plan, moment("x", hours=changes.get("hours", 0)), changes.get("tasks", 2))
    )
    now, reader = moment("y", "other"), changes.get("reader", "me")
    tasks, said = tasks_to_keep(found, changes.get("plan", plan), reader, now, "newer snapshot")
    assert tasks == ()
    assert why in said


def test_only_ranges_of_the_primary_key_stand_beside_a_newer_snapshot():
    assert mixing_refused(keyed_plan("id")) is None
    assert "grade is not of the primary key" in str(mixing_refused(keyed_plan("id", "grade")))
    pages = dataclasses.replace(
        keyed_plan("id"),
        tasks=tuple(
            dataclasses.replace(task, keys=None, pages=(0, None)) for task in keyed_plan("id").tasks
        ),
    )
    assert "may move from one task to another" in str(mixing_refused(pages))
    several = dataclasses.replace(
        keyed_plan("id"),
        tasks=(
            *keyed_plan("id").tasks,
            *(
                dataclasses.replace(t, chunk_id="9" + t.chunk_id)
                for t in keyed_plan("id", part="u").tasks
            ),
        ),
    )
    assert "one part of the table" in str(mixing_refused(several))


def test_the_plan_says_what_resume_means():
    plan = keyed_plan("id")
    assert resume_advisories(plan, "same snapshot") == []
    assert resume_advisories(plan, "newer snapshot") == [
        "a rerun after a failure reads the rest in a newer snapshot: rows of two moments"
    ]
    alone = dataclasses.replace(plan, tasks=plan.tasks[:1])
    assert "has no effect" in resume_advisories(alone, "newer snapshot")[0]


def test_a_checkpoint_holds_json_lines():
    text = written(keyed_plan("id"), moment("x"), 2).text
    assert [next(iter(json.loads(line))) for line in text.splitlines()] == [
        "attempt",
        "task",
        "task",
    ]
