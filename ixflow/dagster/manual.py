"""Publishing by hand: a run lets a stage's tables wait, and a job of the stage publishes them.

What waits is no materialization, since nobody can see it: the run records an observation of each
table that waits, with what would change. The job ``approve_<stage>`` publishes exactly that
transaction, and then records the materializations and the audits' verdicts.
"""

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import dagster as dg

# How a check says which materialization it is of, outside of that asset's step; Dagster does not
# export it. The dependency on Dagster is pinned below the next minor release.
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from pydantic import Field

from ixflow.dagster.failures import failures
from ixflow.dagster.guard import taken, tried
from ixflow.dagster.metadata import word
from ixflow.dagster.provenance import inputs_now, provenance
from ixflow.dagster.stage_description import StageTold, as_materialization
from ixflow.dagster.stage_specs import read_by, table_key
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource
from ixflow.dagster.timeline import Bar, Recorder
from ixflow.errors import FlowError
from ixflow.pipeline.audit import AuditOutcome
from ixflow.pipeline.blob_store import BlobStore
from ixflow.pipeline.by_hand import Approval, Waits, approve_stage
from ixflow.pipeline.result import StageResult
from ixflow.pipeline.stage import Stage
from ixflow.store.approval import reject
from ixflow.store.waiting import Waiting

__all__ = [
    "WAIT_HOURS",
    "ApprovalConfig",
    "Publish",
    "approve_job",
    "by_hand",
    "waiting_events",
    "waits_with",
]

Publish = Literal["auto", "manual"]
WAIT_HOURS = 168.0
_NEWEST = "newest"


class ApprovalConfig(dg.Config):
    """What the Launchpad offers for publishing what waits."""

    transaction: str = Field(
        default=_NEWEST,
        description="newest, or the transaction that the observation of the tables names",
    )
    reject: bool = Field(default=False, description="drop it instead; nothing is published")


def by_hand(publish: Publish | Mapping[str, Publish], stages: Mapping[str, Stage]) -> set[str]:
    """Name the stages that are published by hand.

    Raises:
        FlowError: there is no such stage, or the value is neither ``auto`` nor ``manual``.

    >>> sorted(by_hand({"mart": "manual"}, {"staging": Stage("staging"), "mart": Stage("mart")}))
    ['mart']
    """
    given = dict.fromkeys(stages, publish) if isinstance(publish, str) else dict(publish)
    unknown = sorted(set(given) - set(stages))
    if unknown:
        msg = f"publish names {', '.join(unknown)}; the flow has {', '.join(stages) or 'no stages'}"
        raise FlowError(msg, stages=unknown)
    for stage, how in given.items():
        if how not in ("auto", "manual"):
            msg = f"publish of stage {stage} is {how!r}; it is 'auto' or 'manual'"
            raise FlowError(msg, stage=stage)
    return {stage for stage, how in given.items() if how == "manual"}


def waits_with(context: Any, stage: Stage, hours: float | None) -> Waits | None:
    """Say how long what this step makes waits, and what shall be found again; None: it does not.

    What the tables are made of is looked up now, before anything is read.
    """
    if hours is None:
        return None
    tasks = {name: task for task in stage.tasks for name in task.output_names}
    deps = {name: list(read_by(task)) for name, task in tasks.items()}
    versions = {name: task.definition.version for name, task in tasks.items()}
    run_id = context.run.run_id
    codes = {n: one if isinstance(one, str) else run_id for n, one in versions.items()}
    keys = [key for taken in deps.values() for key in taken]
    nothing: dict[str, Any] = {}
    inputs = tried("the inputs", lambda: inputs_now(context.instance, keys), nothing)
    seen = Recorder()

    def note(result: StageResult) -> Mapping[str, Any]:
        made_of = tried(
            "what the tables were made of",
            lambda: provenance(stage, result, deps, inputs, codes),
            nothing,
        )
        return tried(
            "what is kept for the approval", lambda: _note(result, made_of, seen.bars), nothing
        )

    return Waits(dt.timedelta(hours=hours), note, seen)


def _note(
    result: StageResult, made_of: Mapping[str, Mapping[str, str]], bars: Sequence[Bar]
) -> Mapping[str, Any]:
    """Keep what only the run knows, as JSON can hold it."""
    tables = {
        table.name: {
            "seconds": table.seconds,
            "reason": table.reason,
            "tags": dict(made_of.get(table.name, {})),
        }
        for table in result.tables
    }
    audits = [
        {
            "name": one.name,
            "table": one.table,
            "description": one.description,
            "metadata": {k: _plain(v) for k, v in one.metadata.items()},
        }
        for one in result.audits
    ]
    found = {"tables": tables, "audits": audits, "bars": [asdict(bar) for bar in bars]}
    kept: Mapping[str, Any] = json.loads(json.dumps(found))
    return kept


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def waiting_events(context: Any, stage: Stage, told: StageTold, result: StageResult) -> None:
    """Record that tables wait: what would change, and who has to do what."""
    transaction_id = result.transaction_id
    job = f"approve_{word(stage.name)}"
    dropped = f"; {', '.join(result.dropped)} would go" if result.dropped else ""
    context.log.info(
        "stage %s is not published: %s wait for approval in transaction %s%s; run job %s",
        stage.name,
        ", ".join(result.waits or ()) or "no tables",
        transaction_id,
        dropped,
        job,
    )
    link = tried("the link to the job", lambda: _link(context, job), job)
    for table in told.tables:
        if table.name not in (result.waits or ()):
            continue
        # The keys of Dagster, and the version of the stage, are those of what can be seen.
        metadata = {
            name: value
            for name, value in told.metadata(table).items()
            if name.startswith("ixflow/") and name != "ixflow/stage_version"
        }
        context.log_event(
            dg.AssetObservation(
                asset_key=table_key(stage, table.name),
                description=f"Waits for approval by job {job}: made and audited, not published.",
                metadata={
                    **metadata,
                    "ixflow/published": False,
                    "ixflow/rows": table.rows,
                    "ixflow/transaction": transaction_id,
                    "ixflow/approve": link,
                },
                tags={"ixflow/waits": "approval"},
            )
        )


