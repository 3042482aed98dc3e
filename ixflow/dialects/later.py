"""Loads whose end is waited for later, while the next rows are made ready."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

__all__ = ["Later", "Wait", "apart"]

Wait = Callable[[], None]
"""Waits for the end of a load, and raises what went wrong."""


@dataclass(frozen=True, slots=True)
class Later:
    """What a load does before it begins, and with the wait for its own end.

    >>> waits = []
    >>> later = Later(settle=lambda: print("settled"), hold=waits.append)
    >>> later.settle()
    settled
    >>> later.hold(lambda: print("ended"))
    >>> waits[0]()
    ended
    """

    settle: Callable[[], None]
    """Waits for the load before: nothing may be loaded until then."""
    hold: Callable[[Wait], None]
    """Takes the wait, for whoever loads next."""

    def within(self, telling: Callable[[], AbstractContextManager[None]]) -> Later:
        """Wait inside a context, such as one that turns the driver's errors into ixflow's."""

        def hold(wait: Wait) -> None:
            def told() -> None:
                with telling():
                    wait()

            self.hold(told)

        return replace(self, hold=hold)


def apart(work: Callable[[], None], cancel: Callable[[], None]) -> Wait:
    """Do the work in a thread; waiting for it raises what it raised.

    ``cancel`` is called where the wait is interrupted, as by Ctrl-C.

    >>> apart(lambda: print("done"), cancel=lambda: None)()
    done
    """
    raised: list[BaseException] = []
    busy = _thread.allocate_lock()
    busy.acquire()

    def watched() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            raised.append(error)
        finally:
            busy.release()

    try:
        # `threading.Thread.start` waits until the thread runs, which takes as long as the work.
        _thread.start_new_thread(watched, ())
    except RuntimeError:  # no thread is to be had
        watched()

    def wait() -> None:
        try:
            with busy:
                pass
        except BaseException:
            cancel()
            raise
        if raised:
            raise raised[0]

    return wait
