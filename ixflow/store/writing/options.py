"""How a table is written, and what was written, as values. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ixflow.errors import ValidationError
from ixflow.tables.slices import Slice
from ixflow.values import Column

__all__ = ["EVOLUTIONS", "MODES", "RUN_COLUMN", "Write", "WrittenTable", "check_words"]

MODES = ("replace", "append", "upsert", "partition")
EVOLUTIONS = ("fail", "add", "recreate")
RUN_COLUMN = "_ixflow_run"
"""The column that tells which run has appended a row."""


@dataclass(frozen=True, slots=True)
class Write:
    """How the rows of a frame or a query come into a table.

    ``evolution`` is what happens when the columns are not those of the table; None: ``recreate``
    where all rows are replaced, else ``fail``. ``slices`` are the partitions that the rows belong
    to; None: they belong to none. ``run`` tells rows of one run from those of others, where they
    are appended; they are in ``run_column`` of the table.

    Raises:
        ValidationError: what is said does not go together.

    >>> Write("upsert", primary_key=("id",)).evolution
    'fail'
    """

    mode: str = "replace"
    evolution: str = ""
    primary_key: tuple[str, ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    type_map: Mapping[str, Any] = field(default_factory=dict)
    slices: tuple[Slice, ...] | None = None
    run: str = ""
    run_column: str = RUN_COLUMN

    def __post_init__(self) -> None:
        """Fill in the usual evolution, and look at what does not go together."""
        usual = "recreate" if self.mode == "replace" else "fail"
        object.__setattr__(self, "evolution", self.evolution or usual)
        check_words(self.mode, self.evolution, self.primary_key, sliced=self.slices is not None)

    @property
    def marks_runs(self) -> bool:
        """Say whether each row tells which run it is of."""
        return self.mode == "append"


def check_words(mode: str, evolution: str, key: Sequence[str], *, sliced: bool) -> None:
    """Look at what is said of a write; ``sliced`` says that its rows are of partitions.

    Raises:
        ValidationError: a word is unknown, or does not go with the others.

    """
    for what, word, words in (("mode", mode, MODES), ("schema_evolution", evolution, EVOLUTIONS)):
        if word not in words:
            msg = f"ixflow/{what} is {word!r}; it can be {', '.join(words)}"
            raise ValidationError(msg, **{what: word})
    if mode == "upsert" and not key:
        msg = "the mode 'upsert' needs a primary key; name its columns in ixflow/primary_key"
        raise ValidationError(msg, mode=mode)
    if mode == "partition" and not sliced:
        msg = (
            "the mode 'partition' needs an asset with partitions, and the column that tells them "
            "as partition_expr"
        )
        raise ValidationError(msg, mode=mode)
    if mode == "replace" and sliced:
        msg = "the mode 'replace' is for whole tables: one partition would replace the others"
        raise ValidationError(msg, mode=mode)


@dataclass(slots=True)
class WrittenTable:
    """What a write has done; ``slices`` counts the rows of each partition, by its name.

    ``deleted`` are rows that gave way: those of the slice, of an earlier attempt of the run, or
    with `replace` all that were there (None: not counted).
    """

    columns: tuple[Column, ...] = ()
    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int | None = None
    slices: dict[str, int] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    rebuilt: bool = False
