"""Filters and queries of others cannot leave the place where they are put."""

from __future__ import annotations

import duckdb
import hypothesis.strategies as st
import pytest
from hypothesis import given

from ixflow.dialects import dialect_named
from ixflow.dialects.fragments import checked_filter, checked_query
from ixflow.errors import ValidationError

ALL = ("postgresql", "mysql", "duckdb", "sqlite", "sqlserver")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "text",
    [
        "country = 'DE'",
        "a = 1 AND (b = 2 OR c IN (1, 2))",
        "name = 'it''s ) -- no comment ('",
        "a = 1 -- the first\n AND b = 2",
        "a = /* the ) first */ 1",
        "true",
        "1=1",
    ],
)
def test_one_condition_is_taken(name, text):
    assert checked_filter(text, dialect_named(name).lexicon) == text


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "-- nothing",
        "/* nothing */",
        "1=1) OR (1=1",
        "1=1)",
        "(1=1",
        "1=1; DROP TABLE t",
        "a = 'open",
        "a = 1 /* open",
        "a = 1 /* in /* another */",
        "a = 1 /*! OR 1=1 */",
        "a = 1 /*M! OR 1=1 */",
        "a = 1 -- x\r) OR (1=1",
        "a = 'x\x00'",
    ],
)
def test_what_could_end_the_parentheses_is_refused(name, text):
    with pytest.raises(ValidationError, match="where"):
        checked_filter(text, dialect_named(name).lexicon)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        # Dashes without a blank are two minus signs to MySQL, a comment to others.
        ("mysql", "a = 1 --) OR (1=1"),
        ("mysql", r"a = '\' OR 1=1) OR (b = '"),
        ("mysql", r'a = "\" OR 1=1) OR (b = "'),
        ("mysql", "a = 1 #) \n) OR (1=1"),
        # A dollar in a name begins no string.
        ("postgresql", "a$$b$) OR (1=1 OR a = $b$"),
        ("postgresql", r"a = E'\'' ) OR (a = E'\''"),
        ("postgresql", "a = $x$ $x$) OR ($y$ $y$ = a"),
        ("duckdb", "a = $$ ' $$) OR ($$ ' $$ = a"),
        ("sqlite", "[a'] = 1) OR ([a'] = 1"),
        ("sqlserver", "[a]]'] = 1) OR ([a]]'] = 1"),
    ],
)
def test_each_database_is_read_its_own_way(name, text):
    with pytest.raises(ValidationError, match="where"):
        checked_filter(text, dialect_named(name).lexicon)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("postgresql", "a = $x$ ) ' $x$"),
        ("postgresql", r"a ~ '\d+'"),
        ("postgresql", r"a = E'it\'s ('"),
        ("mysql", "a = `b)` AND c = 1 - -1"),
        ("mysql", "a = 1 -- )\n"),
        ("mysql", "a REGEXP '\\\\d+'"),
        ("sqlite", "[a)] = 1 AND `b)` = 2"),
        ("sqlserver", "[a)] = 1"),
    ],
)
def test_what_is_quoted_may_hold_anything(name, text):
    assert checked_filter(text, dialect_named(name).lexicon) == text.strip()


@given(st.text(alphabet="a1=()'\"$E\\-/*#; \n", max_size=14))
def test_no_text_that_is_taken_leaves_its_parentheses(text):
    """DuckDB itself says what it sees: with the filter false, no row may come through."""
    try:
        taken = checked_filter(text, dialect_named("duckdb").lexicon)
    except ValidationError:
        return
    try:
        rows = duckdb.execute(
            f"SELECT a FROM (VALUES (1)) t(a) WHERE false AND ({taken}\n) AND a IS NULL"
        ).fetchall()
    except duckdb.Error:
        return
    assert rows == []


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 AS a",
        "  select 1 as a ;; \n",
        "WITH x AS (SELECT 1 AS a) SELECT * FROM x",
        "(SELECT 1 AS a)",
        "VALUES (1)",
        "-- all of them\nSELECT ';' AS a",
    ],
)
@pytest.mark.parametrize("name", ALL)
def test_one_query_is_taken(name, text):
    taken = checked_query(text, dialect_named(name).lexicon)
    assert taken == text.strip().rstrip("; \n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT 1; DROP TABLE t",
        "DELETE FROM t",
        "DROP TABLE t",
        "SELECT 1) AS q; DROP TABLE t; SELECT * FROM (SELECT 1",
        "SELECT (1",
        "EXPLAIN SELECT 1",
    ],
)
@pytest.mark.parametrize("name", ALL)
def test_anything_but_one_query_is_refused(name, text):
    with pytest.raises(ValidationError, match="query"):
        checked_query(text, dialect_named(name).lexicon)
