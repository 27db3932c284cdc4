"""Hostile files: programs, unbounded memory, control characters, pipes, leftovers of killed writers."""

import gzip
import io
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import zipfile

import fake_celeba
import fake_cub
import fake_mnist
import fake_svhn
import numpy as np
import pytest
import torch
from PIL import Image

from multipyro.data import from_table, infer_modality, load_dataset
from multipyro.data.sets import load_cub, load_mnist
from multipyro.data.storage import cached, mapped, read_bounded, remove_leftovers, write_atomically
from multipyro.data.storage.files import files_digest, temporary_folder
from multipyro.data.storage.images import decode_images, eight_bits
from multipyro.data.storage.stored import read_arrays

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
ESCAPE = "\x1b[2J"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    return fake_mnist.no_data(monkeypatch, tmp_path)


def test_an_image_starts_no_program(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "1.png").write_bytes(EPS)
    with pytest.raises(ValueError, match="1.png cannot be read as an image"):
        decode_images([tmp_path / "1.png"], ["1.png"], (3, 9, 9))
    assert not (tmp_path / "started").exists()


def test_a_pipe_in_place_of_an_image_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(ValueError, match="1.png is not a regular file"):
        files_digest([tmp_path / "1.png"], "the table")
    with pytest.raises(ValueError, match="1.png: it is not a regular file"):
        decode_images([tmp_path / "1.png"], ["1.png"], (3, 9, 9))


def test_images_have_a_size_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr("multipyro.data.storage.images._MOST_PIXELS", 99)
    Image.new("RGB", (10, 10)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="1.png: it has 10x10 pixels, at most 99 are read"):
        decode_images([tmp_path / "1.png"], ["1.png"], (3, 10, 10))


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("multipyro.data.storage.images._LARGE_PIXELS", 50)
    names = []
    for number in range(200):
        Image.new("L", (10, 10), number).save(tmp_path / f"{number}.png")
        names.append(f"{number}.png")
    pixels = decode_images([tmp_path / name for name in names], names, (1, 10, 10))
    assert pixels[:, 0, 0, 0].tolist() == list(range(200))


def test_gray_of_16_bits_is_converted_piece_by_piece():
    gray = np.arange(600 * 40, dtype=np.uint16).reshape(600, 40) * 2
    image = Image.fromarray(gray)
    image.format = "PNG"
    assert np.array_equal(np.asarray(eight_bits(image)), np.rint(gray / 257).astype(np.uint8))


def test_no_more_is_unpacked_than_is_asked_for(tmp_path):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(200):
            file.write(bytes(2**20))
    limited = f"""
import resource
from pathlib import Path
import importlib.util, sys
from multipyro.data.storage.files import read_bounded
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_bounded(Path({str(path)!r}), 1000)
except ValueError as error:
    print(error, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    message, grown = done.stdout.rsplit(" ", 1)
    assert "must have at most 1,000 bytes unpacked, it has more" in message and int(grown) < 50
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 2**33)
    with pytest.raises(ValueError, match="must have at most 1,000 bytes"):
        read_bounded(tmp_path / "sparse", 1000)


def test_files_of_published_sets_are_read_to_their_known_size(tmp_path, monkeypatch):
    files = fake_mnist.contents()
    fake_mnist.expect(monkeypatch, files)
    folder = fake_mnist.write_mnist(tmp_path, files, packed=False)
    os.truncate(folder / "train-images-idx3-ubyte", 2**33)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte must have at most 47,056 bytes unpacked"):
        load_mnist(tmp_path)
    monkeypatch.setattr("multipyro.data.sets.cub._TEXT_BYTES", 500)
    fake_cub.write_compact(tmp_path)
    with pytest.raises(ValueError, match="cub_captions.txt.gz must have at most 500 bytes"):
        load_cub(tmp_path)


def test_a_mat_file_with_more_rows_than_svhn_is_not_read(tmp_path, monkeypatch):
    from multipyro.data.sets import svhn

    fake_mnist.write_mnist(tmp_path, fake_mnist.contents(), packed=False)
    fake_svhn.write_svhn(tmp_path)
    monkeypatch.setitem(svhn._FILES, "train", (*svhn._FILES["train"][:1], 59, "none"))
    monkeypatch.setattr("scipy.io.loadmat", lambda *a, **k: pytest.fail("reads all of it"))
    with pytest.raises(ValueError, match="at most 59 rows"):
        load_dataset("mnist-svhn", tmp_path)


def zeros_npz(path, number):
    """A `.npz` file with an array of zeros that packs a thousand times smaller."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({number},), }}".encode().ljust(117) + b"\n"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("image.npy", "w", force_zip64=True) as file,
    ):
        file.write(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
        for _ in range(number // 2**20):
            file.write(bytes(2**20))
    return path


def test_arrays_unpack_to_a_few_times_their_size(tmp_path):
    small, large = zeros_npz(tmp_path / "small.npz", 2**25), zeros_npz(tmp_path / "large.npz", 2**27)
    assert read_arrays(small, ("image",), "a set")["image"].size == 2**25
    with pytest.raises(ValueError, match="large.npz is damaged or not a set .its .* bytes would unpack to 134,2"):
        read_arrays(large, ("image",), "a set")


@pytest.mark.parametrize("missing", ["image", "recipe"])
def test_a_cache_without_one_of_its_arrays_is_built_again(cache, missing):
    def build():
        return {"image": np.ones(3)}

    cached("set", {"version": 1}, ("image",), build)
    (stored,) = (cache / "set").iterdir()
    with np.load(stored) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != missing}
    np.savez(stored, **kept)
    with pytest.warns(UserWarning, match=f"it has no array '{missing}'"):
        assert cached("set", {"version": 1}, ("image",), build)["image"].tolist() == [1, 1, 1]


def test_a_mapped_cache_with_other_bytes_is_made_again(cache):
    def pieces():
        yield np.arange(6, dtype=np.float32).reshape(3, 2)
        yield np.ones((1, 2), np.float32)

    def read():
        return mapped("user-defined", {"version": 1}, (4, 2), np.float32, pieces)

    first = read().copy()
    (stored,) = (cache / "user-defined").iterdir()
    content = stored.read_bytes()
    for place in (-20, -40):
        stored.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place:][1:])
        assert np.array_equal(read(), first)
        assert stored.read_bytes() == content


