"""`stored`: what an asset's metadata says of how its output is kept in a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ixflow.errors import ValidationError
from ixflow.pipeline.containers import Table
from ixflow.store.writing import EVOLUTIONS, RUN_COLUMN, Write, check_words
from ixflow.tables.slices import Slice

__all__ = ["Stored", "stored", "stored_of"]

_MODE, _EVOLUTION, _KEY = "ixflow/mode", "ixflow/schema_evolution", "ixflow/primary_key"
_INDEXES, _RUN_COLUMN, _EXPR = "ixflow/indexes", "ixflow/run_column", "partition_expr"


@dataclass(frozen=True)
class Stored:
    """What is said of one asset; ``mode`` and ``evolution`` are empty where nothing is."""

    mode: str = ""
    evolution: str = ""
    primary_key: tuple[str, ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    partition_expr: str | Mapping[str, str] | None = None
    run_column: str = RUN_COLUMN

    @property
    def way(self) -> str:
        """Name the mode: where none is said, the one that partition_expr means."""
        return self.mode or ("replace" if self.partition_expr is None else "partition")

    def write(self, table: Table[Any], slices: tuple[Slice, ...] | None, run: str) -> Write:
        """Say how a table is written, which may have a key and indexes of its own.

        Raises:
            ValidationError: what is said does not go together.

        """
        return Write(
            self.way,
            self.evolution,
            table.primary_key or self.primary_key,
            tuple(map(tuple, table.indexes)) or self.indexes,
            table.type_map,
            slices,
            run,
            self.run_column,
        )


def stored(
    mode: str | None = None,
    *,
    primary_key: str | Sequence[str] = (),
    partition_expr: str | Mapping[str, str] | None = None,
    schema_evolution: str | None = None,
    indexes: Sequence[Sequence[str]] = (),
    run_column: str = RUN_COLUMN,
) -> dict[str, Any]:
    """Give the metadata of an asset that `SQLTableStoreIOManager` stores.

    ``mode``: ``replace`` all rows; ``append``, where a run that is executed again replaces what it
    has appended before (``run_column`` names it on each row); ``upsert`` by primary key, without
    writing rows that would not change; ``partition``, which replaces the rows of the partitions
    that were materialized. Without it, ``partition_expr`` means ``partition``, and else it is
    ``replace``. ``partition_expr`` is the column that tells a row's partition, or a
    mapping of dimensions to columns. ``schema_evolution``: ``fail``, ``add`` (new columns are
    added) or ``recreate`` (the table is rebuilt with the new columns); it is ``recreate`` for
    ``replace``, and else ``fail``. ``indexes`` are made with a new table.

    Raises:
        ValidationError: a word is unknown, or what the mode needs is not said.

    >>> stored("upsert", primary_key="id")["ixflow/mode"]
    'upsert'
    >>> stored(partition_expr="day")["ixflow/mode"]
    'partition'
    """
    mode = mode or ("replace" if partition_expr is None else "partition")
    key = (primary_key,) if isinstance(primary_key, str) else tuple(primary_key)
    evolution = schema_evolution or EVOLUTIONS[0]
    sliced = partition_expr is not None and mode != "replace"
    check_words(mode, evolution, key, sliced=sliced)
    found: dict[str, Any] = {_MODE: mode}
    if schema_evolution:
        found[_EVOLUTION] = schema_evolution
    if key:
        found[_KEY] = list(key)
    if partition_expr is not None:
        known = partition_expr
        found[_EXPR] = known if isinstance(known, str) else dict(known)
    if indexes:
        found[_INDEXES] = [list(index) for index in indexes]
    if run_column != RUN_COLUMN:
        found[_RUN_COLUMN] = run_column
    return found


def stored_of(metadata: Mapping[str, Any] | None, asset: str) -> Stored:
    """Read what the metadata of an asset says.

    Raises:
        ValidationError: a value has the wrong form.

    """
    known = {name: _plain(value) for name, value in (metadata or {}).items()}
    expr = known.get(_EXPR)
    if expr is not None and not isinstance(expr, (str, Mapping)):
        msg = f"partition_expr of {asset} is {expr!r}; it is a column, or one for each dimension"
        raise ValidationError(msg, asset=asset)
    return Stored(
        str(known.get(_MODE, "")),
        str(known.get(_EVOLUTION, "")),
        _columns(known.get(_KEY, ())),
        tuple(_columns(index) for index in known.get(_INDEXES, ())),
        expr,
        str(known.get(_RUN_COLUMN, RUN_COLUMN)),
    )


def _columns(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _plain(value: Any) -> Any:
    """Take a value out of what Dagster wraps it in."""
    for name in ("value", "data"):
        value = getattr(value, name, value)
    return value
