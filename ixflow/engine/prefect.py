"""The engines that hand a flow over to Prefect, where pipedag's newer releases have them."""

from __future__ import annotations

from ixflow.engine.prefect_engine import PrefectEngine, PrefectOneEngine, PrefectTwoEngine

__all__ = ["PrefectEngine", "PrefectOneEngine", "PrefectTwoEngine"]
