"""What a ``source_config`` for SQL Server may hold, and the connection string made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ixflow.dialects.config import parsed_url, server_url
from ixflow.dialects.guest import keepalive
from ixflow.errors import ValidationError

__all__ = ["DRIVER", "connection_string", "source_url", "with_keepalive"]

DRIVER = "mssql+mssqlpython"
_PORT = 1433

# Our names and ODBC's in lower case; ODBC's keyword.
_OPTIONS = {
    "encrypt": "Encrypt",
    "trust_server_cert": "TrustServerCertificate",
    "trust_server_certificate": "TrustServerCertificate",
    "trustservercertificate": "TrustServerCertificate",
    "authentication": "Authentication",
    "trusted_connection": "Trusted_Connection",
    "application_intent": "ApplicationIntent",
    "applicationintent": "ApplicationIntent",
    "hostnameincertificate": "HostnameInCertificate",
    "servercertificate": "ServerCertificate",
    "serverspn": "ServerSPN",
    "multisubnetfailover": "MultiSubnetFailover",
    "ipaddresspreference": "IpAddressPreference",
    "packetsize": "PacketSize",
    "packet size": "PacketSize",
    "keepalive": "KeepAlive",
    "keepaliveinterval": "KeepAliveInterval",
}
# The driver is always the one that mssql-python carries, and it names itself.
_IGNORED = frozenset({"driver", "app", "application name"})
_OURS = frozenset({"driver", "encrypt", "trust_server_cert", "authentication"})
_PLACES = {
    **dict.fromkeys(("server", "address", "addr", "data source"), "server"),
    **dict.fromkeys(("database", "initial catalog"), "database"),
    **dict.fromkeys(("uid", "user id", "user"), "user"),
    **dict.fromkeys(("pwd", "password"), "password"),
}
_ODBC = re.compile(r"\s*([^=;{}]+?)\s*=\s*(?:\{((?:[^}]|\}\})*)\}\s*|([^;]*))(?:;|$)")
_SERVER = re.compile(r"(?:tcp:)?(?P<host>[^,]+?)\s*(?:,\s*(?P<port>\d+))?")
# A password in an ODBC string may hold "://" too.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PLAIN = re.compile(r"[^;{}=\s]([^;{}=]*[^;{}=\s])?")


def source_url(config: Mapping[str, Any]) -> sa.URL:
    """Make the URL of a ``source_config``, its query spelled as ODBC's keywords.

    ``connection_string`` may be a URL or an ODBC string.

    Raises:
        ValidationError: a key is unknown, missing, or has a wrong value.

    """
    given = str(config.get("connection_string") or "").strip()
    if given and not _URL.match(given):
        return _from_odbc(given)
    if given.startswith("sqlserver"):
        given = given.replace("sqlserver", "mssql", 1)
    if given:
        url = parsed_url(given, "source_config['connection_string']")
        if url.get_backend_name() == "mssql" and "odbc_connect" in url.query:
            return _from_odbc(str(url.query["odbc_connect"]))
        plain = {"connection_string": url.set(query={}).render_as_string(hide_password=False)}
        made = server_url(plain, driver=DRIVER, default_port=_PORT)
        query: Mapping[str, Any] = url.query
    else:
        application = {"application_intent", *(_OURS)}
        made = server_url(config, driver=DRIVER, default_port=_PORT, options=frozenset(application))
        query = made.query
    return made.set(drivername=DRIVER, query=_options(query))


def _options(query: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in query.items():
        key = name.lower()
        if key in _IGNORED:
            continue
        if key not in _OPTIONS:
            msg = f"SQL Server's connections have no option {name!r}; there are {sorted(_OPTIONS)}"
            raise ValidationError(msg, key=name)
        found[_OPTIONS[key]] = {"true": "yes", "false": "no"}.get(str(value).lower(), str(value))
    return found


def _from_odbc(text: str) -> sa.URL:
    """Read ``DRIVER={...};SERVER=host,port;DATABASE=...;UID=...;PWD=...``."""
    places: dict[str, str] = {}
    options: dict[str, str] = {}
    at = 0
    while text[at:].strip(" ;"):
        found = _ODBC.match(text, at)
        if found is None:
            msg = "connection_string is neither a URL nor an ODBC string like KEY=value;KEY={value}"
            raise ValidationError(msg, key="connection_string")
        at = found.end()
        key, braced, bare = found[1].lower(), found[2], found[3]
        value = bare.strip() if braced is None else braced.replace("}}", "}")
        # As in ODBC, the first of two equal keys counts.
        (places if key in _PLACES else options).setdefault(_PLACES.get(key, key), value)
    if not places.get("server") or not places.get("database"):
        msg = "the ODBC connection_string must name SERVER and DATABASE"
        raise ValidationError(msg, key="connection_string")
    server = _SERVER.fullmatch(places["server"])
    if server is None:
        msg = f"SERVER is {places['server']!r}; write host or host,port"
        raise ValidationError(msg, key="connection_string")
    return sa.URL.create(
        DRIVER,
        username=places.get("user") or None,
        password=places.get("password") or None,
        host=server["host"],
        port=int(server["port"] or _PORT),
        database=places["database"],
        query=_options(options),
    )


def connection_string(url: sa.URL) -> str:
    """Write the URL as ODBC reads it, with every value that needs it in braces.

    >>> connection_string(sa.make_url("mssql+mssqlpython://me:a%3Bb@db/shop"))
    'Server=db,1433;Database=shop;UID=me;PWD={a;b};ApplicationIntent=ReadOnly'
    """
    host, port = url.host or "localhost", url.port or _PORT
    # A named instance (host\\name) tells its port itself.
    server = host if "\\" in host and port == _PORT else f"{host},{port}"
    pairs = {"Server": server, "Database": url.database or ""}
    if url.username:
        pairs["UID"] = url.username
    if url.password:
        pairs["PWD"] = str(url.password)
    pairs["ApplicationIntent"] = "ReadOnly"
    pairs |= {_OPTIONS.get(key.lower(), key): str(value) for key, value in url.query.items()}
    return ";".join(f"{key}={_value(value)}" for key, value in pairs.items())


def with_keepalive(url: sa.URL) -> sa.URL:
    """Let the machine find out that the server is gone, where the URL does not say when.

    The driver sets no count of its questions: Linux asks nine times.

    >>> with_keepalive(sa.make_url("mssql+mssqlpython://db/shop?KeepAlive=10")).query["KeepAlive"]
    '10'
    """
    idle = keepalive().idle
    asks = {"KeepAlive": str(idle), "KeepAliveInterval": str(max(1, idle // 9))}
    given = {key.lower() for key in url.query}
    ours = {key: value for key, value in asks.items() if key.lower() not in given}
    return url.update_query_dict(ours)


def _value(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else "{" + text.replace("}", "}}") + "}"
