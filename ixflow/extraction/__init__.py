"""Tables to Parquet: profile the source, plan, read one snapshot, publish all at once."""

from __future__ import annotations
