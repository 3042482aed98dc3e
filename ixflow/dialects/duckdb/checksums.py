"""Canonical texts of DuckDB's values, and how rows without a key are found again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ixflow.dialects.checksums import Checksums
from ixflow.dialects.facts import run
from ixflow.dialects.types import split_sql_type
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["DuckDBChecksums"]

_DIGITS = "CAST({0} AS VARCHAR)"
_TEXT = f"length({_DIGITS}) || ':' || {_DIGITS}"
_MOMENT = f"CASE WHEN isfinite({{0}}) THEN CAST(epoch_us({{0}}) AS VARCHAR) ELSE {_DIGITS} END"

_FORMS = {
    "boolean": "CAST(CAST({0} AS INTEGER) AS VARCHAR)",
    "tinyint": _DIGITS,
    "smallint": _DIGITS,
    "integer": _DIGITS,
    "bigint": _DIGITS,
    "utinyint": _DIGITS,
    "usmallint": _DIGITS,
    "uinteger": _DIGITS,
    "ubigint": _DIGITS,
    "decimal": _DIGITS,
    "float": (
        "CASE WHEN isnan({0}) THEN 'nan' ELSE lower(lpad(hex(CAST(CAST(CAST({0} + 0 AS FLOAT) "
        "AS BIT) AS UINTEGER)), 8, '0')) END"
    ),
    "double": (
        "CASE WHEN isnan({0}) THEN 'nan' ELSE lower(lpad(hex(CAST(CAST({0} + 0 AS BIT) "
        "AS UBIGINT)), 16, '0')) END"
    ),
    "blob": "'x' || lower(hex({0}))",
    "uuid": "replace(CAST({0} AS VARCHAR), '-', '')",
    "date": (
        "CASE WHEN isfinite({0}) THEN CAST(datediff('day', DATE '1970-01-01', {0}) AS VARCHAR) "
        f"ELSE {_DIGITS} END"
    ),
    "time": "CAST(epoch_us({0}) AS VARCHAR)",
    "timestamp_s": _MOMENT,
    "timestamp_ms": _MOMENT,
    "timestamp": _MOMENT,
    "timestamp with time zone": _MOMENT,
    "timestamp_ns": (
        f"CASE WHEN isfinite({{0}}) THEN CAST(epoch_ns({{0}}) AS VARCHAR) ELSE {_DIGITS} END"
    ),
}


class DuckDBChecksums(Checksums):
    """How DuckDB says what is there."""

    def canonical_form(self, column: Column, expression: str) -> str:
        """Write the canonical text of a value."""
        base = split_sql_type(column.sql_type)[0]
        form = _TEXT if column.as_text else _FORMS.get(base, _TEXT)
        return form.format(expression)

    def row_hash(self, text: str) -> str:
        """Write the first eight bytes of the MD5 of a text as a number."""
        return f"CAST('0x' || left(md5({text}), 16) AS UBIGINT)"

    def session_zone(self, conn: sa.Connection) -> str:
        """Name the time zone in which the session writes moments."""
        return str(run(conn, "SELECT current_setting('TimeZone')").scalar_one())

    def mark_additions(self, conn: sa.Connection, table: TableName) -> Any:
        """Find the last row; what is added gets greater ids."""
        greatest = f"SELECT coalesce(max(rowid), -1) FROM {self.qualified(table)}"
        return int(run(conn, greatest).scalar_one())

    def additions(self, table: TableName, mark: Any) -> str:
        """Write the rows behind the last."""
        return f"(SELECT * FROM {self.qualified(table)} WHERE rowid > {int(mark)}) t"
