"""What a lazy task's query is: its text, in which schemas of the run stand for those they become.

A lazy task's function is called every time. Its table is made again only if the text of its query,
or the content of its frame, is another than that of the table that is published.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from ixflow.pipeline.cache import lazy_table_key
from ixflow.pipeline.raw_sql import tables_among
from ixflow.store import SQLTableStore, TableSpec
from ixflow.store.frames import frames_for

__all__ = ["published_names", "table_key", "timeless"]


def published_names(inputs: Iterable[Any], store: SQLTableStore) -> dict[str, str]:
    """Map the schemas in which a run finds its inputs to those where these are published."""
    found = {}
    for table in tables_among(inputs):
        if table.stage and table.location and not table.external:
            found.update(store.spellings(str(table.location.schema), store.schema(table.stage)))
    return found


def timeless(text: str, schemas: Mapping[str, str]) -> str:
    """Write a query as it would be written in any run.

    >>> timeless('SELECT * FROM "raw__tx_12ab34cd"."t"', {"raw__tx_12ab34cd": "raw"})
    'SELECT * FROM "raw"."t"'
    """
    for schema, name in sorted(schemas.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(schema, name)
    return text


def table_key(
    key: str, obj: Any, spec: TableSpec, store: SQLTableStore, schemas: Mapping[str, str]
) -> str:
    """Give the key of a table that a lazy task returned; a new one if nothing can tell."""
    frames = frames_for(obj)
    identity = None if frames is None else frames.identity(store.engine, obj, spec)
    types = {column: repr(wanted) for column, wanted in spec.type_map.items()}
    stored = [spec.name, spec.primary_key, spec.indexes, types]
    if options := store.details.of(spec.materialization_details, f"table {spec.name}"):
        stored.append(dict(options))
    form = json.dumps(stored, sort_keys=True)
    text = timeless(identity, schemas) if identity is not None else uuid.uuid4().hex
    return lazy_table_key(key, text, form)
