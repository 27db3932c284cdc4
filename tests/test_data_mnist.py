"""MNIST: files found, checked, binarized and split."""

import gzip
import os
import struct

import fake_mnist
import pytest
import torch
import torchvision

from multipyro.data import load_dataset
from multipyro.data.sets import DIGIT_WORDS, load_mnist
from multipyro.data.storage import idx

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with a small MNIST, and nothing else to be found."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    files = fake_mnist.contents()
    fake_mnist.expect(monkeypatch, files)
    fake_mnist.write_mnist(tmp_path / "data", files, packed=True)
    return tmp_path / "data"


def parts(splits):
    """The three parts by name."""
    return {name: getattr(splits, name) for name in splits.NAMES}


def test_parts_are_cut_from_the_files(root):
    splits = load_mnist(root, binarize="none", word=True)
    files = fake_mnist.contents()
    pixels = {
        p: torch.frombuffer(bytearray(files[f"{p}-images-idx3-ubyte"][16:]), dtype=torch.uint8)
        for p in ("train", "t10k")
    }
    labels = {
        p: torch.frombuffer(bytearray(files[f"{p}-labels-idx1-ubyte"][8:]), dtype=torch.uint8)
        for p in ("train", "t10k")
    }
    stored = [part.x["image"].flatten() for part in parts(splits).values()]
    assert torch.equal(torch.cat(stored[:2]), pixels["train"])
    assert torch.equal(stored[2], pixels["t10k"])
    assert torch.equal(torch.cat([splits.train.labels, splits.validation.labels]), labels["train"].long())
    assert torch.equal(splits.test.x["label"], labels["t10k"].long())
    assert [len(part) for part in parts(splits).values()] == [fake_mnist.TRAIN, fake_mnist.VALIDATION, fake_mnist.TEST]
    for name, part in parts(splits).items():
        assert part.split == name
        assert part.modalities["word"].decode(part.x["word"]) == [DIGIT_WORDS[label] for label in part.labels]
    x = fake_mnist.all_rows(splits.test)
    assert torch.equal(x["image"].flatten(), pixels["t10k"].float() / 255)
    assert splits.train.modalities["image"].likelihood == "continuous_bernoulli"
    assert list(load_mnist(root).train.modalities) == ["image", "label"]


def test_unpacked_and_packed_files_are_the_same(root, tmp_path):
    other = tmp_path / "unpacked"
    fake_mnist.write_mnist(other, fake_mnist.contents(), packed=False)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert all(
        torch.equal(a, b) for a, b in zip(fake_mnist.gray(root).values(), fake_mnist.gray(other).values(), strict=True)
    )
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_the_first_rows(root):
    whole, head = load_mnist(root), load_mnist(root, num_rows=25)
    assert [len(part) for part in parts(head).values()] == [25, fake_mnist.VALIDATION, 25]
    assert torch.equal(head.test.x["image"], whole.test.x["image"][:25])


def test_dynamic_pixels_are_new_in_each_epoch_and_repeat(root):
    splits = load_mnist(root)

    def images(part, **settings):
        return torch.cat([x["image"] for x, _ in part.batches(16, **settings)])

    first = images(splits.train, seed=1, epoch=0)
    assert first.dtype == torch.float32
    assert set(first.unique().tolist()) == {0, 1}
    assert torch.equal(images(load_mnist(root).train, seed=1, epoch=0), first)
    assert not torch.equal(images(splits.train, seed=1, epoch=1), first)
    assert not torch.equal(images(splits.train, seed=2, epoch=0), first)
    for part in (splits.validation, splits.test):
        assert part.transform is None
        assert set(part.x["image"].unique().tolist()) == {0, 255}
        assert torch.equal(images(part, epoch=0), images(part, epoch=1))


def test_dynamic_pixels_follow_their_gray_level(root):
    gray = fake_mnist.gray(root)["train"].float() / 255
    draws = 400
    train = load_mnist(root).train
    mean = sum(torch.cat([x["image"] for x, _ in train.batches(40, epoch=e)]) for e in range(draws)) / draws
    error = (gray * (1 - gray) / draws).sqrt()
    assert torch.equal(mean[gray == 0], gray[gray == 0])
    assert torch.equal(mean[gray == 1], gray[gray == 1])
    inner = error > 0
    z = (mean - gray)[inner] / error[inner]
    assert abs(z.mean()) < 4 / z.numel() ** 0.5
    assert abs(z.square().mean() - 1) < 4 * (2 / z.numel()) ** 0.5 + 0.01


def test_binarize_once_are_drawn_once(root):
    first, again, other = (load_mnist(root, seed=seed, binarize="fixed") for seed in (0, 0, 1))
    for name, part in parts(first).items():
        assert part.transform is None
        assert set(part.x["image"].unique().tolist()) == {0, 255}
        assert torch.equal(part.x["image"], getattr(again, name).x["image"])
        assert not torch.equal(part.x["image"], getattr(other, name).x["image"])
        gray = fake_mnist.gray(root)[name].float() / 255
        drawn = part.x["image"].float() / 255
        assert abs((drawn - gray).mean()) < 4 * (gray * (1 - gray)).sum().sqrt() / gray.numel()
    assert first.train.modalities["image"].likelihood == "bernoulli"
    assert torch.equal(first.test.x["image"], load_mnist(root).test.x["image"])


def test_some_modalities_of_dynamic_data(root):
    labels = load_mnist(root).train.select(["label"])
    x, _ = labels.rows(torch.arange(4))
    assert list(x) == ["label"]


