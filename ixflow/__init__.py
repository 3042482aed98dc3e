"""Rows out of operational databases and into a warehouse, as Dagster assets, exactly once."""

from __future__ import annotations
