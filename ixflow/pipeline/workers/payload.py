"""A flow and its configuration as bytes for other processes."""

from __future__ import annotations

import io
import logging
import pickle
import sys
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ixflow.errors import FlowError
from ixflow.pipeline.audit import Audit
from ixflow.pipeline.cache import Rules
from ixflow.pipeline.materialize import MaterializingTask
from ixflow.secrets import redact

if TYPE_CHECKING:
    from ixflow.pipeline.config import ConfigContext
    from ixflow.pipeline.flow import Flow
    from ixflow.pipeline.run import Run

__all__ = ["Payload", "packed"]

_LOGGERS = ("", "ixflow")


@dataclass(frozen=True, slots=True, repr=False)
class Payload:
    """What every worker of a run needs: it is sent once to each process."""

    flow: Flow
    config: ConfigContext
    transaction_id: str
    rules: Rules
    levels: dict[str, int]


def packed(run: Run) -> bytes:
    """Pickle what the workers of a run need.

    Functions of tasks travel by the name of their module, if they are found there, otherwise with
    all that they refer to.

    Raises:
        FlowError: cloudpickle is missing, or something cannot be pickled; it says which task.

    """
    if run.flow is None or run.config is None:
        msg = "only flow.run() can run tasks in other processes"
        raise FlowError(msg)
    levels = {name: logging.getLogger(name).getEffectiveLevel() for name in _LOGGERS}
    try:
        return _dumped(Payload(run.flow, run.config, run.transaction_id, run.rules, levels))
    except Exception as error:
        raise _refusal(run.flow, error) from error


def _refusal(flow: Flow, error: Exception) -> FlowError:
    if isinstance(error, FlowError):
        return error
    advice = "define it where other processes can import it, or take ThreadedEngine"
    for task in flow.tasks:
        try:
            _dumped((task.definition, task.arguments.args, task.arguments.kwargs))
        except Exception as found:  # noqa: BLE001 - what pickling raises is anybody's
            where = f"task {task.stage.name}.{task.name}"
            text = redact(f"{where} cannot be sent to another process: {found}; {advice}")
            return FlowError(text, task=task.name, stage=task.stage.name)
    text = f"the flow and its configuration cannot be sent to another process: {error}"
    return FlowError(redact(text), flow=flow.name)


def _dumped(value: Any) -> bytes:
    try:
        import cloudpickle
    except ImportError as error:
        msg = "running tasks in other processes needs cloudpickle: pip install cloudpickle"
        raise FlowError(msg) from error

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc] # the package has no types
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, Audit):
                # The leader audits; what an audit refers to need not travel.
                return (_nothing, ())
            if isinstance(obj, FunctionType):
                by_value = cloudpickle.list_registry_pickle_by_value()
                if obj.__module__ not in by_value and _task_at(*_place(obj)) is obj:
                    return (_task_at, _place(obj))
            return super().reducer_override(obj)

    file = io.BytesIO()
    Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def _place(function: FunctionType) -> tuple[str, str]:
    return (function.__module__ or "", function.__qualname__)


def _task_at(module: str, name: str) -> Any:
    """Find the function of the task that a module has under a name; None if it has none."""
    if module == "__main__":
        # In another process that is another module.
        return None
    if module not in sys.modules:
        __import__(module)
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return found.fn if isinstance(found, MaterializingTask) else None


def _nothing() -> None:
    """Stand in for what did not travel."""
