"""Telling a slow source from a network that says nothing.

A query may compute for hours before its next row, so silence ends nothing. After a while without a
byte the server is asked on another connection; only when it says three times in a row that nothing
will come, or nobody answers three times in a row, the connection is given up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ixflow.dialects.facts import Traceable

__all__ = ["Silence"]

_DOUBTS, _AGAIN_SECONDS = 3, 5.0


class Silence:
    """How long one session has waited without a byte, and what its server says about it.

    ``look`` is called again and again; ``give_up`` hears once for each silence why it will last.
    """

    def __init__(self, seconds: float | None, give_up: Callable[[str], None]) -> None:
        """Take the seconds after which the server is asked; None: it is never asked."""
        self._seconds, self._give_up = seconds, give_up
        self._heard: tuple[float, int] | None = None
        self._quiet_since = 0.0
        self._doubts = 0
        self._asking = False

    def look(self, reader: object, waiting_since: float | None) -> None:
        """See whether something has come; if not for too long, ask. Never waits."""
        if self._seconds is None or waiting_since is None or not isinstance(reader, Traceable):
            return
        heard = (waiting_since, reader.received())
        if heard != self._heard:
            self._heard, self._quiet_since, self._doubts = heard, time.monotonic(), 0
            return
        patience = _AGAIN_SECONDS if self._doubts else self._seconds
        if not self._asking and time.monotonic() - self._quiet_since > patience:
            self._asking = True
            asking = (reader, heard)
            threading.Thread(target=self._ask, args=asking, daemon=True, name="ixflow-ask").start()

    def _ask(self, reader: Traceable, heard: tuple[float, int]) -> None:
        try:
            why = reader.fate()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            why = f"the server does not answer: {error}"
        if heard == self._heard:
            self._doubts = self._doubts + 1 if why is not None else 0
            self._quiet_since = time.monotonic()
            # A byte may have come since the last look.
            if why is not None and self._doubts == _DOUBTS and reader.received() == heard[1]:
                self._give_up(why)
        self._asking = False
