"""Where the tables of a scope are: in a schema of its own, or with a prefix in one that is given.

A *scope* is one transaction or one kept version of a stage, named like the schema that it has. A
store that may not create schemas has its tables in one schema for all scopes of a stage, which an
administrator has made; there the rest of the scope's name is before the table's.
"""

from __future__ import annotations

import hashlib
import re

from ixflow.values import TableName

__all__ = ["LONGEST_PREFIX", "PLACE", "SHARED", "logical", "placed", "prefix_of", "scope_named"]

SHARED = "__tx"
"""The end of the name of the schema that the scopes of a stage share."""
_HASH = 8
_SCOPE = re.compile(r"(?P<schema>.*)__(?P<tail>(?:tx|v[0-9]+)_[0-9a-f]{8})", re.DOTALL)
PLACE = re.compile(r"(?:tx|v[0-9]+)_[0-9a-f]{8}_")
"""What stands before the names of tables in a shared schema."""
LONGEST_PREFIX = 20
"""How many bytes that is at most, up to the ten millionth version."""


def scope_named(schema: str, kind: str, text: str, longest: int) -> str:
    """Name a scope of the stage that is published in a schema; ``text`` tells it from others.

    >>> scope_named("staging", "tx", "run-1", 63)
    'staging__tx_4e65d3fb'
    """
    tail = f"__{kind}_{hashlib.sha256(text.encode()).hexdigest()[:_HASH]}"
    room = longest - len(tail)
    if len(schema.encode()) > room:
        short = hashlib.sha256(schema.encode()).hexdigest()[:_HASH]
        schema = schema.encode()[: room - _HASH].decode(errors="ignore") + short
    return schema + tail


def prefix_of(scope: str) -> tuple[str, str] | None:
    """Give the shared schema of a scope and what stands before its tables' names there.

    None: it is no scope, but a schema that is published.

    >>> prefix_of("staging__tx_24cf4bb9")
    ('staging__tx', 'tx_24cf4bb9_')
    """
    found = _SCOPE.fullmatch(scope)
    return None if found is None else (found["schema"] + SHARED, found["tail"] + "_")


def logical(table: str, schema: str) -> TableName:
    """Give the scope and the name of a table, from what it is called in a shared schema.

    >>> logical("tx_24cf4bb9_orders", "staging__tx")
    TableName(name='orders', schema='staging__tx_24cf4bb9')
    """
    found = PLACE.match(table)
    if found is None or not schema.endswith(SHARED):
        return TableName(table, schema)
    scope = f"{schema.removesuffix(SHARED)}__{found[0].removesuffix('_')}"
    return TableName(table[found.end() :], scope)


def placed(table: TableName) -> TableName:
    """Give the name in the shared schema of a table of a scope; others are where they are.

    >>> placed(TableName("orders", "staging__v3_24cf4bb9"))
    TableName(name='v3_24cf4bb9_orders', schema='staging__tx')
    """
    found = None if table.schema is None else prefix_of(table.schema)
    return table if found is None else TableName(found[1] + table.name, found[0])
