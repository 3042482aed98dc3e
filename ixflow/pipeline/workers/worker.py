"""The worker's side: running one step of a run that another process leads."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from ixflow.errors import InputChanged, TaskError
from ixflow.events import Event, listen
from ixflow.pipeline.config import ConfigContext
from ixflow.pipeline.context import undeclared
from ixflow.pipeline.execute import Outcome, StageExecution
from ixflow.pipeline.progress import Ended
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task
from ixflow.pipeline.workers.channel import Channel, Closed
from ixflow.pipeline.workers.messages import Assignment, Failure, Report
from ixflow.pipeline.workers.payload import Payload
from ixflow.store import StageTransaction

__all__ = ["run_remotely"]

_KEPT_FLOWS = 2
_flows: OrderedDict[str, Payload] = OrderedDict()
_guard = threading.Lock()


def run_remotely(address: tuple[str, int], key: bytes, token: str, index: int) -> Ended:
    """Run the step of this number, as the leader at this address says.

    Raises:
        TaskError: the leader cannot be reached, or is gone.

    """
    try:
        with Channel.to(address, key) as channel:
            leader = _Asked(channel)
            begun = leader.ask("begin", index)
            return begun if isinstance(begun, Ended) else _run_task(leader, token, begun)
    except OSError as error:
        host, port = address
        msg = (
            f"the process that leads the run does not answer at {host}:{port}, so this step has "
            f"no effect; workers elsewhere need a network_interface that they reach ({error})"
        )
        raise TaskError(msg) from error


def _run_task(leader: _Asked, token: str, assignment: Assignment) -> Ended:
    secrets: list[str] = []
    try:
        payload = _payload(leader, token)
        with _told(leader, payload), payload.config as config:
            secrets.append(str(config.table_store.url.password or ""))
            report = _executed(leader, payload, config, assignment)
    except Closed:
        raise
    except Exception as error:  # noqa: BLE001 - the leader decides what becomes of it
        answer = leader.ask("failed", Failure.in_worker(error, *secrets))
    else:
        answer = leader.ask("done", report)
    ended: Ended = answer
    return ended


def _executed(
    leader: _Asked, payload: Payload, config: ConfigContext, assignment: Assignment
) -> Report:
    tasks = payload.flow.tasks
    task = tasks[assignment.task]
    memo = _Memo(leader)
    execution = StageExecution(
        config.table_store,
        task.stage,
        payload.transaction_id,
        rules=payload.rules,
        blobs=config.blob_store,
        auto_blob=config.auto_blob,
        auto_table=config.auto_table,
        value_of=lambda upstream, _: assignment.values[tasks.index(upstream)],
        reads_of=lambda _: assignment.reads,
        memo=memo,
    )
    memo.bind(task, execution.transaction)
    _check_schema(execution.transaction, assignment)
    with undeclared(_Names(leader)):
        outcome = execution.execute(task)
    return Report.of(outcome, execution.transaction)


def _check_schema(transaction: StageTransaction, assignment: Assignment) -> None:
    if transaction.schema != assignment.schema:
        msg = (
            f"another process has committed stage {transaction.stage} for "
            f"{transaction.transaction_id}"
        )
        raise InputChanged(msg, stage=transaction.stage, inputs=[transaction.stage])


class _Asked:
    """The leader, to be asked by one thread at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Ask, and raise what the leader raised."""
        with self._lock:
            self._channel.send((name, arguments))
            well, answer = self._channel.receive()
        if well:
            return answer
        raise answer.arrived()

    def tell(self, name: str, said: Any) -> None:
        """Tell something that may get lost: a run does not fail because of its log."""
        with contextlib.suppress(Exception):
            pickle.dumps(said)
            self.ask(name, said)


class _Memo:
    """The leader's memo."""

    def __init__(self, leader: _Asked) -> None:
        self._leader = leader

    def bind(self, task: Task, transaction: StageTransaction) -> None:
        """Say for which task it asks, and the transaction that learns the answers."""
        self._task, self._transaction = task, transaction

    def claim(self, key: str) -> Outcome | None:
        """Take on a call, or get what its twin came to."""
        report: Report | None = self._leader.ask("claim", key)
        return None if report is None else report.outcome(self._task, self._transaction)

    def settle(self, key: str, outcome: Outcome) -> None:
        """Say what the call came to."""
        self._leader.ask("settle", key, Report.of(outcome, self._transaction))

    def fail(self, key: str, error: BaseException) -> None:
        """Say that the call failed."""
        if isinstance(error, Exception):
            self._leader.ask("fail", key, Failure.of(error))

    def register(self, task: str, key: str, names: Iterable[str]) -> None:
        """Take names, for which the whole run is asked."""
        self._leader.ask("register", task, key, tuple(names))


class _Names:
    """The schemas of the run, as the leader says."""

    def __init__(self, leader: _Asked) -> None:
        self._leader = leader

    def transaction_schema(self, stage: Stage) -> str:
        """Name the schema that the run writes the stage's tables to."""
        return str(self._leader.ask("schema", "transaction", stage.name))

    def current_schema(self, stage: Stage) -> str:
        """Name the schema where the run finds the stage's tables now."""
        return str(self._leader.ask("schema", "current", stage.name))


def _payload(leader: _Asked, token: str) -> Payload:
    """Give the flow of a run, which a process gets once."""
    with _guard:
        if token not in _flows:
            _flows[token] = pickle.loads(leader.ask("flow"))  # noqa: S301 - of the leader
            while len(_flows) > _KEPT_FLOWS:
                _flows.popitem(last=False)
        return _flows[token]


# -- what is said meanwhile -----------------------------------------------------------------------

_told_to: contextvars.ContextVar[_Asked | None] = contextvars.ContextVar(
    "ixflow_told_to", default=None
)


class _Forward(logging.Handler):
    """Sends what tasks log to the leader."""

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record as text; events are sent as they are, by another way."""
        leader = _told_to.get()
        arguments = record.args if isinstance(record.args, tuple) else ()
        if leader is None or any(isinstance(one, Event) for one in arguments):
            return
        kept = ("name", "levelno", "levelname", "pathname", "filename", "lineno", "funcName")
        said = {key: getattr(record, key) for key in (*kept, "created", "process", "processName")}
        text = logging.Formatter("%(message)s").format(record)
        leader.tell("log", {**said, "msg": text, "args": ()})


class _Forwarding:
    """Whether records are sent: while a step runs, and not a moment longer."""

    def __init__(self) -> None:
        self._handler = _Forward()
        self._steps = 0
        self._levels: dict[str, int] = {}

    def begin(self, levels: dict[str, int]) -> None:
        """Send records of the leader's levels."""
        with _guard:
            self._steps += 1
            if self._steps > 1:
                return
            logging.getLogger().addHandler(self._handler)
            for name, level in levels.items():
                logger = logging.getLogger(name)
                self._levels[name] = logger.level
                logger.setLevel(min(logger.getEffectiveLevel(), level))

    def end(self) -> None:
        """Leave the logging of this process as it was."""
        with _guard:
            self._steps -= 1
            if self._steps:
                return
            logging.getLogger().removeHandler(self._handler)
            for name, level in self._levels.items():
                logging.getLogger(name).setLevel(level)


_forwarding = _Forwarding()


@contextlib.contextmanager
def _told(leader: _Asked, payload: Payload) -> Iterator[None]:
    """Send events and log records of this step to the leader."""
    _forwarding.begin(payload.levels)
    token = _told_to.set(leader)
    try:
        with listen(lambda event: leader.tell("event", event)):
            yield
    finally:
        _told_to.reset(token)
        _forwarding.end()
