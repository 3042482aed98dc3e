"""What tasks return: `Table`, and `ExternalTableReference` for tables that others write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from ixflow.errors import FlowError
from ixflow.pipeline.encoding import MARKER
from ixflow.values import TableName

__all__ = [
    "ExternalTableReference",
    "Table",
    "checked_label",
    "normalised",
    "table_form",
    "table_from_form",
]

T = TypeVar("T")


def normalised(name: str) -> str:
    """Give the form of a stage's or table's name that is compared and stored: case-insensitive.

    >>> normalised(" Raw/Orders")
    'raw_orders'
    """
    return name.casefold().strip().replace("/", "_")


@dataclass(frozen=True, slots=True)
class ExternalTableReference:
    """A table that something else writes, such as an ingest; name and schema as they are.

    As an argument of a task it is read like any table. ixflow cannot know when it changes, so the
    task runs every time, unless it has a ``cache=`` function that says what changed.
    ``shared_lock_allowed`` has no effect: ixflow never locks such a table.

    >>> ExternalTableReference("orders", "raw").location
    TableName(name='orders', schema='raw')
    """

    name: str
    schema: str | None = None
    shared_lock_allowed: bool = False

    @property
    def location(self) -> TableName:
        """The table's full name."""
        return TableName(self.name, self.schema)


class Table(Generic[T]):
    """A table that a task returns, or that it got from another task.

    ``obj`` is a frame (pandas, polars, pyarrow, DuckDB, ibis, tidypolars), a SQLAlchemy query, or
    an `ExternalTableReference`. ``name`` is case-insensitive; without one the table is called like
    its task, and a ``%%`` at its end is replaced by something unique. ``primary_key`` is a column
    or a list of columns, ``indexes`` a list of lists of columns, ``type_map`` maps columns to
    SQLAlchemy types or SQL text. ``materialization_details`` is the label of a set of the table
    store's options of how it is stored; without one the stage's label counts.

    Raises:
        FlowError: an argument has the wrong form.

    >>> Table({"id": [1]}, "Orders", primary_key="id").primary_key
    ('id',)
    """

    def __init__(
        self,
        obj: T | None = None,
        name: str | None = None,
        *,
        primary_key: str | Sequence[str] | None = None,
        indexes: Sequence[Sequence[str]] | None = None,
        type_map: Mapping[str, Any] | None = None,
        materialization_details: str | None = None,
    ) -> None:
        self.obj = obj
        self.name = _table_name(obj, name)
        key = (primary_key,) if isinstance(primary_key, str) else tuple(primary_key or ())
        self.primary_key: tuple[str, ...] = key
        self.indexes = _indexes(indexes)
        self.type_map = _type_map(type_map or {})
        self.materialization_details = checked_label("Table", materialization_details)
        self.stage: str | None = None
        self.cache_key: str | None = None
        self.location: TableName | None = None

    def __repr__(self) -> str:
        """Show the name and where it lives, not the rows."""
        where = f" in {self.location.schema}" if self.location is not None else ""
        return f"<Table {self.name!r}{where}>"

    @property
    def external(self) -> ExternalTableReference | None:
        """The reference, if the table is one that something else writes."""
        return self.obj if isinstance(self.obj, ExternalTableReference) else None

    def stored(self, name: str, *, stage: str, key: str, schema: str) -> Table[Any]:
        """Give the reference that consumers get in place of the rows."""
        made: Table[Any] = Table(
            None,
            primary_key=self.primary_key,
            indexes=self.indexes,
            materialization_details=self.materialization_details,
        )
        made.name, made.stage, made.cache_key = name, stage, key
        made.location = TableName(name, schema)
        if self.external is not None:
            made.obj, made.location = self.external, self.external.location
        return made

    def moved(self, schema: str) -> Table[Any]:
        """Give the same reference for the table's place in another schema."""
        if self.stage is None or self.external is not None:
            return self
        return self.stored(
            str(self.name), stage=self.stage, key=self.cache_key or "", schema=schema
        )


def checked_label(who: str, label: Any) -> str | None:
    """Refuse a label of materialization details that is no text.

    Raises:
        FlowError: so it is.

    """
    if label is None or isinstance(label, str):
        return label
    msg = f"{who}(materialization_details=) takes the label of a set of options, not {label!r}"
    raise FlowError(msg, materialization_details=label)


def _table_name(obj: Any, name: Any) -> str | None:
    if name is not None and not isinstance(name, str):
        msg = f"Table(name=) takes text, not {name!r}"
        raise FlowError(msg, name=name)
    if isinstance(obj, ExternalTableReference):
        if name is not None:
            msg = f"Table({obj!r}) has its name from the reference; leave out {name!r}"
            raise FlowError(msg, name=name)
        return obj.name
    made = None if name is None else normalised(name)
    if made in ("", "%%"):
        msg = f"Table(name={name!r}): a name needs a character"
        raise FlowError(msg, name=name)
    return made


def _indexes(indexes: Any) -> tuple[tuple[str, ...], ...]:
    rows = [] if indexes is None else indexes
    if isinstance(rows, str) or any(isinstance(row, str) for row in rows):
        msg = f"Table(indexes=) takes lists of columns, as in [['a'], ['a', 'b']], not {indexes!r}"
        raise FlowError(msg, indexes=indexes)
    if not all(rows):
        msg = f"Table(indexes=) has an index without a column: {indexes!r}"
        raise FlowError(msg, indexes=indexes)
    # The same one twice would have the same name.
    return tuple(dict.fromkeys(tuple(row) for row in rows))


def _type_map(types: Mapping[str, Any]) -> dict[str, Any]:
    for column, kind in types.items():
        of_sqlalchemy = isinstance(kind, type) and issubclass(kind, sa.types.TypeEngine)
        if not of_sqlalchemy and not isinstance(kind, (str, sa.types.TypeEngine)):
            msg = (
                f"Table(type_map=) takes SQLAlchemy types or SQL text, not {kind!r} for the column "
                f"{column!r}"
            )
            raise FlowError(msg, column=column)
    return dict(types)


def table_form(leaf: Any) -> dict[str, Any] | None:
    """Write a table reference as JSON; None for other things."""
    if isinstance(leaf, ExternalTableReference):
        return {MARKER: "external", "name": leaf.name, "schema": leaf.schema}
    if not isinstance(leaf, Table):
        return None
    external = None if leaf.external is None else [leaf.external.name, leaf.external.schema]
    label = leaf.materialization_details
    return ({} if label is None else {"materialization_details": label}) | {
        MARKER: "table",
        "name": leaf.name,
        "stage": leaf.stage,
        "key": leaf.cache_key,
        "primary_key": list(leaf.primary_key),
        "indexes": [list(index) for index in leaf.indexes],
        "external": external,
    }


def table_from_form(form: dict[str, Any], schema: str) -> Any:
    """Read a table reference back, for the schema in which the stage's tables are now."""
    if form[MARKER] == "external":
        return ExternalTableReference(form["name"], form["schema"])
    obj = ExternalTableReference(*form["external"]) if form["external"] else None
    made: Table[Any] = Table(
        obj,
        primary_key=form["primary_key"],
        indexes=form["indexes"],
        materialization_details=form.get("materialization_details"),
    )
    return made.stored(form["name"], stage=form["stage"], key=form["key"], schema=schema)
