"""MNIST-SVHN and its text: pairs agree, parts share nothing, truncated and foreign files are refused."""

import os

import fake_mnist
import fake_svhn
import numpy as np
import pytest
import torch
from scipy.io import savemat

from multipyro.data import Modality, load_dataset
from multipyro.data.sets import DIGIT_WORDS, svhn
from multipyro.data.sets._characters import padded_alphabet, place_randomly
from multipyro.data.sets._pairs import pairs_by_class
from multipyro.data.sets.svhn import svhn_arrays


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with a small MNIST and a small SVHN, and nothing else to be found."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    files = fake_mnist.contents()
    fake_mnist.expect(monkeypatch, files)
    fake_mnist.write_mnist(tmp_path / "data", files, packed=False)
    fake_svhn.write_svhn(tmp_path / "data")
    return tmp_path / "data"


def numbers(part):
    """The row numbers in their files of both images of each row, and their classes."""
    x = part.rows(torch.arange(len(part)))[0]
    house = (x["svhn"][:, 0, 0, 0] * 255).round().long()
    written = part.x["mnist"].index
    return written, house, part.labels


@pytest.mark.parametrize("compressed", [True, False])
def test_the_digits_of_the_files(root, compressed):
    fake_svhn.write_svhn(root, compressed=compressed)
    for part, (pixels, digits) in svhn_arrays(root).items():
        rows = torch.arange(60) if part == "train" else torch.arange(60, 90)
        assert (pixels.shape, pixels.dtype, digits.dtype) == ((len(rows), 3, 32, 32), torch.uint8, torch.int64)
        assert torch.equal(pixels[:, 0, 0, 0].long(), rows)
        # channel, row and column stand where they should
        assert [pixels[0, 0, 1, 0], pixels[0, 0, 0, 1], pixels[0, 1, 0, 0]] == [10, 20, 30]
        classes = torch.where(rows % 3 == 0, 1, rows % 10 + 1)
        assert torch.equal(digits, torch.where(classes == 10, 0, classes))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("pairs", [1, 3])
def test_pairs_agree_and_parts_share_nothing(root, seed, pairs):
    splits = load_dataset("mnist-svhn", root, seed=seed, pairs=pairs)
    gray, digits = fake_mnist.gray(root), torch.cat([d for _, d in svhn_arrays(root).values()])
    labels = {name: getattr(load_dataset("mnist", root), name).labels for name in splits.NAMES}
    used = {}
    for name, begin, end in (("train", 0, 54), ("validation", 54, 60), ("test", 60, 90)):
        part = getattr(splits, name)
        written, house, classes = numbers(part)
        assert torch.equal(labels[name][written], classes)
        assert torch.equal(digits[house], classes)
        assert torch.equal(part.rows(torch.tensor([0]))[0]["mnist"], gray[name][written[:1]].float() / 255)
        assert begin <= house.min() <= house.max() < end
        used[name] = {*house.tolist()}
        for count, label in enumerate(classes.bincount(minlength=10).tolist()):
            both = [(values == count).sum().item() for values in (labels[name], digits[begin:end])]
            assert label == pairs * min(both)
            # the first ones of the class, each as often as it is paired
            first = (digits[begin:end] == count).nonzero()[: min(both), 0] + begin
            assert torch.equal(house[classes == count].sort().values, first.repeat_interleave(pairs))
        assert all(len(set(values.tolist())) * pairs == len(part) for values in (written, house))
    assert sum(map(len, used.values())) == len(set.union(*used.values()))


def test_the_seed_decides(root):
    parts = [load_dataset("mnist-svhn", root, seed=seed).train for seed in (0, 0, 1)]
    pairs = [sorted(zip(*(v.tolist() for v in numbers(part)[:2]), strict=True)) for part in parts]
    assert parts[0].content_hash == parts[1].content_hash
    assert pairs[0] == pairs[1] != pairs[2]
    # twenty pairings of 34 digits are not one
    assert len(set(pairs[0])) > 3 * 34
    # not sorted by class
    assert (parts[0].labels.diff() != 0).float().mean() > 0.5


