"""`Blob`: any Python object that a task returns and that is stored pickled."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from ixflow.errors import FlowError
from ixflow.pipeline.containers import normalised
from ixflow.pipeline.encoding import MARKER, decoded

__all__ = ["Blob", "blob_form", "blob_from_form", "blobs_in"]

T = TypeVar("T")


class Blob(Generic[T]):
    """An object that is stored as it is, in the blob store; consumers get an equal one.

    ``name`` is case-insensitive; without one the blob is called like its task, and a ``%%`` at its
    end is replaced by something unique. Only the program itself should be able to write to the
    blob store: reading a pickle can run what it says.

    Raises:
        FlowError: the name is not a text.

    >>> Blob({"depth": 3}, "Model").name
    'model'
    """

    def __init__(self, obj: T | None = None, name: str | None = None) -> None:
        self.obj = obj
        self.name = _checked(name)
        self.stage: str | None = None
        self.cache_key: str | None = None

    def __repr__(self) -> str:
        """Show the name, not the object."""
        return f"<Blob {self.name!r}>"

    def stored(self, name: str, *, stage: str, key: str) -> Blob[Any]:
        """Give the reference that consumers get in place of the object."""
        made: Blob[Any] = Blob(None, name)
        made.stage, made.cache_key = stage, key
        return made


def _checked(name: Any) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or normalised(name) in ("", "%%"):
        msg = f"Blob(name=) takes a text that is not empty, not {name!r}"
        raise FlowError(msg, name=name)
    return normalised(name)


def blob_form(leaf: Any) -> dict[str, Any] | None:
    """Write a reference to a blob as JSON; None for other things."""
    if not isinstance(leaf, Blob):
        return None
    return {MARKER: "blob", "name": leaf.name, "stage": leaf.stage, "key": leaf.cache_key}


def blob_from_form(form: dict[str, Any]) -> Blob[Any]:
    """Read a reference back."""
    made: Blob[Any] = Blob()
    return made.stored(form["name"], stage=form["stage"], key=form["key"])


def blobs_in(output: str) -> frozenset[tuple[str, str]]:
    """List the names and keys of the blobs that a stored value refers to.

    >>> blobs_in('{"model":{"$ixflow":"blob","name":"m","stage":"s","key":"k"}}')
    frozenset({('m', 'k')})
    """
    found: set[tuple[str, str]] = set()
    if '"blob"' in output:
        decoded(output, lambda form: _noted(form, found))
    return frozenset(found)


def _noted(form: dict[str, Any], found: set[tuple[str, str]]) -> None:
    if form[MARKER] == "blob":
        found.add((form["name"], form["key"]))
