"""What a run tells of each table that it published, as an iterator that can be asked for more."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import dagster as dg

from ixflow.dagster.metadata import column_schema
from ixflow.extraction.api import ExecutionResult
from ixflow.extraction.explain import Explanation
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.output import published_uri
from ixflow.extraction.plan import ExecutionPlan, PlanResult

__all__ = ["ExtractionEvents", "Published"]


@dataclass(frozen=True)
class Published:
    """One table that was published: its plan, its result, and the verdict if it was planned now."""

    key: dg.AssetKey
    intent: ExtractionIntent
    plan: ExecutionPlan
    done: ExecutionResult
    planned: PlanResult | None = None

    def event(self, *, rows: bool, columns: bool, plan: bool) -> dg.MaterializeResult[Any]:
        """Tell it to Dagster: equal rows give the same data version."""
        metadata = {
            "dagster/uri": published_uri(self.intent.output_dir, self.intent.object_name),
            "dagster/storage_kind": self.intent.file_format,
            **_window(self.done),
            **_work(self.done),
        }
        if rows:
            metadata["dagster/row_count"] = self.done.manifest.total_rows
        if columns:
            metadata["dagster/column_schema"] = column_schema(self.plan.columns)
        if plan:
            metadata |= self._plan()
        version = dg.DataVersion(_fingerprint(self.done.manifest))
        return dg.MaterializeResult(asset_key=self.key, metadata=metadata, data_version=version)

    def _plan(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "ixflow/consistency": self.plan.consistency,
            "ixflow/workers": self.plan.worker_count,
            "ixflow/tasks": len(self.plan.tasks),
        }
        if self.planned is None:
            return told | {"ixflow/verdict": "a stored plan was run again"}
        shown = dg.MetadataValue.md(f"```\n{Explanation(self.planned)}\n```")
        return told | {"ixflow/verdict": self.planned.verdict, "ixflow/plan": shown}


class ExtractionEvents(Iterator[dg.MaterializeResult[Any]]):
    """The events of an extraction, one a table, each as soon as the table is published.

    Say what they shall tell beside place, size and time before the first one is taken.

    Example::

        yield from planner.run(context).fetch_row_count().fetch_plan()

    """

    def __init__(self, published: Iterator[Published | dg.MaterializeResult[Any]]) -> None:
        """Take the tables as they are published; an event among them is passed on as it is."""
        self._published = published
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

    def __next__(self) -> dg.MaterializeResult[Any]:
        """Wait for the next table."""
        found = next(self._published)
        if not isinstance(found, Published):
            return found
        return found.event(rows=self._rows, columns=self._columns, plan=self._plan)


def _window(done: ExecutionResult) -> dict[str, Any]:
    window = done.manifest.window
    seen: dict[str, Any] = {}
    if window is not None:
        seen = {"ixflow/window": str(window), "ixflow/new_rows": done.rows_extracted}
    if window is not None and window.high_watermark is not None:
        seen["ixflow/high_watermark"] = window.high_watermark
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
