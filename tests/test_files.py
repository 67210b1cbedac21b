"""Files are whole or not there; sizes after gzip."""

import gzip
import os

import pytest

from kdtf.files import atomic_path
from kdtf.files import gzip_bytes


def test_success_replaces_the_older_file(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    for text in ("first", "second"):
        with atomic_path(target) as temporary:
            assert temporary.suffix == ".txt"
            assert temporary.parent == target.parent
            temporary.write_text(text)
        assert target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_failure_leaves_the_older_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("older")
    with pytest.raises(RuntimeError, match="half way"):
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("half way")
    assert target.read_text() == "older"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        with atomic_path(tmp_path / "a.txt"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_as_readable_as_any_other(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("")
    plain = tmp_path / "plain.txt"
    plain.write_text("")
    assert os.stat(tmp_path / "a.txt").st_mode == os.stat(plain).st_mode


def test_gzip_bytes_is_what_gzip_makes():
    data = bytes(range(256)) * 40
    assert gzip_bytes(data) == len(gzip.compress(data, 6, mtime=0))
    assert gzip_bytes(b"") == 20
