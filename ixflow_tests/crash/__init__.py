"""Tests of crash."""

from __future__ import annotations
