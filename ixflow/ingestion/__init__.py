"""Batches with a high watermark into SQLAlchemy-defined tables, exactly once."""

from __future__ import annotations
