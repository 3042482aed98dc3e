"""The automatic version of a task on pandas: what its function does with stand-ins for its tables.

The version is the hash of the records of one call, of the code of the function and of what it
refers to, and of the versions of the libraries that compute. The code is in it since a call cannot
show everything: what follows an exception that only real rows raise, or a comparison with None.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd

from ixflow.errors import FlowError, TaskError
from ixflow.pipeline.auto_version import storing_form
from ixflow.pipeline.auto_version_forms import Forms, NotTraceable
from ixflow.pipeline.auto_version_names import core_versions
from ixflow.pipeline.auto_version_trace import Tracer, is_traced
from ixflow.pipeline.auto_version_views import Views
from ixflow.pipeline.blob import Blob
from ixflow.pipeline.cache import digest
from ixflow.pipeline.containers import ExternalTableReference, Table
from ixflow.pipeline.encoding import leaves, mapped
from ixflow.pipeline.raw_sql import RawSql

__all__ = ["recorded", "traced_version"]


def traced_version(
    place: str, fn: Any, arguments: Any, call: Callable[[Any, Any], Any], *, backend: str = ""
) -> str:
    """Give a version for a function and its arguments, in which tables are references.

    ``call(fn, arguments)`` calls a function in the way that the task's own is called; ``backend``
    says what the columns of the tables will be.

    Raises:
        FlowError: it does something that cannot be recorded, or returns no table.
        TaskError: it raised.

    """
    code = json.dumps(Forms(lambda _: None, lenient=True).of(fn))
    records = recorded(place, fn, arguments, call)
    return "auto_" + digest("pandas", core_versions(), backend, code, records)


def recorded(place: str, fn: Any, arguments: Any, call: Callable[[Any, Any], Any]) -> str:
    """Give the hash of what the function does with its tables and of what it returns.

    Raises:
        FlowError, TaskError: as `traced_version`.

    """
    tracer = Tracer()
    inputs = mapped(arguments, lambda leaf: _stand_in(leaf, tracer))
    error: Exception | None = None
    returned: Any = None
    try:
        returned = call(Views(tracer).of(fn), inputs)
    except Exception as raised:  # noqa: BLE001 - told below, unless something else comes first
        error = raised
    if tracer.refused is not None:
        raise _refusal(place, tracer.refused) from error
    if error is not None:
        msg = (
            f"the automatic version of task {place} failed: {type(error).__name__}: {error}; give "
            f"the task a version of its own if its function cannot do without rows"
        )
        raise TaskError(msg, task=place) from error
    try:
        output = mapped(returned, lambda leaf: _output_form(leaf, tracer))
    except NotTraceable as refused:
        raise _refusal(place, refused) from refused
    if not any(_is_table(leaf) for leaf in leaves(returned)):
        msg = f"task {place} has an automatic version, for which it must return a table"
        raise FlowError(msg, task=place)
    return digest("records", json.dumps(output, sort_keys=True), tracer.digest())


def _refusal(place: str, error: NotTraceable) -> FlowError:
    msg = (
        f"task {place} has no automatic version: {error}; give it a version of its own, as in "
        f"@materialize(version='1')"
    )
    return FlowError(msg, task=place)


def _stand_in(leaf: Any, tracer: Tracer) -> Any:
    if isinstance(leaf, RawSql):
        return leaf.with_tables({name: _stand_in(table, tracer) for name, table in leaf.items()})
    if isinstance(leaf, (Table, ExternalTableReference)) and leaf.location is not None:
        stage = leaf.stage if isinstance(leaf, Table) else None
        origin = f"[{stage or leaf.location.schema}].[{leaf.location.name}]"
        return tracer.record("input", origin, known_type=pd.DataFrame)
    return leaf


def _is_table(leaf: Any) -> bool:
    return is_traced(leaf) or isinstance(leaf, (Table, pd.DataFrame))


def _output_form(leaf: Any, tracer: Tracer) -> Any:
    if is_traced(leaf):
        return ["table", tracer.form(leaf)]
    if isinstance(leaf, (RawSql, Blob)):
        msg = f"the function returns a {type(leaf).__name__}"
        raise NotTraceable(msg)
    if isinstance(leaf, Table):
        return ["Table", storing_form(leaf), tracer.form(leaf.obj)]
    return ["constant", tracer.form(leaf)]