def _link(context: Any, job: str) -> dg.MetadataValue[Any]:
    """Lead to the job, if this run was launched by somebody who knows its code location."""
    origin = context.run.remote_job_origin
    if origin is None:
        return dg.MetadataValue.text(job)
    location = origin.repository_origin.code_location_origin.location_name
    return dg.MetadataValue.job(job, location_name=location)


def approve_job(
    stage: Stage,
    *,
    table_store: str | SQLTableStoreResource = WAREHOUSE,
    blob_store: BlobStore | None = None,
) -> dg.JobDefinition:
    """Make the job ``approve_<stage>``, which publishes what waits for a stage, or rejects it.

    It publishes the newest transaction that waits, or the one that its config names, exactly as it
    was audited. It fails, and names why, if that is published, rejected or collected already, if a
    newer one waits, or if another version of the stage or of its inputs was published meanwhile.

    >>> approve_job(Stage("mart")).name
    'approve_mart'
    """
    key = table_store if isinstance(table_store, str) else WAREHOUSE
    name = f"approve_{word(stage.name)}"

    @dg.op(
        name=f"publish_{word(stage.name)}",
        out={},
        required_resource_keys={key},
        description=_WHAT,
    )
    def _approve(context: dg.OpExecutionContext, config: ApprovalConfig) -> Any:
        resource: SQLTableStoreResource = getattr(context.resources, key)
        wanted = None if config.transaction == _NEWEST else config.transaction
        by = context.run.root_run_id or context.run.run_id
        if config.reject:
            with failures():
                one = reject(resource.store(), stage.name, wanted, by=by)
            yield from _rejected(context, stage, one)
            return
        with failures():
            done = approve_stage(stage, resource.store(), wanted, by=by, blobs=blob_store)
        context.log.info(
            "stage %s is at version %d, published what transaction %s has made",
            stage.name,
            done.result.version,
            done.transaction_id,
        )
        yield from _approved(context, stage, resource, done)

    # One step needs no process of its own.
    @dg.job(name=name, description=_WHAT, executor_def=dg.in_process_executor)
    def _job() -> None:
        _approve()

    return _job


_WHAT = "Publishes what a run has made of the stage and let wait, or rejects it."


def _rejected(context: Any, stage: Stage, one: Waiting) -> Iterator[dg.AssetObservation]:
    context.log.info("stage %s: transaction %s is rejected", stage.name, one.transaction_id)
    for name in one.tables:
        yield dg.AssetObservation(
            asset_key=table_key(stage, name),
            description="Rejected: what waited for approval is dropped, nothing was published.",
            metadata={"ixflow/transaction": one.transaction_id, "ixflow/published": False},
            tags={"ixflow/waits": "rejected"},
        )


def _approved(
    context: Any, stage: Stage, resource: SQLTableStoreResource, done: Approval
) -> Iterator[Any]:
    names = {table.name for table in done.result.tables}
    nothing: list[Bar] = []
    bars = tried(
        "when the tasks ran", lambda: [Bar(**bar) for bar in done.note.get("bars", ())], nothing
    )
    told = StageTold(stage, resource, done.result, names, bars)
    known: Mapping[str, Any] = done.note.get("tables", {})
    more = {"ixflow/transaction": done.transaction_id, "ixflow/made_at": done.since}
    for table, event in zip(told.tables, told.events(more=more), strict=True):
        note = known.get(table.name, {})
        made = {"ixflow/seconds": round(float(note.get("seconds", 0.0)), 3)}
        if note.get("reason"):
            made["ixflow/reason"] = note["reason"]
        yield as_materialization(
            event._replace(metadata={**(event.metadata or {}), **made}), note.get("tags")
        )
    asked = {(audit.name, audit.table) for audit in stage.audits}
    for one in done.note.get("audits", ()):
        if (one["name"], one["table"]) in asked:
            outcome = AuditOutcome(
                one["name"], one["table"], True, one["description"], one["metadata"]
            )
            yield _verdict(context, stage, outcome)


def _verdict(context: Any, stage: Stage, outcome: AuditOutcome) -> dg.AssetCheckEvaluation:
    """Tell that an audit has passed, on the materialization that was just recorded."""
    key = table_key(stage, outcome.table)

    def looked_up() -> AssetCheckEvaluationTargetMaterializationData | None:
        for one in context.instance.fetch_materializations(key, limit=1).records:
            return AssetCheckEvaluationTargetMaterializationData(
                storage_id=one.storage_id, run_id=one.run_id, timestamp=one.timestamp
            )
        return None

    target = tried(f"what the audit {outcome.name} was of", looked_up, None)
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=outcome.name,
        passed=outcome.passed,
        metadata=taken(f"what the audit {outcome.name} says", outcome.metadata),
        description=outcome.description or None,
        blocking=True,
        target_materialization_data=target,
    )
