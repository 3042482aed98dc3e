"""`python -m benchmarks`: measure the cases on a PostgreSQL server of their own."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import BenchmarkFailed, machine_facts, measure, table
from ixflow.demo.postgres_server import PostgresServer

CASES = ("extraction", "ingest")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for; return the exit code."""
    options = _options(arguments)
    if options.list:
        for name in CASES:
            print(f"{name:12}{_module(name).TITLE}")
        return 0
    try:
        found = [_measured(name, options) for name in options.case or CASES]
    except BenchmarkFailed as error:
        print(f"benchmark stopped: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        report = {"at": datetime.now(UTC).isoformat(), "cases": found}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    module = _module(name)
    # A server of its own: no case inherits the caches and left-overs of the one before.
    with PostgresServer() as server:
        facts = f"{machine_facts()}, PostgreSQL {server.version} (fsync off)"
        contenders = module.prepare(server.url, options.rows)
        found = measure(
            contenders,
            rows=options.rows,
            repeat=options.repeat,
            server_pid=server.pid,
            progress=lambda line: print(line, file=sys.stderr),
        )
    print(table(f"{name}: {module.TITLE}", facts, found), end="\n\n", flush=True)
    contenders_found = [measurement.as_json(found[0]) for measurement in found]
    return {"case": name, "title": module.TITLE, "facts": facts, "contenders": contenders_found}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--rows", type=_count, default=1_000_000, help="default: 1000000")
    parser.add_argument("--repeat", type=_count, default=5, help="counted runs (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run here")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.case) - set(CASES)):
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    return options


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def _module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.cases.{name}")


if __name__ == "__main__":
    sys.exit(main())
