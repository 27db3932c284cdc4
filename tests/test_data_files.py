"""Files that are complete or absent, and folders that are searched."""

import builtins
import errno
import io
import os
import stat
from pathlib import Path

import fake_mnist
import pytest

from multipyro.data.storage import write_atomically
from multipyro.data.storage.locations import download_root, find, roots


def failing(code):
    """A system call that fails."""

    def call(*arguments, **settings):
        raise OSError(code, os.strerror(code))

    return call


class FullDisk(io.FileIO):
    """A file on a disk with room for eight bytes more."""

    def write(self, content):
        if len(content) > 8:
            super().write(content[:8])
            failing(errno.ENOSPC)()
        return super().write(content)


@pytest.mark.parametrize("content", [b"new", "new", lambda file: file.write(b"new")])
def test_the_file_holds_the_content_alone(tmp_path, content):
    path = tmp_path / "a" / "b" / "file.txt"
    assert write_atomically(path, content) == path
    assert path.read_bytes() == b"new"
    write_atomically(str(path), b"newer")
    assert path.read_bytes() == b"newer"
    assert os.listdir(path.parent) == ["file.txt"]


def test_the_file_has_the_rights_of_any_other(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "atomic", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("fsync", errno.ENOSPC, "no space is left on the device"),
        ("replace", errno.EDQUOT, "the disk quota is used up"),
        ("fsync", errno.EIO, "Input/output error"),
    ],
)
def test_a_failing_disk_changes_nothing(tmp_path, monkeypatch, there, call, code, message):
    path = tmp_path / "file"
    if there:
        path.write_bytes(b"old")
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(
        OSError, match=rf"cannot write {path}: {message}; an earlier file of this name is unchanged"
    ) as caught:
        write_atomically(path, b"new")
    assert caught.value.errno == code
    assert os.listdir(tmp_path) == (["file"] if there else [])
    assert not there or path.read_bytes() == b"old"


def test_a_disk_that_fills_up_while_writing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    real = builtins.open
    with monkeypatch.context() as patched:
        patched.setattr(
            builtins, "open", lambda p, mode="r", **k: FullDisk(p, "x") if mode == "xb" else real(p, mode, **k)
        )
        with pytest.raises(OSError, match="no space is left on the device"):
            write_atomically(path, b"a new content")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [(errno.EROFS, OSError, "read-only file system"), (errno.EACCES, PermissionError, "Permission denied")],
)
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, code, error, message):
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", failing(code))
        with pytest.raises(error, match=f"cannot write {tmp_path / 'file'}: .*{message}"):
            write_atomically(tmp_path / "file", b"new")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", failing(code))
        with pytest.raises(error, match=f"cannot write {tmp_path / 'file'}: .*{message}"):
            write_atomically(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_errors_of_the_writer_pass_unchanged(tmp_path, error):
    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(tmp_path / "file", write)
    assert caught.value is error
    assert os.listdir(tmp_path) == []


def test_the_setting_comes_before_the_download_folder(tmp_path, monkeypatch):
    cache = fake_mnist.no_data(monkeypatch, tmp_path)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    assert roots() == [cache]
    assert roots(first) == [first, cache]
    monkeypatch.setenv("MULTIPYRO_DATA", os.pathsep.join(map(str, (second, third))))
    assert roots() == [second, third, cache]
    assert roots(str(first)) == [first, cache]
    (third / "b").touch()
    assert find(["a", "b"]) == third / "b"
    (second / "b").touch()
    assert find(["a", "b"]) == second / "b"
    (second / "a").touch()
    assert find(["a", "b"]) == second / "a"
    assert find(["c"]) is None


def test_a_home_folder_in_the_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MULTIPYRO_DATA", "~")
    assert roots()[0] == roots("~")[0] == tmp_path


@pytest.mark.parametrize("cache", [None, "", "relative"])
def test_the_download_folder_is_never_where_the_program_runs(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if cache is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert download_root() == tmp_path / ".cache" / "multipyro"
    assert not download_root().exists()


def test_a_data_folder_that_is_missing(tmp_path, monkeypatch):
    fake_mnist.no_data(monkeypatch, tmp_path)
    gone = tmp_path / "gone"
    with pytest.raises(FileNotFoundError, match=f"--data-root names {gone}, which is not a folder"):
        roots(gone)
    monkeypatch.setenv("MULTIPYRO_DATA", str(gone))
    with pytest.raises(FileNotFoundError, match=f"MULTIPYRO_DATA names {gone}, which is not a folder"):
        roots()
