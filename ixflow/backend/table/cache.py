"""Caches of tables on this machine."""

from __future__ import annotations

from ixflow.pipeline.parquet_cache import ParquetTableCache

__all__ = ["ParquetTableCache"]
