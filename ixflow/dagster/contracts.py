"""A check that what is published has the columns and types that others rely on."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import dagster as dg
import sqlalchemy as sa

from ixflow.dagster.failures import failures
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource
from ixflow.dialects import connected, dialect_of
from ixflow.errors import ValidationError
from ixflow.tables.declared import name_of, would_be

__all__ = ["broken_terms", "schema_contract"]

_COLUMN_SCHEMA = "dagster/column_schema"
_ROOM = re.compile(r"\s*([(),])\s*")


def schema_contract(
    asset: Any,
    contract: Mapping[str, str] | sa.Table,
    *,
    extra: Literal["fail", "allow"] = "fail",
    warehouse: str = WAREHOUSE,
    name: str = "schema_contract",
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    blocking: bool = False,
    automation_condition: dg.AutomationCondition[Any] | None = None,
) -> dg.AssetChecksDefinition:
    """Check that an asset has these columns, each of its type; others ``fail`` or are allowed.

    A mapping of columns to types, as the database spells them, is compared with what the latest
    materialization recorded (``dagster/column_schema``): no database is asked. A SQLAlchemy table
    is compared with the table of its name and schema in the warehouse; the database says which
    types the declared ones are. The order of the columns does not count.

    Raises:
        ValidationError: a contract without columns, or another word for ``extra``.

    >>> schema_contract("orders", {"order_id": "bigint", "price": "numeric(12,2)"}).check_key.name
    'schema_contract'
    """
    if extra not in ("fail", "allow"):
        msg = f"extra is {extra!r}; it is 'fail' or 'allow'"
        raise ValidationError(msg, extra=extra)
    live = isinstance(contract, sa.Table)
    if not (contract.columns if isinstance(contract, sa.Table) else contract):
        raise ValidationError("the contract names no column; say which the asset must have")

    @dg.asset_check(
        asset=asset,
        name=name,
        blocking=blocking,
        automation_condition=automation_condition,
        required_resource_keys={warehouse} if live else set(),
        description="What is published has the columns and types of the contract.",
    )
    def _contract(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        key = next(iter(context.selected_asset_check_keys)).asset_key
        if isinstance(contract, sa.Table):
            with failures():
                wanted, found = _in_warehouse(getattr(context.resources, warehouse), contract)
        elif (recorded := _recorded(context.instance, key)) is None:
            text = f"{key.to_user_string()} has recorded no {_COLUMN_SCHEMA}; materialize it first"
            return dg.AssetCheckResult(passed=False, severity=severity, description=text)
        else:
            wanted, found = dict(contract), recorded
        broken = broken_terms(wanted, found, extra=extra)
        return dg.AssetCheckResult(
            passed=not broken,
            severity=severity,
            description="; ".join(broken) or f"{len(wanted)} columns are as they should be",
            metadata={"ixflow/columns": len(found), "ixflow/broken": broken},
        )

    return _contract


def broken_terms(
    wanted: Mapping[str, str], found: Mapping[str, str], *, extra: str = "fail"
) -> list[str]:
    """Say how the columns that are found differ from those that are wanted.

    >>> broken_terms({"id": "BIGINT", "at": "date"}, {"id": "bigint", "x": "text"}, extra="allow")
    ['column at (date) is missing']
    """
    missing = [f"column {n} ({t}) is missing" for n, t in wanted.items() if n not in found]
    changed = [
        f"column {n} is {found[n]}, not {t}"
        for n, t in wanted.items()
        if n in found and _spelled(found[n]) != _spelled(t)
    ]
    more = [f"column {n} ({t}) is not in the contract" for n, t in found.items() if n not in wanted]
    return [*missing, *changed, *(more if extra == "fail" else [])]


def _spelled(sql_type: str) -> str:
    """Write a type so that capitals and spaces do not count."""
    return _ROOM.sub(r"\1", " ".join(sql_type.lower().split()))


def _recorded(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str] | None:
    """Read the columns that the latest materialization has recorded."""
    event = instance.get_latest_materialization_event(key)
    made = None if event is None else event.asset_materialization
    schema = None if made is None else made.metadata.get(_COLUMN_SCHEMA)
    if not isinstance(schema, dg.TableSchemaMetadataValue):
        return None
    return {column.name: column.type for column in schema.schema.columns}


def _in_warehouse(
    warehouse: SQLTableStoreResource, table: sa.Table
) -> tuple[dict[str, str], dict[str, str]]:
    """Read the columns that the declared table would have, and those of the table that is there.

    Raises:
        TableNotFound: there is no such table.

    """
    with connected(warehouse.engine) as conn, conn.begin() as transaction:
        found = dialect_of(conn).columns(conn, name_of(table))
        wanted = would_be(conn, table).columns
        transaction.rollback()
    return {c.name: c.sql_type for c in wanted}, {c.name: c.sql_type for c in found}
