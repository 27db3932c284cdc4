"""PolyMNIST as its authors publish it: names that agree in all folders, the archive, and precedence."""

import importlib
import os
import shutil
import zipfile

import fake_mnist
import pytest
import torch
from fake_mnist import equal

from multipyro.data import DATASETS, load_dataset
from multipyro.data.sets import load_polymnist
from multipyro.data.sets import polymnist as module
from multipyro.data.sets.polymnist import polymnist_source


def told(part):
    """Number, digit and modality that the colors of each image tell, and whether it is a test's."""
    colors = torch.stack([values[:, :, 14, 14] for values in part.x.values()], 1).long()
    assert all((values == values[:, :, :1, :1]).all() for values in part.x.values())
    return colors[..., 0] // 20, colors[..., 1] // 20, colors[..., 2] // 40, colors[..., 2] % 40


def published(splits):
    """Check that the images of a row are of one name, and return the names of each part in order."""
    names = {}
    for name in splits.NAMES:
        part = getattr(splits, name)
        numbers, digits, modalities, tested = told(part)
        assert torch.equal(modalities, torch.arange(len(part.x)).expand_as(modalities))
        assert torch.equal(numbers, numbers[:, :1].expand_as(numbers))
        assert torch.equal(digits, part.labels[:, None].expand_as(digits))
        assert (tested == (name == "test")).all()
        names[name] = list(zip(numbers[:, 0].tolist(), digits[:, 0].tolist(), strict=True))
    return names


EVERY = [(number, digit) for digit in range(10) for number in range(5 + digit % 3)]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder with the published images alone."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    fake_mnist.write_polymnist(tmp_path / "data")
    return tmp_path / "data"


def packed(root):
    """The archive of the images, which are then nowhere else."""
    with zipfile.ZipFile(root / "PolyMNIST.zip", "w") as archive:
        # as in an archive that has other things beside them, in no order
        archive.writestr("trained_classifiers/m0", b"network")
        archive.writestr("__MACOSX/MMNIST/train/m0/._0.0.png", b"note")
        for path in sorted((root / "PolyMNIST").rglob("*.png"), key=lambda path: path.name, reverse=True):
            archive.write(path, f"MMNIST/{path.relative_to(root / 'PolyMNIST')}")
    shutil.rmtree(root / "PolyMNIST")
    return root / "PolyMNIST.zip"


def test_the_published_images(pictures, monkeypatch):
    assert DATASETS["polymnist"].missing(pictures) == ""
    splits = load_dataset("polymnist", pictures)
    names = published(splits)
    # of the images in the order of their classes, every sixth
    assert names["validation"] == sorted(EVERY[5::6])
    assert names["train"] == sorted({*EVERY} - {*EVERY[5::6]})
    assert names["test"] == [(number, digit) for number in range(2) for digit in range(10)]
    assert splits.train.x["m0"].dtype == torch.uint8
    assert equal(load_polymnist(pictures, seed=1), splits)
    monkeypatch.setattr(module, "original_arrays", lambda *arguments: pytest.fail("decodes again"))
    assert equal(load_polymnist(pictures), splits)


def test_of_60000_published_images_10000_validate():
    files = importlib.import_module("multipyro.data.sets._polymnist_files")
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    keys = {(number, digit): "" for digit, count in enumerate(counts) for number in range(count)}
    parts = files._split({("train", 0): dict(sorted(keys.items())), ("test", 0): {(0, 0): ""}})
    assert [len(part) for part in parts.values()] == [50_000, 10_000, 1]
    assert not {*parts["train"]} & {*parts["validation"]}
    validated = [sum(digit == each for _, digit in parts["validation"]) for each in range(10)]
    assert all(abs(found - count / 6) < 1 for found, count in zip(validated, counts, strict=True))


