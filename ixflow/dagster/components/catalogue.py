"""The tables of a schema, read once into a file, so that definitions load without the database."""

import fnmatch
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ixflow.dialects import connected
from ixflow.errors import TableNotFound, ValidationError
from ixflow.extraction.intent import ExtractionIntent

__all__ = ["chosen", "object_name", "read_catalogue", "tables_of", "write_catalogue"]


def tables_of(source: ExtractionIntent, schema: str | None) -> list[str]:
    """Ask the source's database for the names of the schema's tables, in order.

    Raises:
        SourceUnavailable: the database cannot be reached.
        TableNotFound: there is no table, as in a schema whose name is misspelt.

    """
    engine = source.dialect.read_engine(source.url())
    try:
        with connected(engine) as conn:
            names = list(source.dialect.source_tables(conn, schema))
    finally:
        engine.dispose()
    if not names:
        where = "the connection's own schema" if schema is None else f"schema {schema}"
        msg = f"{where} has no table that {source.source_type} shows us; check name and grants"
        raise TableNotFound(msg, schema=schema)
    return names


def write_catalogue(path: Path, tables: Sequence[str]) -> None:
    """Write the catalogue's file: whoever reads sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"tables": list(tables)}, indent=1) + "\n"
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def read_catalogue(path: Path) -> list[str]:
    """Read the catalogue's file.

    Raises:
        ValidationError: the file is not what `write_catalogue` wrote.

    """
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["tables"]]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is no catalogue of ixflow; run dg utils refresh-defs-state"
        raise ValidationError(msg, path=str(path)) from error


def chosen(tables: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Choose the tables that match a pattern of ``include`` and none of ``exclude``.

    >>> chosen(["orders", "orders_old", "users"], ["orders*"], ["*_old"])
    ['orders']
    """
    return [
        name
        for name in tables
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in include)
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude)
    ]


def object_name(schema: str | None, table: str) -> str:
    """Write a table the way an intent reads it, in quotes where its name has dots or quotes.

    >>> object_name("shop", "orders"), object_name(None, "odd.name")
    ('shop.orders', '"odd.name"')
    """
    return ".".join(_quoted(part) for part in (schema, table) if part is not None)


def _quoted(part: str) -> str:
    if "." not in part and '"' not in part:
        return part
    escaped = part.replace('"', '""')
    return f'"{escaped}"'