def test_images_are_stored_once(root):
    part = load_dataset("mnist-svhn", root).train
    assert len(part.x["svhn"].pool) == 54
    assert len(part) > 10 * 30
    assert len(part.take(torch.arange(7)).x["svhn"]) == 7
    assert len(load_dataset("mnist-svhn", root, num_rows=7).test) == 7


def test_pairs_are_drawn_alike():
    labels = {"a": np.zeros(3, int), "b": np.zeros(3, int)}
    rows, _ = pairs_by_class(labels, times=6_000)
    counts = np.histogram2d(rows["a"], rows["b"], bins=3)[0]
    # four standard errors of a share of one third
    assert (abs(counts - 2_000) < 4 * (6_000 * 2 / 9) ** 0.5).all()


def test_classes_that_only_one_set_has():
    rows, classes = pairs_by_class({"a": np.array([1, 2, 2]), "b": np.array([2, 2, 3])}, times=2, limit=1)
    assert (rows["a"].tolist(), rows["b"].tolist(), classes.tolist()) == ([1, 1], [0, 0], [2, 2])
    rows, classes = pairs_by_class({"a": np.array([1]), "b": np.array([2])})
    assert len(classes) == len(rows["a"]) == 0


def test_names_start_anywhere_and_anew_in_training(root):
    splits = load_dataset("mnist-svhn-text", root)
    for name in splits.NAMES:
        part = getattr(splits, name)
        modality = part.modalities["text"]
        seen = set()
        for epoch in range(4):
            texts = next(iter(part.batches(len(part), epoch=epoch)))[0]["text"]
            assert modality.decode(texts) == [DIGIT_WORDS[label] for label in part.labels]
            assert (texts[:, -1] == 0).all()
            seen.add(tuple(texts.flatten().tolist()))
        assert len(seen) == (4 if name == "train" else 1)
        starts = (part.x["text"] != 0).int().argmax(1)
        lengths = (part.x["text"] != 0).sum(1)
        assert len(part) < 50 or {*starts[lengths == 3].tolist()} == {0, 1, 2, 3, 4}
    pairs = load_dataset("mnist-svhn", root)
    assert pairs.test.content_hash == splits.test.select(["mnist", "svhn"]).content_hash


def test_every_start_is_drawn_alike():
    ids = torch.zeros(10_000, 8, dtype=torch.int64)
    ids[:, 2:5] = torch.tensor([4, 4, 2])
    moved = place_randomly(ids, torch.Generator().manual_seed(0))
    starts = (moved != 0).int().argmax(1)
    assert (moved.gather(1, starts[:, None] + torch.arange(3)) == torch.tensor([4, 4, 2])).all()
    counts = starts.bincount(minlength=5)
    assert len(counts) == 5
    # four standard errors of a share of one fifth
    assert ((counts - 2_000).abs() < 4 * (10_000 * 4 / 25) ** 0.5).all()


def test_a_text_that_is_too_long():
    seven, eight = torch.ones(2, 7, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64)
    padded = torch.nn.functional.pad(seven, (1, 0))
    generator = torch.Generator().manual_seed(0)
    assert (place_randomly(padded, generator)[:, -1] == 0).all()
    assert place_randomly(torch.zeros(3, 8, dtype=torch.int64), generator).sum() == 0
    with pytest.raises(ValueError, match="at most 7 of 8 characters, got 8"):
        place_randomly(eight, generator)


def test_the_alphabet_in_which_texts_are_written():
    # the published order without its second '-', of which the pad has gone to the front
    published = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"\\/|_@#$%^&*~`+=<>()[]{} \n"
    for pad in " *":
        alphabet = padded_alphabet(pad)
        assert len(set(alphabet)) == len(alphabet) == 71
        assert alphabet[0] == pad
        assert alphabet[1:].replace("\N{MINUS SIGN}", "") == published.replace(pad, "")
        text = Modality("text", (71,), "text", "categorical", 71, alphabet=alphabet)
        for word in ("five, o'clock", "a-b", published.strip(pad)[1:50]):
            assert text.decode(place_randomly(text.encode([word]), torch.Generator().manual_seed(1))) == [word]
    assert published.find("-") == padded_alphabet("\n")[1:].find("-") == 36


