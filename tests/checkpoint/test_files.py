"""Files are there whole or not at all, with their mode from the first byte on."""

from __future__ import annotations

import os
import stat

import pytest

from medsum_core import files
from medsum_core.files import PRIVATE_MODE, write_bytes_atomic, write_text_atomic


def test_what_is_written_is_what_is_read(tmp_path):
    write_text_atomic(tmp_path / "a.txt", "one\r\n\N{MINUS SIGN}\n")
    assert (tmp_path / "a.txt").read_bytes() == "one\r\n\N{MINUS SIGN}\n".encode()
    write_bytes_atomic(tmp_path / "a.txt", b"two")
    assert (tmp_path / "a.txt").read_bytes() == b"two"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "a.txt"
    path.write_text("former")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="No space"):
        write_bytes_atomic(path, b"new")
    assert path.read_text() == "former" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_modes_and_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes_atomic(tmp_path / "public", b"")
        write_bytes_atomic(tmp_path / "private", b"", mode=PRIVATE_MODE)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
