"""Audits: functions that see a stage's new tables before anybody else, and may refuse them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ixflow.errors import AuditFailed, FlowError, StageError
from ixflow.pipeline.containers import normalised
from ixflow.pipeline.stage import Stage
from ixflow.secrets import redact
from ixflow.store import SQLTableStore
from ixflow.values import TableName

__all__ = ["Audit", "AuditOutcome", "AuditResult", "audit", "judged", "judged_one"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit may return when yes or no is not enough."""

    passed: bool
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """How an audit went: on which table it reports, and what it says.

    ``error`` is the exception that it raised, if any.
    """

    name: str
    table: str
    passed: bool
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """An audit of a stage: ``tables`` maps the function's parameters to tables, ``types`` to types.

    ``table`` is the one that it reports on.
    """

    fn: Callable[..., Any]
    name: str
    table: str
    tables: Mapping[str, str]
    types: Mapping[str, Any]

    def judge(self, frames: Mapping[str, Any]) -> AuditOutcome:
        """Call the function with its frames and read its verdict; never raises its errors."""
        try:
            said = self.fn(**frames)
        except Exception as error:  # noqa: BLE001 - whatever an audit raises is its verdict
            text = redact(str(error)) or "it raised without a message"
            name = type(error).__name__
            return AuditOutcome(self.name, self.table, False, f"{name}: {text}", {}, error)
        if isinstance(said, AuditResult):
            return AuditOutcome(
                self.name, self.table, bool(said.passed), said.description, said.metadata
            )
        if said is None or isinstance(said, str):
            return AuditOutcome(self.name, self.table, said is None, said or "")
        if type(said).__name__ not in ("bool", "bool_"):
            msg = f"returned a {type(said).__name__}; return None, a bool, text or an AuditResult"
            return AuditOutcome(self.name, self.table, False, msg)
        return AuditOutcome(self.name, self.table, bool(said), "" if said else "returned False")


def audit(stage: Stage, table: str | None = None) -> Callable[[F], F]:
    """Let a function judge a stage's new tables before they are published.

    The function's parameters are called like tables of the stage and annotated with the type as
    which they are read (None: the pair name, schema). It passes by returning None or True; False,
    a text that says what is wrong, a failed `AuditResult` or an exception refuse the stage: then
    nothing is published. With ``table`` a single parameter may have any name; it is also the
    table that the audit reports on (default: the first parameter's).

    Raises:
        FlowError: the function takes no table, or an annotation cannot be evaluated.

    >>> import pyarrow as pa
    >>> staging = Stage("staging")
    >>> @audit(staging)
    ... def has_rows(orders: pa.Table):
    ...     return orders.num_rows > 0
    >>> staging.audits[0].table
    'orders'
    """

    def decorate(fn: F) -> F:
        name = getattr(fn, "__name__", "audit")
        parameters = list(inspect.signature(fn).parameters)
        if not parameters:
            msg = f"audit {name} of stage {stage.name} takes no table; name its parameters so"
            raise FlowError(msg, stage=stage.name)
        wanted = {parameter: normalised(parameter) for parameter in parameters}
        if table is not None and len(parameters) == 1:
            wanted = {parameters[0]: normalised(table)}
        main = normalised(table) if table is not None else wanted[parameters[0]]
        stage.audits.append(Audit(fn, name, main, wanted, _types(fn, name, stage)))
        return fn

    return decorate


def _types(fn: Callable[..., Any], name: str, stage: Stage) -> dict[str, Any]:
    try:
        return inspect.get_annotations(fn, eval_str=True)
    except NameError as error:
        msg = (
            f"audit {name} of stage {stage.name}: {error} in its annotations; import the type at "
            f"the top of the module, not under TYPE_CHECKING"
        )
        raise FlowError(msg, stage=stage.name) from error


def judged(
    store: SQLTableStore,
    stage: Stage,
    places: Mapping[str, str],
    new: Collection[str],
    *,
    transaction_schema: str,
) -> tuple[AuditOutcome, ...]:
    """Let every audit of a stage judge the tables; one that would see nothing new rests.

    ``places`` says in which schema each table can be read, ``new`` which are not yet published.

    Raises:
        AuditFailed: at least one refused; all outcomes are in its fields.
        StageError: an audit asks for a table that the stage does not have.

    """
    found = tuple(
        judged_one(store, stage, audit, places)
        for audit in stage.audits
        if new and not set(audit.tables.values()).isdisjoint(new)
    )
    failed = [outcome for outcome in found if not outcome.passed]
    if failed:
        texts = "; ".join(f"{o.name} ({o.table}): {o.description}" for o in failed)
        msg = f"stage {stage.name} was not published, its audits refused it: {texts}"
        cause = next((o.error for o in failed if o.error is not None), None)
        fields = {"outcomes": found, "transaction_schema": transaction_schema}
        raise AuditFailed(msg, stage=stage.name, **fields) from cause
    return found


def judged_one(
    store: SQLTableStore, stage: Stage, audit: Audit, places: Mapping[str, str]
) -> AuditOutcome:
    """Read an audit's tables and let it judge them.

    Raises:
        StageError: it asks for a table that is not in ``places``.

    """
    missing = sorted(set(audit.tables.values()) - set(places))
    if missing:
        msg = (
            f"audit {audit.name} of stage {stage.name} asks for {', '.join(missing)}; the stage "
            f"has {', '.join(sorted(places)) or 'none'}"
        )
        raise StageError(msg, stage=stage.name, tables=missing)
    frames = {
        parameter: store.read(TableName(name, places[name]), audit.types.get(parameter))
        for parameter, name in audit.tables.items()
    }
    return audit.judge(frames)
