"""What assets of ixflow say of themselves while definitions load, and where they are defined."""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import dagster as dg

__all__ = ["asset_spec", "called_at", "defined_at"]

# Frames of these packages are not where a person defines an asset.
_OURS = "ixflow"
_DEMO = "ixflow.demo"
_LOADERS = ("dagster", "dagster_shared", "pydantic", "importlib", "functools", "runpy")


def asset_spec(
    key: dg.AssetKey, own: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> dg.AssetSpec:
    """Make a spec of ixflow's own attributes and of those that the user has given.

    What is given counts; metadata and kinds are put together.

    >>> own = {"kinds": {"parquet"}, "metadata": {"a": 1}, "description": "ours"}
    >>> made = asset_spec(dg.AssetKey("orders"), own, {"kinds": {"csv"}, "description": "mine"})
    >>> sorted(made.kinds), made.description, made.metadata["a"]
    (['csv', 'parquet'], 'mine', 1)
    """
    wanted = {name: value for name, value in (given or {}).items() if value is not None}
    merged = {**own, **wanted}
    merged["metadata"] = {**own.get("metadata", {}), **wanted.get("metadata", {})}
    if "kinds" in merged:
        merged["kinds"] = {*own.get("kinds", ()), *wanted.get("kinds", ())}
    return dg.AssetSpec(key, **merged)


def defined_at(fn: Callable[..., Any]) -> dict[str, Any]:
    """Give the metadata that leads to a function of the user: its file and line.

    >>> list(defined_at(asset_spec))
    ['dagster/code_references']
    """
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return {} if code is None else _reference(code.co_filename, code.co_firstlineno)


def called_at() -> dict[str, Any]:
    """Give the metadata that leads to the line of the user's code that is calling ixflow now.

    There is none if Dagster is: a component's reference is its YAML, which Dagster adds itself.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - what `inspect.stack` reads, without reading files
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] in _LOADERS:
            return {}
        if name.partition(".")[0] != _OURS or name.startswith(_DEMO):
            return _reference(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return {}


def _reference(file: str, line: int) -> dict[str, Any]:
    if not _is_file(file):
        return {}
    with warnings.catch_warnings():
        # Their place in Dagster's API is not final; it is pinned below the next minor release.
        warnings.simplefilter("ignore", dg.BetaWarning)
        found = dg.LocalFileCodeReference(file_path=str(Path(file).absolute()), line_number=line)
        value = dg.CodeReferencesMetadataValue(code_references=[found])
    return {"dagster/code_references": value}


@functools.lru_cache(maxsize=512)
def _is_file(file: str) -> bool:
    """Say whether it is one: code may come from a prompt or from a notebook's cell."""
    return Path(file).is_file()
