"""A project of the command ``dg``, made by hand, so that no network is needed."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["DgProject"]

_SETTINGS = """\
[project]
name = "shop"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "shop"

[tool.dg.cli]
suppress_warnings = ["project_and_activated_venv_mismatch"]

[tool.dg.cli.telemetry]
enabled = false
"""
_DEFINITIONS = """\
from pathlib import Path

import dagster as dg


@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
_QUIET = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"


@dataclass
class DgProject:
    """A project below a directory, and the environment in which ``dg`` runs there."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write what every project has."""
        self.write("pyproject.toml", _SETTINGS)
        self.write("src/shop/__init__.py", "")
        self.write("src/shop/definitions.py", _DEFINITIONS)
        self.write("src/shop/defs/__init__.py", "")
        self.write("home/dagster.yaml", _QUIET)

    @property
    def defs(self) -> Path:
        """Give the folder of the components."""
        return self.root / "src" / "shop" / "defs"

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def dg(self, *words: str, fails: bool = False) -> str:
        """Run ``dg`` in the project; give what it printed, without colours."""
        program = Path(sys.executable).parent / "dg"
        environment = os.environ | {
            "COLUMNS": "400",
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "DAGSTER_HOME": str(self.root / "home"),
            "PATH": os.pathsep.join([str(program.parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(self.root / "src"), str(Path(__file__).parents[2])]),
            **self.environment,
        }
        done = subprocess.run(
            [str(program), *words],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        assert (done.returncode != 0) is fails, said
        return said
