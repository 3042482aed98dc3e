"""Credentials that never print: redaction of URLs and of texts that may quote them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

import sqlalchemy as sa

__all__ = ["SECRET_KEYS", "masked", "redact", "redact_url", "secrets_of"]

# Keys of a source_config, of a URL query and of libpq's key=value texts that carry a credential.
SECRET_KEYS = ("password", "passwd", "pwd", "secret", "token", "api_key", "access_key", "sslkey")

_URL_PASSWORD = re.compile(r"(?i)(?P<head>[a-z][a-z0-9+.\-]*://[^\s/:@]*:)[^\s]*@(?=[^\s@]*)")
_WORDS = "|".join(SECRET_KEYS)
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_BRACED = r"\{(?:[^}]|\}\})*\}"
# password=x, sslpassword = 'x y', PWD={x;y}, and the 'password': 'x' of a printed dict or JSON.
_KEY_VALUE = re.compile(
    rf"""(?i)(?P<head>\b[\w-]*(?:{_WORDS})[\w-]*\s*=\s*)(?:{_QUOTED}|{_BRACED}|[^\s&;,'"]+)"""
)
# A key of an ODBC connection string; only a semicolon or its brace ends the value.
_ODBC_PASSWORD = re.compile(
    rf"(?i)(?P<head>(?:^|;)\s*(?:pwd|password)\s*=\s*)(?P<value>{_BRACED}|[^;]*)"
)
_QUOTED_KEY = re.compile(
    rf"""(?i)(?P<head>(?P<mark>['"])[\w-]*(?:{_WORDS})[\w-]*(?P=mark)\s*:\s*)"""
    rf"""(?:{_QUOTED}|[^\s,}}]+)"""
)


def redact_url(url: str | sa.URL) -> str:
    """Return the URL with ``***`` in place of its password and of secret query parameters.

    A text that is no URL, or whose password holds an unquoted ``@``, is redacted as a text.

    >>> redact_url("postgresql+psycopg://app:s3cret@db/shop?sslpassword=x")
    'postgresql+psycopg://app:***@db/shop?sslpassword=***'
    """
    try:
        made = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return redact(str(url))
    if isinstance(url, str) and url.count("@") > 1:
        return redact(url)
    hidden = {
        key: "***"
        for key, value in made.query.items()
        if _is_secret(key) or _ODBC_PASSWORD.search(str(value))
    }
    if hidden:
        made = made.update_query_dict(hidden)
    return made.render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def redact(text: str, *secrets: str | None) -> str:
    """Return the text without the given secrets and without any password in a URL or key=value.

    >>> redact("cannot open postgresql://app:s3cret@db/shop")
    'cannot open postgresql://app:***@db/shop'
    """
    spellings = {form for secret in secrets if secret for form in _spellings(secret)}
    for secret in sorted(spellings, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _URL_PASSWORD.sub(r"\g<head>***@", text)
    return _QUOTED_KEY.sub(r"\g<head>'***'", _KEY_VALUE.sub(r"\g<head>***", text))


def _spellings(secret: str) -> tuple[str, ...]:
    """List how drivers and SQLAlchemy write a secret: as it is, in URLs, in a repr."""
    return (
        secret,
        quote(secret, safe=""),
        quote(secret, safe=" +"),
        quote_plus(secret),
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
    )


def secrets_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """List the secret values of a source_config, so that `redact` can remove them from any text.

    >>> secrets_of({"host": "db", "password": "s3cret"})
    ('s3cret',)
    """
    found: list[str] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            found += secrets_of(value)
        elif value and _is_secret(key):
            found.append(str(value))
        elif value and _may_be_url(value):
            # What looks like a URL may be an ODBC string whose password looks like one.
            found += [*_secrets_of_odbc(str(value)), *_secrets_of_url(str(value))]
        elif isinstance(value, str):
            found += _secrets_of_odbc(value)
    return tuple(found)


def _secrets_of_odbc(text: str) -> list[str]:
    found = [match["value"].strip() for match in _ODBC_PASSWORD.finditer(text)]
    bare = [value[1:-1].replace("}}", "}") for value in found if value.startswith("{")]
    return [value for value in found + bare if value]


def _may_be_url(value: Any) -> bool:
    return isinstance(value, sa.URL) or (isinstance(value, str) and "://" in value)


def _secrets_of_url(text: str) -> list[str]:
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        return [text]
    values = [str(url.password)] if url.password else []
    values += [str(value) for key, value in url.query.items() if _is_secret(key)]
    return values + [one for value in url.query.values() for one in _secrets_of_odbc(str(value))]


def masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the source_config with every secret value replaced, for repr, logs and metadata.

    >>> masked({"host": "db", "password": "s3cret"})
    {'host': 'db', 'password': '***'}
    """
    return {key: _masked_value(key, value) for key, value in config.items()}


def _masked_value(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return masked(value)
    if value is not None and _is_secret(key):
        return "***"
    if _may_be_url(value):
        return redact_url(value)
    return _ODBC_PASSWORD.sub(r"\g<head>***", value) if isinstance(value, str) else value


def _is_secret(key: str) -> bool:
    # A free section of a configuration may have a number as a key.
    return any(word in str(key).lower() for word in SECRET_KEYS)
