"""Blobs of a flow whose stages are Dagster assets."""

import dagster as dg
import polars as pl

from ixflow import FileBlobStore
from ixflow.pipeline import Blob, Flow, Stage, Table, materialize
from ixflow_tests.dagster.seen import rows


def test_blobs_pass_between_stages_that_are_assets(warehouse, instance, tmp_path):
    calls = []

    @materialize(version="1", outputs=["t"])
    def model():
        calls.append("model")
        return Table(pl.DataFrame({"x": [1]}), "t"), Blob({"weight": 3})

    @materialize(version="1", outputs=["scored"])
    def score(model):
        return Table(pl.DataFrame({"y": [model["weight"] * 2]}), "scored")

    with Flow("learn") as flow:
        with Stage("st"):
            made = model()
        with Stage("mart"):
            score(made[1])
    definitions = flow.to_definitions(table_store=warehouse, blob_store=FileBlobStore(tmp_path))
    job = definitions.resolve_job_def("learn_flow")
    for _ in range(2):
        assert job.execute_in_process(instance=instance).success
    assert rows(warehouse.engine, "mart.scored") == [(6,)]
    assert calls == ["model"]
    key = dg.AssetKey(["mart", "scored"])
    assert instance.get_latest_materialization_event(key) is not None
