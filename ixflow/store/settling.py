"""Turning the records of a transaction into those of what is published, where they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

__all__ = ["Moves", "resettle"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Moves(Generic[T]):
    """What becomes of rows: some stay published, some come from a transaction, some are new.

    ``all_come`` says that the transaction has no others.
    """

    stay: list[T]
    come: list[T]
    new: list[T]
    all_come: bool

    @classmethod
    def between(cls, before: Iterable[T], held: Iterable[T], after: Iterable[T]) -> Moves[T]:
        """Sort the rows of ``after`` by where they are.

        >>> Moves.between(["a", "b"], ["c", "d"], ["b", "c", "e"])
        Moves(stay=['b'], come=['c'], new=['e'], all_come=False)
        """
        old, mine = set(before), set(held)
        stay: list[T] = []
        come: list[T] = []
        new: list[T] = []
        for one in dict.fromkeys(after):
            (stay if one in old else come if one in mine else new).append(one)
        return cls(stay, come, new, len(come) == len(mine))


def resettle(
    conn: sa.Connection,
    table: sa.Table,
    place: tuple[str, str, str],
    keys: Sequence[str],
    moves: Moves[Any],
) -> bool:
    """Delete the rows of a stage that go, and move those that come, to the published scope.

    ``place`` is the stage, the published scope and the transaction's. False: they were not all
    there, or there were others.
    """
    stage, published, scope = place
    name, key = conn.dialect.identifier_preparer.format_table(table), ", ".join(keys)
    where: dict[str, Any] = {"stage": stage, "published": published}
    gone, given = "scope = :published", dict(where)
    if moves.stay:
        gone += f" AND NOT {_among(key, keys, 's')}"
        given |= _arrays(keys, moves.stay, "s")
    leaving = scope != published and not moves.all_come
    if leaving:
        gone = f"({gone}) OR (scope = :scope AND NOT {_among(key, keys, 'm')})"
        given |= {"scope": scope} | _arrays(keys, moves.come, "m")
    conn.execute(sa.text(f"DELETE FROM {name} WHERE stage = :stage AND ({gone})"), given)
    if not moves.come:
        return True
    statement = f"""
        UPDATE {name} SET scope = :published WHERE stage = :stage AND scope = :scope RETURNING 1
    """
    found = conn.execute(sa.text(statement), where | {"scope": scope}).all()
    return len(found) == len(moves.come)


def _arrays(keys: Sequence[str], rows: Sequence[Any], prefix: str) -> dict[str, list[str]]:
    return {f"{prefix}_{key}": [getattr(one, key) for one in rows] for key in keys}


def _among(key: str, keys: Sequence[str], prefix: str) -> str:
    """Write that a row is among those whose keys are given, one array a column."""
    arrays = ", ".join(f"unnest(CAST(:{prefix}_{name} AS text[]))" for name in keys)
    return f"(({key}) IN (SELECT {arrays}))"
