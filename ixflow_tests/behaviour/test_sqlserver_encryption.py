"""Connections to SQL Server are encrypted, with whom we know, unless it is said otherwise."""

from __future__ import annotations

import pytest

from ixflow.dialects import connected, dialect_named, patience, run
from ixflow.errors import SourceUnavailable
from ixflow_tests.tds import PASSWORD, USER, TDSServer

pytestmark = pytest.mark.stand_in
DIALECT = dialect_named("sqlserver")


@pytest.fixture(scope="module")
def encrypting_server():
    with TDSServer(tls=True) as server:
        yield server


def config_of(server: TDSServer, **options):
    place = {"host": "127.0.0.1", "port": server.port, "database": "master"}
    return {**place, "user": USER, "password": PASSWORD, **options}


def ask(config) -> int:
    with patience(5), connected(DIALECT.engine(DIALECT.url(config))) as conn:
        return int(run(conn, "SELECT 42").scalar_one())


def test_a_certificate_that_nobody_vouches_for_is_refused_with_advice(encrypting_server):
    with pytest.raises(SourceUnavailable, match="trust_server_cert") as caught:
        ask(config_of(encrypting_server))
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("trust", [True, "yes", "true"])
def test_it_can_be_trusted_unseen(encrypting_server, trust):
    assert ask(config_of(encrypting_server, trust_server_cert=trust)) == 42


def test_a_server_that_cannot_encrypt_is_refused_unless_that_is_meant():
    with TDSServer() as server:
        with pytest.raises(SourceUnavailable, match="set encrypt to no"):
            ask(config_of(server, trust_server_cert=True))
        assert ask(config_of(server, encrypt=False)) == 42
