"""Creating a database, beside others who may create it at the same moment."""

from __future__ import annotations

import sqlalchemy as sa

from ixflow.dialects.connect import connected
from ixflow.dialects.facts import run
from ixflow.errors import SourceUnavailable
from ixflow.secrets import redact

__all__ = ["create_database"]

# It is there by now: another session has created it, a while ago or in this very moment.
_EXISTS = ("42P04", "23505")


def create_database(engine: sa.Engine, name: str, quoted: str) -> bool:
    """Create a database over a connection to another one; False if it is there already.

    Raises:
        SourceUnavailable: the server cannot be reached, or the role may not create databases.

    """
    try:
        with connected(engine) as conn:
            outside = conn.execution_options(isolation_level="AUTOCOMMIT")
            known = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
            if outside.execute(known, {"name": name}).first() is not None:
                return False
            try:
                run(outside, f"CREATE DATABASE {quoted}")
            except sa.exc.DBAPIError as error:
                state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
                if state not in _EXISTS:
                    raise _refused(name, error) from error
            return True
    finally:
        engine.dispose()


def _refused(name: str, error: sa.exc.DBAPIError) -> SourceUnavailable:
    said = redact(" ".join(str(error.orig).split()))
    msg = f"the database {name} is not there and cannot be created: {said}"
    return SourceUnavailable(
        f"{msg}; create it, or give the role CREATEDB", database=name, lasting=True
    )
