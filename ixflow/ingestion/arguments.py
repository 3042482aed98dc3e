"""What callers give to an ingest, checked and seen in one shape: tables, batches, callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ixflow.dialects import dialect_of
from ixflow.errors import ValidationError
from ixflow.ingestion.connection import check_connection
from ixflow.ingestion.troubles import iterable
from ixflow.tables.declared import name_of, prefixes_of

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["checked_tables", "three_arguments", "triple_of"]


def triple_of(item: Any) -> tuple[Any, Any, Iterable[tuple[Any, Any]]]:
    """Take a batch apart: watermark, batch metadata, pairs of table and row.

    Raises:
        ValidationError: it is none.

    """
    try:
        watermark, batch_metadata, pairs = item
    except (TypeError, ValueError):
        msg = (
            f"a batch is (high watermark, batch metadata, pairs of table and row), not {item!r:.80}"
        )
        raise ValidationError(msg) from None
    return watermark, batch_metadata, iterable(pairs, "the pairs of a batch")


def checked_tables(conn: sa.Connection, metadata: sa.MetaData) -> list[sa.Table]:
    """List the tables of a metadata, which an ingest on this connection can make.

    Raises:
        ValidationError: there are none, or one cannot be made, or the connection is not usable.

    """
    tables = list(metadata.tables.values())
    if not tables:
        msg = "the metadata has no tables; define at least one with sa.Table(..., metadata, ...)"
        raise ValidationError(msg)
    check_connection(conn)
    for table in tables:
        _check_prefixes(conn, table)
    return tables


def _check_prefixes(conn: sa.Connection, table: sa.Table) -> None:
    """Refuse a kind of table that an ingest cannot make, or not so that anybody else sees it."""
    strange = [word for word in prefixes_of(table) if word not in dialect_of(conn).table_prefixes]
    if strange:
        msg = (
            f"{name_of(table)} is declared with prefixes={strange}, and an ingest makes no such "
            f"table; leave them out, or load the table by other means"
        )
        raise ValidationError(msg, table=str(name_of(table)), prefixes=strange)


_CONN_TABLE_METADATA = 3


def three_arguments(
    callback: Any,
) -> Callable[[sa.Connection, sa.Table | None, Any], None]:
    """See both documented shapes of the callback as one; the short one runs once a batch."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(callback).parameters.values()
    many = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    if many or sum(p.kind in kinds for p in parameters) >= _CONN_TABLE_METADATA:
        return lambda conn, table, meta: None if table is None else callback(conn, table, meta)
    return lambda conn, table, meta: callback(conn, meta) if table is None else None
