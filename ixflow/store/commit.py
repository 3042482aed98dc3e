"""Deciding what a commit changes: pure values in, a plan out, no connection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ixflow.store.metadata import StageState, StoredResult, StoredTable

__all__ = ["CommitPlan", "plan_commit"]


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """What appears, what goes, and the rows that describe the stage afterwards."""

    publish: tuple[str, ...]
    drop: tuple[str, ...]
    tables: Mapping[str, StoredTable]
    results: tuple[StoredResult, ...]
    changed: bool


def plan_commit(
    published: StageState,
    held: StageState,
    results: Sequence[StoredResult],
    *,
    full: bool,
) -> CommitPlan:
    """Put the results of a run over what is published.

    A full run is everything the stage has: a table of the stage that no result names goes. A
    partial run replaces what stands at the same places of the flow and leaves the rest.
    """
    tables = {} if full else _without_replaced(published, results)
    publish = []
    for result in results:
        for name, key in result.pairs():
            known = published.table(name, key)
            # What was made anew though it was valid was asked for.
            if known is not None and held.table(name, key) is None:
                tables[name] = known
            else:
                tables[name] = held.tables[name]
                publish.append(name)
    places = {result.position for result in results}
    kept = () if full else (r for r in published.results if r.position not in places)
    final = _unique([*(r for r in kept if _whole(r, tables)), *results])
    drop = sorted(set(published.tables) - set(tables))
    changed = bool(publish or drop) or set(final) != set(published.results)
    return CommitPlan(tuple(sorted(set(publish))), tuple(drop), tables, final, changed)


def _without_replaced(
    published: StageState, results: Sequence[StoredResult]
) -> dict[str, StoredTable]:
    """Leave out tables of a result that is replaced, which no other result shares."""
    places = {result.position for result in results}
    shared = {
        pair
        for result in published.results
        if result.position not in places
        for pair in result.pairs()
    }
    gone = {
        pair for result in published.results if result.position in places for pair in result.pairs()
    }
    return {
        name: table
        for name, table in published.tables.items()
        if (name, table.task_key) not in gone - shared
    }


def _whole(result: StoredResult, tables: Mapping[str, StoredTable]) -> bool:
    return all(n in tables and tables[n].task_key == key for n, key in result.pairs())


def _unique(results: Iterable[StoredResult]) -> tuple[StoredResult, ...]:
    return tuple({(r.position, r.task_key): r for r in results}.values())
