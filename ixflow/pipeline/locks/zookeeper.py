"""`ZooKeeperLockManager`: locks that a ZooKeeper keeps for many machines."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import threading
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Self

from ixflow.errors import SourceUnavailable, ValidationError
from ixflow.pipeline.blob_store import spelled
from ixflow.pipeline.locks.base import BaseLockManager, LockState, holder_name

if TYPE_CHECKING:
    from kazoo.client import KazooClient

__all__ = ["ZooKeeperLockManager"]


class ZooKeeperLockManager(BaseLockManager):
    """Ephemeral nodes below ``base_path``, through `kazoo` (extra ``zookeeper``).

    From a configuration, ``args`` go to `kazoo.client.KazooClient` as they are, except
    ``lock_timeout``, and the locks are below ``/ixflow/locks/<instance_id>``. The client is started
    and stopped by the manager. Who waits stands in a queue. When the connection is suspended, locks
    are UNCERTAIN and no stage is committed until it is back; a session that expired has lost them.

    Raises:
        ValidationError: kazoo is not installed.

    >>> from kazoo.client import KazooClient
    >>> locks = ZooKeeperLockManager(KazooClient(hosts="zk1:2181,zk2:2181"), "/shop/locks")
    """

    slice_seconds = math.inf

    def __init__(self, client: KazooClient, base_path: str, **options: Any) -> None:
        super().__init__(**options)
        self._client = client
        self.base_path = "/" + base_path.strip("/")
        self._nodes: dict[str, Any] = {}
        self._is_started = False
        self._guard = threading.RLock()

    @classmethod
    def _init_conf_(cls, args: dict[str, Any]) -> Self:
        from ixflow.pipeline.config import ConfigContext

        try:
            from kazoo.client import KazooClient
        except ImportError as error:
            msg = "ZooKeeperLockManager needs the package kazoo; install ixflow[zookeeper]"
            raise ValidationError(msg) from error
        instance_id = ConfigContext.get().instance_id
        own = {key: args.pop(key) for key in ("lock_timeout",) if key in args}
        place = f"/ixflow/locks/{spelled(instance_id)}"
        return cls(KazooClient(**args), place, instance_id=instance_id, **own)

    def __repr__(self) -> str:
        """Show the servers and the path."""
        return f"ZooKeeperLockManager({self._servers!r}, {self.base_path!r})"

    @property
    def _servers(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in sorted(self._client.hosts))

    @property
    def scope(self) -> Hashable:
        """The servers and the path."""
        return ("zookeeper", self._servers, self._client.chroot, self.base_path)

    def _path(self, name: str) -> str:
        return f"{self.base_path}/{spelled(name)}"

    def _start(self) -> None:
        from kazoo.handlers.threading import KazooTimeoutError

        with self._guard:
            if self._is_started:
                return
            self._client.add_listener(self._hear)
            try:
                self._client.start()
            except KazooTimeoutError as error:
                self._client.stop()
                raise self._unavailable(error) from None
            self._is_started = True

    def _unavailable(self, error: Exception) -> SourceUnavailable:
        said = str(error) or type(error).__name__
        msg = f"ZooKeeper at {self._servers} cannot be used: {said}; check hosts and that it runs"
        return SourceUnavailable(msg, hosts=self._servers)

    def _hear(self, state: str) -> None:
        """Note what kazoo says of the connection; it says CONNECTED after LOST, too."""
        from kazoo.protocol.states import KazooState

        found = {KazooState.SUSPENDED: LockState.UNCERTAIN, KazooState.LOST: LockState.INVALID}
        self._change_all(found.get(state, LockState.LOCKED))

    def _take(self, name: str, seconds: float) -> bool:
        from kazoo.exceptions import KazooException, LockTimeout

        self._start()
        since = dt.datetime.now(dt.UTC).isoformat(" ", "seconds")
        node = self._client.Lock(self._path(name), f"{holder_name()} since {since}")
        try:
            taken = node.acquire(timeout=seconds) if seconds > 0 else node.acquire(blocking=False)
        except LockTimeout:
            return False
        except KazooException as error:
            raise self._unavailable(error) from error
        except BaseException:
            # Ctrl-C leaves our place in the queue behind.
            self._end_session()
            raise
        if taken:
            self._nodes[name] = node
        return bool(taken)

    def _drop(self, name: str) -> None:
        from kazoo.exceptions import KazooException

        node = self._nodes.pop(name)
        try:
            if self._client.connected:
                node.release()
                return
        except KazooException:
            pass
        # Its node would stay for as long as the session.
        self._end_session()

    def _end_session(self) -> None:
        with self._guard:
            if self._is_started:
                self._is_started = False
                self._client.remove_listener(self._hear)
                self._client.stop()
        self._change_all(LockState.INVALID)

    def _look(self, name: str, known: LockState) -> LockState:
        from kazoo.exceptions import KazooException

        del known
        node = self._nodes[name]
        if not self._client.connected:
            # Whether it is lost is for the server to say, which `_hear` learns.
            return LockState.UNCERTAIN
        try:
            found = self._client.exists(f"{node.path}/{node.node}")
        except KazooException:
            return LockState.UNCERTAIN
        session = self._client.client_id
        mine = found is not None and session and found.ephemeralOwner == session[0]
        return LockState.LOCKED if mine else LockState.INVALID

    def _holder(self, name: str) -> str | None:
        from kazoo.exceptions import KazooException

        with contextlib.suppress(KazooException):
            waiting = self._client.Lock(self._path(name)).contenders()
            return waiting[0] if waiting else None
        return None

    def _close(self) -> None:
        self._end_session()
        self._client.close()
