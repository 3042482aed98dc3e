"""Blob stores."""

from __future__ import annotations

from ixflow.pipeline.blob_store import FileBlobStore, NoBlobStore

__all__ = ["FileBlobStore", "NoBlobStore"]
