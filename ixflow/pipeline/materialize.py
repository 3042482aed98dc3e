"""``@materialize``: the decorator that makes a function a task of a flow."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from ixflow.errors import FlowError, StageError
from ixflow.pipeline.auto_version import AutoVersion, check_auto_version
from ixflow.pipeline.blob import Blob
from ixflow.pipeline.containers import Table, normalised
from ixflow.pipeline.context import declaration, running_input_type
from ixflow.pipeline.encoding import mapped
from ixflow.pipeline.raw_sql import RawSql
from ixflow.pipeline.task import Task, TaskDefinition
from ixflow.store.frames import wanted_frame

__all__ = ["MaterializingTask", "materialize"]


class MaterializingTask:
    """A function that, called within a stage, becomes a `Task`; elsewhere it is just called."""

    def __init__(self, definition: TaskDefinition) -> None:
        self.definition = definition
        self._signature = inspect.signature(definition.fn)
        functools.update_wrapper(self, definition.fn)

    @property
    def fn(self) -> Callable[..., Any]:
        """The function as it was written."""
        return self.definition.fn

    @property
    def name(self) -> str:
        """The task's name."""
        return self.definition.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Wire a task into the open stage; outside a flow call the function.

        Raises:
            StageError: a flow is open but no stage.
            FlowError: it is called by a task whose tables are of another type.
            TypeError: the arguments do not fit the function.

        """
        declared = declaration.get()
        if declared is None:
            self._check_input_type()
            return mapped(self.fn(*args, **kwargs), _unwrapped)
        if declared.stage is None:
            msg = f"task {self.name} is called in flow {declared.flow.name} outside of a stage"
            raise StageError(msg, task=self.name)
        bound = self._signature.bind(*args, **kwargs)
        task = Task(self.definition, bound, stage=declared.stage, flow=declared.flow)
        declared.stage.add(task)
        declared.flow.tasks.append(task)
        return task

    def _check_input_type(self) -> None:
        """Refuse the frames of another task, if this one has said that it takes others."""
        theirs, own = running_input_type.get(), self.definition.input_type
        if theirs is not None and own is not None and theirs != own:
            msg = (
                f"task {self.name} takes tables as {own}, but is called by a task that takes them "
                f"as {theirs}; call {self.name}.fn with frames that it takes"
            )
            raise FlowError(msg, task=self.name)

    def __repr__(self) -> str:
        """Show the name."""
        return f"<materializing task {self.name!r}>"


def _unwrapped(leaf: Any) -> Any:
    if isinstance(leaf, RawSql):
        return leaf.sql
    return leaf.obj if isinstance(leaf, (Blob, Table)) else leaf


@overload
def materialize(fn: Callable[..., Any], /) -> MaterializingTask: ...


@overload
def materialize(
    *,
    name: str | None = None,
    input_type: type | tuple[type, str] | dict[str, Any] | None = None,
    version: str | AutoVersion | None = None,
    cache: Callable[..., Any] | None = None,
    lazy: bool = False,
    nout: int = 1,
    outputs: Sequence[str] | None = None,
    owners: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], MaterializingTask]: ...


def materialize(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    input_type: type | tuple[type, str] | dict[str, Any] | None = None,
    version: str | AutoVersion | None = None,
    cache: Callable[..., Any] | None = None,
    lazy: bool = False,
    nout: int = 1,
    outputs: Sequence[str] | None = None,
    owners: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> Any:
    """Make a function a task whose tables are stored.

    ``input_type`` is the type as which tables arrive (pandas.DataFrame, polars.DataFrame or
    LazyFrame, pyarrow.Table, sqlalchemy.Table, duckdb.DuckDBPyRelation, ibis.Table,
    tidypolars.tibble); without one they arrive as (name, schema). A pair, or a dict with the keys
    "type" and "backend", says what a DataFrame's columns are: ``(pandas.DataFrame, "numpy")``.
    ``version`` is changed with the function's meaning: an equal version on equal inputs is not
    run again; without one the task runs every time, and so does what follows; with `AUTO_VERSION`
    it is a hash of the plan that the function makes of empty LazyFrames, or of what it does with
    stand-ins for DataFrames. ``cache`` is called with the task's arguments, tables as references,
    and what it returns decides validity too.
    A ``lazy`` task's function is called every time, and needs no version: its tables are made again
    when the texts of its queries (`sqlalchemy` selects, `RawSql`), or its frames' contents, change.
    ``nout`` is the number of elements that unpacking the call gives. ``outputs`` names the tables
    that the task returns, when they are several or not called like the task: a dict's by its keys,
    a list's or tuple's in order. ``owners`` and ``tags`` are those of the tables as assets, beside
    those of the flow's definitions.

    Raises:
        FlowError: an argument has the wrong form.
        UnsupportedType: tables cannot be read as ``input_type``.

    >>> @materialize(version="1", nout=2)
    ... def two():
    ...     return 1, 2
    >>> two()
    (1, 2)
    """
    _check("nout", nout, "a whole number from 1", type(nout) is int and nout > 0)
    _check("name", name, "text that is not blank", name is None or bool(str(name).strip()))
    _check("cache", cache, "a function of the task's arguments", cache is None or callable(cache))
    _check("lazy", lazy, "True or False", isinstance(lazy, bool))
    fits = isinstance(version, (str, AutoVersion, type(None)))
    _check("version", version, "text, such as '1.0'", fits)
    _check("outputs", outputs, "a list of names", not isinstance(outputs, str))
    _check("owners", owners, "a list of texts", not isinstance(owners, str))
    _check("tags", tags, "a mapping of texts", tags is None or isinstance(tags, Mapping))
    names = None if outputs is None else tuple(normalised(output) for output in outputs)
    wanted = None if input_type is None else wanted_frame(input_type)

    def decorate(function: Callable[..., Any]) -> MaterializingTask:
        called = name or _name_of(function)
        if isinstance(version, AutoVersion):
            check_auto_version(called, wanted, lazy=lazy)
        return MaterializingTask(
            TaskDefinition(
                function,
                called,
                wanted,
                version,
                cache,
                nout,
                names,
                lazy,
                owners=tuple(owners),
                tags=tuple((tags or {}).items()),
            )
        )

    return decorate if fn is None else decorate(fn)


def _name_of(function: Any) -> str:
    found = getattr(function, "__name__", None)
    if not callable(function) or found is None:
        msg = f"materialize takes a function, or with name= anything to call, not {function!r}"
        raise FlowError(msg)
    return str(found)


def _check(name: str, value: object, wanted: str, fits: bool) -> None:  # noqa: FBT001
    if not fits:
        msg = f"materialize({name}=) takes {wanted}, not {value!r}"
        raise FlowError(msg, **{name: value})
