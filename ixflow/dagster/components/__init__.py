"""Components: extractions, ingests, flows and table stores in YAML, for the ``dg`` command."""

from ixflow.dagster.components.extraction import ExtractionComponent
from ixflow.dagster.components.flow import FlowComponent
from ixflow.dagster.components.ingest import IngestComponent
from ixflow.dagster.components.store import TableStoreComponent

__all__ = ["ExtractionComponent", "FlowComponent", "IngestComponent", "TableStoreComponent"]
