"""`python -m ixflow.demo`: a shop, everything materialized from it, and the Dagster UI.

Each completed run lets the shop have some new orders at the next, so that one sees what an
incremental run does. How many runs were completed is kept in a file: a run that was killed is
taken up again with the same orders.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ixflow.demo.postgres_server import PostgresServer
from ixflow.demo.server_process import LOOPBACK, Account, spawn, stop
from ixflow.demo.shop import ORDERS, add_orders, create_shop, order_count
from ixflow.dialects import connected, dialect_of, run
from ixflow.errors import IxflowError

__all__ = ["main"]

_NEW_ORDERS = 1_000
_FIRST_PORT = 3000


@dataclass(slots=True)
class Progress:
    """How the shop began, and how many demo runs were completed with it."""

    orders: int
    new_orders: int = _NEW_ORDERS
    completed: int = 0

    @classmethod
    def read(cls, place: Path, orders: int) -> Progress:
        """Read the file; a new one begins with the given number of orders."""
        return cls(**json.loads(place.read_text())) if place.exists() else cls(orders)

    def write(self, place: Path) -> None:
        """Write the file in one step."""
        temporary = place.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    options = _options(arguments)
    definitions = Path.cwd() / "definitions.py"
    if not definitions.exists():
        print(f"{definitions} is not there: run the demo in a checkout of ixflow", file=sys.stderr)
        return 2
    # A script's `make demo &` starts us with SIGINT ignored, and our children would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return _demo(options)
    except KeyboardInterrupt:
        return 130
    except IxflowError as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ixflow.demo", description=__doc__)
    parser.add_argument("--no-serve", action="store_true", help="end after the materialization")
    parser.add_argument("--postgres", action="store_true", help="source and warehouse: PostgreSQL")
    parser.add_argument("--orders", type=int, default=ORDERS, help="orders of a new shop")
    parser.add_argument("--port", type=int, default=None, help="port of the UI (default: 3000 on)")
    parser.add_argument(
        "--home", type=Path, default=None, help="where everything is kept (default: .ixflow)"
    )
    return parser.parse_args(arguments)


def _demo(options: argparse.Namespace) -> int:
    # PostgreSQL keeps its own home, so that both demos can be tried side by side.
    default = Path(".ixflow") / ("demo-postgres" if options.postgres else "demo")
    home = (options.home or default).absolute()
    home.mkdir(parents=True, exist_ok=True)
    with _databases(home, postgres=options.postgres) as (shop, warehouse):
        os.environ |= {"IXFLOW_HOME": str(home), "SHOP_URL": shop, "WAREHOUSE_URL": warehouse}
        with _alone_in(home):
            place = home / "progress.json"
            progress = Progress.read(place, options.orders)
            progress.write(place)
            _prepare_shop(shop, progress)
            if not _materialize(home):
                return 1
            progress.completed += 1
            progress.write(place)
        _say_what_is_published(warehouse)
        return 0 if options.no_serve else _serve(options.port)


@contextlib.contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Keep a second demo of the same home from running at the same time."""
    with (home / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"another demo is running in {home}; wait for it, or name another --home"
            raise IxflowError(msg) from None
        yield


@contextlib.contextmanager
def _databases(home: Path, *, postgres: bool) -> Iterator[tuple[str, str]]:
    """Give the URLs of shop and warehouse: two files, or two databases of a server of our own."""
    if not postgres:
        yield f"sqlite:///{home / 'shop.sqlite'}", f"duckdb:///{home / 'warehouse.duckdb'}"
        return
    with PostgresServer(data_dir=home / "postgres", fsync=True) as server:
        print(f"PostgreSQL {server.version} on {server.host}:{server.port}")
        yield _database(server.url, "shop"), _database(server.url, "warehouse")


def _database(url: str, name: str) -> str:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with connected(engine) as conn:
            known = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
            if conn.execute(known, {"name": name}).first() is None:
                run(conn, f'CREATE DATABASE "{name}"')
    finally:
        engine.dispose()
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


def _prepare_shop(url: str, progress: Progress) -> None:
    engine = dialect_of(url).engine(url)
    try:
        create_shop(engine, orders=progress.orders)
        wanted = progress.orders + progress.completed * progress.new_orders
        missing = wanted - order_count(engine)
        if missing > 0:
            add_orders(engine, missing)
            print(f"The shop has {missing:,} new orders.")
        print(f"The shop has {wanted:,} orders in {engine.dialect.name}.")
    finally:
        engine.dispose()


def _materialize(home: Path) -> bool:
    # Dagster takes two seconds to import: not before the arguments were read.
    from ixflow.dagster.local import local_home, materialize_all

    local_home(home / "dagster")
    sys.path.insert(0, str(Path.cwd()))
    started = time.monotonic()
    import definitions

    success, outcomes = materialize_all(definitions.defs())
    print(f"\n{'asset':<28}{'rows':>10}{'inserted':>10}{'seconds':>9}")
    for outcome in outcomes:
        print(f"{outcome.key:<28}{_cells(outcome.metadata)}")
    print(f"\n{len(outcomes)} assets in {time.monotonic() - started:.1f} s")
    if not success:
        print("The run failed; the errors are above.", file=sys.stderr)
    return bool(success)


def _cells(metadata: Any) -> str:
    rows, inserted = metadata.get("dagster/row_count"), metadata.get("ixflow/rows_inserted")
    seconds = metadata.get("ixflow/seconds", 0.0)
    shown = ["" if value is None else f"{value:,}" for value in (rows, inserted)]
    return f"{shown[0]:>10}{shown[1]:>10}{seconds:>9.2f}"


def _say_what_is_published(url: str) -> None:
    engine = dialect_of(url).engine(url)
    try:
        with connected(engine) as conn:
            rows = run(conn, "SELECT country, total FROM mart.revenue_by_country ORDER BY 1").all()
    finally:
        engine.dispose()
    totals = ", ".join(f"{country} {total:,}" for country, total in rows)
    print(f"mart.revenue_by_country: {totals}")


def _serve(port: int | None) -> int:
    chosen = port or _free_port(_FIRST_PORT)
    print(f"\nDagster UI: http://127.0.0.1:{chosen}  (Ctrl-C ends it)\n", flush=True)
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"]
    # In a session of its own, so that one signal reaches it once: from us, or from the kernel when
    # we are killed. It ends its children in order then.
    server = spawn(
        [*command, "-h", LOOPBACK, "-p", str(chosen)],
        account=Account(os.geteuid(), os.getegid()),
        directory=Path.cwd(),
        log=sys.stdout.buffer,
        end=signal.SIGINT,
    )
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        stop(server, signal.SIGINT)


def _free_port(first: int) -> int:
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) != 0:
                return port
    msg = f"no free port from {first} to {first + 99}; name one with --port"
    raise IxflowError(msg)


if __name__ == "__main__":
    raise SystemExit(main())
