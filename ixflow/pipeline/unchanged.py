"""Reading what a run has made only while it is what that run has made.

Another run may publish the stage before, while and after it is read. A table is known by its key
and the version of its data; that nothing was published in between, by the version of the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ixflow.errors import CacheError
from ixflow.pipeline.raw_sql import tables_among

if TYPE_CHECKING:
    from ixflow.pipeline.result import StageResult
    from ixflow.store import SQLTableStore, StageState

__all__ = ["ReadTable", "check_unchanged", "read_unchanged", "tables_of"]

T = TypeVar("T")
_TRIES = 3


class ReadTable(NamedTuple):
    """A table of a run: where it is, its key, and the version of its data if it was published."""

    stage: str
    schema: str
    name: str
    key: str
    data_version: str | None


def tables_of(leaves: Iterable[Any], results: Mapping[str, StageResult]) -> tuple[ReadTable, ...]:
    """List the tables among the leaves of a task's value, except those that others write."""
    found = []
    for table in tables_among(leaves):
        if table.external is None and table.stage is not None and table.location is not None:
            done = results[table.stage].tables if table.stage in results else ()
            versions = {one.name: one.data_version for one in done}
            name, schema = str(table.name), str(table.location.schema)
            known = versions.get(name) if done and schema == results[table.stage].schema else None
            found.append(ReadTable(table.stage, schema, name, str(table.cache_key), known))
    return tuple(found)


def read_unchanged(store: SQLTableStore, tables: Iterable[ReadTable], load: Callable[[], T]) -> T:
    """Load something that is made from tables of a run, again if a stage was published meanwhile.

    Raises:
        CacheError: one of the tables is replaced or gone.

    """
    tables = tuple(tables)
    seen = check_unchanged(store, tables)
    for _ in range(_TRIES):
        failure: Exception | None = None
        try:
            found = load()
        except Exception as error:  # noqa: BLE001 - raised below, unless a replaced table is why
            failure = error
        else:
            # What was read was there: only another publication can have come between.
            if _versions(store, seen) == seen:
                return found
        before, seen = seen, check_unchanged(store, tables)
        if seen == before:
            if failure is not None:
                raise failure
            return found
    stages = ", ".join(seen)
    msg = f"stage {stages} is published again and again while it is read; read it once more later"
    raise CacheError(msg, stages=stages)


def _versions(store: SQLTableStore, stages: Iterable[str]) -> dict[str, int]:
    with store.begin() as conn:
        return {stage: store.metadata.version(conn, store.schema(stage)) for stage in stages}


def check_unchanged(store: SQLTableStore, tables: Iterable[ReadTable]) -> dict[str, int]:
    """Return the versions of the tables' stages, if each table is the one that is meant.

    Raises:
        CacheError: another run has replaced it, or it is gone.

    """
    versions = {}
    tables = tuple(tables)
    for schema, stage in sorted({(table.schema, table.stage) for table in tables}):
        state = _state(store, stage, schema)
        versions[stage] = state.version
        for table in tables:
            if table.schema == schema and not _is_there(state, table):
                raise _replaced(table, state.version)
    return versions


def _state(store: SQLTableStore, stage: str, schema: str) -> StageState:
    place = store.schema(stage)
    if schema == place:
        return store.published(stage)
    with store.begin() as conn:
        return store.metadata.state(conn, place, schema)


def _is_there(state: StageState, table: ReadTable) -> bool:
    found = state.table(table.name, table.key)
    return found is not None and table.data_version in (None, found.data_version)


def _replaced(table: ReadTable, version: int) -> CacheError:
    msg = (
        f"table {table.stage}.{table.name} of this run is not there any more: another run has "
        f"replaced or removed it (the stage is at version {version}); run the flow again, and read "
        f"its result within the same `with StageLockContext():`, with a lock manager that all "
        f"runs have"
    )
    return CacheError(msg, stage=table.stage, table=table.name, version=version)
