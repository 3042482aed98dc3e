"""The stand-in in a process of its own, for the tests."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from ixflow_tests.tds.tls import make_certificate

__all__ = ["PASSWORD", "USER", "TDSServer"]

USER = "sa"
PASSWORD = "p@ss:w/rd%;}{ 1"


class TDSServer:
    """A running stand-in, for as long as the ``with`` block; ``tls``: all it says is encrypted."""

    def __init__(self, *, tls: bool = False) -> None:
        self._tls = tls

    def __enter__(self) -> Self:
        """Start it and wait until it listens."""
        self._place = tempfile.TemporaryDirectory(prefix="ixflow-tds-")
        self._log = Path(self._place.name) / "statements"
        self._errors = (Path(self._place.name) / "errors").open("w+", encoding="utf-8")
        command = [sys.executable, "-m", "ixflow_tests.tds", str(self._log)]
        if self._tls:
            command.append(str(make_certificate(Path(self._place.name))))
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self._errors.seek(0)
            errors = self._errors.read()
            self.__exit__(None, None, None)
            raise RuntimeError(f"the stand-in for SQL Server did not start: {errors}")
        self.port = int(said)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it; all data are gone."""
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()
        self._place.cleanup()

    def kill(self) -> None:
        """End the process at once, as a power cut would."""
        self._process.kill()
        self._process.wait()

    @property
    def url(self) -> sa.URL:
        """Give the URL of the database ``master``."""
        query = {"TrustServerCertificate": "yes"} if self._tls else {"Encrypt": "no"}
        return sa.URL.create(
            "mssql+mssqlpython", USER, PASSWORD, "127.0.0.1", self.port, "master", query
        )

    def statements(self) -> list[str]:
        """Give every statement that clients have sent, in order."""
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []
        return [json.loads(line) for line in lines]

    def failures(self) -> str:
        """Give what the process said about its own faults."""
        return Path(self._errors.name).read_text(encoding="utf-8")
