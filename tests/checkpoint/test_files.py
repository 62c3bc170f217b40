"""Atomic writes with the file's mode from the first byte on, and reads of plain files only."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from medsum_core import files
from medsum_core.errors import InputError
from medsum_core.files import PRIVATE_MODE, write_bytes_atomic, write_text_atomic
from medsum_core.process import run_as_script


def test_files_are_written_byte_for_byte_without_drafts_left(tmp_path):
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
def test_the_umask_restricts_the_requested_mode(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes_atomic(tmp_path / "public", b"")
        write_bytes_atomic(tmp_path / "private", b"", mode=PRIVATE_MODE)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


def test_only_plain_files_and_links_to_them_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    assert files.read_plain_file(tmp_path / "link") == b"text"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="a pipe or a device"):
            files.read_plain_file(path)
    with pytest.raises(IsADirectoryError):
        files.read_plain_file(tmp_path)


def test_a_pipe_or_a_device_is_never_replaced_by_a_file(tmp_path):
    """As root `--json /dev/null` made a file of it, for every other program too."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(OSError, match="a pipe or a device, not a file"):
            write_bytes_atomic(path, b"text")
    assert stat.S_ISFIFO((tmp_path / "link").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_an_os_error_in_the_message_of_a_rust_library_becomes_an_oserror():
    with pytest.raises(OSError, match="No space left") as caught, files.system_errors():
        raise Exception("No space left on device (os error 28)")  # as tokenizers does
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(ValueError, match="another"), files.system_errors():
        raise ValueError("another")


def test_a_failed_disk_is_one_message_and_other_errors_are_raised(tmp_path, capsys):
    def fail(number):
        raise OSError(number, os.strerror(number), str(tmp_path / "file"))

    assert run_as_script(lambda: fail(errno.EIO)) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'file'}: Input/output error; try again")
    with pytest.raises(FileNotFoundError):
        run_as_script(lambda: fail(errno.ENOENT))


def test_a_cache_folder_that_cannot_be_made_is_bad_input(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"can't be made .*XDG_CACHE_HOME"):
        files.make_cache_folder(tmp_path / "file" / "medsum")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(files.Path, "home", no_home)
    with pytest.raises(InputError, match="no home folder"):
        files.cache_folder()
