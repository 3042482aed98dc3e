"""The path at which users of pipedag import its contexts; each is in `ixflow` too."""

from __future__ import annotations

from ixflow.pipeline.config import ConfigContext, StageCommitTechnique
from ixflow.pipeline.locks import StageLockContext

__all__ = ["ConfigContext", "StageCommitTechnique", "StageLockContext"]
