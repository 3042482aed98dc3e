"""Making source tables and intents for the extraction tests, the same way on every database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ixflow.dialects import dialect_of, run
from ixflow.extraction.api import ExecutionResult, execute, plan
from ixflow.extraction.intent import ExtractionIntent

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["extract", "intent_for", "make", "quoted", "rows_of"]


def intent_for(engine: sa.Engine, name: str, output: Path, **options: Any) -> ExtractionIntent:
    """Make the intent to extract a table of an engine's database."""
    url = engine.url.render_as_string(hide_password=False)
    kind = engine.dialect.name
    return ExtractionIntent(kind, {"connection_string": url}, name, output, **options)


def extract(engine: sa.Engine, name: str, output: Path, **options: Any) -> ExecutionResult:
    """Plan and execute."""
    return execute(plan(intent_for(engine, name, output, **options)))


def make(engine: sa.Engine, *statements: str) -> None:
    """Run statements exactly as they are written, in one transaction."""
    with engine.begin() as conn:
        for statement in statements:
            run(conn, statement)


def quoted(engine: sa.Engine, name: str) -> str:
    """Quote a name for this database."""
    return dialect_of(engine).quote(name)


def rows_of(result: ExecutionResult) -> pa.Table:
    """Read all files of a run, which must have one schema."""
    return pa.concat_tables([pq.read_table(path) for path in result.output_files])
