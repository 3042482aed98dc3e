"""An iterable of pieces as a file that can be read, without joining them first."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

__all__ = ["to_file_like_obj", "to_file_like_object"]


class _Pieces(io.IOBase):
    """Reads pieces of bytes or text in turn, and never more of them than it must."""

    def __init__(self, iterable: Iterable[Any], empty: Any) -> None:
        self._pieces, self._empty = iter(iterable), empty
        self._rest = empty

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def read(self, size: int | None = -1) -> Any:
        """Read so many bytes or characters, fewer at the end; None or negative: all of them."""
        wanted = None if size is None or size < 0 else size
        found, length = [], 0
        while wanted is None or length < wanted:
            piece = self._rest or next(self._pieces, None)
            if piece is None:
                break
            room = len(piece) if wanted is None else wanted - length
            found.append(piece[:room])
            length += len(found[-1])
            self._rest = piece[room:]
        return self._empty.join(found)


def to_file_like_obj(iterable: Iterable[Any], base: type[Any] = bytes) -> io.IOBase:
    """Make a readable file of an iterable of ``bytes``, or of ``str`` with ``base=str``.

    >>> file = to_file_like_obj([b"ab", b"cd", b"e"])
    >>> file.read(3), file.read(), file.read()
    (b'abc', b'de', b'')
    """
    return _Pieces(iterable, base())


to_file_like_object = to_file_like_obj
"""The name that the documentation of pg-bulk-ingest shows."""
