"""The engines that a flow can run on; `OrchestrationEngine` is the base of one of your own."""

from __future__ import annotations

from ixflow.engine.dask_engine import DaskEngine
from ixflow.engine.prefect_engine import PrefectEngine, PrefectOneEngine, PrefectTwoEngine
from ixflow.pipeline.engine import OrchestrationEngine, SequentialEngine, ThreadedEngine
from ixflow.pipeline.progress import Ended
from ixflow.pipeline.subflow import Step, Subflow

__all__ = [
    "DaskEngine",
    "Ended",
    "OrchestrationEngine",
    "PrefectEngine",
    "PrefectOneEngine",
    "PrefectTwoEngine",
    "SequentialEngine",
    "Step",
    "Subflow",
    "ThreadedEngine",
]
