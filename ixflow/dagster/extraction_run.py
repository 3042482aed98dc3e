"""Extracting the tables of one source: on threads, in one moment, each published on its own.

A table that fails does not keep the others from being published; it fails by name when they are
done. A retry tells again of the tables that its earlier attempts published, without reading them.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import dagster as dg

from ixflow.dagster.checked_plans import Checks, verdicts
from ixflow.dagster.extraction_events import Published
from ixflow.dagster.held import object_of
from ixflow.dagster.partitions import Partitioning, partition_keys
from ixflow.dagster.parts import Part, raise_failed
from ixflow.dagster.runtime_config import RuntimeConfig
from ixflow.dagster.timeline import Recorder
from ixflow.errors import IxflowError, SnapshotUnavailable, ValidationError
from ixflow.events import listen
from ixflow.extraction.api import execute, hold_snapshot, plan, published
from ixflow.extraction.explain import Explanation
from ixflow.extraction.history import find_row
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.plan import PlanResult
from ixflow.extraction.replay import replay, stored_plan
from ixflow.extraction.slicing import SlicedTable
from ixflow.extraction.slots import connection_cap
from ixflow.extraction.snapshot import Moment
from ixflow.extraction.state import StatePlace

__all__ = ["INTENT", "PARTITIONING", "intents_of", "known_intents", "parts_of"]
__all__ += ["published_before", "published_tables"]

INTENT, PARTITIONING = "ixflow/intent", "ixflow/partitioning"
_TABLES_AT_A_TIME = 4

Intents = Mapping[Part, ExtractionIntent]


def known_intents(context: dg.AssetExecutionContext) -> dict[dg.AssetKey, ExtractionIntent]:
    """Give the intents of the step's assets, whichever of them are selected."""
    known = {}
    for key, metadata in context.assets_def.metadata_by_key.items():
        intent = object_of(metadata, INTENT, ExtractionIntent)
        if intent is not None:
            known[key] = intent
    return known


def intents_of(
    context: dg.AssetExecutionContext, given: Sequence[ExtractionIntent] | None
) -> dict[dg.AssetKey, ExtractionIntent]:
    """Find the intents of the selected assets, of all of them or of those that are given.

    Raises:
        ValidationError: one that is given is not of an asset of this step.

    """
    known = known_intents(context)
    for intent in given or ():
        if intent not in known.values():
            msg = (
                f"no asset of this step is of {intent.object_name}; make it with extraction_assets"
            )
            raise ValidationError(msg, table=intent.object_name)
    selected = context.selected_asset_keys
    return {
        key: intent
        for key, intent in known.items()
        if key in selected and (given is None or intent in given)
    }


def parts_of(
    context: dg.AssetExecutionContext, intents: Mapping[dg.AssetKey, ExtractionIntent]
) -> tuple[dict[Part, ExtractionIntent], dict[Part, Exception]]:
    """Give the intents of what the run shall extract: assets, or the run's partitions of them.

    Beside them it gives what cannot be extracted, and why: a table that is not there, or a column
    that cannot tell exactly which rows a partition has.
    """
    found: dict[Part, ExtractionIntent] = {}
    failed: dict[Part, Exception] = {}
    for key, intent in intents.items():
        metadata = context.assets_def.metadata_by_key[key]
        partitioning = object_of(metadata, PARTITIONING, Partitioning)
        if partitioning is None:
            found[Part(key)] = intent
            continue
        slices = partitioning.slices(partition_keys(context))
        try:
            table = SlicedTable.of(intent)
        except IxflowError as error:
            failed |= {Part(key, partition): error for partition in slices}
            continue
        for partition, slice_ in slices.items():
            try:
                wanted = table.intent_of(slice_)
            except IxflowError as error:
                failed[Part(key, partition)] = error
            else:
                found[Part(key, partition, str(slice_), table.nullable(slice_))] = wanted
    return found, failed


