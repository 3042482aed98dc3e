"""A seed ``source_config`` as a SQLAlchemy URL, with every mistake named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ixflow.errors import ValidationError

__all__ = ["file_url", "parsed_url", "server_url"]

_SERVER_KEYS = frozenset({"host", "port", "database", "user", "password", "connection_string"})


def server_url(
    config: Mapping[str, Any],
    *,
    driver: str,
    default_port: int,
    options: frozenset[str] = frozenset(),
) -> sa.URL:
    """Make a URL from host, port, database, user, password; or take ``connection_string``.

    Other keys become query parameters of the URL if they are in ``options`` or, for PostgreSQL,
    connection parameters of libpq such as ``sslmode``.

    Raises:
        ValidationError: a key is unknown, missing, or has a wrong value.

    """
    if config.get("connection_string"):
        return _from_string(str(config["connection_string"]), driver)
    if not config.get("database"):
        msg = "source_config has no 'database'; give the name of the database to read from"
        raise ValidationError(msg, key="database")
    query = {key: str(value) for key, value in config.items() if key not in _SERVER_KEYS}
    unknown = (
        sorted(set(query) - options - _LIBPQ)
        if driver.startswith("postgresql")
        else (sorted(set(query) - options))
    )
    if unknown:
        allowed = ", ".join(sorted(_SERVER_KEYS | options))
        msg = f"source_config has unknown keys {unknown}; it takes {allowed}"
        raise ValidationError(msg, keys=unknown)
    return sa.URL.create(
        driver,
        username=config.get("user") or None,
        password=config.get("password") or None,
        host=config.get("host") or "localhost",
        port=_port(config.get("port"), default_port),
        database=str(config["database"]),
        query=query,
    )


_LIBPQ = frozenset(
    {"sslmode", "sslcert", "sslkey", "sslrootcert", "sslpassword", "application_name"}
    | {"connect_timeout", "options", "target_session_attrs", "channel_binding", "passfile"}
    | {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"}
    | {"tcp_user_timeout"}
)


_LAST_PORT = 65_535


def _port(value: Any, default: int) -> int:
    if value is None:
        return default
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = 0
    if not 0 < port <= _LAST_PORT:
        msg = f"source_config['port'] is {value!r}; it must be a number from 1 to 65535"
        raise ValidationError(msg, key="port", value=value)
    return port


def parsed_url(text: str | sa.URL, what: str = "the database URL") -> sa.URL:
    """Parse a URL; where that fails, say so without a word of it, since it may hold a password.

    Raises:
        ValidationError: it is not a URL, or its password holds an ``@`` that is not escaped.

    >>> parsed_url("duckdb:///warehouse.duckdb").database
    'warehouse.duckdb'
    """
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        msg = (
            f"{what} is not a URL like postgresql://user:password@host:5432/database; "
            f"in user and password write @ as %40, : as %3A and / as %2F"
        )
        raise ValidationError(msg, argument=what) from None
    if "@" in (url.host or ""):
        msg = f"{what} has an @ in its password; write it as %40"
        raise ValidationError(msg, argument=what)
    return url


def _from_string(text: str, driver: str) -> sa.URL:
    url = parsed_url(text, "source_config['connection_string']")
    if url.get_backend_name() != driver.split("+", maxsplit=1)[0]:
        msg = f"connection_string is for {url.get_backend_name()}, the source_type is for {driver}"
        raise ValidationError(msg, key="connection_string")
    return url.set(drivername=driver) if "+" not in url.drivername else url


def file_url(config: Mapping[str, Any], *, driver: str) -> sa.URL:
    """Make the URL of a database file from ``database`` (a path) or ``connection_string``."""
    if config.get("connection_string"):
        return _from_string(str(config["connection_string"]), driver)
    unknown = sorted(set(config) - {"database"})
    if unknown or not config.get("database"):
        msg = f"source_config of a database file takes 'database' (its path); got {sorted(config)}"
        raise ValidationError(msg, keys=unknown)
    return sa.URL.create(driver, database=str(config["database"]))
