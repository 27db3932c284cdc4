"""PolyMNIST: the recipe, what is shared between rows, and the cached file."""

import errno
import os

import fake_mnist
import numpy as np
import pytest
import torch
from fake_mnist import equal

from multipyro.data import load_dataset
from multipyro.data.sets import load_polymnist
from multipyro.data.sets import polymnist as module
from multipyro.data.sets.polymnist import background_paths, polymnist_source


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with small backgrounds and a small MNIST, and nothing else to be found."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    files = fake_mnist.contents()
    fake_mnist.expect(monkeypatch, files)
    fake_mnist.write_mnist(tmp_path / "data", files, packed=False)
    fake_mnist.write_backgrounds(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path):
    """The folder of the cached file."""
    return tmp_path / "cache" / "multipyro" / "PolyMNIST"


def sources(images, split, root):
    """Which MNIST images of a part stand on the backgrounds: a pixel of theirs is at least 100 where the digit is on.

    The backgrounds are below 100 and a digit inverts them, so that it lies above 155.
    """
    digits = fake_mnist.gray(root)[split][:, 0] > 128
    found = images[:, 0] > 128
    assert all(torch.equal(found, images[:, channel] > 128) for channel in (1, 2))
    same = (found[:, None] == digits[None]).flatten(2).all(2)
    assert (same.sum(1) == 1).all()
    return same.int().argmax(1)


def test_every_digit_occurs_once_a_modality_in_rows_of_its_class(root):
    splits = load_polymnist(root)
    labels = {name: part.labels for name, part in vars(load_dataset("mnist", root)).items()}
    orders = set()
    for name in splits.NAMES:
        part = getattr(splits, name)
        assert (list(part.x), part.split) == (["m0", "m1", "m2", "m3", "m4"], name)
        for values in part.x.values():
            rows = sources(values, name, root)
            assert rows.sort().values.tolist() == list(range(len(part)))
            assert torch.equal(labels[name][rows], part.labels)
            orders.add(tuple(rows.tolist()))
    assert len(orders) == 15


def test_digits_invert_patches_of_the_background_of_their_modality(root):
    splits = load_polymnist(root)
    for m, path in enumerate(background_paths(root)):
        values = splits.test.x[f"m{m}"]
        digit = (values > 128).any(1, keepdim=True)
        patches = torch.where(digit, 255 - values, values).permute(0, 2, 3, 1).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(module._background(path), (28, 28), axis=(0, 1))
        windows = windows.transpose(0, 1, 3, 4, 2)[:-1, :-1].reshape(-1, 28 * 28 * 3)
        corners = [np.flatnonzero((windows == patch.reshape(-1)).all(1)) for patch in patches]
        assert all(len(found) == 1 for found in corners)
        assert len({found[0] for found in corners}) > 10


def test_batches_contain_floats(root):
    x, observed = next(iter(load_polymnist(root).train.batches(4)))
    assert observed is None
    assert {(values.dtype, tuple(values.shape)) for values in x.values()} == {(torch.float32, (4, 3, 28, 28))}
    assert 0 <= min(v.min() for v in x.values()) < max(v.max() for v in x.values()) <= 1


def test_the_seed_decides(root):
    first = load_polymnist(root, seed=0)
    assert equal(first, load_polymnist(root, seed=0))
    other = load_polymnist(root, seed=1)
    pairs = [
        set(zip(*(sources(splits.train.x[m], "train", root).tolist() for m in ("m0", "m1")), strict=True))
        for splits in (first, other)
    ]
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 2
    part = first.train.modalities["m3"]
    assert (part.shape, part.kind, part.likelihood) == ((3, 28, 28), "image", "laplace")


