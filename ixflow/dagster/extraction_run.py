"""Extracting the tables of one source: on threads, in one moment, each published on its own.

A table that fails does not keep the others from being published; it fails by name when they are
done. A retry tells again of the tables that its earlier attempts published, without reading them.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import dagster as dg

from ixflow.dagster.extraction_events import Published
from ixflow.dagster.failures import as_failure
from ixflow.dagster.held import object_of
from ixflow.dagster.runtime_config import RuntimeConfig
from ixflow.errors import IxflowError, SnapshotUnavailable, ValidationError
from ixflow.extraction.api import execute, hold_snapshot, plan, published
from ixflow.extraction.explain import Explanation
from ixflow.extraction.history import find_row
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.plan import PlanResult
from ixflow.extraction.replay import replay, stored_plan
from ixflow.extraction.slots import connection_cap
from ixflow.extraction.snapshot import Moment
from ixflow.extraction.state import StatePlace

__all__ = ["INTENT", "intents_of", "published_before", "published_tables"]

INTENT = "ixflow/intent"
_TABLES_AT_A_TIME = 4

Intents = Mapping[dg.AssetKey, ExtractionIntent]


def intents_of(
    context: dg.AssetExecutionContext, given: Sequence[ExtractionIntent] | None
) -> dict[dg.AssetKey, ExtractionIntent]:
    """Find the intents of the selected assets, of all of them or of those that are given.

    Raises:
        ValidationError: one that is given is not of an asset of this step.

    """
    known = {}
    for key, metadata in context.assets_def.metadata_by_key.items():
        intent = object_of(metadata, INTENT, ExtractionIntent)
        if intent is not None:
            known[key] = intent
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


def published_tables(
    intents: Intents, config: RuntimeConfig, say: Callable[[str], None], *, one_moment: bool
) -> Iterator[Published]:
    """Extract the tables of one source and give each as soon as it is published.

    All of them are of one moment unless ``one_moment`` is False, but for incremental ones that read
    what is settled, which no moment that is held can tell. Together they use as many connections as
    the largest plan has, or a few tables at a time.

    Raises:
        dagster.Failure: tables failed, which it names; all others were published and given.
        SnapshotUnavailable: one moment of all of them cannot be had; nothing was published.

    """
    if config.replay_run_id is not None:
        yield _replayed(intents, config, config.replay_run_id)
        return
    failed: dict[dg.AssetKey, Exception] = {}
    plans = _planned(intents, config, failed)
    for planned in plans.values():
        say(str(Explanation(planned)))
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
    _raise(failed, len(intents))


def published_before(
    context: dg.AssetExecutionContext, intents: Intents
) -> dict[dg.AssetKey, dg.MaterializeResult[Any]]:
    """Find what the attempts before this retry told of tables that are still as they left them."""
    attempts = _attempts(context)
    found: dict[dg.AssetKey, dg.MaterializeResult[Any]] = {}
    for key, intent in intents.items() if attempts else ():
        event = context.instance.get_latest_materialization_event(key)
        if event is None or event.run_id not in attempts or event.asset_materialization is None:
            continue
        if event.run_id != context.run.run_id and _succeeded(context, event):
            continue
        told = event.asset_materialization
        manifest, run_id = published(intent), told.metadata.get("ixflow/run_id")
        if manifest is None or run_id is None or run_id.value != manifest.run_id:
            continue
        version = (told.tags or {}).get("dagster/data_version")
        found[key] = dg.MaterializeResult(
            asset_key=key,
            metadata={"ixflow/published_by": event.run_id, **told.metadata},
            data_version=None if version is None else dg.DataVersion(version),
        )
    return found


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
    intents: Intents, config: RuntimeConfig, failed: dict[dg.AssetKey, Exception]
) -> dict[dg.AssetKey, PlanResult]:
    plans: dict[dg.AssetKey, PlanResult] = {}
    for key, intent in intents.items():
        try:
            plans[key] = plan(intent, config.context())
        except IxflowError as error:
            failed[key] = error
    return plans


def _several(
    plans: Mapping[dg.AssetKey, PlanResult],
    config: RuntimeConfig,
    failed: dict[dg.AssetKey, Exception],
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

        def extract(key: dg.AssetKey) -> Published:
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
    key: dg.AssetKey, planned: PlanResult, config: RuntimeConfig, moment: Moment | None = None
) -> Published:
    done = execute(planned, force=config.force, moment=moment)
    return Published(key, planned.intent, planned.plan, done, planned)


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


def _raise(failed: Mapping[dg.AssetKey, Exception], total: int) -> None:
    """Say which tables failed, and why; what is no error of ixflow is raised as it is."""
    for error in failed.values():
        if not isinstance(error, IxflowError):
            raise error
    made = {k: as_failure(e) for k, e in failed.items() if isinstance(e, IxflowError)}
    if not made:
        return
    if total == 1:
        ((key, failure),) = made.items()
        raise failure from failed[key]
    said = "; ".join(f"{key.to_user_string()}: {made[key].description}" for key in made)
    others = ", the others are published" if len(made) < total else ""
    msg = f"{len(made)} of {total} tables were not extracted{others}: {said}"
    raise dg.Failure(
        msg,
        metadata={f"ixflow/error/{key.path[-1]}": str(made[key].description) for key in made},
        allow_retries=any(failure.allow_retries for failure in made.values()),
    ) from next(iter(failed.values()))
