"""The reference, the docstrings and the public surface."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import ixflow
import ixflow.dagster
from ixflow_tests.docs.reference import page

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(ixflow.__path__, "ixflow.")
    if not found.name.endswith("__main__")
)


def test_the_reference_page_is_what_the_docstrings_say():
    made = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert made == page(), "run: python -m ixflow_tests.docs.reference > docs/reference.md"


@pytest.mark.parametrize("module", [ixflow, ixflow.dagster], ids=lambda m: m.__name__)
def test_public_names_are_sorted_and_there(module):
    assert list(module.__all__) == sorted(module.__all__)
    assert all(getattr(module, name).__doc__ for name in module.__all__)


def test_ixflow_itself_does_not_import_dagster(tmp_path):
    import subprocess
    import sys

    code = "import ixflow, sys; sys.exit('dagster' in sys.modules)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
