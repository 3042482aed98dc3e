"""What a run has read of others' results, and whether that is still what is published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ixflow.errors import InputChanged

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.store.sql_store import SQLTableStore

__all__ = ["InputRead", "changed_inputs", "moved_stages"]


@dataclass(frozen=True, slots=True)
class InputRead:
    """The published result of another task that this run relied on, by stage and place."""

    stage: str
    position: str
    output: str


def moved_stages(
    store: SQLTableStore, conn: sa.Connection, inputs: Iterable[InputRead]
) -> set[str]:
    """Name the stages of which other results are published now than were read."""
    reads = list(inputs)
    moved = set()
    for stage in {read.stage for read in reads}:
        wanted = {read.position: read.output for read in reads if read.stage == stage}
        found = store.metadata.outputs(conn, store.schema(stage), wanted)
        if found != wanted:
            moved.add(stage)
    return moved


def changed_inputs(stage: str, moved: Iterable[str]) -> InputChanged:
    """Make the error that says which inputs of a stage were replaced."""
    names = sorted(moved)
    msg = (
        f"stage {stage} was computed from results of {', '.join(names)} that another "
        f"run has replaced meanwhile; nothing was published, run it again"
    )
    return InputChanged(msg, stage=stage, inputs=names)