def test_what_a_killed_writer_leaves_is_removed_and_what_a_running_one_writes_stays(tmp_path):
    code = f"""
import sys, time
from multipyro.data.storage.files import temporary_folder, write_atomically
from pathlib import Path
def slowly(file):
    file.write(b"half")
    with temporary_folder(Path({str(tmp_path)!r}), "set") as folder:
        (folder / "1").write_bytes(b"1")
        print("writing", flush=True)
        time.sleep(60)
write_atomically({str(tmp_path / "model.ckpt")!r}, slowly)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout.readline() == "writing\n"
            time.sleep(1.1)
            remove_leftovers(tmp_path)
            assert len(list(tmp_path.glob(".*.part"))) == 2
        finally:
            writer.send_signal(signal.SIGKILL)
    remove_leftovers(tmp_path)
    assert list(tmp_path.glob(".*.part")) == []
    (tmp_path / ".other.part").symlink_to("/etc")
    (tmp_path / "data.part").touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.part")) == [".other.part", "data.part"]


def test_a_temporary_folder_is_gone_whatever_happens(tmp_path):
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path / "deep", "set") as folder:
        (folder / "1").touch()
        raise KeyboardInterrupt
    assert list((tmp_path / "deep").iterdir()) == []


def test_names_in_messages_are_one_printable_line(tmp_path):
    name = f"bird{ESCAPE}\n.png"
    messages = []
    for action in (
        lambda: files_digest([tmp_path / name], "the table"),
        lambda: decode_images([b"x"], [name], (3, 4, 4)),
        lambda: read_bounded(tmp_path / name, 3),
        lambda: from_table({"a": [name, "x.png"]}, {"a": {"column": "a", "size": [4, 4]}}, split=(0.4, 0.3, 0.3)),
        lambda: from_table({"a": [name] * 20}, {"a": {"column": "a", "kind": "vector"}}),
        lambda: write_atomically(tmp_path / "file" / name, b""),
    ):
        (tmp_path / "file").touch()
        with pytest.raises((OSError, ValueError)) as caught:
            action()
        messages.append(str(caught.value) if "No such file" not in str(caught.value) else "")
    assert not any(ESCAPE in message or "\n" in message for message in messages)


def test_names_in_celeba_are_printable(tmp_path):
    folder = fake_celeba.write_original(tmp_path)
    path = folder / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("000004.jpg", f"0{ESCAPE}4.jpg"))
    with pytest.raises(ValueError, match="has no part 0, 1 or 2 for 1 images") as caught:
        load_dataset("celeba", tmp_path)
    assert ESCAPE not in str(caught.value)


def test_a_data_root_that_does_not_exist_is_an_error_for_every_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data-root names .*nowhere, which is not a folder"):
        load_dataset("digits", tmp_path / "nowhere")


def test_large_values_are_inspected_within_bounded_memory():
    values = torch.zeros(8, 2**22)  # 128 MiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    infer_modality("m", values)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # in KiB: 256 MiB


@pytest.mark.parametrize("length", [2_049, 60_000])
def test_long_texts_need_a_declared_length(length):
    texts = ["word " * length] + ["a word"] * 19
    with pytest.raises(ValueError, match=f"the longest training text has {length:,} words: declare length"):
        from_table({"note": texts}, {"note": {"column": "note", "kind": "text"}}, split=(0.9, 0.05, 0.05), seed=1)


def test_a_description_of_too_many_modalities_is_refused_at_once():
    specs = {f"m{i}": {"column": "a"} for i in range(3_000)}
    with pytest.raises(ValueError, match="describes 3000 modalities, expected at most 1000"):
        from_table({"a": [0.5] * 20}, specs)


def test_an_image_in_memory():
    assert decode_images([png()], ["1"], (3, 2, 2)).shape == (1, 3, 2, 2)


def png():
    """A small image as bytes."""
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "png")
    return file.getvalue()
