"""TLS as TDS 7.4 does it: the handshake travels in packets, then packets travel in TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Channel", "make_certificate", "server_context"]

_RECEIVED = 1 << 16


def make_certificate(directory: Path) -> Path:
    """Write a certificate that nobody vouches for, and its key, as most test servers have."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    form = serialization.Encoding.PEM
    plain = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(plain + certificate.public_bytes(form))
    return path


def server_context(certificate: Path) -> ssl.SSLContext:
    """Make what a server needs; the driver speaks TLS 1.2 with servers of TDS 7."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate)
    return context


class Channel:
    """The encrypted bytes of one client."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    def shake_hands(self, received: bytes) -> tuple[bytes, bool]:
        """Take what the client says; give what is to be answered, and whether that was all."""
        self._in.write(received)
        try:
            self._tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        return self._out.read(), done

    def receive(self, connection: socket.socket) -> bytes:
        """Read some bytes in plain; none at the end."""
        while True:
            try:
                return self._tls.read(_RECEIVED)
            except ssl.SSLWantReadError:
                received = connection.recv(_RECEIVED)
                if not received:
                    return b""
                self._in.write(received)

    def seal(self, plain: bytes) -> bytes:
        """Encrypt bytes that are to be sent."""
        self._tls.write(plain)
        return self._out.read()
