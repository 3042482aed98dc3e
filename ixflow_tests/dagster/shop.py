"""A stage for the tests: t2 is made of t1, t3 is audited; every task counts and can be broken."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import polars as pl

import ixflow.dagster as ixd
from ixflow.pipeline import AuditResult, Flow, Stage, Table, audit, materialize

__all__ = ["Shop"]


class Shop:
    """One stage, ``st``, and what its tasks did."""

    def __init__(self, version: str | None = None) -> None:
        """Declare the flow; with a version its tasks are cached."""
        self.calls: list[str] = []
        self.broken: set[str] = set()
        self.value = 1
        self.refuses = False
        self.during: dict[str, Callable[[], None]] = {}

        @materialize(version=version)
        def t1() -> Table[Any]:
            """The first."""
            return self._table("t1", self.value)

        @materialize(version=version, input_type=pl.DataFrame)
        def t2(t1: pl.DataFrame) -> Table[Any]:
            return self._table("t2", 10 * int(t1["x"][0]))

        @materialize(version=version)
        def t3() -> Table[Any]:
            return self._table("t3", self.value)

        with Flow("shop") as self.flow, Stage("st") as self.stage:
            t2(t1())
            t3()

        @audit(self.stage)
        def acceptable(t3: pl.DataFrame) -> AuditResult:
            return AuditResult(not self.refuses, f"{t3.height} rows seen")

    def _table(self, name: str, number: int) -> Table[Any]:
        self.calls.append(name)
        self.during.get(name, lambda: None)()
        if name in self.broken:
            msg = f"{name} is broken"
            raise ZeroDivisionError(msg)
        return Table(pl.DataFrame({"x": [number]}))

    def assets(self, **options: Any) -> list[Any]:
        """Give the stage's assets, with the table store under the key ``warehouse``."""
        return list(self.flow.to_definitions(**options).assets or [])

    def run(
        self,
        warehouse: ixd.SQLTableStoreResource,
        instance: dg.DagsterInstance,
        selection: Any = None,
        more: Any = (),
        **options: Any,
    ) -> dg.ExecuteInProcessResult:
        """Materialize the stage, or a selection of it; failures are in the result."""
        return dg.materialize(
            [*self.assets(**options), *more],
            instance=instance,
            selection=selection,
            resources={"warehouse": warehouse},
            raise_on_error=False,
        )
