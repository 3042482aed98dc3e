"""SQL Server's source_config: every spelling of ixtract's, and no password anywhere but in it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_plus

import hypothesis
import pytest
from hypothesis import strategies as st

from ixflow.dialects import dialect_named
from ixflow.dialects.sqlserver.config import connection_string
from ixflow.errors import ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.secrets import redact

DIALECT = dialect_named("sqlserver")
PARTS = {"host": "db", "port": 1500, "database": "shop", "user": "app", "password": "s3cret"}
ODBC = "DRIVER={ODBC Driver 18 for SQL Server};SERVER=db,1500;DATABASE=shop;UID=app;PWD=s3cret"


@pytest.mark.parametrize(
    "config",
    [
        PARTS,
        {**PARTS, "driver": "ODBC Driver 18 for SQL Server"},
        {"connection_string": "mssql://app:s3cret@db:1500/shop"},
        {"connection_string": "sqlserver://app:s3cret@db:1500/shop"},
        {"connection_string": "mssql+pyodbc://app:s3cret@db:1500/shop?driver=ODBC+Driver+18"},
        {"connection_string": f"mssql+pyodbc:///?odbc_connect={quote_plus(ODBC)}"},
        {"connection_string": ODBC},
        {"connection_string": f"{ODBC};"},
        {"connection_string": "Server=tcp:db,1500; Database=shop; Uid=app; Pwd={s3cret};"},
        {"connection_string": "data source=db,1500;initial catalog=shop;user=app;password=s3cret"},
    ],
    ids=lambda config: ", ".join(config)[:60],
)
def test_every_spelling_means_the_same_source(config):
    intent = ExtractionIntent("sqlserver", config, "orders")
    assert intent.source() == {"type": "sqlserver", "host": "db", "port": 1500, "database": "shop"}
    assert intent.identity() == ExtractionIntent("mssql", PARTS, "orders").identity()
    made = connection_string(intent.url())
    assert made == "Server=db,1500;Database=shop;UID=app;PWD=s3cret;ApplicationIntent=ReadOnly"
    assert "s3cret" not in repr(intent)
    assert "s3cret" in intent.secrets


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encrypt": False}, "Encrypt=no"),
        ({"encrypt": "strict"}, "Encrypt=strict"),
        ({"trust_server_cert": True}, "TrustServerCertificate=yes"),
        ({"application_intent": "ReadWrite"}, "ApplicationIntent=ReadWrite"),
        ({"authentication": "ActiveDirectoryMSI"}, "Authentication=ActiveDirectoryMSI"),
    ],
)
def test_options_reach_the_driver_from_every_spelling(options, said):
    ((name, value),) = options.items()
    keyword = said.split("=", maxsplit=1)[0]
    for config in (
        {**PARTS, **options},
        {"connection_string": f"mssql://app:s3cret@db:1500/shop?{keyword}={value}"},
        {"connection_string": f"{ODBC};{keyword}={value}"},
    ):
        assert connection_string(DIALECT.url(config)).count(said) == 1
    assert name


def test_port_and_host_have_defaults_and_an_instance_tells_its_port_itself():
    assert DIALECT.url({"database": "shop"}).port == 1433
    assert connection_string(DIALECT.url({"database": "shop"})).startswith("Server=localhost,1433;")
    instance = DIALECT.url({"connection_string": r"SERVER=db\SALES;DATABASE=shop"})
    assert connection_string(instance).startswith(r"Server=db\SALES;")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"host": "db"}, "database"),
        ({**PARTS, "sslmode": "require"}, "sslmode"),
        ({"connection_string": "mssql://app:s3cret@db/shop?mars=yes"}, "mars"),
        ({"connection_string": f"{ODBC};MARS_Connection=yes"}, "MARS_Connection".lower()),
        ({"connection_string": "postgresql://app:s3cret@db/shop"}, "postgresql"),
        ({"connection_string": "SERVER=db;PWD=s3cret"}, "DATABASE"),
        ({"connection_string": "db shop s3cret"}, "ODBC"),
        ({"connection_string": "SERVER=db,many;DATABASE=shop;PWD=s3cret"}, "SERVER"),
    ],
)
def test_a_mistake_is_named_without_the_password(config, said):
    with pytest.raises(ValidationError, match=said) as caught:
        ExtractionIntent("sqlserver", config, "orders")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.fields)


# No NUL: neither ODBC nor anybody else takes one. Blanks at the ends need the braces.
passwords = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@hypothesis.given(passwords)
@hypothesis.example("p@ss:w/rd%;}{ 1")
@hypothesis.example("}")
@hypothesis.example(" a;PWD=b ")
def test_any_password_reaches_the_driver_as_it_is(password):
    from mssql_python.connection_string_parser import _ConnectionStringParser

    given: dict[str, Any] = {**PARTS, "password": password}
    made = connection_string(DIALECT.url(given))
    assert _ConnectionStringParser(validate_keywords=True)._parse(made)["pwd"] == password
    assert connection_string(DIALECT.url({"connection_string": made})) == made


@hypothesis.given(passwords.map(lambda password: f"s3{password}cr3t"))
@hypothesis.example("p@ss:w/rd%;}{ 1")
def test_a_password_in_an_odbc_string_is_never_shown(password):
    braced = "{" + password.replace("}", "}}") + "}"
    config = {"connection_string": f"SERVER=db;DATABASE=shop;UID=app;PWD={braced}"}
    intent = ExtractionIntent("sqlserver", config, "orders")
    assert password in intent.secrets
    assert password not in repr(intent)
    assert password not in redact(f"cannot open {config['connection_string']}", *intent.secrets)
