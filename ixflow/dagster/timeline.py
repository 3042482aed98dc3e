"""A picture of what ran when: the tasks of a stage, or the chunks of an extraction by worker."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from ixflow.dagster.svg import Picture, shortened
from ixflow.events import ChunkExtracted, Event, TaskFinished

__all__ = ["Bar", "Recorder", "timeline", "timeline_picture"]

_MOST_BARS = 40
_LEFT, _ROW, _WIDTH = 190, 18, 440
_COLOURS = {
    "completed": "#284",
    "resumed": "#58d",
    "cache valid": "#bbc",
    "failed": "#c33",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that took time: what, since when, how long (seconds), its state, a remark."""

    name: str
    start: float
    seconds: float
    state: str = "completed"
    remark: str = ""

    @property
    def end(self) -> float:
        """When it ended."""
        return self.start + self.seconds


class Recorder:
    """A listener that remembers when tasks of a stage, or chunks of an extraction, ran.

    >>> seen = Recorder()
    >>> seen(TaskFinished("staging", "orders", "completed", 0.5, 10))
    >>> [(bar.name, bar.state, bar.remark) for bar in seen.bars]
    [('orders', 'completed', '10 rows')]
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._bars: list[Bar] = []

    def __call__(self, event: Event) -> None:
        """Take in one event: it is told when the work has ended."""
        ended = time.monotonic() - self._begun
        if isinstance(event, TaskFinished):
            remark = "" if event.rows is None else f"{event.rows:,} rows"
            made = Bar(event.task, ended - event.seconds, event.seconds, event.state, remark)
        elif isinstance(event, ChunkExtracted):
            name, remark = event.chunk_id, f"{event.rows:,} rows"
            made = Bar(name, ended - event.seconds, event.seconds, "completed", remark)
        else:
            return
        with self._lock:
            self._bars.append(made)

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What ran, in the order of its beginning."""
        with self._lock:
            return tuple(sorted(self._bars, key=lambda bar: bar.start))


def timeline(bars: Sequence[Bar], *, lanes: bool = False) -> dg.MetadataValue:
    """Draw the bars as Markdown, for metadata; with ``lanes`` those that follow share a line."""
    return timeline_picture(bars, lanes=lanes).markdown("timeline")


def timeline_picture(bars: Sequence[Bar], *, lanes: bool = False) -> Picture:
    """Draw the bars: a line each, or a line a worker. Of many, the longest are shown."""
    rows = _lanes(bars) if lanes else [[bar] for bar in bars]
    rows, left_out = _fewer(rows)
    first = min((bar.start for bar in bars), default=0.0)
    last = max((bar.end for bar in bars), default=0.0)
    scale = (_WIDTH - _LEFT) / max(last - first, 1e-9)
    picture = Picture(_WIDTH, (len(rows) + 1) * _ROW + 4)
    picture.text(4, 13, f"{last - first:,.2f} s in all{left_out}")
    for number, row in enumerate(rows, start=1):
        y = number * _ROW
        picture.text(4, y + 13, shortened(_said(row, number, lanes=lanes), 34))
        for bar in row:
            x = _LEFT + (bar.start - first) * scale
            # A gap tells bars apart that follow each other.
            width = max(bar.seconds * scale - 1, 1)
            picture.bar((x, y + 3, width, _ROW - 6), _COLOURS.get(bar.state, "#86b"))
    return picture


def _said(row: Sequence[Bar], number: int, *, lanes: bool) -> str:
    if lanes:
        chunks = "1 chunk" if len(row) == 1 else f"{len(row)} chunks"
        return f"worker {number}: {chunks}, {sum(bar.seconds for bar in row):.2f} s"
    [bar] = row
    state = "" if bar.state == "completed" else f", {bar.state}"
    return f"{shortened(bar.name, 22)} {bar.seconds:.2f} s{state}"


def _lanes(bars: Sequence[Bar]) -> list[list[Bar]]:
    """Put bars that follow each other on one line: as many lines as ran at a time.

    >>> [len(lane) for lane in _lanes([Bar("a", 0, 2), Bar("b", 1, 2), Bar("c", 2, 1)])]
    [2, 1]
    """
    found: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: bar.start):
        # What is measured when it ends may seem to begin a little before the one before has ended.
        free = [lane for lane in found if lane[-1].end <= bar.start + 0.02]
        if free:
            free[0].append(bar)
        else:
            found.append([bar])
    return found


def _fewer(rows: list[list[Bar]]) -> tuple[list[list[Bar]], str]:
    """Keep the picture small: of many bars the longest."""
    bars = sorted((bar for row in rows for bar in row), key=lambda bar: -bar.seconds)
    if len(bars) <= _MOST_BARS:
        return rows, ""
    shown = set(map(id, bars[:_MOST_BARS]))
    kept = [[bar for bar in row if id(bar) in shown] for row in rows]
    return [row for row in kept if row], f"; the {_MOST_BARS} longest of {len(bars)}"