def published_tables(
    intents: Intents,
    config: RuntimeConfig,
    say: Callable[[str], None],
    *,
    one_moment: bool,
    checks: Checks,
    unknown: Mapping[Part, Exception],
) -> Iterator[Published | tuple[Part, dg.AssetCheckResult]]:
    """Extract the tables of one source and give each as soon as it is published.

    All of them are of one moment unless ``one_moment`` is False, but for incremental ones that read
    what is settled, which no moment that is held can tell. Together they use as many connections as
    the largest plan has, or a few tables at a time. What one of the ``checks`` refuses is told of
    before anything is read, the other verdicts with their tables. ``unknown`` failed before.

    Raises:
        dagster.Failure: tables failed, which it names; all others were published and given.
        SnapshotUnavailable: one moment of all of them cannot be had; nothing was published.

    """
    if config.replay_run_id is not None:
        raise_failed(unknown, len(unknown), "extracted", "published")
        yield _replayed(intents, config, config.replay_run_id)
        return
    failed = dict(unknown)
    plans = _planned(intents, config, failed, checks)
    for planned in plans.values():
        say(str(Explanation(planned)))
    refused, kept = verdicts(plans, checks, force=config.force)
    yield from refused.items()
    for done in _extracted(plans, config, failed, one_moment=one_moment):
        yield dataclasses.replace(done, verdict=kept.get(done.part))
    raise_failed(failed, len(intents) + len(unknown), "extracted", "published")


def _extracted(
    plans: Mapping[Part, PlanResult],
    config: RuntimeConfig,
    failed: dict[Part, Exception],
    *,
    one_moment: bool,
) -> Iterator[Published]:
    if len(plans) > 1:
        yield from _several(plans, config, failed, one_moment=one_moment)
    else:
        for key, planned in plans.items():
            try:
                done = _executed(key, planned, config)
            except Exception as error:  # noqa: BLE001 - it is raised below, with the others
                failed[key] = error
            else:
                yield done


def published_before(
    context: dg.AssetExecutionContext, intents: Intents
) -> dict[Part, dg.MaterializeResult[Any]]:
    """Find what the attempts before this retry told of tables that are still as they left them."""
    attempts = _attempts(context)
    found: dict[Part, dg.MaterializeResult[Any]] = {}
    for part, intent in intents.items() if attempts else ():
        event = _latest(context.instance, part)
        if event is None or event.run_id not in attempts or event.asset_materialization is None:
            continue
        if event.run_id != context.run.run_id and _succeeded(context, event):
            continue
        told = event.asset_materialization
        manifest, run_id = published(intent), told.metadata.get("ixflow/run_id")
        if manifest is None or run_id is None or run_id.value != manifest.run_id:
            continue
        version = (told.tags or {}).get("dagster/data_version")
        found[part] = dg.MaterializeResult(
            asset_key=part.key,
            metadata={"ixflow/published_by": event.run_id, **told.metadata},
            data_version=None if version is None else dg.DataVersion(version),
        )
    return found


def _latest(instance: dg.DagsterInstance, part: Part) -> dg.EventLogEntry | None:
    if part.partition is None:
        return instance.get_latest_materialization_event(part.key)
    wanted = dg.AssetRecordsFilter(part.key, asset_partitions=[part.partition])
    records = instance.fetch_materializations(wanted, limit=1).records
    return records[0].event_log_entry if records else None


def _attempts(context: dg.AssetExecutionContext) -> set[str]:
    """Name the runs that this step retries, from the last one to the first."""
    attempts = {context.run.run_id} if context.retry_number > 0 else set()
    run: dg.DagsterRun | None = context.run
    # "Re-execute all" has a parent too, but it names no steps: it asks for everything again.
    while run is not None and run.parent_run_id and run.step_keys_to_execute:
        attempts.add(run.parent_run_id)
        run = context.instance.get_run_by_id(run.parent_run_id)
    return attempts


def _succeeded(context: dg.AssetExecutionContext, event: dg.EventLogEntry) -> bool:
    """Say whether the step of an event went well: then running it again is no retry."""
    if event.step_key is None:
        return True
    stats = context.instance.get_run_step_stats(event.run_id, [event.step_key])
    return any(one.status is not None and one.status.value == "SUCCESS" for one in stats)


