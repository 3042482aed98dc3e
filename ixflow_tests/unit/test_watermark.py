"""The watermark in a table comment: where users of pg-bulk-ingest have it, beside all else."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixflow.errors import ValidationError
from ixflow.ingestion.watermark import record_of, watermark_of, with_watermark

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
COMMENTS = st.none() | st.text() | JSON.map(json.dumps)


@given(COMMENTS, JSON)
def test_every_json_value_comes_back_from_every_comment(comment, watermark):
    assert watermark_of(with_watermark(comment, watermark, {})) == watermark


@given(COMMENTS, JSON, JSON)
def test_writing_again_replaces_the_watermark_and_nothing_else(comment, first, second):
    once = with_watermark(comment, second, {"run_id": "b"})
    twice = with_watermark(with_watermark(comment, first, {"run_id": "a"}), second, {"run_id": "b"})
    assert twice == once


def test_the_format_is_the_one_pg_bulk_ingest_reads():
    written = json.loads(with_watermark(None, "2026-01-01", {"run_id": "ix-1"}))
    assert written["pg-bulk-ingest"] == {"high-watermark": "2026-01-01"}
    assert watermark_of('{"pg-bulk-ingest": {"high-watermark": "2026-01-01"}}') == "2026-01-01"


def test_other_keys_stay():
    comment = '{"owner": "sales", "pg-bulk-ingest": {"high-watermark": 1, "other": 2}}'
    written = json.loads(with_watermark(comment, 5, {}))
    assert written["owner"] == "sales"
    assert written["pg-bulk-ingest"] == {"high-watermark": 5, "other": 2}


@pytest.mark.parametrize("comment", ["Orders of the shop", "[1, 2]", "5", '"x"', "null", "{broken"])
def test_a_comment_that_is_no_json_object_stays_readable(comment):
    written = with_watermark(with_watermark(comment, 1, {}), 2, {})
    assert json.loads(written)["comment"] == comment


@pytest.mark.parametrize("comment", [None, "", "text", "[1]", '{"pg-bulk-ingest": 3}', "{}"])
def test_without_a_watermark_there_is_none(comment):
    assert watermark_of(comment) is None
    assert record_of(comment) == {}


def test_the_record_of_the_run_sits_beside_it():
    comment = with_watermark(None, 7, {"run_id": "ix-1", "rows": 3})
    assert record_of(comment) == {"run_id": "ix-1", "rows": 3}


@pytest.mark.parametrize(
    "watermark", [float("nan"), float("inf"), dt.date(2026, 1, 1), {1, 2}, b"x", [float("nan")]]
)
def test_what_is_not_json_is_refused_by_value(watermark):
    with pytest.raises(ValidationError, match="is not a JSON value"):
        with_watermark(None, watermark, {})
