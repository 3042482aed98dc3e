"""The server: one thread for each client, from login to the last statement."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ixflow_tests.tds import wire
from ixflow_tests.tds.session import Databases, Result, Session, TSQLError
from ixflow_tests.tds.tls import Channel

__all__ = ["Server"]

_BATCH, _CALL, _ATTENTION, _TRANSACTION, _LOGIN, _PRELOGIN = 0x01, 0x03, 0x06, 0x0E, 0x10, 0x12
_PROCEDURES = {
    10: "sp_executesql",
    11: "sp_prepare",
    12: "sp_execute",
    13: "sp_prepexec",
    15: "sp_unprepare",
}
_DECLARED = re.compile(r"@(\w+)\s+\w")
_NO_STATUS = b"\x79" + struct.pack("<i", 0)


class Server(socketserver.ThreadingTCPServer):
    """Listens on the loopback; writes every statement of its clients to a file, if there is one."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(
        self,
        user: str,
        password: str,
        log: Path | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.databases = Databases()
        self.context = context
        self.user, self.password = user, password
        self._log, self._log_lock = log, threading.Lock()
        super().__init__(("127.0.0.1", 0), _Client)

    def note(self, statement: str) -> None:
        """Write a statement down."""
        if self._log is not None:
            with self._log_lock, self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(statement) + "\n")


class _Client(socketserver.BaseRequestHandler):
    server: Server
    request: socket.socket

    def setup(self) -> None:
        self._wire = wire.Wire(self.request)
        self._session: Session | None = None

    def handle(self) -> None:
        # A client that does not trust us says so in the handshake.
        with contextlib.suppress(EOFError, ConnectionError, ssl.SSLError):
            self._serve()
        if self._session is not None:
            self._session.close()

    def _serve(self) -> None:
        while True:
            kind, content = self._wire.message()
            if kind not in (_PRELOGIN, _LOGIN):
                self._answer(kind, content)
            elif not self._let_in(kind, content):
                return

    def _let_in(self, kind: int, content: bytes) -> bool:
        if kind == _PRELOGIN:
            context = self.server.context
            self._wire.write(wire.prelogin(encrypted=context is not None))
            self._wire.end()
            if context is not None:
                self._wire.encrypt(Channel(context))
            return True
        asked = wire.login(content)
        answer = b""
        try:
            self._check_login(asked)
            self._session = Session(self.server.databases, asked.database)
            answer = wire.logged_in(asked.database, asked.packet_size, features=asked.features)
        except TSQLError as error:
            answer = wire.error(error.number, str(error)) + wire.done(failed=True)
        self._wire.write(answer)
        self._wire.end()
        self._wire.packet_size = asked.packet_size
        return self._session is not None

    def _check_login(self, asked: wire.Login) -> None:
        if (asked.user, asked.password) != (self.server.user, self.server.password):
            msg = f"Login failed for user '{asked.user}'."
            raise TSQLError(msg, 18456)

    def _answer(self, kind: int, content: bytes) -> None:
        session = self._session
        assert session is not None
        if kind == _BATCH:
            before = session.in_transaction
            text = wire.query_text(content)
            ok = self._run(text)
            if session.in_transaction != before:
                self._wire.write(wire.changed(in_transaction=session.in_transaction))
            self._wire.write(wire.done(failed=not ok))
        elif kind == _CALL:
            self._call(content)
        elif kind == _TRANSACTION:
            self._transact(content)
        elif kind == _ATTENTION:
            # The answer was out already: attention is acknowledged alone.
            self._wire.write(struct.pack("<BHHQ", wire.DONE, 0x20, 0, 0))
        else:
            raise EOFError
        self._wire.end()

    def _run(
        self, text: str, given: Mapping[str, Any] | None = None, *, called: bool = False
    ) -> bool:
        """Send all results of a batch; say whether it came to its end."""
        assert self._session is not None
        self.server.note(text)
        token = wire.DONE_IN_PROC if called else wire.DONE
        try:
            for result in self._session.run(text, given):
                rows = self._session.rows_sent = self._send(result)
                self._wire.write(wire.done(token, rows=rows, more=True))
        except (TSQLError, ValueError, NotImplementedError) as error:
            number = error.number if isinstance(error, TSQLError) else 50000
            self._wire.write(wire.error(number, str(error)))
            self._wire.write(wire.done(token, more=True, failed=True))
            return False
        return True

    def _send(self, result: Result) -> int:
        if result.columns is None:
            return result.changed
        described, encoders = wire.columns(result.columns)
        self._wire.write(described)
        kind, left = result.fault or ("", 0)
        count = 0
        for row in result.rows:
            sent = b"\xd1" + b"".join(e(v) for e, v in zip(encoders, row, strict=True))
            if kind and left < len(sent):
                self._wire.write(sent[:left] if kind == "close" else b"")
                self._go_wrong(kind)
            self._wire.write(sent)
            left -= len(sent)
            count += 1
        return count

    def _go_wrong(self, kind: str) -> None:
        if kind in ("cut", "close"):
            self._wire.leave(reset=kind == "cut")
        if kind == "deadlock":
            msg = (
                "Transaction (Process ID 55) was deadlocked on lock resources with another process "
                "and has been chosen as the deadlock victim. Rerun the transaction."
            )
            raise TSQLError(msg, 1205)
        msg = "Divide by zero error encountered."
        raise TSQLError(msg, 8134)

    def _transact(self, content: bytes) -> None:
        assert self._session is not None
        (headers,) = struct.unpack_from("<I", content)
        (what,) = struct.unpack_from("<H", content, headers)
        self._session.transact({5: "begin", 7: "commit", 8: "rollback"}[what])
        self._wire.write(wire.changed(in_transaction=what == 5))
        if what != 5 and content[headers + 3 + content[headers + 2]] & 1:
            # The next transaction begins at once.
            self._session.transact("begin")
            self._wire.write(wire.changed(in_transaction=True))
        self._wire.write(wire.done())

    def _call(self, content: bytes) -> None:
        session = self._session
        assert session is not None
        called, given = wire.parameters(content)
        name = _PROCEDURES.get(called, "") if isinstance(called, int) else called
        if name == "sp_unprepare":
            self._wire.write(_NO_STATUS + wire.done(wire.DONE_PROC))
            return
        values = [parameter.value for parameter in given]
        handle = b""
        if name == "sp_prepexec":
            handle = _returned(session.prepare(values[2], values[1]))
            text, declaration, arguments = values[2], values[1], given[3:]
        elif name == "sp_executesql":
            text, declaration, arguments = values[0], [*values, ""][1], given[2:]
        elif name == "sp_execute":
            (text, declaration), arguments = session.prepared(values[0]), given[1:]
        else:
            msg = f"Could not find stored procedure '{name or called}'."
            self._wire.write(wire.error(2812, msg) + wire.done(wire.DONE_PROC, failed=True))
            return
        names = [found.lower() for found in _DECLARED.findall(declaration or "")]
        bound = {
            argument.name.lower() or names[place]: argument.value
            for place, argument in enumerate(arguments)
        }
        ok = self._run(text, bound, called=True)
        self._wire.write(_NO_STATUS + handle + wire.done(wire.DONE_PROC, failed=not ok))


def _returned(handle: int) -> bytes:
    """Give a handle back as the first parameter."""
    head = b"\xac" + struct.pack("<H", 0) + b"\0\x01" + struct.pack("<IH", 0, 0)
    return head + b"\x26\x04\x04" + struct.pack("<i", handle)
