"""Credentials that never print: redaction of URLs and of texts that may quote them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

__all__ = ["SECRET_KEYS", "masked", "redact", "redact_url", "secrets_of"]

# Keys of a source_config, of a URL query and of libpq's key=value texts that carry a credential.
SECRET_KEYS = ("password", "passwd", "pwd", "secret", "token", "api_key", "access_key", "sslkey")

_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.\-]*://[^\s/:@]*:)[^\s]*@(?=[^\s@]*)", re.I)
_KEY_VALUE = re.compile(rf"\b(?P<key>{'|'.join(SECRET_KEYS)})\s*=\s*('[^']*'|[^\s&;,'\"]+)", re.I)


def redact_url(url: str | sa.URL) -> str:
    """Return the URL with ``***`` in place of its password and of secret query parameters.

    >>> redact_url("postgresql+psycopg://app:s3cret@db/shop?sslpassword=x")
    'postgresql+psycopg://app:***@db/shop?sslpassword=***'
    """
    made = sa.make_url(url)
    hidden = {key: "***" for key in made.query if any(word in key.lower() for word in SECRET_KEYS)}
    if hidden:
        made = made.update_query_dict(hidden)
    return made.render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def redact(text: str, *secrets: str | None) -> str:
    """Return the text without the given secrets and without any password in a URL or key=value.

    >>> redact("cannot open postgresql://app:s3cret@db/shop")
    'cannot open postgresql://app:***@db/shop'
    """
    for secret in sorted({s for s in secrets if s}, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _URL_PASSWORD.sub(r"\g<head>***@", text)
    return _KEY_VALUE.sub(r"\g<key>=***", text)


def secrets_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """List the secret values of a source_config, so that `redact` can remove them from any text.

    >>> secrets_of({"host": "db", "password": "s3cret"})
    ('s3cret',)
    """
    found = [str(value) for key, value in config.items() if value and _is_secret(key)]
    url = config.get("connection_string")
    if url:
        try:
            password = sa.make_url(str(url)).password
        except sa.exc.ArgumentError:
            password = str(url)
        found += [str(password)] if password else []
    return tuple(found)


def masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the source_config with every secret value replaced, for repr, logs and metadata.

    >>> masked({"host": "db", "password": "s3cret"})
    {'host': 'db', 'password': '***'}
    """
    return {key: _masked_value(key, value) for key, value in config.items()}


def _masked_value(key: str, value: Any) -> Any:
    if value is None:
        return None
    if _is_secret(key):
        return "***"
    if key == "connection_string":
        return redact(str(value), *secrets_of({key: value}))
    return value


def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in SECRET_KEYS)
