"""What a configuration may say: its keys and the kinds of their values, checked without I/O."""

from __future__ import annotations

import datetime as dt
import difflib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ixflow.errors import ConfigError
from ixflow.secrets import SECRET_KEYS, masked, redact

__all__ = [
    "ANYTHING",
    "FLAG",
    "MAPPING",
    "PATH",
    "SECONDS",
    "TEXT",
    "Choice",
    "Each",
    "Keys",
    "ListOf",
    "Masked",
    "Node",
    "Number",
    "Place",
    "nearest",
]

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which file a value stands; this is what every error names.

    >>> str(Place("pipedag.yaml") / "instances" / "full")
    'pipedag.yaml: instances.full'
    """

    file: str
    path: tuple[str, ...] = ()

    def __truediv__(self, key: object) -> Place:
        """Go one key deeper."""
        return Place(self.file, (*self.path, str(key)))

    def __str__(self) -> str:
        """Name the file and the path."""
        return f"{self.file}: {'.'.join(self.path)}" if self.path else self.file

    def error(self, text: str, allowed: Collection[str] = ()) -> ConfigError:
        """Make the error that says what is wrong here."""
        allowed = sorted(allowed)
        return ConfigError(
            f"{self} {text}", file=self.file, path=".".join(self.path), allowed=allowed
        )


class Node(Protocol):
    """A kind of value."""

    def check(self, value: Any, place: Place) -> None:
        """Refuse a value that is not of this kind.

        Raises:
            ConfigError: so it is.

        """
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A value of one of some Python types, with the words that a person knows for it."""

    types: tuple[type, ...]
    wanted: str
    advice: str = ""

    def check(self, value: Any, place: Place) -> None:
        """Refuse another type; a truth value is not a number."""
        wrong = isinstance(value, bool) and bool not in self.types
        if wrong or not isinstance(value, self.types):
            raise place.error(f"is {shown(value, place)}; it must be {self.wanted}{self.advice}")


TEXT = Kind((str,), "a text", " (put it in quotes)")
PATH = Kind((str, os.PathLike), "a path")
FLAG = Kind((bool,), "true or false")
SECONDS = Kind((int, float, dt.timedelta), "a number of seconds")
MAPPING = Kind((Mapping,), "a mapping of keys to values")
LIST = Kind((list, tuple), "a list")


@dataclass(frozen=True, slots=True)
class Anything:
    """Whatever the user's own class or code makes of it; keys of mappings are texts."""

    def check(self, value: Any, place: Place) -> None:
        """Take it."""


ANYTHING = Anything()


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number, not below the least."""

    least: int

    def check(self, value: Any, place: Place) -> None:
        """Refuse another one."""
        if isinstance(value, bool) or not isinstance(value, int) or value < self.least:
            wanted = f"a whole number, at least {self.least}"
            raise place.error(f"is {shown(value, place)}; it must be {wanted}")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words; upper and lower case are the same."""

    words: tuple[str, ...]

    def check(self, value: Any, place: Place) -> None:
        """Refuse another word."""
        if not isinstance(value, str) or value.upper() not in map(str.upper, self.words):
            wanted = ", ".join(self.words)
            text = f"is {shown(value, place)}; it must be one of {wanted}"
            raise place.error(text, allowed=self.words)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list whose items are all of one kind."""

    item: Node

    def check(self, value: Any, place: Place) -> None:
        """Check every item."""
        LIST.check(value, place)
        for number, item in enumerate(value):
            self.item.check(item, place / number)


@dataclass(frozen=True, slots=True)
class Each:
    """A mapping whose keys are the user's own names, and whose values are all of one kind."""

    item: Node
    empty: bool = False

    def check(self, value: Any, place: Place) -> None:
        """Check that the names are texts, and every value; a value may be null where it says so."""
        MAPPING.check(value, place)
        for name, item in value.items():
            if not isinstance(name, str):
                text = f"has the name {name!r}, which is no text; put it in quotes"
                raise place.error(text)
            if item is not None or not self.empty:
                self.item.check(item, place / name)


@dataclass(frozen=True, slots=True)
class Keys:
    """A mapping with known keys. Null is allowed for each: it removes what was inherited.

    ``refused`` are keys that are understood but cannot be had, with the reason.
    """

    known: Mapping[str, Node]
    refused: Mapping[str, str] = field(default_factory=dict)

    def check(self, value: Any, place: Place) -> None:
        """Refuse an unknown key with the nearest known one, and check every value."""
        MAPPING.check(value, place)
        for key, item in value.items():
            here = place / key
            if key in self.known:
                if item is not None:
                    self.known[key].check(item, here)
            elif key not in self.refused:
                allowed = ", ".join(sorted(self.known)) or "none"
                text = f"is an unknown key{nearest(key, self.known)}; allowed are {allowed}"
                raise here.error(text, self.known)
            elif item is not None:
                raise here.error(self.refused[key], self.known)

    def plus(self, **more: Node) -> Keys:
        """Give the same with further keys."""
        return Keys({**self.known, **more}, self.refused)


class Masked(dict[str, Any]):
    """A configuration that shows no password when it is printed.

    >>> Masked({"args": {"url": "postgresql://app:s3cret@db/shop"}})
    {'args': {'url': 'postgresql://app:***@db/shop'}}
    """

    def __repr__(self) -> str:
        """Show it with every secret replaced."""
        return redact(repr(masked(self)))


def nearest(word: object, known: Collection[str]) -> str:
    """Ask whether the nearest known word was meant; nothing where none is near.

    >>> nearest("intances", ["instances", "flows"])
    " (did you mean 'instances'?)"
    """
    lowered = {name.lower(): name for name in known}
    found = difflib.get_close_matches(str(word).lower(), lowered, n=1)
    return f" (did you mean {lowered[found[0]]!r}?)" if found else ""


def shown(value: Any, place: Place) -> str:
    """Show a wrong value, short, and without what may be a credential."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "empty"
    if any(word in key.lower() for key in place.path for word in SECRET_KEYS):
        return "a value of another kind"
    text = redact(str(value))
    text = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return repr(text) if isinstance(value, str) else f"{text} ({type(value).__name__})"
