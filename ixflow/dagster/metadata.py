"""The standard metadata keys of Dagster for tables and files, and ixflow's own beside them."""

import datetime as dt
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.secrets import redact_url
from ixflow.store.lineage import ColumnSource
from ixflow.values import Column, TableName

__all__ = [
    "asset_key",
    "column_lineage",
    "column_schema",
    "lag_metadata",
    "place_metadata",
    "table_metadata",
    "table_uri",
    "word",
]

# Without the dashes "20260301" would be one, which is as likely a number.
_LIKE_A_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def word(text: str, also: str = "") -> str:
    """Make a name that Dagster takes for an op, a job, a group or a pool.

    >>> word("shop.orders"), word("Maße")
    ('shop_orders', 'Ma_e_237a99')
    """
    made = re.sub(f"[^A-Za-z0-9_{also}]", "_", text)
    if text.isascii():
        return made
    # Names in another script would all become the same underscores.
    return f"{made}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def asset_key(*parts: str | None) -> dg.AssetKey:
    """Make the asset key of a table, whose parts may have any name a database allows.

    >>> asset_key("raw", "Order items").to_user_string()
    'raw/Order_items'
    """
    return dg.AssetKey([word(part, also=".-") for part in parts if part])


def column_schema(columns: Sequence[Column]) -> dg.TableSchema:
    """Describe columns for the Columns section of an asset page."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.sql_type or str(column.type),
                description="read as text, which is exact" if column.as_text else None,
                constraints=dg.TableColumnConstraints(
                    nullable=column.nullable,
                    other=["primary key"] if column.key_position is not None else [],
                ),
            )
            for column in columns
        ]
    )


def column_lineage(
    lineage: Mapping[str, Sequence[ColumnSource] | None], stages: Mapping[str, str]
) -> dg.TableColumnLineage | None:
    """Say which columns feed which; ``stages`` maps the schemas of stages to their names.

    Columns of which it is not known are left out; None if it is known of none.
    """
    known = {name: sources for name, sources in lineage.items() if sources is not None}
    deps = {
        name: [
            dg.TableColumnDep(
                asset_key(stages.get(one.schema or "", one.schema), one.table), one.column
            )
            for one in sources
        ]
        for name, sources in known.items()
    }
    return dg.TableColumnLineage(deps_by_column=deps) if deps else None


def table_uri(url: sa.URL, table: TableName) -> str:
    """Name a table of a database by one URI, without user and password.

    >>> table_uri(sa.make_url("postgresql+psycopg://app:x@db/shop"), TableName("orders", "raw"))
    'postgresql://db/shop/raw/orders'
    """
    bare = sa.URL.create(
        url.get_backend_name(), host=url.host, port=url.port, database=url.database
    )
    parts = [part for part in (table.schema, table.name) if part]
    return "/".join([redact_url(bare), *parts])


def lag_metadata(high_watermark: Any, now: dt.datetime | None = None) -> dict[str, Any]:
    """Say how long ago a high watermark was, if it is a moment; without a zone it is one in UTC.

    >>> lag_metadata("2026-03-01T10:00:00", dt.datetime(2026, 3, 1, 10, 5, tzinfo=dt.UTC))
    {'ixflow/lag_seconds': 300.0}
    >>> lag_metadata(42), lag_metadata("42")
    ({}, {})
    """
    found = _moment(high_watermark)
    if found is None:
        return {}
    age = (now or dt.datetime.now(dt.UTC)) - found
    return {"ixflow/lag_seconds": round(age.total_seconds(), 3)}


def _moment(value: Any) -> dt.datetime | None:
    if isinstance(value, dt.datetime):
        found = value
    elif isinstance(value, dt.date):
        found = dt.datetime.combine(value, dt.time())
    elif isinstance(value, str) and _LIKE_A_DATE.match(value):
        try:
            found = dt.datetime.fromisoformat(value)
        except ValueError:
            return None
    else:
        return None
    return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found


def place_metadata(url: sa.URL, table: TableName) -> dict[str, Any]:
    """Say where a table is, in the keys that the Storage section of an asset's page shows."""
    database = Path(url.database or "").stem if url.host is None else url.database
    name = ".".join(part for part in (database, table.schema, table.name) if part)
    return {"dagster/table_name": name, "dagster/uri": table_uri(url, table)}


def table_metadata(
    url: sa.URL,
    table: TableName,
    *,
    rows: int | None = None,
    columns: Sequence[Column] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Collect the standard keys of a table in a database."""
    found = place_metadata(url, table)
    found["dagster/storage_kind"] = dialect_of(url).kind
    if rows is not None:
        found["dagster/row_count"] = rows
    if columns:
        found["dagster/column_schema"] = column_schema(columns)
    return found | dict(extra or {})
