"""The definitions of several flows, and of what stands beside them, as one."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg

from ixflow.dagster.metadata import word
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource
from ixflow.errors import DuplicateNameError, FlowError
from ixflow.pipeline.flow import Flow

__all__ = ["build_definitions"]

_KINDS: dict[str, tuple[type, ...]] = {
    # Checks are assets definitions of a kind of their own, so they come first.
    "asset_checks": (dg.AssetChecksDefinition,),
    "assets": (dg.AssetsDefinition, dg.AssetSpec, dg.SourceAsset),
    "jobs": (dg.JobDefinition, type(dg.define_asset_job("any"))),
    "sensors": (dg.SensorDefinition,),
    "schedules": (
        dg.ScheduleDefinition,
        type(dg.build_schedule_from_partitioned_job(dg.define_asset_job("any"))),
    ),
}


def build_definitions(
    *parts: Any,
    resources: Mapping[str, Any] | None = None,
    executor: dg.ExecutorDefinition | None = None,
    loggers: Mapping[str, dg.LoggerDefinition] | None = None,
    **options: Any,
) -> dg.Definitions:
    """Merge the definitions of flows with assets, checks, jobs, sensors and schedules beside them.

    Args:
        parts: Flows, `dagster.Definitions`, and what these may hold, alone or in lists.
        resources: Of all of them, by key.
        executor: How Dagster runs the steps.
        loggers: Of all of them, by key.
        options: Of every flow, as for `Flow.to_definitions`: ``table_store``, ``execution``, ...
            The table store is the resource ``warehouse`` of assets beside flows, too.

    Raises:
        DuplicateNameError: two flows have one name, or a stage of the same name, whose tables each
            of them would drop for the other.
        FlowError: a part is something else, or an asset stands between two tables of a stage that
            is a graph.

    >>> from ixflow.pipeline import Stage, materialize
    >>> @materialize(version="1")
    ... def orders(): ...
    >>> with Flow("shop") as shop, Stage("staging"):
    ...     _ = orders()
    >>> defs = build_definitions(shop, resources={}, execution="graph")
    >>> "shop_flow" in {job.name for job in defs.jobs}
    True

    """
    found = list(_flat(parts))
    flows = [part for part in found if isinstance(part, Flow)]
    _check_names(flows)
    sets = [flow.to_definitions(executor=executor, **options) for flow in flows]
    sets += [part for part in found if isinstance(part, dg.Definitions)]
    beside: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    for part in found:
        if not isinstance(part, (Flow, dg.Definitions)):
            beside[_kind_of(part)].append(part)
    own = dg.Definitions(
        assets=beside["assets"],
        asset_checks=beside["asset_checks"],
        jobs=beside["jobs"],
        sensors=beside["sensors"],
        schedules=beside["schedules"],
        resources={**_warehouse(**options), **(resources or {})},
        executor=executor,
        loggers=loggers,
    )
    made = dg.Definitions.merge(*sets, own)
    _refuse_between([one for one in made.assets or () if isinstance(one, dg.AssetsDefinition)])
    return made


def _warehouse(*, table_store: Any = None, **_: Any) -> dict[str, Any]:
    return {WAREHOUSE: table_store} if isinstance(table_store, SQLTableStoreResource) else {}


def _flat(parts: Iterable[Any]) -> Iterator[Any]:
    for part in parts:
        # Exactly these: Dagster's own definitions are tuples too.
        if type(part) in (list, tuple, set, frozenset):
            yield from _flat(part)
        else:
            yield part


def _kind_of(part: Any) -> str:
    for kind, types in _KINDS.items():
        if isinstance(part, types):
            return kind
    msg = (
        f"build_definitions() takes flows, assets, checks, jobs, sensors, schedules and "
        f"Definitions, not {part!r}"
    )
    raise FlowError(msg, type=type(part).__name__)


def _check_names(flows: Iterable[Flow]) -> None:
    names: set[str] = set()
    stages: dict[str, Flow] = {}
    for flow in flows:
        if word(flow.name) in names:
            msg = f"two flows are called {flow.name!r}, and so would their jobs be; rename one"
            raise DuplicateNameError(msg, name=flow.name)
        names.add(word(flow.name))
        for name in flow.stages:
            other = stages.setdefault(name, flow)
            if other is not flow:
                msg = (
                    f"flows {other.name} and {flow.name} both have a stage {name}; one flow "
                    f"publishes a stage's tables, all together, so rename one"
                )
                raise DuplicateNameError(msg, name=name)


def _refuse_between(assets: Iterable[dg.AssetsDefinition]) -> None:
    """Refuse a graph that would have to be split, which Dagster does for single steps only."""
    owners = {key: one for one in assets for key in one.keys}
    for owner in dict.fromkeys(owners.values()):
        if not isinstance(owner.node_def, dg.GraphDefinition):
            continue
        for key in owner.keys:
            between = _way_back(key, owner, owners)
            if between is not None:
                msg = (
                    f"{key.to_user_string()} is made of {between.to_user_string()}, which is made "
                    f"of another table of the same stage; publish them in two stages, or take "
                    f"execution='stage'"
                )
                raise FlowError(msg, asset=key.to_user_string())


def _way_back(
    key: dg.AssetKey, owner: dg.AssetsDefinition, owners: Mapping[dg.AssetKey, dg.AssetsDefinition]
) -> dg.AssetKey | None:
    """Find an asset of another step that a key is made of, and that is made of its own owner's."""
    direct = {dep.asset_key for dep in owner.get_asset_spec(key).deps} - owner.keys
    for first in direct & owners.keys():
        left, seen = [first], {first}
        while left:
            one = left.pop()
            above = {dep.asset_key for dep in owners[one].get_asset_spec(one).deps}
            if above & owner.keys:
                return first
            left += [up for up in above & owners.keys() if up not in seen]
            seen |= above
    return None
