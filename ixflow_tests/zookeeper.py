"""A real ZooKeeper for the tests: one server on loopback, from Debian's `libzookeeper-java`."""

from __future__ import annotations

import shutil
from pathlib import Path

from ixflow.demo.server_process import LOOPBACK, ServerProgramsNotFound
from ixflow_tests.loopback_server import LoopbackServer

__all__ = ["ZooKeeperServer"]

_JAR = Path("/usr/share/java/zookeeper.jar")
_MAIN = "org.apache.zookeeper.server.ZooKeeperServerMain"
_JAVA = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
# A session may last between 2 and 20 of these.
_TICK_MILLISECONDS = 200


class ZooKeeperServer(LoopbackServer):
    """A server whose sessions outlive its process, in its data."""

    name, question, answer = "ZooKeeper", b"ruok", b"imok"

    @property
    def hosts(self) -> str:
        """Give what a client connects to."""
        return f"{LOOPBACK}:{self._port}"

    def _command(self) -> list[str]:
        java = shutil.which("java")
        if java is None or not _JAR.exists():
            raise ServerProgramsNotFound(
                "java or ZooKeeper is not on this machine. Install Debian's packages "
                "`default-jre-headless` and `libzookeeper-java`."
            )
        return [java, *_JAVA, "-cp", str(_JAR), _MAIN, str(self._config())]

    def _config(self) -> Path:
        said = {
            "tickTime": _TICK_MILLISECONDS,
            "dataDir": self._directory / "data",
            "clientPort": self._port,
            "clientPortAddress": LOOPBACK,
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "ruok",
            "maxClientCnxns": 0,
        }
        path = self._directory / "zoo.cfg"
        path.write_text("".join(f"{key}={value}\n" for key, value in said.items()))
        return path
