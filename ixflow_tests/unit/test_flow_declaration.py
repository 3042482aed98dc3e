"""Declaring flows, stages and tasks, and how they are wired."""

from __future__ import annotations

import functools

import pytest

from ixflow.errors import DuplicateNameError, FlowError, StageError
from ixflow.pipeline import ExternalTableReference, Flow, Stage, Table, audit, materialize
from ixflow.pipeline.schedule import dependencies


@materialize(version="1")
def one():
    return 1


@materialize(version="1")
def add(left, right=0, *rest, **named):
    return left + right


@materialize(version="1", nout=2)
def pair():
    return 1, 2


def test_a_call_outside_a_flow_just_runs_and_unwraps_tables():
    @materialize(version="1")
    def frames(value):
        return {"a": Table([value]), "b": (2, Table("x"))}

    assert frames(1) == {"a": [1], "b": (2, "x")}


def test_calls_within_a_stage_become_its_tasks_in_order():
    with Flow("f") as flow, Stage("s") as stage:
        first = one()
        second = add(first, right=3)
    assert flow.tasks == stage.tasks == [first, second]
    assert second.upstream == (first,)
    assert second.fn is add.fn


def test_stage_names_are_case_folded_stripped_and_free_of_slashes():
    with Flow("f") as flow, Stage(" Raw/Größe ") as stage:
        pass
    assert stage.name == "raw_grösse"
    assert flow["raw_grösse"] is flow.get_stage("raw_grösse") is stage


def test_an_unknown_stage_is_a_key_error_that_names_the_known_ones():
    with Flow("f") as flow, Stage("s"):
        pass
    with pytest.raises(KeyError, match=r"no stage 't'; it has s"):
        flow["t"]


def test_looking_up_a_task_has_three_errors():
    with Flow("f"), Stage("s") as stage:
        first, second = one(), one()
        pair()
    assert stage["one", 1] is stage.get_task("one", 1) is second
    assert stage["one", 0] is first
    with pytest.raises(KeyError, match="no task 'two'"):
        stage["two"]
    with pytest.raises(ValueError, match="2 tasks 'one'"):
        stage["one"]
    with pytest.raises(IndexError, match="no index 2"):
        stage.get_task("one", 2)


def test_a_stage_needs_an_open_flow_and_is_opened_once():
    stage = Stage("s")
    with pytest.raises(StageError, match="within a flow"), stage:
        pass
    with Flow("f"):
        with stage:
            pass
        with pytest.raises(StageError, match="opened before"), stage:
            pass


def test_two_stages_of_one_name_are_refused():
    with Flow("f"), Stage("S"):
        pass
    with Flow("g"):
        with Stage("S"):
            pass
        with pytest.raises(DuplicateNameError, match="two stages called s"), Stage("s"):
            pass


def test_a_task_outside_of_a_stage_is_refused():
    with Flow("f"), pytest.raises(StageError, match="outside of a stage"):
        one()


def test_a_flow_within_a_flow_is_refused():
    with Flow("f"), pytest.raises(FlowError, match="another flow"), Flow("g"):
        pass


def test_an_error_in_the_block_closes_it():
    with pytest.raises(ZeroDivisionError), Flow("f"), Stage("s"):
        _ = 1 / 0
    assert one() == 1


def test_a_task_of_another_flow_is_refused():
    with Flow("f"), Stage("s"):
        foreign = one()
    with Flow("g"), Stage("t"), pytest.raises(FlowError, match="belongs to another flow"):
        add(foreign)


def test_outputs_are_wired_by_index_key_and_unpacking():
    with Flow("f"), Stage("s"):
        left, right = pair()
        wired = add(left, {"deep": [right["x"][0]]})
    assert (left.path, right.path) == ((0,), (1,))
    assert wired.upstream == (left.task,)
    with Flow("g"), Stage("s"), pytest.raises(FlowError, match="cannot be unpacked"):
        _, _ = pair()[0]


def test_wrong_arguments_are_a_type_error_where_the_call_is():
    with Flow("f"), Stage("s"), pytest.raises(TypeError):
        one(1)


