"""Placeholders of a configuration: what is put in their place, and what is never shown."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow.errors import ConfigError
from ixflow.pipeline.config_schema import Place
from ixflow.pipeline.config_values import Names, filled

PLACE = Place("pipedag.yaml", ("table_store", "args", "url"))
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(WORDS)
@settings(max_examples=100)
def test_a_text_with_doubled_braces_is_itself(text):
    doubled = text.replace("{", "{{").replace("}", "}}")
    assert filled(doubled, Names({}), PLACE) == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1))
@settings(max_examples=100)
def test_any_password_of_the_environment_arrives_whole_in_a_url(password):
    names = Names({"instance_id": "full"}, environ={"PASSWORD": password})
    url = filled("postgresql://app:{$PASSWORD:quote}@db/{instance_id}", names, PLACE)
    made = sa.make_url(url)
    assert (made.password, made.host, made.database) == (password, "db", "full")


@given(WORDS, WORDS)
@settings(max_examples=100)
def test_a_value_from_elsewhere_is_taken_as_it_is_unless_it_names_what_is_known(start, end):
    value = f"{start}{{other}}{end}"
    for names in (Names({}, {"x": value}), Names({}, {}, {"x": value})):
        assert filled("{x}" if names.from_file else "{$x}", names, PLACE) == value


def test_a_value_of_the_environment_may_hold_placeholders_of_the_file_and_fixed_ones():
    names = Names(
        {"instance_id": "full"}, {"host": "db-{instance_id}"}, {"URL": "pg://{host}/{instance_id}"}
    )
    assert filled("{$URL}", names, PLACE) == "pg://db-{instance_id}/full"
    assert filled("{host}", names, PLACE) == "db-full"


def test_braces_that_name_nothing_possible_stay():
    odbc = "mssql://?driver={ODBC Driver 18 for SQL Server}&x={}&y={1}"
    assert filled(odbc, Names({}), PLACE) == odbc


def test_an_environment_variable_that_is_not_set_is_named():
    with pytest.raises(ConfigError, match=r"pipedag.yaml: table_store.args.url needs .* DB_HOST"):
        filled("pg://{$DB_HOST}/x", Names({}, environ={"OTHER": "1"}), PLACE)


def test_a_placeholder_that_is_not_known_is_named_with_those_that_are():
    names = Names({"instance_id": "full", "name": "n"}, {"host": "db"})
    with pytest.raises(
        ConfigError, match=r"\{instance_ids\}.*did you mean 'instance_id'"
    ) as raised:
        filled("pg://{instance_ids}/x", names, PLACE)
    assert raised.value.allowed == ["host", "instance_id", "name"]
    assert (raised.value.file, raised.value.path) == ("pipedag.yaml", "table_store.args.url")


def test_a_part_of_a_password_is_never_shown():
    with pytest.raises(ConfigError, match="a placeholder in its password") as raised:
        filled("pg://app:s3{cret}@db/x", Names({"name": "n"}), PLACE)
    assert "cret" not in str(raised.value)
    names = Names({}, {"password": "s3cret"}, {"PASSWORD": "s3cret"})
    assert "s3cret" not in repr(names)
