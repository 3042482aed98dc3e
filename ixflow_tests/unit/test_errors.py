"""The error tree: as drawn, with fields, and able to travel between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from ixflow import errors
from ixflow.errors import IxflowError, TableNotFound, ValidationError

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, IxflowError)
]


def drawn_tree() -> dict[str, str | None]:
    """Read names and parents out of the drawing in the module's docstring."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"(?P<branch>(?:[│ ] {3})*(?:[├└]── )?)(?P<name>[A-Z]\w+)", line)
        if found is None or (not found["branch"] and found["name"] != "IxflowError"):
            continue
        path[len(found["branch"]) // 4 :] = [found["name"]]
        parents[found["name"]] = path[-2] if len(path) > 1 else None
    return parents


def test_the_drawing_is_the_tree_of_classes():
    real = {
        cls.__name__: None if cls is IxflowError else cls.__mro__[1].__name__ for cls in CLASSES
    }
    assert drawn_tree() == real


def test_every_error_is_public_and_sorted():
    assert sorted(errors.__all__) == errors.__all__
    assert set(errors.__all__) == {cls.__name__ for cls in CLASSES} | {"IxtractError"}


@pytest.mark.parametrize("kind", CLASSES)
def test_the_docstring_is_the_default_message(kind):
    assert str(kind()) == kind().message == (kind.__doc__ or "").splitlines()[0]
    assert str(kind()).endswith(".")


def through_pickle(error: IxflowError) -> object:
    """Send an error as processes do."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("travel", [through_pickle, copy.deepcopy])
def test_an_error_keeps_message_and_fields_when_it_travels(kind, travel):
    arrived = travel(kind("the table is gone", table="shop.orders", row=3))
    assert type(arrived) is kind
    assert str(arrived) == "the table is gone"
    assert (arrived.table, arrived.row) == ("shop.orders", 3)


def test_a_field_that_was_not_given_is_an_attribute_error_that_says_so():
    with pytest.raises(AttributeError, match="TableNotFound has no field 'row'"):
        _ = TableNotFound("gone", table="x").row


def test_wrong_arguments_are_value_errors_too():
    assert issubclass(ValidationError, ValueError)


def test_users_of_ixtract_catch_by_the_name_they_know():
    assert errors.IxtractError is IxflowError
