"""What a run tells of each table that it published, as an iterator that can be asked for more."""

import hashlib
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import dagster as dg

from ixflow.dagster.guard import guarded
from ixflow.dagster.metadata import column_schema, lag_metadata
from ixflow.dagster.partition_events import RangeEvents
from ixflow.dagster.parts import Part
from ixflow.dagster.timeline import Bar, timeline
from ixflow.extraction.api import ExecutionResult
from ixflow.extraction.explain import Explanation
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.output import published_uri
from ixflow.extraction.plan import ExecutionPlan, PlanResult

__all__ = ["ExtractionEvents", "Published", "Told"]


@dataclass(frozen=True)
class Published:
    """One table that was published: its plan, its result, and the verdict if it was planned now.

    ``chunks`` say when its chunks were read, ``verdict`` how its plan was judged, if it was.
    """

    part: Part
    intent: ExtractionIntent
    plan: ExecutionPlan
    done: ExecutionResult
    planned: PlanResult | None = None
    chunks: tuple[Bar, ...] = ()
    verdict: dg.AssetCheckResult | None = None

    def event(self, *, rows: bool, columns: bool, plan: bool) -> dg.MaterializeResult[Any]:
        """Tell it to Dagster: equal rows give the same data version."""
        pieces: dict[str, Callable[[], Mapping[str, Any]]] = {
            "the place": self._place,
            "the window": lambda: _window(self.done),
            "the work": lambda: _work(self.done),
        }
        if rows:
            pieces["the rows"] = self._rows
        if columns:
            pieces["the columns"] = lambda: {
                "dagster/column_schema": column_schema(self.plan.columns)
            }
        if plan:
            pieces["the plan"] = self._plan
            pieces["the timeline"] = self._timeline
        metadata: dict[str, Any] = {}
        for piece, make in pieces.items():
            metadata |= guarded(f"{piece} of {self.part}", make, *self.intent.secrets)
        version = dg.DataVersion(_fingerprint(self.done.manifest))
        return dg.MaterializeResult(
            asset_key=self.part.key,
            metadata=metadata,
            data_version=version,
            check_results=[] if self.verdict is None else [self.verdict],
        )

    def _place(self) -> dict[str, Any]:
        intent = self.intent
        return {
            "dagster/uri": published_uri(intent.output_dir, intent.object_name, intent.partition),
            "dagster/storage_kind": intent.file_format,
            **self.part.metadata(),
        }

    def _rows(self) -> dict[str, Any]:
        counted = "row_count" if self.part.partition is None else "partition_row_count"
        return {f"dagster/{counted}": self.done.manifest.total_rows}

    def _plan(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "ixflow/consistency": self.plan.consistency,
            "ixflow/workers": self.plan.worker_count,
            "ixflow/tasks": len(self.plan.tasks),
        }
        if self.planned is None:
            return told | {"ixflow/verdict": "a stored plan was run again"}
        shown = dg.MetadataValue.md(f"```\n{wrapped(str(Explanation(self.planned)))}\n```")
        return told | {"ixflow/verdict": self.planned.verdict, "ixflow/plan": shown}

    def _timeline(self) -> dict[str, Any]:
        return {"ixflow/timeline": timeline(self.chunks, lanes=True)} if self.chunks else {}


Told = dg.MaterializeResult[Any] | dg.AssetCheckResult
"""What is told of one table."""


class ExtractionEvents(Iterator[Told | dg.AssetMaterialization]):
    """The events of an extraction, one a table, each as soon as the table is published.

    Say what they shall tell beside place, size and time before the first one is taken.

    Example::

        yield from planner.run(context).fetch_row_count().fetch_plan()

    """

    def __init__(
        self,
        published: Iterator[Published | tuple[Part, Told]],
        range_: RangeEvents | None = None,
    ) -> None:
        """Take the tables as they are published, or with an event that is passed on as it is.

        ``range_`` gathers the partitions of a range.
        """
        self._published = published
        self._range = range_
        self._failed: BaseException | None = None
        self._rest: Iterator[dg.AssetMaterialization] = iter(())
        self._rows = self._columns = self._plan = False

    def fetch_row_count(self) -> Self:
        """Tell how many rows are published, as ``dagster/row_count``."""
        self._rows = True
        return self

    def fetch_column_metadata(self) -> Self:
        """Tell names, types and keys of the columns, as ``dagster/column_schema``."""
        self._columns = True
        return self

    def fetch_plan(self) -> Self:
        """Tell verdict, plan, workers and tasks, as ``ixflow/plan`` and others."""
        self._plan = True
        return self

    def __next__(self) -> Told | dg.AssetMaterialization:
        """Wait for the next table, or for the last partition of a range."""
        while self._failed is None:
            try:
                part, event = self._told()
            except StopIteration:
                raise
            except BaseException as error:  # noqa: BLE001 - raised when what is done is told
                self._failed, self._rest = error, self._range.rest() if self._range else iter(())
                break
            if (
                self._range is None
                or part.partition is None
                or isinstance(event, dg.AssetCheckResult)
            ):
                return event
            if (whole := self._range.take(event, part.partition)) is not None:
                return whole
        for one in self._rest:
            return one
        raise self._failed

    def _told(self) -> tuple[Part, Told]:
        found = next(self._published)
        if not isinstance(found, Published):
            return found
        event = found.event(rows=self._rows, columns=self._columns, plan=self._plan)
        return found.part, event


def wrapped(text: str, width: int = 60) -> str:
    r"""Break lines that the page of an asset would cut off, behind their own indentation.

    >>> print(wrapped("Plan:\n  orders by ranges of its key", 20))
    Plan:
      orders by ranges
        of its key
    """
    lines = []
    for line in text.splitlines():
        margin = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=f"{margin}  ",
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines)


def _window(done: ExecutionResult) -> dict[str, Any]:
    window = done.manifest.window
    seen: dict[str, Any] = {"ixflow/new_rows": done.rows_extracted}
    if window is not None:
        seen["ixflow/window"] = str(window)
    if window is not None and window.high_watermark is not None:
        seen["ixflow/high_watermark"] = window.high_watermark
        seen |= lag_metadata(window.high_watermark)
    if done.notes:
        seen["ixflow/notes"] = "; ".join(done.notes)
    return seen


def _work(done: ExecutionResult) -> dict[str, Any]:
    told = {
        "ixflow/files": len(done.manifest.files),
        "ixflow/bytes": done.bytes_written,
        "ixflow/seconds": round(done.duration_seconds, 3),
        "ixflow/rows_per_second": round(done.throughput_rows_sec),
        "ixflow/run_id": done.run_id,
        "ixflow/manifest": dg.MetadataValue.path(done.manifest_path),
    }
    if done.manifest.moment is not None:
        told["ixflow/moment"] = done.manifest.moment
    return told


def _fingerprint(manifest: Manifest) -> str:
    """Hash the files' checksums: extracting the same rows again gives the same data version."""
    sums = "".join(sorted(file.sha256 for file in manifest.files))
    return hashlib.sha256(sums.encode()).hexdigest()[:32]
