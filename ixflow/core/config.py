"""Configurations."""

from __future__ import annotations

from ixflow.pipeline.basic_config import create_basic_pipedag_config
from ixflow.pipeline.pipedag_config import PipedagConfig

__all__ = ["PipedagConfig", "create_basic_pipedag_config"]
