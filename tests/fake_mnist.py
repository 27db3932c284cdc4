"""Small files laid out as MNIST and the backgrounds of PolyMNIST, and a machine that has no others."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from multipyro.data.sets import load_mnist
from multipyro.data.sets import mnist as mnist_module
from multipyro.data.storage.idx import IdxSet, idx_is_available

TRAIN, VALIDATION, TEST = 40, 20, 30


def contents(seed=0):
    """File name -> bytes of small MNIST files whose pixels are all different rows of noise."""
    generator = np.random.default_rng(seed)
    files = {}
    for part, rows in (("train", TRAIN + VALIDATION), ("t10k", TEST)):
        pixels = generator.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        labels = generator.permutation(np.arange(rows) % 10).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte"] = struct.pack(">IIII", 2051, rows, 28, 28) + pixels.tobytes()
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">II", 2049, rows) + labels.tobytes()
    return files


def write_mnist(root, files, packed, name="MNIST"):
    """Write the files below a root as torchvision lays them out, unpacked or as `.gz`."""
    folder = root / name / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def write_backgrounds(root, count=5, size=(40, 50)):
    """Write photographs of noise below a root, each with a color range of its own."""
    folder = root / "PolyMNIST" / "backgrounds"
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    for number in range(count):
        pixels = generator.integers(20 * number, 20 * number + 20, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{'edcba'[number]}.png")
    return folder


def write_polymnist(root, folder="PolyMNIST"):
    """Write the published images, whose colors tell number, digit and modality; of digit d there are 5 + d % 3."""
    for part, most in (("train", 99), ("test", 2)):
        for m in range(5):
            place = root / folder / part / f"m{m}"
            place.mkdir(parents=True)
            for digit in range(10):
                for number in range(min(5 + digit % 3, most)):
                    color = (20 * number, 20 * digit, 40 * m + (part == "test"))
                    Image.new("RGB", (28, 28), color).save(place / f"{number}.{digit}.png")
    return root / folder


def expected(files, name, foreign=None):
    """What the reader must find in these files, whose md5 is the published one where no others are foreign."""
    found = {}
    for key, (file, magic, _, _) in mnist_module.MNIST_FILES.files.items():
        rows = TRAIN + VALIDATION if key[0] == "train" else TEST
        found[key] = (file, magic, rows, hashlib.md5(files[file]).hexdigest() if foreign is None else None)
    return IdxSet(name, found, TRAIN, foreign or {})


def expect(monkeypatch, files):
    """Have the reader expect these files instead of the real ones."""
    monkeypatch.setattr(mnist_module, "MNIST_FILES", expected(files, "MNIST"))


def no_data(monkeypatch, tmp_path):
    """Forget every data folder of this machine; the download folder becomes one below `tmp_path`."""
    monkeypatch.delenv("MULTIPYRO_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "multipyro"


def gray(root):
    """The three parts of the small MNIST as stored."""
    splits = load_mnist(root, binarize="none", download=False)
    return {name: getattr(splits, name).x["image"] for name in splits.NAMES}


def real_data():
    """Skip unless the environment names a folder with the real files."""
    import os

    if not os.environ.get("MULTIPYRO_DATA"):
        pytest.skip("MULTIPYRO_DATA is not set: this test needs the real MNIST")
    if not idx_is_available(mnist_module.MNIST_FILES):
        pytest.skip("MULTIPYRO_DATA names no folder with MNIST/raw")


def all_rows(data):
    """Every row of a data set."""
    return data.rows(torch.arange(len(data)))[0]


def equal(first, second):
    """Whether all tensors of two splits are the same."""
    pairs = [(getattr(first, name), getattr(second, name)) for name in first.NAMES]
    return all(a.content_hash == b.content_hash and torch.equal(a.labels, b.labels) for a, b in pairs)
