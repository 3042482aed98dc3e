"""Both positional orders of `ingest` mean what they mean in their own documentation."""

from __future__ import annotations

import pytest

from ixflow.errors import ValidationError
from ixflow.ingestion.order import either_order


@either_order
def documented(  # noqa: PLR0917 - the order is the point
    conn, metadata, batches, on_before_visible=None, high_watermark="L", visibility="V",
    upsert="U", delete="D", max_rows_per_table_buffer=1, *, get_pg_force_execute=None, logger=None,
):  # fmt: skip
    return {name: value for name, value in locals().items() if value not in (None, 1, 2, 3)}


def test_a_callback_comes_first_as_documented():
    assert documented(1, 2, 3, len, "w")["on_before_visible"] is len
    assert documented(1, 2, 3, len, "w")["high_watermark"] == "w"


@pytest.mark.parametrize("watermark", ["2026", 5, "", ["a"], {"a": 1}])
def test_what_is_no_callback_is_the_watermark_as_in_pg_bulk_ingest(watermark):
    given: tuple[object, ...] = (watermark, "v", "u", "d", len, max, "log", 77)
    found = documented(1, 2, 3, *given)
    assert found == {
        "high_watermark": watermark, "visibility": "v", "upsert": "u", "delete": "d",
        "get_pg_force_execute": len, "on_before_visible": max, "logger": "log",
        "max_rows_per_table_buffer": 77,
    }  # fmt: skip


def test_an_argument_given_twice_is_refused():
    with pytest.raises(ValidationError, match="high_watermark both by position and by name"):
        documented(1, 2, 3, "w", high_watermark="x")


def test_too_many_are_refused():
    with pytest.raises(ValidationError, match="at most 11"):
        documented(1, 2, 3, *"w2345678x")
