"""Tests of unit."""

from __future__ import annotations
