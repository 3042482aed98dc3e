"""What holds for every input, tried with many."""

from __future__ import annotations
