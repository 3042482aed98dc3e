"""After any edits to versions, inputs and queries a stage is what it is without a cache."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import polars as pl
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow.pipeline import AUTO_VERSION, Flow, RawSql, Stage, Table, materialize, run_stage
from ixflow.store import SQLTableStore
from ixflow_tests.stages import rows


@dataclass(frozen=True)
class Program:
    """What a user can edit: constants of each kind of task, and the version of the eager one."""

    start: int = 1
    limit: int = 2
    factor: int = 1
    added: int = 0
    shift: int = 0

    def flow(self) -> Flow:
        """Write the program."""

        @materialize(version=f"v{self.start}")
        def source():
            return Table(pl.DataFrame({"x": list(range(self.start, self.start + 4))}), "source")

        @materialize(lazy=True, input_type=sa.Table)
        def query(source):
            return Table(sa.select(source).where(source.c.x <= self.limit), "query")

        @materialize(version=AUTO_VERSION, input_type=pl.LazyFrame)
        def planned(query):
            return Table(query.select(pl.col("x") * self.factor), "planned")

        @materialize(lazy=True, outputs=["scripted"])
        def script(stage, planned):
            name, schema = planned
            made = f"{stage.current_name}.scripted"
            return RawSql(
                f'CREATE TABLE {made} AS SELECT x + {self.added} AS x FROM "{schema}"."{name}"'
            )

        @materialize(version="1", input_type=pl.DataFrame)
        def last(script, shift):
            return Table(script["scripted"].select(pl.col("x") + shift), "last")

        with Flow("f") as flow, Stage("s") as stage:
            last(script(stage, planned(query(source()))), self.shift)
        return flow

    def expected(self) -> dict[str, list[int]]:
        """Compute the same without ixflow."""
        source = list(range(self.start, self.start + 4))
        query = [x for x in source if x <= self.limit]
        planned = [x * self.factor for x in query]
        scripted = [x + self.added for x in planned]
        last = [x + self.shift for x in scripted]
        return {
            "source": source,
            "query": query,
            "planned": planned,
            "scripted": scripted,
            "last": last,
        }


EDITS = st.lists(
    st.tuples(
        st.sampled_from([field.name for field in dataclasses.fields(Program)]), st.integers(0, 3)
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=5)
@given(EDITS)
def test_after_any_edits_the_published_tables_are_those_of_a_run_without_cache(
    tmp_path_factory, edits
):
    store = SQLTableStore(f"duckdb:///{tmp_path_factory.mktemp('cache')}/w.duckdb")
    program = Program()
    with store.held_open():
        for name, value in [("start", 1), *edits]:
            program = dataclasses.replace(program, **{name: value})
            run_stage(program.flow()["s"], store)
            found = {
                table: sorted(row["x"] for row in rows(store, "s", table))
                for table in program.expected()
            }
            assert found == program.expected()
            assert not run_stage(program.flow()["s"], store).published
    store.dispose()
