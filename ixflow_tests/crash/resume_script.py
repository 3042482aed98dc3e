"""An extraction that kills its own process at a given step, for the crash tests.

    python -m ixflow_tests.crash.resume_script '<json>'

The JSON names the source, the output, the plan, and ``dies``: a step and after how many times.
Steps are those between which a process can die: ``checkpoint`` (before a line), ``checkpointed``
(behind it), ``half a line``, ``adopt``, ``manifest`` (before it is written), ``publish`` (the
manifest is there, the publication is not), ``published`` (and nothing tidied up).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ixflow import ExtractionIntent, execute_plan
from ixflow.events import ChunkExtracted, listen
from ixflow.extraction import objects, storage
from ixflow.extraction.plan import ExecutionPlan


def die() -> None:
    """Die as by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


class Counter:
    """Dies at the given time that its step is reached."""

    def __init__(self, step: str, times: int) -> None:
        """Take the step that is deadly, and after how many times it is."""
        self.step, self.left = step, times

    def at(self, step: str) -> None:
        """Reach a step."""
        if step == self.step:
            if self.left == 0:
                die()
            self.left -= 1


def around(owner: type, name: str, counter: Counter, before: str, after: str) -> None:
    """Let a method reach a step before and one behind it."""
    real: Callable[..., Any] = getattr(owner, name)

    def called(self: Any, *args: Any, **options: Any) -> Any:
        counter.at(before)
        result = real(self, *args, **options)
        counter.at(after)
        return result

    setattr(owner, name, called)


def torn_line(counter: Counter) -> None:
    """Let a line of a checkpoint be half written."""
    real = storage.RunDirectory.checkpoint

    def checkpoint(self: Any, text: str, *, first: bool = False) -> None:
        if counter.step == "half a line" and counter.left == 0 and not first:
            with (self.path / ".checkpoint").open("a") as file:
                file.write(text[: len(text) // 2])
        counter.at("half a line")
        real(self, text, first=first)

    storage.RunDirectory.checkpoint = checkpoint  # type: ignore[method-assign] # the crash point


def arm(counter: Counter) -> None:
    """Put the steps into the product."""
    torn_line(counter)
    for owner in (storage.RunDirectory, objects.ObjectRun):
        around(owner, "checkpoint", counter, "checkpoint", "checkpointed")
        around(owner, "adopt", counter, "adopt", "adopted")
        around(owner, "publish", counter, "manifest", "done")
    around(storage.OutputPlace, "replace_link", counter, "publish", "linked")
    around(objects.ObjectPlace, "replace_manifest", counter, "publish", "published")
    around(storage.OutputPlace, "_collect", counter, "published", "collected")


def main() -> None:
    """Run what the arguments say; print the chunks that were read, and the result."""
    given = json.loads(sys.argv[1])
    arm(Counter(*given["dies"]))
    intent = ExtractionIntent(**given["intent"])
    made = ExecutionPlan.from_dict(json.loads(Path(given["plan"]).read_text()))
    read: list[str] = []

    def hear(event: object) -> None:
        if isinstance(event, ChunkExtracted):
            read.append(event.chunk_id)

    with listen(hear):
        result = execute_plan(made, intent, moment=given.get("moment"))
    said = {"read": sorted(read), "resumed": result.tasks_resumed, "run_id": result.run_id}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
