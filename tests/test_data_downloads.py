"""Downloads that are complete or leave nothing, and archives that are damaged or hostile."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from functools import partial
from pathlib import PurePosixPath

import fake_mnist
import pytest
import torchvision

from multipyro.data.sets import load_mnist
from multipyro.data.storage.archives import member_bytes, open_zip, unpacked
from multipyro.data.storage.download import fetch


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The download folder, which is not there yet."""
    return fake_mnist.no_data(monkeypatch, tmp_path)


def writes(**files):
    """A download that leaves these files in a folder of its own."""

    def download(folder):
        (folder / "deep").mkdir()
        for name, content in files.items():
            (folder / "deep" / name).write_text(content)
        return folder / "deep"

    return download


def test_a_download_leaves_what_is_needed(cache):
    fetch("Set/raw", ["a", "b"], writes(a="1", b="2", c="3"), "Set is missing")
    assert {path.name: path.read_text() for path in (cache / "Set" / "raw").iterdir()} == {"a": "1", "b": "2"}
    assert os.listdir(cache) == ["Set"]


def test_a_download_beside_other_files(cache):
    (cache / "Set").mkdir(parents=True)
    for name in ("a", "other"):
        (cache / "Set" / name).write_text("old")
    fetch("Set", ["a", "b"], writes(a="1", b="2"), "Set is missing")
    found = {path.name: path.read_text() for path in (cache / "Set").iterdir()}
    assert found == {"a": "1", "b": "2", "other": "old"}


def test_a_download_without_one_of_the_files(cache):
    with pytest.raises(FileNotFoundError, match=r"Set is missing \(the download failed: .*deep/b'"):
        fetch("Set", ["a", "b"], writes(a="1"), "Set is missing")
    assert os.listdir(cache) == []


class Refused(Exception):
    """An error that is of no class that Python has."""


def test_a_download_that_is_refused(cache):
    def download(folder):
        (folder / "a").write_text("1")
        raise Refused("too many users")

    with pytest.raises(FileNotFoundError, match=r"Set is missing \(the download failed: too many users\)"):
        fetch("Set", ["a"], download, "Set is missing")
    assert os.listdir(cache) == []


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *arguments):
        pass


def test_torchvision_refuses_a_wrong_md5(cache, tmp_path, monkeypatch):
    """Its own download of MNIST, from a server whose files are not those that it expects."""
    folder = fake_mnist.write_mnist(tmp_path / "mirror", fake_mnist.contents(), packed=True)
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        with pytest.raises(FileNotFoundError, match="(?s)MNIST is missing.*the download failed: .*or corrupted"):
            load_mnist()
        server.shutdown()
    assert os.listdir(cache) == []


_KILLED = """
import time
from multipyro.data.storage.download import fetch

def download(folder):
    (folder / "a").write_text("half")
    print("there", flush=True)
    time.sleep(60)

fetch("Set", ["a"], download, "")
"""


