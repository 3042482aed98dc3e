"""A real Redis for the tests: one server on loopback, from Debian's `redis-server`."""

from __future__ import annotations

import shutil

from ixflow.demo.server_process import LOOPBACK, ServerProgramsNotFound
from ixflow_tests.loopback_server import LoopbackServer

__all__ = ["RedisServer"]


class RedisServer(LoopbackServer):
    """A server that keeps everything in memory, for as long as the `with` block."""

    name, question, answer = "Redis", b"PING\r\n", b"+PONG"

    @property
    def url(self) -> str:
        """Give what a client connects to."""
        return f"redis://{LOOPBACK}:{self._port}/0"

    def _command(self) -> list[str]:
        program = shutil.which("redis-server")
        if program is None:
            raise ServerProgramsNotFound(
                "redis-server is not on this machine. Install Debian's package `redis-server`."
            )
        options = {"bind": LOOPBACK, "port": self._port, "save": "", "appendonly": "no"}
        return [program, *(word for k, v in options.items() for word in (f"--{k}", str(v)))]
