"""The peers' side of the cases: each runs in an environment of its own, without ixflow.

``python -m benchmarks.peers WORK URL TABLE ROWS`` is one contender; `make bench-peers` makes the
environments. Only the standard library may be imported here before a peer's own work begins.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness import Contender, contend

__all__ = ["PEERS", "peer", "with_interpreters"]

PEERS: dict[str, str] = {
    "adbc": "adbc_driver_postgresql",
    "connectorx": "connectorx",
    "duckdb": "duckdb_extension_postgres_scanner",
    "ixtract": "ixtract",
    "pg-bulk-ingest": "pg_bulk_ingest",
    "pipedag": "pydiverse.pipedag",
}
"""What peers are called, and the module that their environment has."""


def peer(name: str, who: str, work: str, *arguments: object) -> Contender:
    """Describe a peer's contender, by the key of its work in `WORK`."""
    command = ("-m", "benchmarks.peers", work, *map(str, arguments))
    return Contender(name, command, peer=who)


def with_interpreters(
    contenders: Sequence[Contender], pythons: Mapping[str, str], say: Callable[[str], None]
) -> list[Contender]:
    """Give each peer its interpreter; leave out those that are not there, and say so."""
    found = []
    missing = {one.peer: _missing(one.peer, pythons) for one in contenders if one.peer}
    for contender in contenders:
        if contender.peer is None:
            found.append(contender)
        elif why := missing[contender.peer]:
            say(f"left out: {contender.name}: {why}")
        else:
            command = (pythons[contender.peer], *contender.command)
            found.append(replace(contender, command=command))
    return found


def _missing(who: str, pythons: Mapping[str, str]) -> str | None:
    if who not in pythons:
        return f"no --peer-python {who}=PATH (make bench-peers makes one)"
    module = PEERS.get(who, who)
    try:
        subprocess.run([pythons[who], "-c", f"import {module}"], check=True, capture_output=True)
    except OSError as error:
        return f"{pythons[who]} does not run: {error.strerror}"
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        return f"{pythons[who]} cannot import {module}: {said[-1] if said else 'it is silent'}"
    return None


# -- in the peer's own interpreter -----------------------------------------------------------------


def connectorx_to_parquet(url: str, table: str, rows: int, output: Path) -> Callable[[], int]:
    """Read two ranges of the key into one Arrow table, and write it."""
    import pyarrow.parquet as pq

    connectorx = _module("connectorx")
    plain = url.replace("+psycopg", "")

    def work() -> int:
        found = connectorx.read_sql(
            plain,
            f"SELECT * FROM {table}",
            return_type="arrow",
            partition_on="aid",
            partition_num=2,
            partition_range=(1, rows),
        )
        pq.write_table(found, output / "table.parquet")
        return int(found.num_rows)

    return work


def duckdb_to_parquet(url: str, table: str, rows: int, output: Path) -> Callable[[], int]:
    """Copy the table from DuckDB's scanner to one file, with two threads."""
    del rows
    duckdb = _module("duckdb")
    spec = importlib.util.find_spec(PEERS["duckdb"])
    assert spec is not None
    assert spec.origin is not None
    scanner = next(Path(spec.origin).parent.rglob("postgres_scanner.duckdb_extension"))
    parts = urlsplit(url)
    source = f"host={parts.hostname} port={parts.port} user={parts.username} dbname=postgres"
    conn = duckdb.connect(config={"allow_unsigned_extensions": "true", "threads": "2"})
    conn.execute(f"LOAD '{scanner}'")
    file = output / "table.parquet"

    def work() -> int:
        conn.execute(f"ATTACH '{source}' AS source (TYPE postgres, READ_ONLY)")
        conn.execute(f"COPY (SELECT * FROM source.{table}) TO '{file}' (FORMAT parquet)")
        return int(conn.fetchone()[0])

    return work


def ixtract_execute(url: str, table: str, rows: int, output: Path) -> Callable[[], int]:
    """Execute a plan that was made before, with as many workers as it likes, but two at most."""
    del rows
    ixtract, intent, state = _ixtract(url, table, output)
    planned = ixtract.plan(intent, state_db=state)

    def work() -> int:
        done = ixtract.execute(planned, force=True, state_db=state)
        assert done.status == "success"
        return int(done.rows_extracted)

    return work


def ixtract_plan(url: str, table: str, rows: int, output: Path) -> Callable[[], int]:
    """Plan, as a user would; one plan is made before, which imports and connects."""
    ixtract, intent, state = _ixtract(url, table, output)
    ixtract.plan(intent, state_db=state)

    def work() -> int:
        ixtract.plan(intent, state_db=state)
        return rows

    return work


def _ixtract(url: str, table: str, output: Path) -> tuple[Any, Any, str]:
    """Give the module, an intent and the place of its state."""
    ixtract = _module("ixtract")
    kinds = _module("ixtract.intent")
    parts = urlsplit(url)
    source = {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "password": "",
        "database": "postgres",
    }
    intent = ixtract.ExtractionIntent(
        source_type=kinds.SourceType.POSTGRESQL,
        source_config=source,
        object_name=table,
        target_config={"output_path": str(output)},
        constraints=kinds.ExtractionConstraints(max_workers=2),
    )
    return ixtract, intent, str(output / "state.db")


def _module(name: str) -> Any:
    """Import what only the peer's environment has."""
    return importlib.import_module(name)


WORK: dict[str, Callable[[str, str, int, Path], Callable[[], int]]] = {
    "connectorx": connectorx_to_parquet,
    "duckdb": duckdb_to_parquet,
    "ixtract": ixtract_execute,
    "ixtract-plan": ixtract_plan,
}


if __name__ == "__main__":
    _, chosen, server, name, count = sys.argv
    with tempfile.TemporaryDirectory(prefix="ixflow-bench-") as place:
        contend(WORK[chosen](server, name, int(count), Path(place)))
