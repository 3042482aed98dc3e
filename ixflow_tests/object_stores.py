"""Object stores for the tests: servers on loopback, in processes of their own, with one bucket.

S3 is moto, which knows unfinished uploads and conditional writes, and rclone, which checks
signatures. GCS is rclone behind Google's XML API; it ignores conditions, and marks no answer as a
part, so that parts of objects cannot be read from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import obstore
from obstore.store import GCSStore, S3Store

from ixflow.demo.server_process import LOOPBACK, Account, free_port, log_tail, spawn, stop

__all__ = ["ObjectServer", "moto_server", "rclone_gcs_server", "rclone_s3_server"]

BUCKET = "lake"
SECRET = "s3cr/et+of the=bucket"
"""Made up, with characters that URLs quote."""
_START_SECONDS = 60.0


@dataclass
class ObjectServer:
    """A running server: how an intent names a place in it, and what it holds."""

    scheme: str
    url: str
    options: dict[str, Any] = field(default_factory=dict)

    def place(self, prefix: str) -> dict[str, Any]:
        """Give the output options of an intent."""
        return {
            "output_dir": f"{self.scheme}://{BUCKET}/{prefix}",
            "storage_options": self.options,
        }

    def store(self) -> Any:
        """Give a client that is not ours."""
        make: Any = S3Store if self.scheme == "s3" else GCSStore
        return make(BUCKET, config=self.options, client_options={"allow_http": True})

    def keys(self, prefix: str) -> list[str]:
        """List what everybody can see below a prefix."""
        return sorted(o["path"] for page in obstore.list(self.store(), prefix) for o in page)

    def read(self, key: str) -> bytes:
        """Read an object."""
        return bytes(obstore.get(self.store(), key).bytes())

    def unfinished(self) -> list[str]:
        """List the keys of uploads that were begun and neither completed nor aborted."""
        with urllib.request.urlopen(f"{self.url}/{BUCKET}?uploads") as answer:  # noqa: S310
            page = ET.fromstring(answer.read())  # noqa: S314 - our own server
        return sorted(n.text or "" for n in page.iter() if n.tag.rpartition("}")[2] == "Key")


@contextlib.contextmanager
def moto_server(directory: Path) -> Iterator[ObjectServer]:
    """Run moto's S3, with an empty bucket."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    with _running(command, directory, port) as url:
        asked = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")  # noqa: S310
        urllib.request.urlopen(asked).close()  # noqa: S310
        yield ObjectServer("s3", url, _s3_options(url))


@contextlib.contextmanager
def rclone_s3_server(directory: Path) -> Iterator[ObjectServer]:
    """Run rclone's S3, which lets in only who signs with the secret."""
    with _rclone(directory, "--auth-key", f"AKIXFLOW,{SECRET}") as url:
        yield ObjectServer("s3", url, _s3_options(url))


@contextlib.contextmanager
def rclone_gcs_server(directory: Path) -> Iterator[ObjectServer]:
    """Run rclone as Google Cloud Storage that lets everybody in."""
    with _rclone(directory) as url:
        key = {
            "gcs_base_url": url,
            "disable_oauth": True,
            "client_email": "",
            "private_key": SECRET,
            "private_key_id": "",
        }
        yield ObjectServer("gs", url, {"service_account_key": json.dumps(key)})


def _s3_options(url: str) -> dict[str, Any]:
    return {
        "endpoint": url,
        "region": "us-east-1",
        "access_key_id": "AKIXFLOW",
        "secret_access_key": SECRET,
    }


@contextlib.contextmanager
def _rclone(directory: Path, *options: str) -> Iterator[str]:
    data = directory / "data"
    (data / BUCKET).mkdir(parents=True)
    port = free_port()
    program = str(Path(sys.executable).with_name("rclone"))
    command = [program, "--config", "", "serve", "s3", "--addr", f"{LOOPBACK}:{port}"]
    with _running([*command, *options, str(data)], directory, port) as url:
        yield url


@contextlib.contextmanager
def _running(command: list[str], directory: Path, port: int) -> Iterator[str]:
    url, log = f"http://{LOOPBACK}:{port}", directory / "log"
    with log.open("ab") as out:
        us = Account(os.geteuid(), os.getegid())
        process = spawn(command, account=us, directory=directory, log=out, end=signal.SIGKILL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start. Its log ends:\n{log_tail(log)}")
            time.sleep(0.05)
        yield url
    finally:
        stop(process, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True
