"""What the tests with many machines share: databases, an instance in PostgreSQL, runs, rows."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from ixflow.demo.shop import create_shop
from ixflow_tests.servers import PostgresServer, make_engine

__all__ = ["RETURNED", "ROOT", "Machines", "documented", "machines_on", "wait_for"]

ROOT = Path(__file__).parents[2]
_PATIENCE_SECONDS = 120.0
_ORDERS = 500
RETURNED = "UPDATE raw.orders SET state = 'returned' WHERE mod(order_id, 5) = 0"
_TABLES = {
    "raw": ("customers", "orders"),
    "staging": ("orders", "customers"),
    "mart": ("revenue_by_country",),
}


def documented(name: str) -> str:
    """Give a file that docs/production.md shows, which begins with its name."""
    text = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"```yaml\n(# {re.escape(name)}\n.*?)```", text, re.DOTALL)
    return str(found)


def wait_for(what: Callable[[], Any]) -> Any:
    """Wait until something is there, and give it."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while not (found := what()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)
    return found


class Machines:
    """Runs of the demo's job, whose processes share databases, a directory and nothing else."""

    def __init__(self, place: Path, urls: Mapping[str, str]) -> None:
        self.home = place / "home"
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(documented("dagster.yaml"), encoding="utf-8")
        self.engine = make_engine(urls["warehouse"])
        self.urls = urls
        self.environment = {
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_POSTGRES_URL": urls["dagster"].replace("+psycopg:", "+psycopg2:"),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "SHOP_URL": urls["shop"],
            "WAREHOUSE_URL": urls["warehouse"],
            "SHARED_DIRECTORY": str(place / "shared"),
            "PYTHONPATH": str(ROOT),
        }

    def run(
        self,
        instance: dg.DagsterInstance,
        executor: str,
        execution: str = "graph",
        *,
        config: Any = None,
        stages: tuple[str, ...] = (),
        retry_of: str | None = None,
    ) -> dg.JobExecutionResult:
        """Run the job, or the steps of some stages; failures are in the result."""
        job: Any = dg.build_reconstructable_job(
            "ixflow_tests.dagster.machines_flow",
            "shop_job",
            (executor, execution),  # type: ignore[arg-type] # it takes as many as the function does
        )
        again = (
            dg.ReexecutionOptions.from_failure(retry_of, instance) if retry_of is not None else None
        )
        keys = [dg.AssetKey([stage, name]) for stage in stages for name in _TABLES[stage]]
        return dg.execute_job(
            job,
            instance,
            run_config={"execution": {"config": config}} if config else {},
            raise_on_error=False,
            reexecution_options=again,
            asset_selection=keys or None,
        )

    def rows(self) -> dict[str, str]:
        """Give a digest of the rows of each table, and how many they are."""
        with self.engine.connect() as conn:
            return {
                f"{schema}.{table}": str(
                    conn.exec_driver_sql(
                        f"SELECT count(*) || ' ' || md5(string_agg(t::text, '|' ORDER BY t::text)) "
                        f"FROM {schema}.{table} t"
                    ).scalar_one()
                )
                for schema, tables in _TABLES.items()
                for table in tables
            }

    def is_of_the_rows_in_raw(self) -> bool:
        """Say whether the stages hold what follows from the raw tables, each row once."""
        kept = "SELECT order_id, total FROM {} WHERE state <> 'returned'"
        both = f"{kept.format('raw.orders')} EXCEPT ALL {kept.format('staging.orders')}"
        equal = (
            "(SELECT count(*) FROM raw.orders WHERE state <> 'returned') = "
            "(SELECT count(*) FROM staging.orders)"
        )
        spent = """(SELECT sum(total) FROM mart.revenue_by_country) = (SELECT sum(total)
            FROM staging.orders JOIN staging.customers USING (customer_id))"""
        return bool(self.ask(f"SELECT NOT EXISTS ({both}) AND {equal} AND {spent}"))

    def ask(self, question: str) -> Any:
        """Give what the warehouse answers, in a transaction of its own."""
        with self.engine.connect() as conn:
            return conn.exec_driver_sql(question).scalar()

    def empty(self) -> None:
        """Drop all schemas of the warehouse, so that the next run makes everything anew."""
        named = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)'"
        with self.engine.begin() as conn:
            for name in conn.exec_driver_sql(named).scalars().all():
                conn.exec_driver_sql(f'DROP SCHEMA "{name}" CASCADE')
            conn.exec_driver_sql("CREATE SCHEMA public")


@contextmanager
def machines_on(server: PostgresServer, place: Path, name: str) -> Iterator[Machines]:
    """Give machines with databases of their own, and a shop."""
    urls = {}
    admin = make_engine(server.url)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        for kind in ("shop", "warehouse", "dagster"):
            conn.exec_driver_sql(f"CREATE DATABASE {name}_{kind}")
            made = sa.make_url(server.url).set(database=f"{name}_{kind}")
            urls[kind] = made.render_as_string(hide_password=False)
    shop = make_engine(urls["shop"])
    create_shop(shop, orders=_ORDERS)
    shop.dispose()
    with pytest.MonkeyPatch.context() as patch:
        machines = Machines(place, urls)
        for key, value in machines.environment.items():
            patch.setenv(key, value)
        yield machines
        machines.engine.dispose()
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        for kind in urls:
            conn.exec_driver_sql(f"DROP DATABASE {name}_{kind} WITH (FORCE)")
