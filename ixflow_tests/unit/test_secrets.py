"""No credential gets into a text: not from URLs, not from configurations, not from messages."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from hypothesis import assume, given
from hypothesis import strategies as st

from ixflow.dialects import dialect_of
from ixflow.errors import ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.secrets import masked, redact, redact_url, secrets_of

ODD = ["p@ss:w/rd", "a b", "ü%40", "x'y\"z", "back\\slash", "://", "@", "#?&=", "*****"]
PASSWORDS = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=5),
)


def url_with(password: str) -> sa.URL:
    return sa.URL.create("postgresql+psycopg", "app", password, "db", 5432, "shop")


@given(PASSWORDS)
def test_a_url_never_shows_its_password(password):
    assume(password not in "postgresql+psycopg://app:***@db:5432/shop")
    assert redact_url(url_with(password)) == "postgresql+psycopg://app:***@db:5432/shop"
    text = url_with(password).render_as_string(hide_password=False)
    assert password not in redact_url(text)


@given(PASSWORDS)
def test_no_text_shows_a_secret_it_is_told_of(password):
    assume(password not in "cannot open postgresql+psycopg://app:***@db/shop with password='***'")
    url = url_with(password).render_as_string(hide_password=False)
    quoted = [url, repr(url), repr(password), json.dumps({"password": password}), password]
    for text in quoted:
        assert password not in redact(f"cannot open {text} today", password)


@given(PASSWORDS)
def test_a_configuration_never_shows_its_secrets(password):
    assume(password not in "connection_string postgresql+psycopg://app:***@db:5432/shop inner ***")
    url = url_with(password).render_as_string(hide_password=False)
    config = {
        "host": "h",
        "password": password,
        "connection_string": url,
        "inner": {"api_token": password, "url": url},
    }
    shown = str(masked(config).values())
    assert password not in shown
    assert repr(password)[1:-1] not in shown
    assert password in secrets_of(config)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:s3cret@db/shop",
        "postgresql://app:s3cret@x@db/shop and more",
        "host=db password=s3cret user=app",
        "host=db password = 's3cret' user=app",
        "sslpassword=s3cret",
        "?PASSWORD=s3cret&x=1",
        "{'password': 's3cret', 'host': 'db'}",
        '{"api_token": "s3cret"}',
        "AWS_SECRET_ACCESS_KEY=s3cret",
        "password='s3cret \\' more'",
    ],
)
def test_passwords_are_found_in_texts_without_being_told(text):
    assert "s3cret" not in redact(text)


def test_what_is_no_secret_stays_readable():
    assert redact("cannot open sqlite:////tmp/shop.db: no such table orders") == (
        "cannot open sqlite:////tmp/shop.db: no such table orders"
    )
    assert redact("postgresql://app@db/shop") == "postgresql://app@db/shop"
    assert masked({"host": "db", "port": 1, "password": None}) == {
        "host": "db",
        "port": 1,
        "password": None,
    }


@pytest.mark.parametrize("text", ["postgresql://app:p@ss:w/rd@db/shop", "no url: app:p@ss"])
def test_what_cannot_be_parsed_as_a_url_is_redacted_as_a_text(text):
    assert "w/rd" not in redact_url(text)


def test_secret_parameters_of_a_url_are_hidden():
    shown = redact_url("postgresql://app:x@db/shop?sslpassword=s3cret&sslmode=require")
    assert "s3cret" not in shown
    assert "sslmode=require" in shown


def test_none_and_empty_secrets_change_nothing():
    assert redact("plain", None, "") == "plain"


@pytest.mark.parametrize(
    "url",
    ["postgresql://etl:hun@ter2@db/shop", "postgresql://etl:hunter2@db:port/shop", "hunter2"],
    ids=["unescaped @", "bad port", "no URL"],
)
def test_a_url_that_cannot_be_parsed_is_refused_without_a_word_of_it(url):
    with pytest.raises(ValidationError) as caught:
        dialect_of(url)
    assert "ter2" not in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        ExtractionIntent("postgresql", {"connection_string": url}, "orders")
    assert "ter2" not in str(caught.value)
