"""Which columns and rows of a table are read, and under which masks: from the intent to the SQL."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import Dialect
from ixflow.dialects.masks import masked_column
from ixflow.errors import IxflowError, ValidationError
from ixflow.extraction.plan import ExecutionPlan, ExtractionTask
from ixflow.secrets import redact
from ixflow.values import Column, TableName, TablePart

if TYPE_CHECKING:
    from ixflow.extraction.intent import ExtractionIntent

__all__ = [
    "Statements",
    "check_filter",
    "check_same_selection",
    "chosen_columns",
    "described",
    "hidden_columns",
    "salt_digest",
    "shown_error",
]

_LEAST_SALT = 8


def chosen_columns(intent: ExtractionIntent, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Take the columns that the intent selects, as text or under a mask where it says so.

    Raises:
        ValidationError: a name is not a column of the table, or a mask does not go with its type.

    """
    known = {column.name: column for column in columns}
    named = {*(intent.columns or ()), *intent.as_text, *intent.drop, *intent.mask}
    if missing := sorted(named - set(known)):
        msg = f"{intent.object_name} has no columns {missing}; it has {sorted(known)}"
        raise ValidationError(msg, columns=missing, table=intent.object_name)
    wanted = intent.columns or [name for name in known if name not in intent.drop]
    if not wanted:
        raise ValidationError(f"drop leaves no column of {intent.object_name}", columns=intent.drop)
    return tuple(_chosen(known[name], intent) for name in wanted)


def _chosen(column: Column, intent: ExtractionIntent) -> Column:
    if column.name in intent.as_text:
        column = replace(column, type=pa.string(), as_text=True)
    mask = intent.mask.get(column.name)
    return column if mask is None else masked_column(column, mask)


def hidden_columns(intent: ExtractionIntent) -> tuple[str, ...]:
    """Name the columns whose values must stay where they are: masked or dropped.

    >>> from ixflow.extraction.intent import ExtractionIntent
    >>> made = ExtractionIntent("sqlite", {"database": "a"}, "t", drop=["b"], mask={"a": "hash"})
    >>> hidden_columns(made)
    ('a', 'b')
    """
    return tuple(sorted({*intent.drop, *intent.mask}))


@functools.cache
def _digest(salt: str) -> str:
    made = hashlib.scrypt(salt.encode(), salt=b"ixflow mask_salt", n=1 << 14, r=8, p=1, dklen=8)
    return made.hex()


def salt_digest(salt: str | None) -> str | None:
    """Give a text by which a salt is known again, and that takes long to guess a salt from.

    Raises:
        ValidationError: the salt is too short to hide anything.

    """
    if salt is None:
        return None
    if len(salt) < _LEAST_SALT:
        msg = f"mask_salt has {len(salt)} characters; give at least {_LEAST_SALT}, better 32"
        raise ValidationError(msg, argument="mask_salt")
    return _digest(salt)


def described(
    dialect: Dialect, conn: sa.Connection, intent: ExtractionIntent
) -> tuple[Column, ...]:
    """Give the columns of the intent's query, which is not run.

    Raises:
        ValidationError: the server refuses the query, or its columns cannot be told apart.

    """
    try:
        found = dialect.describe(conn, intent.query or "")
    except sa.exc.DBAPIError as error:
        raise _refused(dialect, intent, "query", error) from None
    if not found:
        msg = f"the query of {intent.object_name} has no columns"
        raise ValidationError(msg, argument="query")
    return found


def check_filter(
    dialect: Dialect, conn: sa.Connection, part: TablePart, intent: ExtractionIntent
) -> None:
    """Let the server read the intent's filter, so that a mistake is found before the run.

    Raises:
        ValidationError: the server refuses it.

    """
    if intent.where is None:
        return
    try:
        dialect.check_filter(conn, part, intent.where, alias_of(part.table), intent.query)
    except sa.exc.DBAPIError as error:
        raise _refused(dialect, intent, "where", error) from None


def _refused(
    dialect: Dialect, intent: ExtractionIntent, what: str, error: sa.exc.DBAPIError
) -> Exception:
    """Tell a mistake in somebody's SQL from a server that is gone."""
    if error.connection_invalidated or dialect.is_transient(error):
        return error
    said = redact(" ".join(str(error.orig or error).split()), *intent.secrets)
    msg = f"the {what} of {intent.object_name} is refused by the server: {said}"
    return ValidationError(msg, argument=what, table=intent.object_name)


def alias_of(table: TableName) -> str:
    """Give the name that a filter may call the table by, also where a part of it is read."""
    return table.name


def shown_error(error: Exception, intent: ExtractionIntent) -> str:
    """Write an error so that it shows no secret and no value of a hidden column.

    What a server says about a value quotes it, also one that a filter has only compared.
    """
    if hidden_columns(intent) and not isinstance(error, IxflowError):
        state = getattr(error, "sqlstate", None)
        code = f" (SQLSTATE {state})" if state else ""
        return f"{type(error).__name__}{code}: not shown, since it may quote a hidden column"
    return redact(" ".join(str(error).split()), *intent.secrets)


@dataclass(frozen=True, slots=True)
class Statements:
    """The queries of a plan's tasks; ``window`` is the condition of an incremental run."""

    plan: ExecutionPlan
    dialect: Dialect
    salt: str | None = None
    window: str | None = None

    def __repr__(self) -> str:
        """Show what is read, not the salt."""
        return f"Statements({self.plan.object_name!r}, window={self.window!r})"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Describe the columns as they arrive: what a mask has made a text is one."""
        return self.dialect.arriving(self.plan.columns)

    def of(self, task: ExtractionTask) -> str:
        """Write the query of a task. It holds the salt: never show it."""
        plan = self.plan
        where = list(self._conditions())
        return self.dialect.select_part(
            task.part,
            plan.columns,
            pages=task.pages,
            keys=task.keys,
            query=plan.query,
            where="\n AND ".join(where) or None,
            alias=alias_of(plan.table) if plan.where else None,
            salt=self.salt,
        )

    def _conditions(self) -> Iterator[str]:
        conditions = [text for text in (self.plan.where, self.window) if text is not None]
        for text in conditions:
            yield f"({text}\n)" if len(conditions) > 1 else text


def _key(plan: ExecutionPlan) -> str | None:
    return None if plan.cursor is None else plan.cursor.column


def check_same_selection(plan: ExecutionPlan, intent: ExtractionIntent) -> None:
    """See that a plan, perhaps an old one, reads what the intent says and hides what it hides.

    Raises:
        ValidationError: naming what differs.

    """
    masks = {column.name: column.mask for column in plan.columns if column.mask}
    read = {column.name for column in plan.columns}
    wanted: Mapping[str, str] = {n: mask for n, mask in intent.mask.items() if n in read}
    salted = None if intent.mask_salt is None else salt_digest(intent.mask_salt)
    differs = {
        "where": plan.where != intent.where,
        "query": plan.query != intent.query,
        "mode": plan.mode != intent.mode,
        "incremental_key": _key(plan) != (intent.cursor and intent.cursor.column),
        "drop": bool(read & set(intent.drop)),
        "mask": masks != dict(wanted),
        "mask_salt": plan.salt_digest != salted,
    }
    names = ", ".join(name for name, other in differs.items() if other)
    if names:
        msg = f"the plan of {plan.object_name} has another {names} than the intent; plan again"
        raise ValidationError(msg, table=plan.object_name)