def test_a_download_that_is_killed_leaves_nothing_that_looks_like_the_set(cache):
    with subprocess.Popen([sys.executable, "-c", _KILLED], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    (leftover,) = os.listdir(cache)
    assert leftover.startswith(".Set.")
    fetch("Set", ["a"], writes(a="whole"), "Set is missing")
    assert (cache / "Set" / "a").read_text() == "whole"


_BUILDS = """
import sys
import numpy as np
from multipyro.data.storage.cache import cached

def build():
    print("builds", flush=True)
    sys.stdin.readline()
    return {"x": np.arange(200_000)}

print(cached("Set", {"version": 1}, ("x",), build)["x"].sum(), flush=True)
"""


def test_two_processes_that_build_one_cache_at_once(cache):
    both = [
        subprocess.Popen([sys.executable, "-c", _BUILDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        # both have found no file before one writes it
        assert [process.stdout.readline() for process in both] == ["builds\n"] * 2
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [(process.returncode, *output) for process, output in zip(both, outputs, strict=True)] == [
        (0, f"{sum(range(200_000))}\n", None)
    ] * 2
    (name,) = os.listdir(cache / "Set")
    with zipfile.ZipFile(cache / "Set" / name) as file:
        assert file.testzip() is None


def archive(path, **members):
    """A zip file with these members."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


HOSTILE = ["../out.png", "a/../../out.png", "..\\out.png", "/out.png", "\\out.png", "C:/out.png", "a/..png", "deep/.."]


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_an_archive_leaves_its_folder(tmp_path, name):
    path = archive(tmp_path / "set.zip", **{"a/1.png": b"1", name: b"2"})
    folder = unpacked(path, tmp_path / "deep" / "images", lambda name: True, "the set")
    assert {file.parent for file in tmp_path.rglob("*") if file.is_file()} == {tmp_path, folder}
    assert (folder / "1.png").read_bytes() == b"1"


def test_a_link_in_an_archive_becomes_a_file(tmp_path):
    link = zipfile.ZipInfo("a/1.png")
    link.external_attr = 0o120777 << 16
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(link, "/etc/passwd")
    folder = unpacked(path, tmp_path / "images", lambda name: True, "the set")
    assert not (folder / "1.png").is_symlink()
    assert (folder / "1.png").read_bytes() == b"/etc/passwd"


@pytest.mark.parametrize("content", [b"", b"no archive", "cut"])
def test_a_file_that_is_not_an_archive(tmp_path, content):
    path = archive(tmp_path / "set.zip", **{"a.png": b"1" * 500})
    path.write_bytes(path.read_bytes()[:-30] if content == "cut" else content)
    with pytest.raises(ValueError, match=f"{path} is damaged or not the set"):
        open_zip(path, "the set")


def test_unpacking_is_complete_or_leaves_nothing(tmp_path, monkeypatch):
    path = archive(tmp_path / "set.zip", **{"in/1.png": b"11", "in/2.png": b"2", "in/notes.txt": b"3"})
    folder = tmp_path / "deep" / "pictures"

    def keep(name: PurePosixPath) -> bool:
        return name.suffix == ".png"

    content = path.read_bytes()
    path.write_bytes(content.replace(b"11", b"12"))
    with pytest.raises(ValueError, match=rf"in/1.png in {path} is damaged \(Bad CRC"):
        unpacked(path, folder, keep, "the set")
    assert os.listdir(folder.parent) == []
    path.write_bytes(content)
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            unpacked(path, folder, keep, "the set")
    assert os.listdir(folder.parent) == []
    assert unpacked(path, folder, keep, "the set") == folder
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"1.png": b"11", "2.png": b"2"}
    # what is there is not unpacked again
    path.unlink()
    assert unpacked(path, folder, keep, "the set") == folder


def test_unpacking_when_another_process_was_first(tmp_path, monkeypatch):
    path, folder = archive(tmp_path / "set.zip", **{"1.png": b"1"}), tmp_path / "pictures"
    rename = os.rename

    def late(source, target):
        folder.mkdir()
        (folder / "1.png").write_bytes(b"theirs")
        return rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert (unpacked(path, folder, lambda name: True, "the set") / "1.png").read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["pictures", "set.zip"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a/1.png": b"1", "b/1.png": b"2"}, "its members 'a/1.png' and 'b/1.png' would become one file"),
        ({"1.txt": b"1", "deep/": b""}, "it has none of the files"),
        (
            {"__MACOSX/a/1.png": b"1", "a/._1.png": b"2", ".Trash/2.png": b"3"},
            "it has none of the files",
        ),
    ],
)
def test_an_archive_of_other_members(tmp_path, members, message):
    path = archive(tmp_path / "set.zip", **members)
    with pytest.raises(ValueError, match=f"{path} is not the set: {message}"):
        unpacked(path, tmp_path / "pictures", lambda name: name.suffix == ".png", "the set")
    assert os.listdir(tmp_path) == ["set.zip"]


def test_files_of_operating_systems_are_not_unpacked(tmp_path):
    path = archive(tmp_path / "set.zip", **{"a/1.png": b"1", "__MACOSX/a/1.png": b"2", "a/.1.png": b"3"})
    folder = unpacked(path, tmp_path / "pictures", lambda name: name.suffix == ".png", "the set")
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("1.png", b"1")]


def test_a_member_that_is_too_large_for_a_image(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.png", bytes(2**22 + 1))
        file.writestr("2.png", bytes(2**22))
    with pytest.raises(ValueError, match=f"1.png in {path} must have at most 4,194,304 bytes, got 4,194,305"):
        unpacked(path, tmp_path / "pictures", lambda name: True, "the set")
    assert os.listdir(tmp_path) == ["set.zip"]
    with open_zip(path, "the set") as file:
        assert member_bytes(file, "2.png") == bytes(2**22)


def test_a_member_larger_than_it_says(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.png", bytes(2**24))
        file.infolist()[0].file_size = 10
    with open_zip(path, "the set") as file:
        tracemalloc.start()
        with pytest.raises(ValueError, match=f"1.png in {path} is damaged"):
            member_bytes(file, "1.png")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 2**22


def test_an_archive_that_is_too_large(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in "123":
            file.writestr(name, b"1")
            file.infolist()[-1].file_size = 3 * 2**30
    with pytest.raises(ValueError, match=f"{path} is not the set: its members have 9,663,676,416 bytes together"):
        open_zip(path, "the set")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99])
def test_a_member_whose_compression_is_damaged_or_unknown(tmp_path, method):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if method == 99 else method) as file:
        file.writestr("1.png", bytes(range(256)) * 4)
        place = file.infolist()[0].header_offset + 30 + len("1.png")
        if method == 99:
            file.infolist()[0].compress_type = 99
    content = bytearray(path.read_bytes())
    content[place + 4 : place + 30] = b"\xff" * 26
    path.write_bytes(content)
    with open_zip(path, "the set") as file, pytest.raises(ValueError, match=rf"1.png in {path} is damaged \(.+\)"):
        member_bytes(file, "1.png")


def test_a_member_that_is_encrypted(tmp_path):
    path = archive(tmp_path / "set.zip", **{"1.png": b"1"})
    content = path.read_bytes()
    # the flag of encryption, in the list of members and before the content
    place = content.index(b"PK\x01\x02") + 8
    path.write_bytes(content[:6] + b"\x01" + content[7:place] + b"\x01" + content[place + 1 :])
    with open_zip(path, "the set") as file, pytest.raises(ValueError, match=r"1.png in .* is damaged \(.*encrypted"):
        member_bytes(file, "1.png")