def test_an_unknown_binarization(root):
    with pytest.raises(ValueError, match="binarize must be one of .*'dynamic', 'fixed', 'none'.*, got 'static'"):
        load_mnist(root, binarize="static")


def test_missing_files(tmp_path, monkeypatch):
    cache = fake_mnist.no_data(monkeypatch, tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"MNIST is missing.*{IMAGES}.*--data-root or MULTIPYRO_DATA.*{cache}"):
        load_mnist(download=False)


def test_a_partial_folder_is_not_completed_by_a_download(root, monkeypatch):
    (root / "MNIST" / "raw" / f"{LABELS}.gz").unlink()
    monkeypatch.setattr(idx, "_download", lambda files: pytest.fail("downloads"))
    with pytest.raises(FileNotFoundError, match=rf"MNIST is incomplete: {root}/MNIST/raw has no {LABELS}\[.gz\];"):
        load_mnist(root)


def spoilt(root, name, change, packed):
    """One of the files, changed before or after it was packed."""
    path = root / "MNIST" / "raw" / f"{name}.gz"
    content = path.read_bytes()
    path.write_bytes(change(content) if packed else gzip.compress(change(gzip.decompress(content))))
    return path


@pytest.mark.parametrize(
    ("name", "change", "packed", "message"),
    {
        "truncated gz": (IMAGES, lambda b: b[:-100], True, "is truncated or damaged .*: download it again"),
        "no gz": (IMAGES, lambda b: b"<html>" + b[6:], True, "is truncated or damaged .*: download it again"),
        "damaged gz": (IMAGES, lambda b: b[:2000] + b"\0" * 100 + b[2100:], True, "is truncated or damaged"),
        "empty": (
            LABELS,
            lambda b: b"",
            False,
            "expected magic number 2049, 60 rows and 68 bytes.*no header and 0 bytes",
        ),
        "truncated": (IMAGES, lambda b: b[:-100], False, "expected magic number 2051, 60 rows and 47056 .* and 46956"),
        "magic": (IMAGES, lambda b: struct.pack(">I", 2052) + b[4:], False, "expected magic number 2051.*number 2052"),
        "rows": (LABELS, lambda b: b[:4] + struct.pack(">I", 7) + b[8:], False, "2049, 60 rows .*, got .* 7 rows"),
        "longer": (LABELS, lambda b: b + b"\0", False, "must have at most 68 bytes unpacked, it has more"),
        "another set": (LABELS, lambda b: b[:-1] + b"\x0b", False, "is damaged: its unpacked md5 is .*, expected"),
    }.values(),
)
def test_damaged_files(root, name, change, packed, message):
    path = spoilt(root, name, change, packed)
    with pytest.raises(ValueError, match=message) as caught:
        load_mnist(root)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read(root, monkeypatch):
    def denied(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("gzip.open", denied)
    with pytest.raises(PermissionError, match=f"Permission denied: '{root}/MNIST/raw/{IMAGES}.gz'"):
        load_mnist(root)


def fake_download(monkeypatch, fails=None):
    """Stand in for torchvision's download, without a network; the folders it was called with."""
    folders = []

    def download(folder, download):
        folders.append(folder)
        written = fake_mnist.write_mnist(idx.Path(folder), fake_mnist.contents(), packed=False)
        if fails is not None:
            (written / LABELS).unlink()
            raise fails

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    return folders


def test_missing_files_are_downloaded_once(tmp_path, monkeypatch):
    cache = fake_mnist.no_data(monkeypatch, tmp_path)
    fake_mnist.expect(monkeypatch, fake_mnist.contents())
    folders = fake_download(monkeypatch)
    (cache / "MNIST" / "raw").mkdir(parents=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    first = load_dataset("mnist", empty)
    assert torch.equal(first.test.labels, load_dataset("mnist").test.labels)
    assert len(folders) == 1
    assert os.listdir(cache) == ["MNIST"]
    assert len(os.listdir(cache / "MNIST" / "raw")) == 4
    assert os.listdir(empty) == []


@pytest.mark.parametrize("error", [RuntimeError("all mirrors"), OSError(28, "No space left on device")])
def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch, error):
    cache = fake_mnist.no_data(monkeypatch, tmp_path)
    fake_mnist.expect(monkeypatch, fake_mnist.contents())
    with monkeypatch.context() as patched:
        fake_download(patched, error)
        with pytest.raises(
            FileNotFoundError, match=rf"MNIST is missing.*{LABELS}.*the download failed: .*{error.args[-1]}"
        ):
            load_mnist()
    assert os.listdir(cache) == []
    fake_download(monkeypatch)
    assert len(load_mnist().train) == fake_mnist.TRAIN


def test_the_real_files():
    fake_mnist.real_data()
    splits = load_mnist(download=False)
    assert [len(part) for part in parts(splits).values()] == [50_000, 10_000, 10_000]
    assert splits.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    both = splits.train.labels.bincount() + splits.validation.labels.bincount()
    assert both.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    means = [getattr(splits, name).x["image"].double().mean() for name in ("train", "validation")]
    assert (5 * means[0] + means[1]).item() / 6 / 255 == pytest.approx(0.1307, abs=1e-3)
    # a run records the hash of its rows
    assert splits.train.content_hash.startswith("c1e01165f63fa58f")
    assert splits.test.content_hash.startswith("09e8d64be76b166b")
