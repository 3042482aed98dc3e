"""Paired measurement of commands: same run, in turn, each contender in a process of its own.

A contender is any program that speaks three lines. It gets ready (imports, opens its input), prints
``ready``, and waits for a line; does its work, prints how many rows that were, and waits for the
end of its input. So only the work is measured, from outside, for every contender in the same way:
wall time between the two lines, and what the kernel has counted for its process and for the
database server's processes meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import IO, Any

__all__ = [
    "BenchmarkFailed",
    "Contender",
    "Measurement",
    "Run",
    "WrongRows",
    "contend",
    "cpu_seconds",
    "measure",
    "server_cpu_seconds",
]

_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE_SECONDS = 600.0


class BenchmarkFailed(Exception):
    """A contender did not do its work."""


class WrongRows(BenchmarkFailed):
    """A contender did not do all of its work: its time would be a lie."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that does the case's work. The first contender of a case is its measure.

    A ``peer`` is run by the interpreter of that name's own environment, which ``command`` lacks.
    ``rows`` are those that it has to report, where they are not the case's. ``before`` is called
    before each run, and ``check`` behind it, neither of which is measured; a check that finds the
    work wrong raises `BenchmarkFailed`.
    """

    name: str
    command: tuple[str, ...]
    peer: str | None = None
    rows: int | None = None
    before: Callable[[], None] | None = None
    check: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took. ``peak_mb`` includes imports, ``over_mb`` is what the work added."""

    wall: float
    client_cpu: float
    server_cpu: float
    peak_mb: float
    over_mb: float = 0.0


@dataclass(frozen=True)
class Measurement:
    """All counted runs of one contender."""

    name: str
    rows: int
    runs: tuple[Run, ...]

    def median(self, field: str) -> float:
        """Give the median of one field of the runs."""
        return float(statistics.median(getattr(run, field) for run in self.runs))

    def ratio(self, field: str, measure: Measurement) -> float | None:
        """Divide the medians; None where the measure's is too small to be one."""
        base = measure.median(field)
        return self.median(field) / base if base > 0 else None

    @property
    def rows_per_second(self) -> float:
        """Give the rows per second of the median run."""
        return self.rows / self.median("wall")

    def as_json(self, measure: Measurement) -> dict[str, Any]:
        """Give medians, ratios to the measure, and every run."""
        fields = ("wall", "client_cpu", "server_cpu", "peak_mb", "over_mb")
        return {
            "name": self.name,
            "rows": self.rows,
            "rows_per_second": round(self.rows_per_second),
            "medians": {field: round(self.median(field), 4) for field in fields},
            "ratios": {field: self.ratio(field, measure) for field in fields},
            "runs": [asdict(run) for run in self.runs],
        }


def contend(work: Callable[[], int]) -> None:
    """Do the work when told and say how many rows it was: the contender's side of the three lines.

    Everything that is not to be measured happens before the call, or after it.
    """
    print("ready", flush=True)
    sys.stdin.readline()
    print(work(), flush=True)
    sys.stdin.read()


def measure(
    contenders: Sequence[Contender],
    *,
    rows: int,
    repeat: int,
    server_pid: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Measurement]:
    """Run the contenders in turn: one round to warm up, then ``repeat`` rounds that count.

    Args:
        contenders: What to compare; the first is the measure.
        rows: How many rows each has to report that does not say otherwise itself.
        repeat: Counted runs of each.
        server_pid: The parent of the database server's processes; None: there is no server.
        progress: Hears a line for each run.

    Raises:
        WrongRows: a contender reported another number of rows.
        BenchmarkFailed: a contender ended early, or said something else.

    """
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    expected = {contender.name: contender.rows or rows for contender in contenders}
    for number in range(repeat + 1):
        for contender in contenders:
            run = _prepared_run(contender, expected[contender.name], server_pid)
            if number:
                runs[contender.name].append(run)
            progress(f"round {number} of {repeat}: {contender.name}: {run.wall:.2f} s")
    return [Measurement(name, expected[name], tuple(done)) for name, done in runs.items()]


def _prepared_run(contender: Contender, rows: int, server_pid: int | None) -> Run:
    if contender.before is not None:
        contender.before()
    run = _run(contender, rows, server_pid)
    if contender.check is not None:
        try:
            contender.check()
        except BenchmarkFailed as error:
            raise BenchmarkFailed(f"{contender.name}: {error}") from None
    return run


def _run(contender: Contender, rows: int, server_pid: int | None) -> Run:
    with tempfile.TemporaryFile() as said, _process(contender, said) as process:
        given, told = process.stdin, process.stdout
        assert given is not None
        assert told is not None
        _expect(contender, told.readline() == b"ready\n", said)
        before = _forget_peak(process.pid)
        client, server = cpu_seconds(process.pid), server_cpu_seconds(server_pid)
        started = perf_counter()
        given.write(b"\n")
        given.flush()
        answer = told.readline()
        wall = perf_counter() - started
        _expect(contender, answer.strip().isdigit(), said)
        client_cpu, peak_mb = cpu_seconds(process.pid) - client, _memory_mb(process.pid, "VmHWM")
        given.close()
        _expect(contender, process.wait() == 0 and peak_mb > 0, said)
        server_cpu = server_cpu_seconds(server_pid) - server
    if int(answer) != rows:
        raise WrongRows(f"{contender.name} reported {int(answer):,} rows instead of {rows:,}")
    return Run(wall, client_cpu, server_cpu, peak_mb, max(0.0, peak_mb - before))


@contextlib.contextmanager
def _process(contender: Contender, errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Start the contender; whatever happens, it is gone afterwards."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(contender.command, stdin=pipe, stdout=pipe, stderr=errors)
    watch = threading.Timer(_PATIENCE_SECONDS, process.kill)
    watch.start()
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        watch.cancel()


def _expect(contender: Contender, as_agreed: bool, said: IO[bytes]) -> None:  # noqa: FBT001
    if not as_agreed:
        said.seek(0)
        tail = "\n".join(said.read().decode(errors="replace").splitlines()[-20:])
        raise BenchmarkFailed(f"{contender.name} did not do its work:\n{tail or '(it was silent)'}")


# -- what the kernel counts ------------------------------------------------------------------------
# /proc instead of wait4: it gives the moment when the work ends, and wait4's peak memory begins
# with that of the process that forked.


def cpu_seconds(pid: int) -> float:
    """Give the CPU time of a process and of its children that have ended."""
    fields = _stat(pid)
    return sum(int(field) for field in fields[11:15]) / _TICKS if fields else 0.0


def server_cpu_seconds(pid: int | None) -> float:
    """Give the CPU time of a server's process, its living children and those that have ended."""
    if pid is None:
        return 0.0
    ended = None
    total = 0.0
    # A child that ends between the two looks would be counted twice or not at all.
    while ended != (ended := _stat(pid)[13:15]):
        total = cpu_seconds(pid) + sum(cpu_seconds(child) for child in _children(pid))
    return total


def _children(parent: int) -> Iterator[int]:
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and _stat(int(place.name))[1:2] == [str(parent)]:
            yield int(place.name)


def _stat(pid: int) -> list[str]:
    """Read what follows the program's name, which may hold anything; empty: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _forget_peak(pid: int) -> float:
    """Let the peak begin anew where the kernel allows it, and give the memory that is held."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _memory_mb(pid, "VmRSS")


def _memory_mb(pid: int, which: str) -> float:
    """Give VmRSS, what the process holds, or VmHWM, its peak; 0: it has not waited to be asked."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = next((line.split()[1] for line in lines if line.startswith(f"{which}:")), "0")
    return int(kilobytes) / 1024
