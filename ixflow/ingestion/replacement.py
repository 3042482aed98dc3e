"""Deciding whether a table must be made anew, and making it, in the batch's transaction.

A replacement is a new table under a temporary name in the same schema. Where no old rows stay, the
batch's rows are loaded first and the key is built over them, which costs a third of keeping it up
row by row; of two rows with one key the later one wins. Otherwise the old rows are copied, the key
is built over them, and the batch is merged as into any table. Then it takes the old one's place.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.errors import DataError
from ixflow.ingestion.old_rows import copy_rows
from ixflow.tables import declared
from ixflow.tables.definition import differences
from ixflow.tables.load import add_primary_key
from ixflow.values import Column, TableName

# Enough of a temporary name to know it by, also where PostgreSQL cut the rest off.
_PREFIX = 21

__all__ = ["Replacement", "build_key", "finish", "prepare", "reasons", "settle"]


@dataclass(slots=True)
class Replacement:
    """A new table on its way into the place of ``place``."""

    table: sa.Table
    place: TableName
    made: sa.Table
    """The new table under its temporary name, to load and to select from."""
    columns: tuple[Column, ...]
    replaces: bool
    kept_rows: int
    dropped_rows: int
    late_key: tuple[str, ...]
    index_names: list[tuple[str, str]]

    @property
    def name(self) -> TableName:
        """The temporary name."""
        return declared.name_of(self.made)


def reasons(conn: sa.Connection, table: sa.Table, *, delete: bool) -> tuple[str, ...]:
    """Say why the table must be made anew; empty when rows can go straight into it."""
    if not dialect_of(conn).exists(conn, declared.name_of(table)):
        return ("the table is new",)
    wanted = declared.would_be(conn, table)
    found = differences(wanted, declared.definition(conn, declared.name_of(table)))
    return ("existing rows are deleted", *found) if delete else found


def prepare(conn: sa.Connection, table: sa.Table, *, delete: bool, upsert: bool) -> Replacement:
    """Make the new table, and copy the old rows that stay.

    The key is left for later only where the batch's rows will be the first, and come by COPY
    alone: only then does their place tell which of two rows was loaded last. Nobody can write to
    the old table from here on: what others added to it would be lost with it.

    Raises:
        DataError: an old row does not fit the new definition.
        LockNotAvailable: others were writing to the old table for too long.
        ReplacementRefused: there is something else of that name, such as a view.

    """
    dialect = dialect_of(conn)
    place = dialect.resolved(conn, declared.name_of(table))
    key = tuple(column.name for column in table.primary_key.columns)
    late = bool(key) and dialect.adds_keys
    temporary = place.renamed(f"_tmp_{uuid.uuid4().hex}")
    made = declared.create(conn, table, temporary, key=not late, unique=not late)
    columns = declared.stored(table, dialect.columns(conn, temporary))
    kept = dropped = 0
    replaces = dialect.exists(conn, place)
    if replaces:
        dialect.lock_writers(conn, place)
        total = run(conn, f"SELECT count(*) FROM {dialect.qualified(place)}").scalar_one()
        kept, dropped = (0, total) if delete else (total, 0)
    if kept:
        copy_rows(conn, place, temporary, columns)
    new = Replacement(table, place, made, columns, replaces, kept, dropped, key if late else (), [])
    if late and (kept or dialect.staged(columns) != columns):
        build_key(conn, new, upsert=upsert)
    return new


def finish(
    conn: sa.Connection,
    new: Replacement,
    *,
    upsert: bool,
    before_removal: Callable[[], None] = lambda: None,
) -> int:
    """Add key and indexes; return how many rows gave way to later ones with their key.

    Without ``upsert`` a duplicate key is an error.
    """
    dialect = dialect_of(conn)
    removed = 0
    if new.late_key:
        removed = build_key(conn, new, upsert=upsert, before_removal=before_removal)
    if dialect.renames_indexed:
        new.index_names = declared.create_indexes(conn, new.made, new.table)
    old = new.place if new.replaces else None
    dialect.continue_sequences(conn, new.name, old)
    return removed


def build_key(
    conn: sa.Connection,
    new: Replacement,
    *,
    upsert: bool,
    before_removal: Callable[[], None] = lambda: None,
) -> int:
    """Build the key and unique constraints now; return how many rows gave way to later ones.

    ``before_removal`` is called while those are still there, if there are any.
    """
    removed = _add_key(conn, new, upsert=upsert, before_removal=before_removal)
    _add_unique(conn, new)
    new.late_key = ()
    return removed


def _add_key(
    conn: sa.Connection,
    new: Replacement,
    *,
    upsert: bool,
    before_removal: Callable[[], None],
) -> int:
    """Build the key; only when that fails is it worth looking for duplicates."""
    dialect = dialect_of(conn)
    try:
        with conn.begin_nested():
            add_primary_key(conn, dialect, new.name, new.late_key)
    except sa.exc.IntegrityError:
        if not upsert:
            raise
        before_removal()
        removed = dialect.delete_duplicates(conn, new.name, new.late_key)
        add_primary_key(conn, dialect, new.name, new.late_key)
        return removed
    return 0


def _add_unique(conn: sa.Connection, new: Replacement) -> None:
    """Build unique constraints last: an old row and its new version agree in what is unique."""
    try:
        declared.add_unique(conn, new.table, new.name)
    except sa.exc.IntegrityError as error:
        said = " ".join(str(error.orig).split())
        msg = f"a duplicate key violates unique constraint of {new.place}: {said}"
        raise DataError(msg, table=str(new.place)) from error


def settle(conn: sa.Connection, new: Replacement) -> None:
    """Give key and indexes their lasting names, once the table is in its place."""
    dialect = dialect_of(conn)
    for now, wanted in declared.constraint_names(new.table, new.name):
        dialect.rename_constraint(conn, new.place, now, wanted)
    dialect.rename_parts(conn, new.place, new.name.name[:_PREFIX])
    if new.table.primary_key.name:
        dialect.name_key(conn, new.place, str(new.table.primary_key.name))
    if new.replaces:
        for column, options in declared.identity_options(new.table).items():
            if options:
                dialect.set_identity(conn, new.place, column, options)
    if not new.replaces and new.table.comment is not None:
        dialect.set_comment(conn, new.place, new.table.comment)
    for now, wanted in new.index_names:
        dialect.rename_index(conn, new.place, now, wanted)
    if not dialect.renames_indexed:
        declared.create_indexes(conn, new.table, new.table, final=True)