def test_a_constant_that_cannot_pass_between_tasks_is_named():
    with Flow("f"), Stage("s"), pytest.raises(FlowError, match=r"builtins\.object"):
        add(object())
    with Flow("g"), Stage("s"), pytest.raises(FlowError, match="not equal to itself"):
        add(float("nan"))


def test_a_task_waits_for_the_commit_of_another_stage_but_not_of_its_outer_one():
    with Flow("f") as flow:
        with Stage("outer") as outer:
            first = one()
            with Stage("inner") as inner:
                nested = add(first)
            last = add(nested)
        with Stage("after") as after:
            end = add(last)
    graph = dependencies(flow.tasks, list(flow.stages.values()))
    assert graph[nested] == {first}
    assert graph[last] == {nested, inner}
    assert graph[inner] == {nested}
    assert graph[outer] == {first, nested, last, inner}
    assert graph[end] == {last, outer}
    assert graph[after] == {end}


def test_a_place_in_the_flow_depends_on_the_wiring_and_not_on_the_order():
    def places(second_first):
        with Flow("f"), Stage("s") as stage:
            calls = [lambda: add(1), lambda: add(2)]
            for call in reversed(calls) if second_first else calls:
                call()
        return {task.position for task in stage.tasks}

    assert places(second_first=True) == places(second_first=False)
    assert len(places(second_first=True)) == 2


def test_the_tables_of_a_task_are_known_before_it_runs():
    @materialize(version="1", outputs=["A", "b"])
    def several():
        return 1

    @materialize(version="1", outputs=[])
    def constant():
        return 1

    with Flow("f"), Stage("s") as stage:
        several()
        constant()
        one()
        pair()
        pair()
    assert stage.output_names == ("a", "b", "one")


def test_external_tables_among_the_arguments_are_known():
    reference = ExternalTableReference("Orders", "raw")
    with Flow("f"), Stage("s"):
        task = add([reference], Table(reference))
    assert task.external_tables == (reference,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nout": 0}, "nout"),
        ({"version": 1}, "version"),
        ({"outputs": "a"}, "outputs"),
        ({"name": " "}, "name"),
        ({"cache": "daily"}, "cache"),
        ({"lazy": "yes"}, "lazy"),
    ],
)
def test_wrong_options_of_materialize_are_named(options, said):
    with pytest.raises(FlowError, match=said):
        materialize(**options)


@pytest.mark.parametrize("thing", ["a function", functools.partial(print)])
def test_what_is_no_function_or_has_no_name_is_no_task(thing):
    with pytest.raises(FlowError, match="takes a function, or with name="):
        materialize(thing)


def test_wrong_arguments_of_table_are_named():
    with pytest.raises(FlowError, match="lists of columns"):
        Table(1, indexes=["a"])
    with pytest.raises(FlowError, match="an index without a column"):
        Table(1, indexes=[["a"], []])
    with pytest.raises(FlowError, match="not <class 'int'> for the column 'a'"):
        Table(1, type_map={"a": int})
    with pytest.raises(FlowError, match="takes text"):
        Table(1, name=3)  # type: ignore[arg-type]  # the mistake is the subject
    with pytest.raises(FlowError, match="needs a character"):
        Table(1, name=" ")
    with pytest.raises(FlowError, match="from the reference"):
        Table(ExternalTableReference("a", "b"), name="c")


def test_an_index_that_is_named_twice_is_one():
    assert Table(1, indexes=[["a"], ["a", "b"], ["a"]]).indexes == (("a",), ("a", "b"))


def test_transaction_names_are_known_only_while_a_flow_runs():
    with pytest.raises(StageError, match="only while a flow runs"):
        _ = Stage("s").transaction_name


def test_an_audit_names_its_tables_by_parameters_or_by_table():
    stage = Stage("s")

    @audit(stage)
    def both(orders: int, items):
        return True

    @audit(stage, table="Odd Name")
    def odd(frame):
        return True

    assert [a.table for a in stage.audits] == ["orders", "odd name"]
    assert stage.audits[0].tables == {"orders": "orders", "items": "items"}
    assert stage.audits[1].tables == {"frame": "odd name"}
    with pytest.raises(FlowError, match="takes no table"):
        audit(stage)(lambda: True)
