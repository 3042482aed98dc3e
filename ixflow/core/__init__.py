"""The path at which users of pipedag import flows and their parts; each is in `ixflow` too."""

from __future__ import annotations

from ixflow.pipeline.flow import Flow
from ixflow.pipeline.result import Result
from ixflow.pipeline.stage import Stage

__all__ = ["Flow", "Result", "Stage"]