@pytest.mark.parametrize(("modalities", "rows"), [(2, None), (5, 7), (3, 1000)])
def test_less_of_it_is_the_same(root, modalities, rows):
    whole = load_polymnist(root)
    less = load_polymnist(root, num_modalities=modalities, num_rows=rows)
    assert equal(less, whole.head(rows).select([f"m{m}" for m in range(modalities)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_modalities": 0}, "num_modalities must be a whole number from 1 to 5, got 0"),
        ({"num_modalities": 6}, "num_modalities must be a whole number from 1 to 5, got 6"),
        ({"num_rows": 0}, "num_rows must be a positive integer or None, got 0"),
    ],
)
def test_options_out_of_range(root, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("polymnist", root, **options)


def test_backgrounds_come_by_name(root):
    assert [path.name for path in background_paths(root)] == ["a.png", "b.png", "c.png", "d.png", "e.png"]


def test_missing_backgrounds(root, tmp_path):
    folder = root / "PolyMNIST" / "backgrounds"
    (folder / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"missing \({folder} has 4 of 5\): put 5 photographs"):
        load_polymnist(root)
    with pytest.raises(FileNotFoundError, match=r"backgrounds of PolyMNIST are missing \(none found\)"):
        background_paths(tmp_path)
    for name in ("c.png", "f.png"):
        (folder / name).touch()
    with pytest.raises(ValueError, match=f"{folder} has 6 photographs, expected 5"):
        load_polymnist(root)


def test_backgrounds_that_are_not_images(root):
    path = root / "PolyMNIST" / "backgrounds" / "b.png"
    content = path.read_bytes()
    for wrong in (b"no image", content[:200]):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"{path} cannot be read as an image"):
            load_polymnist(root)
    fake_mnist.write_backgrounds(root, size=(28, 50))
    with pytest.raises(ValueError, match=r"must be larger than 28x28 pixels, got 50x28"):
        load_polymnist(root)


def test_the_cached_file_is_used(root, cache, monkeypatch):
    first = load_polymnist(root)
    assert len(os.listdir(cache)) == 1
    monkeypatch.setattr(module, "_build", lambda *arguments: pytest.fail("builds again"))
    assert equal(load_polymnist(root), first)


def test_another_recipe_is_another_file(root, cache):
    load_polymnist(root)
    load_polymnist(root, seed=1)
    load_polymnist(root, num_modalities=4)
    load_polymnist(root, num_rows=10)
    fake_mnist.write_backgrounds(root, size=(41, 50))
    load_polymnist(root)
    assert len(os.listdir(cache)) == 5


def half(path):
    """Truncate the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    """Change a byte of the pixels."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def foreign(path):
    """Another file of the same format."""
    np.savez(path, recipe=np.array("{}"), train_m0=np.zeros(3))


class Code:
    """Something whose loading runs code."""

    def __reduce__(self):
        return pytest.fail, ("the file has run code",)


def with_code(path):
    """A file that would run code."""
    with open(path, "wb") as file:
        np.savez(file, recipe=np.array(Code(), dtype=object))


@pytest.mark.parametrize("damage", [half, flipped, foreign, with_code])
def test_a_damaged_cache_is_built_again(root, cache, damage):
    first = load_polymnist(root)
    path = cache / os.listdir(cache)[0]
    damage(path)
    with pytest.warns(UserWarning, match=rf"{path} is damaged .* and is built again"):
        assert equal(load_polymnist(root), first)
    assert equal(load_polymnist(root), first)


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "no space is left"), (errno.EACCES, "Permission denied"), (errno.EROFS, "read-only")],
)
def test_without_a_cache_it_works_and_leaves_nothing(root, cache, monkeypatch, code, message):
    def fsync(number):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.warns(UserWarning, match=f"PolyMNIST is built at every call: .*cannot write {cache}.*{message}"):
            splits = load_polymnist(root)
    assert os.listdir(cache) == []
    assert equal(load_polymnist(root), splits)


def test_a_run_killed_while_caching_leaves_no_part(root, cache, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            load_polymnist(root)
    assert os.listdir(cache) == []


def test_the_real_files(tmp_path, monkeypatch):
    fake_mnist.real_data()
    if polymnist_source() is not None:
        pytest.skip("the published pictures take long to decode")
    try:
        background_paths()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    splits = load_dataset("polymnist", num_rows=300)
    assert [len(getattr(splits, name)) for name in splits.NAMES] == [300, 300, 300]
    assert splits.test.labels.unique().tolist() == list(range(10))
    means = [values.float().mean() for values in splits.train.x.values()]
    assert len({round(mean.item()) for mean in means}) == 5
