"""Named sets of options of how tables are stored, by table, stage and store."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from ixflow.errors import ConfigError, FlowError, ValidationError
from ixflow.pipeline import (
    ConfigContext,
    Flow,
    Stage,
    Table,
    create_basic_pipedag_config,
    materialize,
)
from ixflow.store import SQLTableStore

SETS = {"__any__": {}, "scratch": {"unlogged": True}, "durable": {"unlogged": False}}


def flow_of(label=None, stage=None, *, lazy=False, version="1"):
    """Declare a frame and a query with a label, in a stage with another."""

    @materialize(version=version)
    def frame():
        return Table(pl.DataFrame({"id": [1]}), materialization_details=label, primary_key="id")

    @materialize(version=None if lazy else version, lazy=lazy, input_type=sa.Table)
    def query(frame):
        return Table(sa.select(frame.c.id), materialization_details=label)

    with Flow("f") as flow, Stage("staging", stage):
        query(frame())
    return flow


def unlogged(engine):
    query = "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
    query += "WHERE nspname = 'staging' AND relkind = 'r' AND relpersistence = 'u'"
    with engine.connect() as conn:
        return set(conn.exec_driver_sql(query).scalars())


def run(engine, flow, **options):
    store = SQLTableStore(engine.url, **options)
    try:
        return flow.run(config=ConfigContext.of_store(store, fail_fast=True))
    finally:
        store.dispose()


BOTH = {"frame", "query"}


@pytest.mark.parametrize(
    ("label", "stage", "default", "made"),
    [
        (None, None, None, set()),
        ("scratch", None, None, BOTH),
        (None, "scratch", None, BOTH),
        ("durable", "scratch", None, set()),
        (None, None, "scratch", BOTH),
        (None, "durable", "scratch", set()),
    ],
)
def test_the_table_s_label_counts_then_the_stage_s_then_the_default(
    fresh_postgres, label, stage, default, made
):
    run(
        fresh_postgres,
        flow_of(label, stage),
        materialization_details=SETS,
        default_materialization_details=default,
    )
    assert unlogged(fresh_postgres) == made


def test_any_is_the_base_of_all_and_what_tables_without_a_label_have(fresh_postgres):
    sets = {"__any__": {"unlogged": True}, "durable": {"unlogged": False}, "other": None}
    for number, (label, made) in enumerate(((None, BOTH), ("durable", set()), ("other", BOTH))):
        flow = flow_of(label, version=str(number))
        run(fresh_postgres, flow, materialization_details=sets)
        assert unlogged(fresh_postgres) == made


def test_a_lazy_table_is_made_again_when_its_options_change(fresh_postgres):
    for label, made in (("durable", set()), ("scratch", {"query"}), ("durable", set())):
        run(fresh_postgres, flow_of(label, lazy=True), materialization_details=SETS)
        assert unlogged(fresh_postgres) - {"frame"} == made


def test_what_is_wrong_is_named(warehouse_engine, caplog):
    url = warehouse_engine.url
    known = "unlogged" if warehouse_engine.dialect.name == "postgresql" else "none"
    with pytest.raises(ValidationError, match=f"has no option 'speed'; it has {known}"):
        SQLTableStore(url, materialization_details={"fast": {"speed": 1}})
    with pytest.raises(ValidationError, match=r"default_materialization_details has .* 'fast'"):
        SQLTableStore(url, default_materialization_details="fast")
    with pytest.raises(ValidationError, match="'gone', which the table store does not define"):
        run(warehouse_engine, flow_of("gone"), materialization_details={"fast": {}})
    lax = {"strict_materialization_details": False, "materialization_details": {"f": {"speed": 1}}}
    assert run(warehouse_engine, flow_of("gone"), **lax).successful
    assert "has no option 'speed'" in caplog.text
    assert "table frame has the materialization_details 'gone'" in caplog.text
    label: Any = 1
    with pytest.raises(FlowError, match="takes the label of a set of options"):
        Table(None, "t", materialization_details=label)
    with pytest.raises(FlowError, match="takes the label of a set of options"):
        Stage("s", label)


def test_duckdb_has_no_such_option_and_postgresql_takes_true_or_false(fresh_duckdb, fresh_postgres):
    with pytest.raises(ValidationError, match="duckdb has no option 'unlogged'; it has none"):
        SQLTableStore(fresh_duckdb.url, materialization_details=SETS)
    with pytest.raises(ValidationError, match="unlogged is 'yes'; it must be true or false"):
        SQLTableStore(fresh_postgres.url, materialization_details={"a": {"unlogged": "yes"}})


def test_a_configuration_names_the_sets(fresh_postgres):
    config = create_basic_pipedag_config(fresh_postgres.url, materialization_details=SETS)
    flow_of("scratch").run(config=config)
    assert unlogged(fresh_postgres) == BOTH
    wrong = create_basic_pipedag_config(
        fresh_postgres.url, materialization_details={"a": {"compression": "COMPRESS YES"}}
    )
    with pytest.raises(ConfigError, match="has no option 'compression'"):
        flow_of().run(config=wrong)


def test_a_table_that_was_made_unlogged_by_hand_stays_so_where_no_options_are_given(fresh_postgres):
    run(fresh_postgres, flow_of())
    with fresh_postgres.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE staging.query SET UNLOGGED")
    run(fresh_postgres, flow_of(version="2"))
    assert unlogged(fresh_postgres) == {"query"}
