"""Finding and reading configuration files; what is wrong in one never shows its content."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ixflow.errors import NoConfiguration
from ixflow.pipeline.config_schema import Place

__all__ = ["ENVIRONMENT_VARIABLE", "found_config", "read_attrs", "read_config"]

ENVIRONMENT_VARIABLE = "PIPEDAG_CONFIG"
_NAMES = ("pipedag.yaml", "pipedag.yml")


class _KeyTwice(yaml.MarkedYAMLError):  # type: ignore[misc] # yaml has no types
    """A mapping has a key twice."""


class _NoDuplicates:
    """Refuses a mapping that has a key twice, of which YAML would silently keep the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Read one mapping."""
        node = super().compose_mapping_node(anchor)  # type: ignore[misc] # of yaml's Composer
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    problem = f"the key {key.value!r} is there twice"
                    raise _KeyTwice(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


class _ConfigLoader(_NoDuplicates, yaml.SafeLoader):  # type: ignore[misc] # yaml has no types
    """Reads plain values."""


class _TextLoader(_NoDuplicates, yaml.BaseLoader):  # type: ignore[misc] # yaml has no types
    """Reads every value as the text that is written, so that 0123 stays what it is."""


def found_config() -> Path:
    """Find the configuration file of this process.

    The file that the environment variable PIPEDAG_CONFIG names, or pipedag.yaml or pipedag.yml in
    the directory that it names; without it the same names in the working directory, in those above
    it, and in the home directory.

    Raises:
        NoConfiguration: there is none.

    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        path = Path(named).expanduser()
        here = path if path.is_file() else _inside(path)
        if here is None:
            msg = f"{ENVIRONMENT_VARIABLE} is {named!r}, which is no file and holds no {_NAMES[0]}"
            raise NoConfiguration(msg, path=named)
        return here
    for directory in _searched():
        here = _inside(directory)
        if here is not None:
            return here
    msg = (
        f"there is no configuration; pass flow.run(config=...), run within `with "
        f"create_basic_pipedag_config(url):`, name a file in {ENVIRONMENT_VARIABLE}, or put "
        f"{_NAMES[0]} into {Path.cwd()}, a directory above it or the home directory"
    )
    raise NoConfiguration(msg)


def _searched() -> Iterator[Path]:
    here = Path.cwd()
    yield from (here, *here.parents)
    try:
        yield Path.home()
    except RuntimeError:
        # An account without a home directory.
        return


def _inside(directory: Path) -> Path | None:
    return next((directory / name for name in _NAMES if (directory / name).is_file()), None)


def read_config(path: Path) -> Mapping[str, Any]:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, or is no YAML mapping.

    """
    found = _read(path, Place(str(path)), _ConfigLoader)
    if not isinstance(found, Mapping):
        raise Place(str(path)).error("holds no mapping of keys to values")
    return found


def read_attrs(path: Path, place: Place) -> dict[str, str]:
    """Read a `url_attrs_file`: names and the texts to put in their place.

    Raises:
        ConfigError: it cannot be read, or is no YAML mapping of texts.

    """
    found = _read(path, place, _TextLoader)
    here = Place(str(path))
    if not isinstance(found, Mapping):
        raise here.error("holds no mapping of names to texts")
    for key, value in found.items():
        if not isinstance(value, str):
            raise (here / key).error("must be a text or a number")
    return dict(found)


def _read(path: Path, place: Place, loader: Callable[[bytes], Any]) -> Any:
    try:
        text = path.read_bytes()
    except OSError as error:
        said = f"cannot be read: {path}: {error.strerror}"
        raise place.error(said) from error
    made = None
    try:
        made = loader(text)
        return made.get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # PyYAML quotes the line, which may hold a password.
        raise Place(str(path)).error(f"is no valid YAML: {_problem(error)}") from None
    finally:
        if made is not None:
            made.dispose()


def _problem(error: BaseException) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark, problem = error.problem_mark, str(error.problem)
        if not isinstance(error, _KeyTwice):
            # An unquoted password that begins with * or ! is quoted as a name.
            problem = re.sub(r"'[^']*'", "something", problem)
        return f"{problem} in line {mark.line + 1}, column {mark.column + 1}"
    return "it cannot be understood" if isinstance(error, yaml.YAMLError) else "a value is wrong"