@pytest.mark.parametrize("folder", ["PolyMNIST/MMNIST", "MMNIST"])
def test_published_images_elsewhere(pictures, tmp_path, folder):
    fake_mnist.write_polymnist(tmp_path / "other", folder)
    assert polymnist_source(tmp_path / "other") == tmp_path / "other" / folder
    assert equal(load_polymnist(tmp_path / "other"), load_polymnist(pictures))


def test_published_images_in_their_archive(pictures, tmp_path):
    whole = load_polymnist(pictures)
    path = packed(pictures)
    assert polymnist_source(pictures) == path
    assert equal(load_polymnist(pictures), whole)
    # it is read where it lies
    assert os.listdir(pictures) == ["PolyMNIST.zip"]
    assert sorted(os.listdir(tmp_path / "cache" / "multipyro")) == ["PolyMNIST"]


def test_less_of_the_published_images(pictures):
    whole, less = load_polymnist(pictures), load_polymnist(pictures, num_modalities=2, num_rows=3)
    assert equal(less, whole.head(3).select(["m0", "m1"]))
    shutil.rmtree(pictures / "PolyMNIST" / "test" / "m4")
    assert equal(load_polymnist(pictures, num_modalities=4), whole.select(["m0", "m1", "m2", "m3"]))


def test_published_images_come_before_built_ones(pictures, tmp_path, monkeypatch):
    root, other, files = tmp_path / "root", pictures, fake_mnist.contents()
    fake_mnist.expect(monkeypatch, files)
    fake_mnist.write_mnist(root, files, packed=False)
    fake_mnist.write_backgrounds(root)
    built = load_polymnist(root)
    monkeypatch.setenv("MULTIPYRO_DATA", os.pathsep.join(map(str, (root, other))))
    # the first folder that has either decides
    assert equal(load_polymnist(), built)
    monkeypatch.setenv("MULTIPYRO_DATA", os.pathsep.join(map(str, (other, root))))
    published(load_polymnist())
    fake_mnist.write_polymnist(root)
    published(load_polymnist(root))


def lose(path):
    """Remove a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def misname(path):
    """Give an image a name that tells no digit."""
    os.rename(path, path.with_name("0.png"))


def shrink(path):
    """Put an image of another size in its place."""
    fake_mnist.Image.new("RGB", (28, 27)).save(path)


@pytest.mark.parametrize(
    ("place", "change", "error", "message"),
    {
        "no folder": ("test/m3", lose, FileNotFoundError, "PolyMNIST is incomplete: .* has no images in test/m3"),
        "lacks one": ("train/m2/3.4.png", lose, ValueError, "of train: 3.4.png is in m0 but not in m2"),
        "has one more": ("test/m0/1.9.png", lose, ValueError, "of test: 1.9.png is in m1 but not in m0"),
        "name": ("train/m1/0.0.png", misname, ValueError, "m1/0.png' in .* must be named NUMBER.DIGIT.png"),
        "size": ("test/m4/1.7.png", shrink, ValueError, "test/m4/1.7.png in .* must have 28x28 pixels, got 28x27"),
        "no image": (
            "train/m0/5.2.png",
            lambda path: path.write_bytes(b"none"),
            ValueError,
            "train/m0/5.2.png in .* cannot be read as an image",
        ),
    }.values(),
)
@pytest.mark.parametrize("archive", [False, True])
def test_damaged_published_images(pictures, place, change, error, message, archive):
    change(pictures / "PolyMNIST" / place)
    source = packed(pictures) if archive else pictures / "PolyMNIST"
    with pytest.raises(error, match=message) as caught:
        load_polymnist(pictures)
    assert str(source) in str(caught.value)


def test_an_archive_with_an_image_twice(pictures):
    path = packed(pictures)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/train/m0/0.0.png", b"1")
        archive.writestr("b/train/m0/0.0.png", b"1")
    with pytest.raises(ValueError, match="has an image twice, 'a/train/m0/0.0.png' and 'b/train/m0/0.0.png'"):
        load_polymnist(pictures)
