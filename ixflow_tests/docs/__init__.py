"""The documentation, held against the code."""

from __future__ import annotations
