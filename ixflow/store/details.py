"""Materialization details: named sets of options for how a database stores tables.

A table has the set that its label names, else that of its stage's label, else the store's default,
else ``__any__``, which is also the base of all others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ixflow.dialects.details import NO_DETAILS
from ixflow.errors import ValidationError

if TYPE_CHECKING:
    from ixflow.dialects import Dialect

__all__ = ["Details"]

_log = logging.getLogger("ixflow.store")
_ANY = "__any__"


class Details:
    """The sets of one store; ``strict`` refuses what is wrong, else it is an error in the log.

    Raises:
        ValidationError: a set has an option that the database does not have, a value of the
            wrong kind, or the default is no set.

    """

    def __init__(
        self,
        dialect: Dialect,
        sets: Mapping[str, Mapping[str, Any] | None] | None = None,
        *,
        default: str | None = None,
        strict: bool = True,
    ) -> None:
        self._dialect = dialect
        self._strict = strict
        given = {label: dict(options or {}) for label, options in (sets or {}).items()}
        base = given.get(_ANY, {})
        self._sets = {label: self._checked(label, base | own) for label, own in given.items()}
        self._default = default
        if default is not None:
            self._known(default, "default_materialization_details")

    def __bool__(self) -> bool:
        """Say whether there are any."""
        return bool(self._sets)

    def of(self, label: str | None, where: str) -> Mapping[str, Any]:
        """Give the options that a label means; ``where`` is the table that has it.

        Raises:
            ValidationError: there is no such set.

        """
        wanted = self._default if label is None else label
        if wanted is not None and self._known(wanted, where):
            return self._sets[wanted]
        return self._sets.get(_ANY, NO_DETAILS)

    def _known(self, label: str, where: str) -> bool:
        if label in self._sets:
            return True
        known = ", ".join(sorted(self._sets)) or "none"
        self._wrong(
            f"{where} has the materialization_details {label!r}, which the table store does not "
            f"define; it has {known}",
            label=label,
        )
        return False

    def _checked(self, label: str, options: Mapping[str, Any]) -> dict[str, Any]:
        known = self._dialect.table_options
        found = {}
        for name, value in options.items():
            if name not in known:
                allowed = ", ".join(sorted(known)) or "none"
                self._wrong(
                    f"materialization_details {label!r}: {self._dialect.name} has no option "
                    f"{name!r}; it has {allowed}",
                    label=label,
                    option=name,
                )
            elif not isinstance(value, known[name]):
                self._wrong(
                    f"materialization_details {label!r}: the option {name} is {value!r}; it must "
                    f"be {'true or false' if known[name] is bool else known[name].__name__}",
                    label=label,
                    option=name,
                )
            else:
                found[name] = value
        return found

    def _wrong(self, msg: str, **fields: Any) -> None:
        if self._strict:
            raise ValidationError(msg, **fields)
        _log.error("%s; it is left out", msg)