@pytest.mark.parametrize("pairs", [0, -1, True, 2.0])
def test_pairs_out_of_range(root, pairs):
    with pytest.raises(ValueError, match="pairs must be a positive integer"):
        load_dataset("mnist-svhn", root, pairs=pairs)


def test_missing_files(tmp_path, monkeypatch, root):
    monkeypatch.setattr(svhn, "_download", lambda: pytest.fail("downloads"))
    (root / "SVHN" / "test_32x32.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"SVHN is incomplete: there is no test_32x32.mat; put them"):
        load_dataset("mnist-svhn", root)
    (root / "SVHN" / "train_32x32.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"SVHN is missing: train_32x32.mat, test_32x32.mat; put"):
        svhn_arrays(root, download=False)


def fake_download(monkeypatch, fails=None):
    """Have torchvision write small files instead of downloading, the second of which may fail."""
    import torchvision

    def download(folder, split, download):
        if fails is not None and split == "test":
            raise fails
        fake_svhn.write_svhn(svhn.Path(folder))
        name = f"{split}_32x32.mat"
        os.replace(svhn.Path(folder) / "SVHN" / name, svhn.Path(folder) / name)

    monkeypatch.setattr(torchvision.datasets, "SVHN", download)


def test_missing_files_are_downloaded(tmp_path, monkeypatch):
    cache = fake_mnist.no_data(monkeypatch, tmp_path)
    with monkeypatch.context() as patched:
        fake_download(patched, RuntimeError("no network"))
        with pytest.raises(FileNotFoundError, match=f"let torchvision download it to {cache} .*failed: no network"):
            svhn_arrays()
        assert os.listdir(cache) == []
    fake_download(monkeypatch)
    assert len(svhn_arrays()["train"][1]) == 60
    assert sorted(os.listdir(cache)) == ["SVHN"]
    monkeypatch.setattr(svhn, "_download", lambda: pytest.fail("downloads again"))
    svhn_arrays()


@pytest.mark.parametrize("compressed", [True, False])
def test_files_that_are_truncated(root, compressed):
    path = fake_svhn.write_svhn(root, train=8, compressed=compressed) / "train_32x32.mat"
    content = path.read_bytes()
    for kept in {*range(0, len(content), max(len(content) // 60, 1)), 50, 127, 128, len(content) - 1}:
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=f"{path} is truncated"):
            svhn_arrays(root)


def test_files_with_a_changed_byte(root):
    path = root / "SVHN" / "train_32x32.mat"
    content = path.read_bytes()
    for place in range(150, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"{path} "):
            svhn_arrays(root)


X, Y = fake_svhn.arrays(5, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    {
        "one lacks": ({"X": X}, r"expected X \(32, 32, 3, rows\) of uint8 and y \(rows, 1\)"),
        "other rows": ({"X": X, "y": Y[:4]}, "got {'X'"),
        "other shape": ({"X": X[:16], "y": Y}, "got {'X'"),
        "floats": ({"X": X.astype(float), "y": Y}, "got {'X'"),
        "objects": ({"X": X, "y": np.array([[{"a": 1}]] * 5, dtype=object)}, "got {'X'"),
        "classes": ({"X": X, "y": Y - 1}, "must contain the classes 1 to 10, got 0 to"),
    }.values(),
)
def test_files_of_something_else(root, values, message):
    path = root / "SVHN" / "test_32x32.mat"
    savemat(path, values)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        svhn_arrays(root)


def test_a_file_of_full_length_must_be_the_published_one(root, monkeypatch):
    path = root / "SVHN" / "train_32x32.mat"
    digest = svhn.hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(svhn._FILES, "train", (path.name, 60, digest))
    svhn_arrays(root)
    savemat(path, dict(zip("Xy", fake_svhn.arrays(60, 1), strict=True)))
    with pytest.raises(ValueError, match=f"{path} has 60 rows, but its md5 is .*, expected {digest}"):
        svhn_arrays(root)


def test_the_real_files():
    fake_mnist.real_data()
    try:
        splits = load_dataset("mnist-svhn", pairs=2)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    for part in vars(splits).values():
        assert part.labels.unique().tolist() == list(range(10))
    # the digit's color differs from what stands around it, so images are not flat
    assert splits.test.x["svhn"].pool.float().std((2, 3)).mean() > 10
