"""The columns that feed a stage's tables, derived from queries and stored with the tables."""

from __future__ import annotations

import polars as pl
import pytest
import sqlalchemy as sa

from ixflow.pipeline import ConfigContext, ExternalTableReference, Flow, Stage, Table, materialize
from ixflow.store import SQLTableStore
from ixflow_tests.stages import execute


def flow_of():
    @materialize(version="1")
    def orders():
        return Table(pl.DataFrame({"id": [1], "price": [2.0]}))

    @materialize(lazy=True, input_type=sa.Table)
    def joined(orders, rates):
        total = (orders.c.price * rates.c.rate).label("total")
        query = sa.select(orders.c.id, total).join_from(orders, rates, sa.true())
        return Table(query, primary_key="id", type_map={"total": sa.Double()})

    @materialize(version="1", input_type=sa.Table)
    def renamed(joined):
        inner = sa.select(joined.c.total.label("t"), sa.literal_column("1").label("odd")).cte()
        return Table(sa.select(inner.c.t, inner.c.odd, sa.func.count().over().label("n")))

    @materialize(lazy=True, input_type=sa.Table)
    def text(joined):
        return Table(sa.text(f"SELECT id FROM {joined.schema}.{joined.name}"))

    with Flow("f") as flow:
        with Stage("raw"):
            made = orders()
        with Stage("mart"):
            both = joined(made, ExternalTableReference("rates", "other"))
            renamed(both)
            text(both)
    return flow


@pytest.mark.parametrize("given", [False, True])
def test_lineage_names_published_tables_and_is_stored_with_the_table(warehouse_engine, given):
    schemas = ("dw_raw", "dw_raw__tx", "dw_mart", "dw_mart__tx", "ixflow") if given else ()
    execute(
        warehouse_engine,
        *(f"CREATE SCHEMA {name}" for name in schemas),
        "CREATE SCHEMA other",
        "CREATE TABLE other.rates AS SELECT 1.5 AS rate",
    )
    store = SQLTableStore(warehouse_engine.url, schema_prefix="dw_", avoid_drop_create_schema=given)
    config = ConfigContext.of_store(store, fail_fast=True)
    for _ in range(2):
        result = flow_of().run(config=config)
        assert set(result.stages["raw"]["orders"].lineage.values()) == {None}
        mart = result.stages["mart"]
        assert mart["joined"].lineage == {
            "id": (("dw_raw", "orders", "id"),),
            "total": (("dw_raw", "orders", "price"), ("other", "rates", "rate")),
        }
        assert mart["renamed"].lineage == {
            "t": (("dw_mart", "joined", "total"),),
            "odd": None,
            "n": (),
        }
        assert mart["text"].lineage == {"id": None}
    store.dispose()
