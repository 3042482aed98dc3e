"""Deciding what is the same: hashes of tasks, their places in a flow and their inputs.

Pure: no connection, no clock, no chance. The code of a function is never hashed; a task says with
its version that it means something else than before.
"""

from __future__ import annotations

import hashlib

__all__ = ["digest", "position_key", "task_key"]


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
    seen = ("cache", cache_value) if cache_value is not None else ()
    return digest("task", name, version, inputs, *seen)


def position_key(stage: str, name: str, arguments: str) -> str:
    """Hash the place of a task in its flow: what it is called on, whatever comes of it."""
    return digest("position", stage, name, arguments)
