"""Extract one table in a process of its own, and print what it held in memory at most.

Arguments as JSON: kind, url, table, output, options of the intent; ``limit``: bytes of addresses
that the run may have over what the process has before it.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

# Whatever a run would import is there before it is measured.
import adbc_driver_postgresql.dbapi
import duckdb
import mssql_python
import obstore
import psycopg
import pyarrow.parquet
import pymysql

from ixflow.extraction.api import execute, plan
from ixflow.extraction.intent import ExtractionIntent

IMPORTED = (
    *(adbc_driver_postgresql.dbapi, duckdb, mssql_python, obstore),
    *(psycopg, pyarrow.parquet, pymysql),
)


def status(key: str) -> int:
    """Read one of the kernel's counts of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def main() -> None:
    """Plan, reset the peak, execute, report."""
    given = json.loads(sys.argv[1])
    config = {"connection_string": given["url"]}
    intent = ExtractionIntent(
        given["kind"], config, given["table"], given["output"], **given["options"]
    )
    made = plan(intent)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = status("VmRSS")
    if given["limit"]:
        most = status("VmSize") + given["limit"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    result = execute(made)
    found = {
        "rows": result.rows_extracted,
        "bytes": result.bytes_written,
        "workers": made.plan.worker_count,
        "held": status("VmHWM") - before,
    }
    print(json.dumps(found))  # noqa: T201 - read by the test


if __name__ == "__main__":
    main()
