"""The page of types says what extractions give, on every database."""

from __future__ import annotations

from pathlib import Path

import pytest

from ixflow_tests.docs.type_page import SAMPLES, TITLES, section

PAGE = Path(__file__).parents[2] / "docs" / "types.md"
FIXTURES = {"postgresql": "postgres", "mysql": "mariadb", "duckdb": "duckdb", "sqlite": "sqlite"}


@pytest.mark.parametrize("kind", TITLES)
def test_every_value_arrives_as_the_page_says(kind, request, tmp_path):
    engine = request.getfixturevalue(f"fresh_{FIXTURES[kind]}")
    lines = section(engine, tmp_path)
    assert len(lines) == len(SAMPLES[kind]) + 5
    said = PAGE.read_text(encoding="utf-8")
    assert "\n".join(lines) in said, "run: python -m ixflow_tests.docs.type_page > docs/types.md"
