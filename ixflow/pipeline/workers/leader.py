"""The leader's side: it listens, and answers the workers of a run, a thread for each.

All that decides is here: what may start, which names are taken, what a task came to. A worker that
is gone leaves its task begun and not ended, which is a failure when the engine has returned.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ixflow.errors import FlowError
from ixflow.events import Event, TaskFinished, emit
from ixflow.pipeline.memo import Memo
from ixflow.pipeline.progress import Ended
from ixflow.pipeline.result import TaskState
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task
from ixflow.pipeline.workers.channel import Channel, Closed, Unreadable
from ixflow.pipeline.workers.messages import Assignment, Failure, Report
from ixflow.pipeline.workers.payload import packed

if TYPE_CHECKING:
    from ixflow.pipeline.execute import Outcome, StageExecution
    from ixflow.pipeline.run import Run
    from ixflow.pipeline.schedule import Node

__all__ = ["Leader"]

_log = logging.getLogger("ixflow.pipeline")


class Leader:
    """Answers workers in the block.

    ``address`` and ``key`` are what a worker needs, ``token`` tells runs apart.

    Raises:
        FlowError: the flow cannot be sent, or the network interface cannot be listened on.

    """

    def __init__(
        self, run: Run, nodes: list[Node], within: Callable[[Callable[[], Any]], Any]
    ) -> None:
        self.run = run
        self.nodes = nodes
        self.within = within
        self.payload = packed(run)
        self.numbers = {task: n for n, task in enumerate(run.flow.tasks if run.flow else ())}
        self.key = secrets.token_bytes(32)
        self.token = secrets.token_hex(8)
        interface = run.config.network_interface if run.config else "127.0.0.1"
        self._socket = _listening(interface)
        host, port = self._socket.getsockname()[:2]
        self.address = (socket.gethostname() if host in ("0.0.0.0", "::") else host, port)  # noqa: S104 - compared
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._guard = threading.Lock()

    def __enter__(self) -> Self:
        """Start to listen."""
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let nobody in any more, send everybody away, and let a publication be finished."""
        del kind, error, trace
        with self._guard:
            self._closing = True
            connected = list(self._sockets)
        for sock in (self._socket, *connected):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="ixflow leader", daemon=True)
        with self._guard:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with self._guard:
            if self._closing:
                sock.close()
                return
            self._sockets.add(sock)
        conversation = _Conversation(self)
        try:
            with sock:
                channel = Channel(sock, self.key, called=True)
                while True:
                    name, arguments = channel.receive()
                    channel.send(conversation.answer(name, arguments))
        except Unreadable as error:
            _log.error("a worker is sent away: %s", error)
        except Closed:
            pass
        finally:
            conversation.end()
            with self._guard:
                self._sockets.discard(sock)


def _listening(interface: str) -> socket.socket:
    host = interface.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, 0), family=family)
    except OSError as error:
        msg = f"cannot listen for workers on the network_interface {interface!r}: {error}"
        raise FlowError(msg, network_interface=interface) from error


class _Conversation:
    """What one worker asks while it runs one step."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._run = leader.run
        self._task: Task | None = None
        self._claimed: set[str] = set()
        self._answers: dict[str, Callable[..., Any]] = {
            "flow": lambda: leader.payload,
            "begin": self._begin,
            "claim": self._claim,
            "settle": self._settle,
            "fail": self._fail,
            "register": self._register,
            "schema": self._schema,
            "event": self._event,
            "log": self._logged,
            "failed": self._failed,
            "done": self._done,
        }

    def answer(self, name: str, arguments: Iterable[Any]) -> tuple[bool, Any]:
        """Do what is asked: whether it went well, and the answer or the failure."""
        try:
            return True, self._leader.within(lambda: self._answers[name](*arguments))
        except Exception as error:  # noqa: BLE001 - the worker raises it
            return False, Failure.of(error)

    def end(self) -> None:
        """Give back what the worker had taken on and did not end."""
        for key in self._claimed:
            self._memo.abandon(key)

    @property
    def _execution(self) -> StageExecution:
        assert self._task is not None  # noqa: S101 - a worker begins first
        return self._run.execution(self._task.stage)

    @property
    def _memo(self) -> Memo[Outcome]:
        memo = self._execution.memo
        assert isinstance(memo, Memo)  # noqa: S101 - the leader's own
        return memo

    def _begin(self, index: int) -> Ended | Assignment:
        node = self._leader.nodes[index]
        if isinstance(node, Stage):
            return self._run.perform(node)
        ended = self._run.progress.begin(node)
        if ended is not None:
            return ended
        self._task = node
        numbers = self._leader.numbers
        try:
            values = {numbers[up]: self._run.value_of(up, node) for up in node.upstream}
            schema = self._execution.transaction.schema
        except Exception as error:  # noqa: BLE001 - so the task cannot run
            emit(TaskFinished(node.stage.name, node.name, TaskState.FAILED, 0.0))
            error.add_note(f"in task {node.stage.name}.{node.name}")
            return self._run.progress.fail(node, error)
        return Assignment(numbers[node], values, tuple(self._run.reads_of(node)), schema)

    def _claim(self, key: str) -> Report | None:
        found = self._memo.claim(key)
        if found is None:
            self._claimed.add(key)
            return None
        return Report.of(found, self._execution.transaction)

    def _settle(self, key: str, report: Report) -> None:
        assert self._task is not None  # noqa: S101 - a worker begins first
        self._memo.settle(key, report.outcome(self._task, self._execution.transaction))
        self._claimed.discard(key)

    def _fail(self, key: str, failure: Failure) -> None:
        self._memo.fail(key, failure.arrived())
        self._claimed.discard(key)

    def _register(self, task: str, key: str, names: Iterable[str]) -> None:
        self._memo.register(task, key, names)

    def _schema(self, which: str, stage: str) -> str:
        found = self._leader.run.flow.stages[stage] if self._leader.run.flow else Stage(stage)
        if which == "transaction":
            return self._run.transaction_schema(found)
        return self._run.current_schema(found)

    def _event(self, event: Event) -> None:
        emit(event)

    def _logged(self, said: dict[str, Any]) -> None:
        record = logging.makeLogRecord(said)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)

    def _done(self, report: Report) -> Ended:
        assert self._task is not None  # noqa: S101 - a worker begins first
        outcome = report.outcome(self._task, self._execution.transaction)
        self._execution.outcomes[self._task] = outcome
        self._run.outcomes[self._task] = outcome
        return self._run.progress.succeed(self._task, outcome.state)

    def _failed(self, failure: Failure) -> Ended:
        assert self._task is not None  # noqa: S101 - a worker begins first
        return self._run.progress.fail(self._task, failure.arrived())
