"""The server's limit: COPY, read from the socket in large pieces and dropped.

A driver that hands over each row costs several times as much as the server needs to send it. This
speaks just enough of PostgreSQL's protocol for a benchmark's server, which trusts whoever asks.
"""

from __future__ import annotations

import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit

__all__ = ["copy_to_nowhere"]

_PROTOCOL_3 = 196608
_READY = b"Z\0\0\0\5I"
_PIECE = 1 << 20


def copy_to_nowhere(url: str, *queries: str) -> int:
    """Run each query as a binary COPY on a connection of its own, and count the rows."""
    with ThreadPoolExecutor(len(queries)) as pool:
        return sum(pool.map(partial(_copied, url), queries))


def _copied(url: str, query: str) -> int:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as conn:
        who = f"user\0{parts.username}\0database\0{parts.path[1:]}\0\0".encode()
        conn.sendall(struct.pack("!ii", len(who) + 8, _PROTOCOL_3) + who)
        _until_ready(conn)
        sql = f"COPY ({query}) TO STDOUT (FORMAT binary)\0".encode()
        conn.sendall(b"Q" + struct.pack("!i", len(sql) + 4) + sql)
        # What ends with ReadyForQuery has "COPY 123" right before it.
        said = _until_ready(conn)[: -len(_READY)].rstrip(b"\0").rpartition(b"COPY ")
        if not said[2].isdigit():
            raise ValueError(f"the server did not copy: {said!r}")
        return int(said[2])


def _until_ready(conn: socket.socket) -> bytes:
    """Read to the next ReadyForQuery, and give the last bytes."""
    piece, tail = bytearray(_PIECE), b""
    while not tail.endswith(_READY):
        size = conn.recv_into(piece)
        if not size:
            raise ConnectionError(f"the server hung up: {tail!r}")
        tail = (tail + piece[max(0, size - 64) : size])[-64:]
    return tail
