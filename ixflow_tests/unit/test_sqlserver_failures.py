"""Which failures of SQL Server are worth another try, as Microsoft's driver words them."""

from __future__ import annotations

import sys

import pytest
import sqlalchemy as sa
from mssql_python.exceptions import sqlstate_to_exception

from ixflow.dialects import dialect_named, unavailable
from ixflow.errors import (
    LockNotAvailable,
    ReadNotAllowed,
    SnapshotUnavailable,
    SourceLimitReached,
    SourceUnavailable,
    UnsupportedDatabase,
)

DIALECT = dialect_named("sqlserver")

PASSING = {
    "08S01": "TCP Provider: Error code 0x2746",
    "08001": "Client unable to establish connection",
    "HYT01": "Connection timeout expired",
    "40001": (
        "Transaction (Process ID 55) was deadlocked on lock resources with another process and has "
        "been chosen as the deadlock victim. Rerun the transaction."
    ),
    "HY000": (
        "Database 'shop' on server 'db' is not currently available. Please retry the connection."
    ),
    "42000": (
        "The service has encountered an error processing your request. Please try again. Error "
        "code 40143."
    ),
    "01000": "The service is currently busy. Retry the request after 10 seconds.",
    "01001": "Resource ID: 1. The request limit for the database is 60 and has been reached.",
    "01002": (
        "Resource ID: 1. The request minimum guarantee is 1, maximum limit is 60 and the current "
        "usage for the database is 60."
    ),
    "08007": "The specified network name is no longer available.",
    "08003": "No process is on the other end of the pipe.",
}
LASTING = {
    "28000": "Login failed for user 'app'.",
    "42S02": "Invalid object name 'orders'.",
    "22012": "Divide by zero error encountered.",
    "HYT00": "Lock request time out period exceeded.",
    "42000": (
        "Snapshot isolation transaction failed accessing database 'shop' because snapshot "
        "isolation is not allowed in this database."
    ),
}


def raised(state: str, message: str) -> Exception:
    made = sqlstate_to_exception(state, f"[Microsoft][SQL Server]{message}")
    if made is not None:
        return made
    from mssql_python import DatabaseError

    return DatabaseError(f"An error occurred with SQLSTATE code: {state}", message)


@pytest.mark.parametrize(("state", "message"), PASSING.items(), ids=list(PASSING))
def test_a_failure_that_passes_is_tried_again(state, message):
    error = raised(state, message)
    assert DIALECT.is_transient(error)
    assert DIALECT.is_transient(sa.exc.DBAPIError("SELECT 1", None, error))


@pytest.mark.parametrize(("state", "message"), LASTING.items(), ids=list(LASTING))
def test_a_failure_that_stays_is_not(state, message):
    assert not DIALECT.is_transient(raised(state, message))


def test_an_error_of_others_is_not_ours_to_judge():
    assert not DIALECT.is_transient(ValueError("TCP Provider: Error code 0x2746"))
    assert not DIALECT.is_transient(SourceUnavailable("Login failed for user 'app'"))


@pytest.mark.parametrize(
    ("state", "message", "kind", "setting"),
    [
        (
            "42000",
            "The SELECT permission was denied on the object 't', database 'd', schema 'dbo'.",
            ReadNotAllowed,
            "GRANT",
        ),
        ("HYT00", "Lock request time out period exceeded.", LockNotAvailable, "LOCK_TIMEOUT"),
        (
            "42000",
            LASTING["42000"],
            SnapshotUnavailable,
            "ALLOW_SNAPSHOT_ISOLATION",
        ),
        (
            "42000",
            "Transaction aborted when accessing versioned row in table 'dbo.t' in database 'd'.",
            SourceLimitReached,
            "tempdb",
        ),
        (
            "42000",
            "Could not allocate a new page for database 'tempdb'.",
            SourceLimitReached,
            "tempdb",
        ),
    ],
)
def test_an_error_names_the_setting_or_the_right_that_helps(state, message, kind, setting):
    found = DIALECT.explained(raised(state, message), "dbo.t")
    assert isinstance(found, kind)
    assert found.fields["setting"] == setting
    assert message[:40] in str(found)


def test_an_error_that_says_it_all_is_left_alone():
    assert DIALECT.explained(raised("42S02", "Invalid object name 't'."), "t") is None
    assert DIALECT.explained(ValueError("versioned row"), "t") is None


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Failed to load the driver. Please read the documentation", "libltdl and libkrb5"),
        ("Client unable to establish connection; TCP Provider: 0x2749", "check host and port"),
        (
            "Client unable to establish connection; SSL Provider: certificate verify failed",
            "trust_server_cert",
        ),
        ("Login failed for user 'app'.", "check user and password"),
        ('Cannot open database "x" requested by the login. The login failed.', "database name"),
    ],
)
def test_a_connection_that_is_refused_comes_with_advice(said, advice):
    url = sa.make_url("mssql+mssqlpython://app:s3cret@db/shop")
    error = unavailable(url, Exception(said))
    assert advice in str(error)
    assert "s3cret" not in str(error)


def test_a_missing_driver_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mssql_python", None)
    with pytest.raises(UnsupportedDatabase, match=r"ixflow\[sqlserver\].*libltdl"):
        DIALECT.engine("mssql+mssqlpython://app:s3cret@db/shop")


def test_a_database_that_is_starting_is_asked_again():
    busy = "cannot connect: Database 'shop' on server 'db' is not currently available."
    assert DIALECT.is_transient(SourceUnavailable(busy))
    assert not DIALECT.is_transient(SourceUnavailable(busy, lasting=True))


def test_an_older_sqlalchemy_without_the_driver_is_named(monkeypatch):
    def unknown(*_: object, **__: object) -> None:
        raise sa.exc.NoSuchModuleError("mssql.mssqlpython")

    monkeypatch.setattr(sa, "create_engine", unknown)
    with pytest.raises(UnsupportedDatabase, match=r"does not know the driver.*2\.1 or newer"):
        dialect_named("sqlserver").engine("mssql+mssqlpython://app:secret@db/shop")
