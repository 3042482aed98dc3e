"""`AUTO_VERSION`: a task's version from the plan that its function makes of empty tables.

A function on pandas is traced, see `ixflow.pipeline.auto_version_pandas`. One on polars is called
with LazyFrames that have the columns of its inputs and no rows. The plans
that it returns, as polars writes them, say what it would compute; their hash is the version. So
that two inputs with equal columns are not taken for each other, each column comes from a name that
says its table, and is renamed to its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ixflow.dialects import connected, dialect_of
from ixflow.dialects.types import arrow_schema
from ixflow.errors import FlowError, TaskError
from ixflow.pipeline.blob import Blob
from ixflow.pipeline.cache import digest
from ixflow.pipeline.containers import Table
from ixflow.pipeline.encoding import leaves, mapped
from ixflow.pipeline.raw_sql import RawSql
from ixflow.store.frames import Wanted

if TYPE_CHECKING:
    from ixflow.pipeline.task import Task
    from ixflow.store import SQLTableStore

__all__ = ["AUTO_VERSION", "AutoVersion", "auto_version", "check_auto_version", "storing_form"]


class AutoVersion:
    """The type of `AUTO_VERSION`."""

    def __repr__(self) -> str:
        """Show the name that it is imported by."""
        return "AUTO_VERSION"


#: ``@materialize(version=AUTO_VERSION, input_type=polars.LazyFrame)``, or ``pandas.DataFrame``: a
#: hash of what the function computes, which must be pure, may not look at rows, and returns tables.
AUTO_VERSION: Final = AutoVersion()


def check_auto_version(name: str, input_type: Wanted | None, *, lazy: bool) -> None:
    """Refuse what a task with an automatic version cannot be.

    Raises:
        FlowError: it is lazy, or takes something else than polars LazyFrames or DataFrames.

    """
    if lazy:
        msg = f"task {name}: a lazy task needs no version, so AUTO_VERSION and lazy exclude another"
        raise FlowError(msg, task=name)
    type_ = None if input_type is None else input_type.type
    if _kind(input_type) is None:
        msg = (
            f"task {name}: AUTO_VERSION needs input_type=polars.LazyFrame or pandas.DataFrame, "
            f"not {type_!r}"
        )
        raise FlowError(msg, task=name, input_type=repr(input_type))


def _kind(input_type: Wanted | None) -> str | None:
    """Say how a version is found for this type of inputs."""
    type_ = None if input_type is None else input_type.type
    named = (getattr(type_, "__module__", "").partition(".")[0], getattr(type_, "__name__", ""))
    return {("polars", "LazyFrame"): "plan", ("pandas", "DataFrame"): "trace"}.get(named)


def auto_version(
    task: Task, arguments: Any, store: SQLTableStore, call: Callable[[Any], Any]
) -> str:
    """Give the version of a task for its arguments, in which tables are references.

    ``call`` calls the function. It is not called with rows.

    Raises:
        TaskError: the function cannot be called with empty tables.
        FlowError: it returned something else than LazyFrames.

    """
    place = f"{task.stage.name}.{task.name}"
    if _kind(task.input_type) == "trace":
        from ixflow.pipeline.auto_version_pandas import traced_version
        from ixflow.pipeline.result import with_backend

        wanted = with_backend(task.input_type)
        backend = "" if wanted is None else wanted.backend or ""
        return traced_version(place, task.fn, arguments, task.call, backend=backend)
    try:
        returned = call(mapped(arguments, lambda leaf: _without_rows(leaf, store)))
    except Exception as error:
        msg = f"the automatic version of task {place} failed: {type(error).__name__}: {error}"
        raise TaskError(msg, stage=task.stage.name, task=task.name) from error
    found = [leaf for leaf in leaves(returned) if _is_output(leaf)]
    tables = [leaf.obj if isinstance(leaf, Table) else leaf for leaf in found]
    if not tables or not all(_is_lazy_frame(table) for table in tables):
        kinds = ", ".join(sorted({type(table).__name__ for table in tables})) or "no table"
        msg = (
            f"task {place} has an automatic version, for which it must return LazyFrames and "
            f"nothing else to store; it returned {kinds}"
        )
        raise FlowError(msg, stage=task.stage.name, task=task.name)
    texts = iter([_plan(place, table) for table in tables])

    def form(leaf: Any) -> Any:
        return [storing_form(leaf), next(texts)] if _is_output(leaf) else repr(leaf)

    return "auto_" + digest("auto version", json.dumps(mapped(returned, form), sort_keys=True))


def _is_output(leaf: Any) -> bool:
    stored = isinstance(leaf, (Table, RawSql, Blob)) or _is_lazy_frame(leaf)
    return stored or hasattr(leaf, "__arrow_c_stream__")


def _is_lazy_frame(obj: Any) -> bool:
    import polars as pl

    return isinstance(obj, pl.LazyFrame)


def storing_form(leaf: Any) -> Any:
    """Write how a table shall be stored; None for other things."""
    if not isinstance(leaf, Table):
        return None
    types = {column: repr(wanted) for column, wanted in leaf.type_map.items()}
    how = [leaf.name, leaf.primary_key, leaf.indexes, types]
    label = leaf.materialization_details
    return how if label is None else [*how, label]


def _plan(place: str, frame: Any) -> str:
    import polars as pl

    try:
        return digest(pl.__version__, frame.serialize().hex())
    except pl.exceptions.ComputeError as error:
        msg = (
            f"the plan of task {place} cannot be written down, so it has no automatic version: "
            f"{error}; a plan with Python functions needs a version of its own"
        )
        raise FlowError(msg) from error


def _without_rows(leaf: Any, store: SQLTableStore) -> Any:
    if isinstance(leaf, RawSql):
        return leaf.with_tables({name: _without_rows(t, store) for name, t in leaf.items()})
    if not isinstance(leaf, Table) or leaf.location is None:
        return leaf
    import polars as pl

    with connected(store.engine) as conn:
        columns = dialect_of(conn).columns(conn, leaf.location)
    empty = pl.DataFrame(arrow_schema(columns).empty_table())
    origin = f"[{leaf.stage or leaf.location.schema}].[{leaf.name}]"
    names = {f"{origin}.[{name}]": name for name in empty.columns}
    return empty.rename({name: qualified for qualified, name in names.items()}).lazy().rename(names)
