"""The standard metadata keys of Dagster for tables and files, and ixflow's own beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.secrets import redact_url
from ixflow.values import Column, TableName

__all__ = ["column_schema", "file_metadata", "table_metadata", "table_uri"]


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


def table_metadata(
    url: sa.URL,
    table: TableName,
    *,
    rows: int | None = None,
    columns: Sequence[Column] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Collect the standard keys of a table in a database."""
    database = Path(url.database or "").stem if url.host is None else url.database
    name = ".".join(part for part in (database, table.schema, table.name) if part)
    found: dict[str, Any] = {
        "dagster/table_name": name,
        "dagster/uri": table_uri(url, table),
        "dagster/storage_kind": dialect_of(url).kind,
    }
    if rows is not None:
        found["dagster/row_count"] = rows
    if columns:
        found["dagster/column_schema"] = column_schema(columns)
    return found | dict(extra or {})


def file_metadata(
    path: str | Path, *, rows: int, columns: Sequence[Column], extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Collect the standard keys of a directory of Parquet files."""
    return {
        "dagster/row_count": rows,
        "dagster/column_schema": column_schema(columns),
        "dagster/uri": Path(path).absolute().as_uri(),
        "dagster/storage_kind": "parquet",
        **extra,
    }


def arrow_columns(schema: pa.Schema) -> tuple[Column, ...]:
    """See the fields of an Arrow schema as columns."""
    return tuple(Column(f.name, str(f.type), f.type, f.nullable) for f in schema)
