"""The objects that a configuration describes: made when first asked for, closed together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from ixflow.errors import ConfigError, IxflowError, ValidationError
from ixflow.pipeline.class_names import ClassName, class_named, imported
from ixflow.pipeline.config_schema import Place
from ixflow.secrets import redact, secrets_of

__all__ = ["Backends"]

_log = logging.getLogger("ixflow.pipeline")
_CACHE_FLAGS = ("store_input", "store_output", "use_stored_input_as_cache")


class Backends:
    """Table store, blob store, local table cache, lock manager and engine of one configuration.

    It is shared by a configuration and those evolved from it. Each object is made once, by the
    first that asks; when the last `hold` is released they are closed, and made anew when somebody
    asks again. What was ``given`` belongs to the giver, who closes it.
    """

    def __init__(
        self, config: Mapping[str, Any], place: Place, given: Mapping[str, Any] | None = None
    ) -> None:
        self._config = config
        self.place = place
        self.given = dict(given or {})
        self._opened: dict[str, Any] = {}
        self._guard = threading.RLock()
        self._holders = 0

    def get(self, kind: str) -> Any:
        """Give the object of a section, None where the configuration has no such section.

        Raises:
            ConfigError: its class cannot be imported or refuses the arguments.

        """
        if kind in self.given:
            return self.given[kind]
        with self._guard:
            if kind not in self._opened:
                self._opened[kind] = self._made(kind)
            return self._opened[kind]

    def _made(self, kind: str) -> Any:
        holder, place = self._config, self.place
        if kind == "local_table_cache":
            holder, place = holder.get("table_store") or {}, place / "table_store"
        section, place = holder.get(kind), place / kind
        if section is None:
            return None
        name = class_named(kind, section["class"], place / "class")
        args = dict(section.get("args") or {})
        if kind == "local_table_cache":
            args |= {flag: section[flag] for flag in _CACHE_FLAGS if flag in section}
        made = _constructed(name, args, place)
        if kind == "table_store" and hasattr(made, "local_cache"):
            made.local_cache = self.get("local_table_cache")
        return made

    def hold(self) -> None:
        """Keep the objects open until the matching `release`."""
        with self._guard:
            self._holders += 1

    def release(self) -> None:
        """Close the objects if nobody holds them any more."""
        with self._guard:
            self._holders -= 1
            if self._holders:
                return
            opened = list(self._opened.values())
            self._opened.clear()
        for made in opened:
            dispose = getattr(made, "dispose", None)
            if dispose is not None:
                dispose()


def _constructed(name: ClassName, args: dict[str, Any], place: Place) -> Any:
    """Make the object; a class may take its section's arguments by `_init_conf_` instead."""
    kind = imported(name, place / "class")
    make = getattr(kind, "_init_conf_", None) or (lambda args: kind(**args))
    secrets = secrets_of(args)
    try:
        made = make(args)
    except ConfigError:
        raise
    except ValidationError as error:
        raise place.error(f"cannot be made: {error}") from error
    except IxflowError as error:
        error.add_note(f"while {place} was made")
        raise
    except Exception as error:  # noqa: BLE001 - the class may be anybody's
        text = f"cannot be made by {name.path}: {type(error).__name__}: {error}"
        # The cause is left out where its own words could show a credential.
        raise place.error(redact(text, *secrets)) from (None if secrets else error)
    return made
