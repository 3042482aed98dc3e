"""What is read behind a mark of transactions, and marks as JSON."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ixflow.dialects.transactions import Ended
from ixflow.errors import ValidationError
from ixflow.ingestion.by_transactions import Piece, pieces
from ixflow.ingestion.marks import KeyMark, Reading, TransactionMark, mark_of

NUMBERS = st.integers(3, 2**63)
TEXTS = st.none() | st.text(max_size=5)
READINGS = st.none() | st.builds(Reading, NUMBERS, TEXTS, st.text(max_size=5))
MARKS = st.one_of(
    st.builds(KeyMark, st.just("k"), TEXTS),
    st.builds(TransactionMark, st.just("k"), st.text(), st.none() | NUMBERS, TEXTS, READINGS),
)
NOW = Ended(100, 105, "a.1")


@given(mark=MARKS)
def test_a_mark_survives_json(mark):
    assert mark_of(json.loads(json.dumps(mark.as_json())), "k") == mark


def test_a_first_run_reads_all_that_has_ended():
    assert pieces(None, NOW, "5", keyed=False) == (Piece(None, 100, since="5"),)


def test_what_has_ended_since_the_mark_is_read():
    mark = TransactionMark("k", "a.1", 90, "4")
    assert pieces(mark, NOW, "5", keyed=False) == (Piece(90, 100, "4", "5"),)


def test_what_was_begun_is_ended_first():
    mark = TransactionMark("k", "a.1", 80, "3", Reading(90, "4", "x"))
    found = pieces(mark, NOW, "5", keyed=False)
    assert found == (Piece(80, 90, "3", "4", "x", nulls=False), Piece(90, 100, "4", "5"))


def test_a_standby_that_is_behind_has_nothing_new():
    assert pieces(TransactionMark("k", "a.1", 101), NOW, None, keyed=True) == ()


def test_another_server_is_read_from_where_it_would_be_searched_or_refused():
    mark = TransactionMark("k", "a.2", 90, "4", Reading(95, "4.5", "x"))
    assert pieces(mark, NOW, "5", keyed=True) == (Piece(None, 100, "4", "5"),)
    with pytest.raises(ValidationError, match="another server"):
        pieces(mark, NOW, "5", keyed=False)


def test_a_value_of_the_cursor_is_where_reading_begins():
    expected = (Piece(None, 100, since="5", after="7", nulls=False),)
    assert pieces(KeyMark("k", "7"), NOW, "5", keyed=False) == expected


def test_numbers_of_more_than_32_bits_are_ambiguous():
    assert [Ended(1, 2**32 + more, "").ambiguous for more in (0, 1)] == [False, True]