def _replayed(intents: Intents, config: RuntimeConfig, run_id: str) -> Published:
    if len(intents) != 1:
        msg = f"run {run_id} is of one table; select the asset of that table alone"
        raise ValidationError(msg, argument="replay_run_id")
    ((key, intent),) = intents.items()
    row = find_row(run_id, StatePlace.of(intent.output_dir, None))
    made = stored_plan(row, force=config.force)
    done = replay(row["run_id"], intent, force=config.force)
    return Published(key, intent, made, done)


def _planned(
    intents: Intents, config: RuntimeConfig, failed: dict[Part, Exception], checks: Checks
) -> dict[Part, PlanResult]:
    plans: dict[Part, PlanResult] = {}
    for key, intent in intents.items():
        rates = checks[key.key].rates if key.key in checks else None
        try:
            plans[key] = plan(intent, config.context(), rates)
        except IxflowError as error:
            failed[key] = error
    return plans


def _several(
    plans: Mapping[Part, PlanResult],
    config: RuntimeConfig,
    failed: dict[Part, Exception],
    *,
    one_moment: bool,
) -> Iterator[Published]:
    """Extract tables on threads, the largest first."""
    room = _Room(_connections(list(plans.values()), config))
    keys = sorted(plans, key=lambda key: -plans[key].plan.estimated_bytes)
    together = [key for key in keys if one_moment and not _settles(plans[key])]
    with contextlib.ExitStack() as stack:
        moment: Moment | None = None
        if len(together) > 1:
            held_plans = [plans[key] for key in together]
            moment = stack.enter_context(_one_moment(held_plans, room.size))
        pool = stack.enter_context(ThreadPoolExecutor(room.size, "ixflow-table"))
        # Whoever stops listening lets the tables that have begun end, and no other one begin.
        stack.callback(pool.shutdown, cancel_futures=True)

        def extract(key: Part) -> Published:
            with room.taken(plans[key].plan.worker_count):
                return _executed(key, plans[key], config, moment if key in together else None)

        running = {pool.submit(extract, key): key for key in keys}
        for future in as_completed(running):
            error = future.exception()
            if isinstance(error, Exception):
                failed[running[future]] = error
            else:
                yield future.result()


@contextlib.contextmanager
def _one_moment(plans: Sequence[PlanResult], workers: int) -> Iterator[Moment]:
    with contextlib.ExitStack() as stack:
        try:
            moment = stack.enter_context(hold_snapshot(plans, workers=workers))
        except SnapshotUnavailable as error:
            msg = f"{error.message}; one_moment=False reads each table in a moment of its own"
            raise SnapshotUnavailable(msg, **error.fields) from error
        yield moment


def _settles(planned: PlanResult) -> bool:
    cursor = planned.plan.cursor
    return cursor is not None and cursor.semantics == "settled"


def _executed(
    key: Part, planned: PlanResult, config: RuntimeConfig, moment: Moment | None = None
) -> Published:
    seen = Recorder()
    with listen(seen):
        done = execute(planned, force=config.force, moment=moment)
    return Published(key, planned.intent, planned.plan, done, planned, seen.bars)


def _connections(plans: Sequence[PlanResult], config: RuntimeConfig) -> int:
    """Say how many connections the tables may have at the same time."""
    counts = [planned.plan.worker_count for planned in plans]
    limits = [planned.intent.max_workers for planned in plans] + [config.max_workers]
    known = [limit for limit in limits if limit is not None]
    if connection_cap(config.max_source_connections) is not None:
        # Each table would wait for its share of the cap while another one has it.
        return max(counts)
    few = min([_TABLES_AT_A_TIME, sum(counts), *known])
    return max(few, *counts)


class _Room:
    """Connections that tables share: who needs more than are left waits."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._left = size
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, wanted: int) -> Iterator[None]:
        wanted = min(wanted, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= wanted)
            self._left -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._left += wanted
                self._changed.notify_all()
