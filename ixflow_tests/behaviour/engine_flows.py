"""Flows for the engines' tests; other processes import them from here."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from ixflow import ConfigContext, Flow, RawSql, Stage, Table, materialize

__all__ = ["calls", "dying", "failing", "named_twice", "overtaking", "scripted", "shop", "twins"]

_log = logging.getLogger("shop")


def called(place: Path, name: str) -> None:
    """Leave a trace of a call that the test sees, whatever process it is in."""
    (place / f"{name} {len(list(place.iterdir()))} {os.getpid()}").touch()


def calls(place: Path) -> list[str]:
    """List the calls that have left a trace, sorted."""
    return sorted(path.name.split()[0] for path in place.iterdir())


@materialize(version="1")
def orders(place: Path, rows: int):
    called(place, "orders")
    _log.warning("%s orders", rows)
    return Table(pl.DataFrame({"id": range(rows), "total": [2 * n for n in range(rows)]}))


@materialize(version="1", input_type=pl.DataFrame)
def facts(place: Path, frame: pl.DataFrame):
    called(place, "facts")
    big = frame.filter(pl.col("total") > ConfigContext.get().attrs.limit)
    return {"big": Table(big, "big_orders"), "rows": [frame.height, big.height]}


@materialize(lazy=True, input_type=sa.Table)
def top(big: sa.Table, rows: int):
    return Table(sa.select(big.c.id).order_by(big.c.id.desc()).limit(rows), "top")


@materialize(version="1")
def breaks(place: Path, _frame: object, how: str):
    called(place, "breaks")
    if how == "die":
        os._exit(3)
    if how == "raise":
        msg = "there is no such day"
        raise ValueError(msg)
    return 1


@materialize(version="1", input_type=pl.DataFrame)
def after(place: Path, _number: int):
    called(place, "after")
    return Table(pl.DataFrame({"x": [1]}))


def shop(place: Path, rows: int = 4) -> Flow:
    """Declare two stages that wait for each other, and one that waits for none."""
    with Flow("shop") as flow:
        with Stage("staging"):
            made = orders(place, rows)
        with Stage("mart"):
            found = facts(place, made)
            top(found["big"], found["rows"][1])
        with Stage("aside"):
            orders(place, 1)
    return flow


def failing(place: Path, how: str) -> Flow:
    """Declare a stage that fails in the middle, one that waits for it, and one that does not."""
    with Flow("failing") as flow:
        with Stage("staging"):
            made = orders(place, 2)
            number = breaks(place, made, how)
        with Stage("mart"):
            after(place, number)
        with Stage("aside"):
            after(place, 1)
    return flow


def dying(place: Path, how: str) -> Flow:
    """Declare one stage whose second task may end its process."""
    with Flow("dying") as flow, Stage("staging"):
        breaks(place, orders(place, 2), how)
    return flow


@materialize(version="1")
def plain(place: Path):
    called(place, "plain")
    return Table(pl.DataFrame({"x": [1]}), "same")


@materialize(version="1", name="other")
def same_name(place: Path):
    called(place, "other")
    return Table(pl.DataFrame({"x": [2]}), "same")


@materialize(version="1", input_type=pl.DataFrame)
def height(frame: pl.DataFrame):
    return frame.height


def twins(place: Path) -> Flow:
    """Declare two equal calls and what takes them."""
    with Flow("twins") as flow, Stage("staging"):
        height(plain(place))
        height(plain(place))
    return flow


def named_twice(place: Path) -> Flow:
    """Declare two tasks that make tables of one name."""
    with Flow("twice") as flow, Stage("staging"):
        plain(place)
        same_name(place)
    return flow


@materialize(version="1", input_type=pl.DataFrame)
def overtaken(place: Path, frame: pl.DataFrame):
    called(place, "overtaken")
    if calls(place).count("overtaken") == 1:
        # Another run publishes anew what this task has read.
        other = overtaking(place, 3)
        assert other.run(other["staging"], config=ConfigContext.get()).successful
    return Table(frame)


def overtaking(place: Path, rows: int) -> Flow:
    """Declare a stage that makes so many rows, and one that reads it."""

    @materialize(version=str(rows))
    def stock():
        return Table(pl.DataFrame({"x": range(rows)}))

    with Flow("overtaking") as flow:
        with Stage("staging"):
            made = stock()
        with Stage("mart"):
            overtaken(place, made)
    return flow


@materialize(lazy=True, outputs=["one"])
def script(stage: Stage):
    return RawSql(f"CREATE TABLE {stage.current_name}.one AS SELECT 7 AS x")


@materialize(version="1", input_type=pl.DataFrame)
def doubled(tables: RawSql, outer: Stage, inner: Stage):
    frame = tables["one"]
    return Table(frame.with_columns(y=pl.col("x") * 2, n=pl.lit(outer.current_name != inner.name)))


def scripted() -> Flow:
    """Declare a script, and what reads its table from another stage."""
    with Flow("scripted") as flow:
        with Stage("raw") as raw:
            made = script(raw)
        with Stage("mart") as mart:
            doubled(made, raw, mart)
    return flow
