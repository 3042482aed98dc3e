"""`python -m benchmarks`: measure the cases, each on a database server of its own."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import BenchmarkFailed, measure
from benchmarks.peers import PEERS, with_interpreters
from benchmarks.report import judged, machine_facts, table
from ixflow.demo.postgres_server import PostgresServer

CASES = (
    "extraction",
    "accounts",
    "planning",
    "scale",
    "storm",
    "ingest",
    "ingest_tuples",
    "ingest_frames",
    "ingest_upserts",
    "ingest_interleaved",
    "ingest_flat",
    "flow_frames",
    "flow_tasks",
    "flow_commit",
    "dagster_load",
    "dagster_events",
    "dagster_command",
    "mysql",
)
_ROWS = 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for; return the exit code."""
    options = _options(arguments)
    if options.list:
        for name in CASES:
            print(f"{name:20}{_module(name).TITLE}")
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
    rows = options.rows or getattr(module, "ROWS", _ROWS)
    # A server of its own: no case inherits the caches and left-overs of the one before.
    with getattr(module, "SERVER", PostgresServer)() as server:
        kind = getattr(module, "DATABASE", "PostgreSQL")
        relaxed = " (fsync off)" if kind == "PostgreSQL" else ""
        facts = f"{machine_facts()}, {kind} {server.version}{relaxed}"
        contenders = module.prepare(server.url, rows)
        found = measure(
            with_interpreters(contenders, dict(options.peer_python), _say),
            rows=rows,
            repeat=options.repeat,
            server_pid=server.pid,
            progress=_say,
        )
    print(table(f"{name}: {module.TITLE}", facts, found), end="\n\n")
    targets = list(judged(getattr(module, "TARGETS", ()), found))
    print(*targets, sep="\n", end="\n\n" if targets else "", flush=True)
    contenders_found = [measurement.as_json(found[0]) for measurement in found]
    return {
        "case": name,
        "title": module.TITLE,
        "facts": facts,
        "contenders": contenders_found,
        "targets": targets,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--rows", type=_count, help="default: the case's, else 1000000")
    parser.add_argument("--repeat", type=_count, default=5, help="counted runs (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run here")
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        type=_peer,
        metavar="NAME=PATH",
        help=f"a peer's interpreter, of {', '.join(PEERS)}; can be given again",
    )
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.case) - set(CASES)):
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    return options


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def _peer(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path or name not in PEERS:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=PATH with one of {', '.join(PEERS)}")
    return name, path


def _module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.cases.{name}")


if __name__ == "__main__":
    sys.exit(main())
