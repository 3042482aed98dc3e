"""An iterable as a file: sized reads, everything at once, and never more than was asked for."""

from __future__ import annotations

import itertools

import pytest

from ixflow import to_file_like_obj, to_file_like_object


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_sized_reads_join_and_cut_pieces(size):
    file = to_file_like_obj([b"ab", b"", b"cdef", b"g"])
    found = list(iter(lambda: file.read(size), b""))
    assert b"".join(found) == b"abcdefg"
    assert all(len(piece) == size for piece in found[:-1])


@pytest.mark.parametrize("size", [None, -1, -7])
def test_none_and_negative_sizes_read_everything_and_then_nothing(size):
    file = to_file_like_obj(iter(["a", "b"]), str)
    assert (file.read(size), file.read(size)) == ("ab", "")


def test_nothing_is_read_ahead():
    numbers = itertools.count()
    file = to_file_like_obj(b"%d" % n for n in numbers)
    assert file.read(3) == b"012"
    assert next(numbers) == 3


def test_it_is_a_readable_file_by_both_names():
    assert to_file_like_object is to_file_like_obj
    assert to_file_like_obj([]).readable()
    assert to_file_like_obj([]).read() == b""
