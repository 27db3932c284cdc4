"""MNIST, Fashion-MNIST and their label: modalities agree, parts share nothing, foreign files are refused."""

import hashlib

import fake_mnist
import pytest
import torch
import torchvision

from multipyro.data import load_dataset
from multipyro.data.sets import mnist_fashion as module
from multipyro.data.storage import idx
from multipyro.data.storage.idx import idx_arrays

IMAGES = "train-images-idx3-ubyte"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with both small sets, and nothing else to be found."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    digits, garments = fake_mnist.contents(), fake_mnist.contents(1)
    fake_mnist.expect(monkeypatch, digits)
    foreign = {hashlib.md5(content).hexdigest(): "MNIST" for content in digits.values()}
    expected = fake_mnist.expected(garments, "FashionMNIST", foreign)
    monkeypatch.setattr(module, "FASHION_FILES", idx.IdxSet(expected.name, expected.files, 60, foreign))
    fake_mnist.write_mnist(tmp_path / "data", digits, packed=False)
    fake_mnist.write_mnist(tmp_path / "data", garments, packed=True, name="FashionMNIST")
    return tmp_path / "data"


@pytest.mark.parametrize("pairs", [1, 3])
def test_rows_agree_and_parts_share_nothing(root, pairs):
    splits = load_dataset("mnist-fashion", root, binarize="none", pairs=pairs)
    stored = idx_arrays(module.FASHION_FILES, root)
    garments = torch.cat([stored[name][0] for name in splits.NAMES])
    classes = torch.cat([stored[name][1] for name in splits.NAMES])
    used = []
    for name in splits.NAMES:
        part = getattr(splits, name)
        x, _ = part.rows(torch.arange(len(part)))
        assert list(x) == ["image", "fashion", "label"]
        assert torch.equal(x["label"], part.labels)
        same = ((x["fashion"] * 255).round()[:, 0, None] == garments).flatten(2).all(2)
        assert (same.sum(1) == 1).all()
        rows = same.int().argmax(1)
        assert torch.equal(classes[rows], x["label"])
        digits = load_dataset("mnist", root, binarize="none")
        gray = getattr(digits, name)
        assert torch.equal(gray.labels[part.x["image"].index], x["label"])
        assert torch.equal(x["image"], gray.x["image"][part.x["image"].index].float() / 255)
        assert rows.bincount().unique().tolist() in ([pairs], [0, pairs])
        # the smaller number of each class in the part
        mine = classes[:60] if name != "test" else classes[60:]
        held = mine.bincount(minlength=10) if name == "test" else mine.bincount(minlength=10) * 5 // 6
        held = mine.bincount(minlength=10) - held if name == "validation" else held
        assert torch.equal(x["label"].bincount(minlength=10), pairs * held.minimum(gray.labels.bincount(minlength=10)))
        used.append({*rows.tolist()})
    assert sum(map(len, used)) == len(set.union(*used))


def test_pixels_are_drawn_as_those_of_mnist(root):
    gray = load_dataset("mnist-fashion", root, binarize="none").train
    dynamic, fixed = (load_dataset("mnist-fashion", root, binarize=binarize) for binarize in ("dynamic", "fixed"))
    for name in ("image", "fashion"):
        draws = [next(iter(dynamic.train.batches(500, epoch=epoch)))[0][name] for epoch in range(30)]
        assert {*torch.stack(draws).unique().tolist()} == {0.0, 1.0}
        mean, wanted = torch.stack(draws).mean(0), gray.rows(torch.arange(len(gray)))[0][name]
        # four standard errors of the mean over all pixels of the squared deviations, whose expectation is p (1 - p)
        error = ((mean - wanted) ** 2 * 30 - wanted * (1 - wanted)).mean()
        assert error.abs() < 0.01
        assert not torch.equal(draws[0], draws[1])
        assert {*fixed.train.x[name].pool.unique().tolist()} == {0, 255}
        assert torch.equal(fixed.test.x[name].pool, dynamic.test.x[name].pool)
    assert dynamic.train.modalities["fashion"].likelihood == "bernoulli"
    assert gray.modalities["image"].likelihood == "continuous_bernoulli"
    picture = dynamic.train.select(["fashion"]).rows(torch.tensor([0]))[0]
    assert list(picture) == ["fashion"]
    other = load_dataset("mnist-fashion", root, seed=1)
    assert not torch.equal(other.train.x["image"].index, dynamic.train.x["image"].index)


def test_the_files_of_mnist_are_not_taken_for_fashion_mnist(root):
    path = fake_mnist.write_mnist(root, fake_mnist.contents(), packed=False, name="FashionMNIST") / IMAGES
    with pytest.raises(ValueError, match=f"{path} is the file of MNIST, expected that of FashionMNIST"):
        load_dataset("mnist-fashion", root)


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_that_is_truncated(root, packed):
    folder = fake_mnist.write_mnist(root, fake_mnist.contents(1), packed, name="FashionMNIST")
    path = folder / (IMAGES + ".gz" * packed)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{path} is truncated"):
        load_dataset("mnist-fashion", root)


def test_a_class_out_of_range(root):
    files = fake_mnist.contents(1)
    name = "train-labels-idx1-ubyte"
    files[name] = files[name][:-1] + b"\x0a"
    fake_mnist.write_mnist(root, files, packed=True, name="FashionMNIST")
    with pytest.raises(ValueError, match=rf"{name}.gz must contain the classes 0 to 9, got 10"):
        load_dataset("mnist-fashion", root)


def test_missing_files(root, monkeypatch):
    (root / "FashionMNIST" / "raw" / f"{IMAGES}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=rf"FashionMNIST is incomplete: .* has no {IMAGES}\[.gz\]"):
        load_dataset("mnist-fashion", root)
    for path in (root / "FashionMNIST" / "raw").iterdir():
        path.unlink()

    def download(folder, download):
        fake_mnist.write_mnist(idx.Path(folder), fake_mnist.contents(1), packed=False, name="FashionMNIST")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    assert len(load_dataset("mnist-fashion", root).train) > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binarize": "often"}, "binarize must be one of"),
        ({"pairs": 0}, "pairs must be a positive integer, got 0"),
    ],
)
def test_options_out_of_range(root, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("mnist-fashion", root, **options)
