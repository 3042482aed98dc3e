"""Canonical texts of PostgreSQL's values, and how rows without a key are found again."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ixflow.dialects.checksums import Checksums
from ixflow.dialects.facts import run
from ixflow.dialects.postgres.partitions import kind_of
from ixflow.dialects.postgres.types import base_type
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["PostgresChecksums", "unbounded"]

_MICROSECONDS = "((extract(epoch FROM {0}) * 1000000)::bigint)::text"
_MOMENT = f"CASE WHEN isfinite({{0}}) THEN {_MICROSECONDS} ELSE {{0}}::text END"
_TEXT = "length({0}::text) || ':' || {0}::text"

# json, jsonb, enums, arrays and all the rest are texts.
_FORMS = {
    "boolean": "({0}::int)::text",
    "smallint": "{0}::text",
    "integer": "{0}::text",
    "bigint": "{0}::text",
    "real": "CASE WHEN {0} = 'NaN' THEN 'nan' ELSE encode(float4send({0} + 0::real), 'hex') END",
    "double precision": (
        "CASE WHEN {0} = 'NaN' THEN 'nan' ELSE encode(float8send({0} + 0), 'hex') END"
    ),
    "numeric": "{0}::text",
    "bytea": "'x' || encode({0}, 'hex')",
    "date": "CASE WHEN isfinite({0}) THEN ({0} - date '1970-01-01')::text ELSE {0}::text END",
    "timestamp without time zone": _MOMENT,
    "timestamp with time zone": _MOMENT,
    "time without time zone": _MICROSECONDS,
    "uuid": "replace({0}::text, '-', '')",
}

_LENGTH = re.compile(r"^(character varying|bit varying)\(\d+\)")


class PostgresChecksums(Checksums):
    """How PostgreSQL says what is there."""

    def canonical_form(self, column: Column, expression: str) -> str:
        """Write the canonical text of a value."""
        form = _TEXT if column.as_text else _FORMS.get(base_type(column.sql_type), _TEXT)
        return form.format(expression)

    def row_hash(self, text: str) -> str:
        """Write the first eight bytes of the MD5 of a text in UTF-8 as a number."""
        return f"('x' || left(md5(convert_to({text}, 'UTF8')), 16))::bit(64)::bigint"

    def proven(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Let jsonb arrive as text, since the server writes its values in another way."""
        return tuple(
            replace(c, as_text=True) if base_type(c.sql_type) == "jsonb" else c for c in columns
        )

    def value_form(self, column: Column, expression: str) -> str:
        """Write the value that the database makes of a text, without cutting it to a length."""
        return f"CAST({expression} AS {unbounded(column.sql_type)})"

    def settle_deferred(self, conn: sa.Connection) -> None:
        """Let deferred triggers run, which else change rows behind our back."""
        run(conn, "SET CONSTRAINTS ALL IMMEDIATE")

    def mark_additions(self, conn: sa.Connection, table: TableName) -> Any:
        """Make a temporary table for the places of rows."""
        del table
        places = TableName(f"_ixflow_places_{uuid.uuid4().hex[:16]}", "pg_temp")
        kind = "relation oid, place tid"
        run(conn, f"CREATE TEMPORARY TABLE {self.quote(places.name)} ({kind}) ON COMMIT DROP")
        return places

    def add_marked(self, conn: sa.Connection, insert: str, mark: Any) -> int:
        """Insert, keeping the places of what was inserted."""
        return run(
            conn,
            f"WITH added AS ({insert} RETURNING tableoid, ctid) "
            f"INSERT INTO {self.qualified(mark)} SELECT tableoid, ctid FROM added",
        ).rowcount

    def additions(self, table: TableName, mark: Any) -> str:
        """Write the rows that are still at their places."""
        return (
            f"{self.qualified(table)} t JOIN {self.qualified(mark)} ixflow_added "
            f"ON ixflow_added.relation = t.tableoid AND ixflow_added.place = t.ctid"
        )

    @contextlib.contextmanager
    def by_place(self, conn: sa.Connection, table: TableName) -> Iterator[None]:
        """Leave the planner no join but the one that costs as much as there are added rows.

        Each partition would be asked for each row: so not for a partitioned table.
        """
        if kind_of(conn, self.qualified(table)) == "p":
            yield
            return
        settings = ("enable_hashjoin", "enable_mergejoin")
        before = [run(conn, f"SHOW {name}").scalar_one() for name in settings]
        for name in settings:
            run(conn, f"SET LOCAL {name} = off")
        yield
        for name, value in zip(settings, before, strict=True):
            run(conn, f"SET LOCAL {name} = {value}")

    def forget_additions(self, conn: sa.Connection, mark: Any) -> None:
        """Drop the places."""
        run(conn, f"DROP TABLE {self.qualified(mark)}")


def unbounded(sql_type: str) -> str:
    """Take away the length that a cast would silently cut a text to.

    >>> unbounded("character varying(3)[]"), unbounded("numeric(5,2)")
    ('character varying[]', 'numeric(5,2)')
    """
    return _LENGTH.sub(r"\1", sql_type)
