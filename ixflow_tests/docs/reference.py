"""Writes the reference page from the public names' docstrings.

`python -m ixflow_tests.docs.reference > docs/reference.md`
"""

from __future__ import annotations

import inspect
from types import ModuleType

import ixflow
import ixflow.dagster

HEAD = """# Reference

Every public name in one line; `help(ixflow.name)` shows the rest. Made from the docstrings by
`python -m ixflow_tests.docs.reference > docs/reference.md`.
"""


def page() -> str:
    """Write the whole page."""
    parts = [HEAD, *_section("ixflow", ixflow), *_section("ixflow.dagster", ixflow.dagster)]
    return "\n".join(parts) + "\n"


def _section(title: str, module: ModuleType) -> list[str]:
    lines = [f"## {title}", "", "| name | |", "|---|---|"]
    for name in module.__all__:
        made = getattr(module, name)
        first = " ".join((inspect.getdoc(made) or "").split("\n\n", 1)[0].split())
        lines.append(f"| `{name}` | {first.replace('|', chr(92) + '|')} |")
    return [*lines, ""]


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - this is what it is for
