"""How one kind of database is asked about its indexes, so that its tables can be cut by a key.

A database says with `split_keys` which indexes can cut a table, and with `estimated_rows` what its
optimizer knows; without the latter ranges are weighed by how far their keys reach.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import sqlalchemy as sa

from ixflow.dialects.facts import run
from ixflow.dialects.ranges import Key, KeyCuts, SplitKey, cut_evenly
from ixflow.dialects.selects import Selects
from ixflow.values import KeyRange, TablePart

if TYPE_CHECKING:
    from ixflow.dialects.keyspace import Kind

__all__ = ["Splits"]

_log = logging.getLogger("ixflow")


class Splits(Selects):
    """The questions that cutting a table by a key asks, in one database's words."""

    sharing_needs: ClassVar[str] = ""
    """What a role lacks where several connections could share a snapshot and may not."""

    def split_keys(self, conn: sa.Connection, part: TablePart) -> Sequence[SplitKey]:
        """List the keys that can cut a part, the best first; each costs nothing to walk down."""
        del conn, part
        return ()

    def estimated_rows(
        self, conn: sa.Connection, part: TablePart, key: SplitKey, keys: KeyRange
    ) -> float | None:
        """Give the optimizer's estimate of the rows of a range; None: it has none."""
        del conn, part, key, keys
        return None

    @contextlib.contextmanager
    def probing(self, conn: sa.Connection) -> Iterator[None]:
        """Set the session up for probes: none may take long, or scan."""
        del conn
        yield

    def key_item(self, quoted: str, kind: Kind) -> str:
        """Write the expression that gives a key's column as the exact text of a bound."""
        del kind
        return f"CAST({quoted} AS {self.text_type()})"

    def probe_relation(self, part: TablePart, key: SplitKey) -> str:
        """Write the part where a probe reads it, with a hint at the index if there is one."""
        del key
        return self.part_relation(part)

    def first_row(self, items: str, rest: str) -> str:
        """Write a query that gives one row; ``rest`` begins with FROM and ends with ORDER BY."""
        return self.first_rows(1, items, rest)

    def first_rows(self, count: int, items: str, rest: str) -> str:
        """Write a query that gives the first rows; ``rest`` is as in `first_row`."""
        return f"SELECT {items} {rest} LIMIT {count}"

    def cut_keys(
        self,
        conn: sa.Connection,
        part: TablePart,
        wanted: int,
        *,
        seconds: float = 5.0,
        scattered: bool = True,
        hidden: Collection[str] = (),
    ) -> KeyCuts | None:
        """Cut a part by its best key into about ``wanted`` ranges; None: it cannot be cut.

        It takes no longer than so many seconds. ``scattered`` allows a key whose rows lie anywhere
        in the table: reading by it is slower, which pays only for several readers. A key that the
        role may not read, or whose index does not answer soon, cuts nothing. Nor does one with
        ``hidden`` columns, whose values would stand in the plan.
        """
        for key in self._keys(conn, part):
            if not (key.clustered or scattered) or set(key.columns) & set(hidden):
                continue
            try:
                with self.probing(conn):
                    probe = _IndexProbe(self, conn, part, key)
                    found = cut_evenly(key, probe, wanted, seconds=seconds)
            except sa.exc.DBAPIError as error:
                _refused(part, error)
                continue
            if found is not None:
                return found
        return None

    def _keys(self, conn: sa.Connection, part: TablePart) -> Sequence[SplitKey]:
        try:
            return self.split_keys(conn, part)
        except sa.exc.DBAPIError as error:
            _refused(part, error)
            conn.rollback()
            return ()


def _refused(part: TablePart, error: sa.exc.DBAPIError) -> None:
    kind = type(error.orig).__name__
    _log.info("an index of %s does not cut it: the server refused to look (%s)", part.table, kind)


class _IndexProbe:
    """Probes of one index of one part."""

    def __init__(
        self, dialect: Splits, conn: sa.Connection, part: TablePart, key: SplitKey
    ) -> None:
        self._dialect, self._conn, self._part, self._key = dialect, conn, part, key

    def edge(self, *ranges: KeyRange, last: bool) -> Key | None:
        """Give the first or last key that lies in all these ranges; None: there is none."""
        names = [self._dialect.quote(name) for name in self._key.columns]
        items = [
            f"{self._dialect.key_item(name, kind)} AS {self._dialect.quote(f'ixflow_key_{place}')}"
            for place, (name, kind) in enumerate(zip(names, self._key.kinds, strict=True))
        ]
        # The items are renamed, so that the column orders and not its text.
        order = ", ".join(f"{name}{' DESC' if last else ''}" for name in names)
        where = " AND ".join(self._dialect.keys_condition(keys) for keys in ranges)
        relation = self._dialect.probe_relation(self._part, self._key)
        rest = f"FROM {relation} WHERE {where} ORDER BY {order}"
        row = run(self._conn, self._dialect.first_row(", ".join(items), rest)).first()
        if row is None or any(value is None for value in row):
            return None
        return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in row)

    def rows(self, keys: KeyRange) -> float | None:
        """Estimate the rows of a range."""
        return self._dialect.estimated_rows(self._conn, self._part, self._key, keys)
