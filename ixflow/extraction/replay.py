"""Running a stored plan again, exactly as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ixflow.errors import PlanCorruptionError, UnsupportedPlanVersion, ValidationError
from ixflow.extraction.history import find_row
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.plan import PLAN_VERSION, ExecutionPlan
from ixflow.extraction.recording import Origin
from ixflow.extraction.run import ExecutionResult, run_plan
from ixflow.extraction.state import StatePlace

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.extraction.snapshot import Moment

__all__ = ["replay", "stored_plan"]


def replay(
    run_id: str,
    intent: ExtractionIntent,
    *,
    force: bool = False,
    moment: Moment | str | None = None,
    state_url: str | sa.URL | None = None,
) -> ExecutionResult:
    """Execute the plan of an earlier run again, from the intent's source into its output directory.

    Args:
        run_id: the run's id, or the beginning of it if no other run begins so.
        intent: where to connect, and where the files go.
        force: try it also with a plan of another version.
        moment: what `hold_snapshot` gives, or its token: the rows are of it.
        state_url: the state database that knows the run, if it is not the intent's own.

    Raises:
        ValidationError: there is no such run, several begin so, or it read another table.
        UnsupportedPlanVersion: another release has made the plan.
        PlanCorruptionError: the stored plan is not what was stored.
        ExecutionError, SourceUnavailable, ...: as `execute_plan`.

    """
    _expect_intent(intent)
    place = StatePlace.of(intent.output_dir, state_url)
    row = find_row(run_id, place)
    plan = stored_plan(row, force=force)
    return run_plan(plan, intent, Origin(replay_of=row["run_id"], state_url=state_url), moment)


def _expect_intent(intent: object) -> None:
    if not isinstance(intent, ExtractionIntent):
        msg = f"intent must be an ExtractionIntent, not {type(intent).__name__}"
        raise ValidationError(msg, argument="intent")


def stored_plan(row: Mapping[str, Any], *, force: bool = False) -> ExecutionPlan:
    """Read a run's plan: its version first, then whether it is what was stored.

    Raises:
        UnsupportedPlanVersion: another release has made it.
        PlanCorruptionError: it is not what was stored.

    """
    run_id = row["run_id"]
    try:
        given = json.loads(row["plan_json"])
    except ValueError:
        given = None
    if not isinstance(given, dict):
        msg = f"the stored plan of run {run_id} cannot be read; plan the table again"
        raise PlanCorruptionError(msg, run_id=run_id)
    version = given.get("plan_version")
    if version != PLAN_VERSION and not force:
        msg = (
            f"the plan of run {run_id} has version {version!r}, this release runs "
            f"{PLAN_VERSION!r}; plan the table again, or force it"
        )
        raise UnsupportedPlanVersion(msg, run_id=run_id, version=version)
    try:
        plan = ExecutionPlan.from_dict(given, any_version=True)
    except ValidationError as error:
        if version != PLAN_VERSION:
            msg = f"the plan of run {run_id} has version {version!r} and cannot be run: {error}"
            raise UnsupportedPlanVersion(msg, run_id=run_id, version=version) from error
        plan = None
    if plan is None or plan.fingerprint != row["plan_fingerprint"]:
        msg = f"the stored plan of run {run_id} was changed since; plan the table again"
        raise PlanCorruptionError(msg, run_id=run_id, fingerprint=row["plan_fingerprint"])
    return plan
