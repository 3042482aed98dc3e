"""Deciding what is the same: hashes of tasks, their places in a flow and their inputs.

Pure: no connection, no clock, no chance. The code of a function is never hashed; a task says with
its version that it means something else than before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

__all__ = [
    "Rules",
    "digest",
    "inputs_key",
    "lazy_result_key",
    "lazy_table_key",
    "position_key",
    "script_key",
    "task_key",
    "task_key_of",
]

_CACHE_MARK, _LAZY_MARK = ":", "/"


@dataclass(frozen=True, slots=True)
class Rules:
    """Which stored results a run takes as valid.

    ``forced``: none. ``ignore_cache_function``: also those for which the cache function said
    something else. ``ignore_task_version``: of tasks that are not lazy none, as if they had no
    version; an automatic one counts.
    """

    forced: bool = False
    ignore_cache_function: bool = False
    ignore_task_version: bool = False


def digest(*parts: str) -> str:
    """Hash texts so that no two different lists of texts look alike (20 characters).

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    made = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        made.update(len(raw).to_bytes(8, "big") + raw)
    return made.hexdigest()[:20]


def task_key(name: str, version: str, inputs: str, cache_value: str | None) -> str:
    """Hash everything that decides what a task returns.

    ``inputs`` is the JSON of the arguments, in which a table stands as the key of the task that
    made it; ``cache_value`` the JSON of what the cache function returned, None without one.

    >>> task_key("orders", "1", "{}", None) == task_key("orders", "2", "{}", None)
    False
    """
    base = digest("task", name, version, inputs)
    return base if cache_value is None else base + _CACHE_MARK + digest("cache", cache_value)


def inputs_key(key: str) -> str:
    """Give the part of a result's key that the cache function has no say in.

    >>> one, two = (task_key("orders", "1", "{}", found) for found in ("1", "2"))
    >>> one == two, inputs_key(one) == inputs_key(two)
    (False, True)
    """
    return task_key_of(key).partition(_CACHE_MARK)[0]


def task_key_of(key: str) -> str:
    """Give the key that a result's task had, without what a lazy one returned.

    >>> task_key_of(lazy_result_key("abc:def", "{}"))
    'abc:def'
    """
    return key.partition(_LAZY_MARK)[0]


def lazy_table_key(key: str, query: str, form: str) -> str:
    """Hash what decides the content of a lazy task's table: the task's inputs and the query.

    ``form`` says how the table is stored: its name, keys, indexes and types.
    """
    return digest("lazy table", key, query, form)


def lazy_result_key(key: str, output: str) -> str:
    """Give the key of what a lazy task returned: its tables' keys are within the output."""
    return key + _LAZY_MARK + digest("lazy", output)


def script_key(key: str, name: str, text: str) -> str:
    """Hash what decides what a script makes."""
    return digest("script", key, name, text)


def position_key(stage: str, name: str, arguments: str) -> str:
    """Hash the place of a task in its flow: what it is called on, whatever comes of it."""
    return digest("position", stage, name, arguments)
