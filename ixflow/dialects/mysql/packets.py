"""Where the packets of MySQL's protocol begin in a block of bytes.

A packet is its length in three bytes, a number that counts up and wraps at 256, and that many bytes
of payload. Only the length tells where the next one begins, so finding them all is a walk; but of
nearly every packet the place can be guessed at once (a third length byte of zero, and behind it a
header whose number is one more), and a guess that is where the packet before it ends is no guess.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["HEADER", "LONGEST", "Block", "Places", "packet_starts", "payload_length"]

HEADER = 4
"""Bytes before the payload."""
LONGEST = (1 << 24) - 1
"""Bytes of payload after which the row goes on in the next packet."""

# Packets up to this length are guessed, in pieces that bound the memory which guessing takes.
_SHORT, _WINDOW = 1 << 16, 1 << 18

Block = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


def packet_starts(block: Block) -> Places:
    """Give where each whole packet begins, and last where the incomplete rest does.

    >>> packet_starts(np.frombuffer(bytes([1, 0, 0, 5, 65, 1, 0, 0]), np.uint8)).tolist()
    [0, 5]
    """
    found, place = [], 0
    while behind := _behind(block, place):
        if behind - place <= _SHORT:
            run = _run(block[place : place + _WINDOW])
            found.append(run[:-1] + place)
            place += int(run[-1])
        else:
            found.append(np.array([place]))
            place = behind
    return np.concatenate([*found, np.array([place])])


def payload_length(block: Block, place: int) -> int:
    """Read the length in the header at this place.

    >>> payload_length(np.array([1, 2, 0, 0], np.uint8), 0)
    513
    """
    return int.from_bytes(block[place : place + 3].tobytes(), "little")


def _behind(block: Block, place: int) -> int:
    """Give where the packet at this place ends; 0: it is not whole."""
    if len(block) - place < HEADER:
        return 0
    behind = place + HEADER + payload_length(block, place)
    return behind if behind <= len(block) else 0


def _run(block: Block) -> Places:
    """Do what `packet_starts` does, by guesses, for a short block."""
    at, after = _guesses(block)
    # The last guess of each run in which every one ends where the next begins.
    last = np.append(np.flatnonzero(after[:-1] != at[1:]), len(at) - 1)
    found, place = [], 0
    while behind := _behind(block, place):
        first = int(np.searchsorted(at, place))
        if first < len(at) and at[first] == place:
            end = int(last[np.searchsorted(last, first)])
            found.append(at[first : end + 1])
            place = int(after[end])
        else:
            found.append(np.array([place]))
            place = behind
    return np.concatenate([*found, np.array([place])])


def _guesses(block: Block) -> tuple[Places, Places]:
    """Give where short packets may begin, in order, and where each of them would end."""
    at = np.flatnonzero(block[2:] == 0)
    at = at[: np.searchsorted(at, len(block) - 2 * HEADER)]
    after = at + HEADER + block[at] + (block[at + 1].astype(np.int64) << 8)
    inside = after <= len(block) - HEADER
    at, after = at[inside], after[inside]
    counted = (block[after + 2] == 0) & (block[after + 3] == block[at + 3] + np.uint8(1))
    return at[counted], after[counted]
