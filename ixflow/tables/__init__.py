"""One table in one database: its definition, loading it, reading it, replacing it."""

from __future__ import annotations
