"""Placeholders and environment variables in the texts of a configuration, filled in without I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from ixflow.pipeline.config_schema import Place, nearest

__all__ = ["Names", "filled"]

_PLACEHOLDER = re.compile(
    r"\{\{|\}\}|\{(?P<env>\$)?(?P<name>[A-Za-z_]\w*)(?P<quoted>:quote)?\}", re.ASCII
)
_IN_PASSWORD = re.compile(r"://[^/:@]*:(?P<password>.*)@", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Names:
    """What may stand in braces: `{$NAME}` of the environment, keys of a file, and fixed names.

    No value is ever shown. A value of the environment may hold names of the file and fixed ones,
    a value of the file fixed ones.
    """

    fixed: Mapping[str, str]
    from_file: Mapping[str, str] = field(default_factory=dict, repr=False)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """Show the names without values."""
        return f"Names({sorted((*self.fixed, *self.from_file))})"


def filled(text: str, names: Names, place: Place) -> str:
    """Fill in the placeholders of a text; `{{` and `}}` stand for braces.

    `{name:quote}` writes the value as a URL wants it, for a password that holds ``@`` or ``/``.

    Raises:
        ConfigError: a name is not known, or an environment variable is not set.

    >>> names = Names({"instance_id": "full"}, environ={"PASSWORD": "p@ss"})
    >>> filled("pg://u:{$PASSWORD:quote}@db/{instance_id}", names, Place("pipedag.yaml"))
    'pg://u:p%40ss@db/full'
    """
    secret = _IN_PASSWORD.search(text)
    hidden = range(*secret.span("password")) if secret else range(0)

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return match[0][0]
        value = _value(match, names, place, hidden=match.start() in hidden)
        return quote(value, safe="") if match["quoted"] else value

    return _PLACEHOLDER.sub(fill, text)


def _value(match: re.Match[str], names: Names, place: Place, *, hidden: bool) -> str:
    name, raw = match["name"], match["quoted"] is not None
    inner: Mapping[str, str]
    if match["env"]:
        if name not in names.environ:
            raise place.error(f"needs the environment variable {name}, which is not set")
        value, inner = names.environ[name], {**names.fixed, **names.from_file}
    elif name in names.from_file:
        value, inner = names.from_file[name], names.fixed
    elif name in names.fixed:
        return names.fixed[name]
    else:
        raise _unknown(match, names, place, hidden=hidden)
    return value if raw else _nested(value, inner)


def _nested(value: str, names: Mapping[str, str]) -> str:
    """Fill known names into a value from elsewhere; other braces may belong to a password."""

    def fill(match: re.Match[str]) -> str:
        known = match["name"] in names and not match["env"] and not match["quoted"]
        return names[match["name"]] if known else match[0]

    return _PLACEHOLDER.sub(fill, value)


def _unknown(match: re.Match[str], names: Names, place: Place, *, hidden: bool) -> Exception:
    allowed = sorted({*names.fixed, *names.from_file})
    # What stands in braces in the middle of a password may be a part of it.
    what = "a placeholder in its password" if hidden else f"the placeholder {match[0]}"
    hint = "" if hidden else nearest(match["name"], allowed)
    known = ", ".join(f"{{{name}}}" for name in allowed)
    text = f"has {what} that is not known{hint}; allowed are {known} and {{$VARIABLE}}"
    return place.error(text, allowed)
