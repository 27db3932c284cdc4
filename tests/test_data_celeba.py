"""CelebA: both distributions, every form of its attributes, and missing, truncated and foreign files."""

import errno
import os

import fake_celeba
import fake_mnist
import numpy as np
import pytest
import torch
from PIL import Image

from multipyro.data import load_dataset
from multipyro.data.sets import celeba as module
from multipyro.data.sets import load_celeba
from multipyro.data.sets.celeba import ATTRIBUTES, celeba_source

VALUES = torch.from_numpy(fake_celeba.attributes()).float()
SEEN = "Bald Bangs Black_Hair Blond_Hair Brown_Hair Bushy_Eyebrows Eyeglasses Gray_Hair Heavy_Makeup Male "
SEEN = (SEEN + "Mouth_Slightly_Open Mustache Pale_Skin Receding_Hairline Smiling Straight_Hair Wavy_Hair").split()
SEEN.append("Wearing_Hat")


NO_ROWS = {"jpeg": np.zeros(0, np.uint8), "offsets": np.zeros(1, np.int64), "filenames": np.array([], str)}
NO_ROWS["attributes"] = np.zeros((0, 40), np.int8)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder, and nothing else to be found."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def rows_of(part):
    """The numbers of the rows that the gray levels of the originals tell."""
    return ((part.x["image"].float().mean((1, 2, 3)) - 20) / 15).round().long()


@pytest.mark.parametrize("reverse", [False, True])
def test_the_original_distribution(root, reverse):
    folder = fake_celeba.write_original(root, reverse=reverse)
    assert celeba_source(root) == folder
    splits = load_celeba(root)
    for number, name in enumerate(splits.NAMES):
        part = getattr(splits, name)
        rows = torch.arange(number, 12, 3)
        assert part.x["image"].dtype == torch.uint8
        assert part.x["image"].shape == (4, 3, 64, 64)
        assert torch.equal(rows_of(part), rows)
        assert torch.equal(part.x["attributes"], (VALUES[rows] + 1) / 2)
        assert torch.equal(part.labels, (VALUES[rows, ATTRIBUTES.index("Smiling")] > 0).long())
        assert (part.split, part.observed, part.transform) == (name, None, None)
    x, _ = splits.train.rows(torch.tensor([1]))
    assert x["image"].dtype == x["attributes"].dtype == torch.float32
    assert x["image"].max() <= 1


def test_the_compact_file(root):
    path = fake_celeba.write_compact(root)
    assert celeba_source(root) == path
    splits = load_celeba(root)
    assert [len(getattr(splits, name)) for name in splits.NAMES] == [16, 2, 2]
    images = torch.cat([getattr(splits, name).x["image"] for name in splits.NAMES])
    assert images.float().mean((1, 2, 3)).div(12).round().tolist() == list(range(20))
    found = torch.cat([getattr(splits, name).x["attributes"] for name in splits.NAMES])
    assert torch.equal(found, torch.from_numpy(fake_celeba.attributes(20) > 0).float())
    fake_celeba.write_original(root)
    assert celeba_source(root) == root / "celeba"


def test_the_crops(root):
    folder = fake_celeba.write_original(root)
    generator = np.random.default_rng(0)
    pixels = np.kron(generator.integers(0, 256, (28, 23, 3)), np.ones((8, 8, 1)))[:218, :178].astype(np.uint8)
    path = folder / "img_align_celeba" / "000001.jpg"
    Image.fromarray(pixels).save(path, quality=100, subsampling=0)
    read = np.asarray(Image.open(path))
    square = Image.fromarray(read[35:183, 15:163])
    center = np.asarray(square.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(load_celeba(root).train.x["image"][0], center)
    pooled = load_celeba(root, crop="pooled").train.x["image"][0].permute(1, 2, 0).numpy()
    blocks = [read[48 + i : 176 : 2, 25 + j : 153 : 2].astype(float) for i in (0, 1) for j in (0, 1)]
    assert abs(pooled - sum(blocks) / 4).max() <= 0.5


def test_attributes_as_numbers(root):
    fake_celeba.write_original(root)
    normal = load_dataset("celeba", root, likelihood="normal", label=None)
    assert normal.train.modalities["attributes"].likelihood == "normal"
    assert torch.equal(normal.train.x["attributes"], VALUES[::3])
    assert normal.train.labels is None


def test_the_visible_attributes(root):
    values = np.random.default_rng(2).choice([-1, 1], (20, 40)).astype(np.int8)
    fake_celeba.write_compact(root, attributes=values)
    visual = load_dataset("celeba", root, form="visual", label="Young").train
    assert visual.modalities["attributes"].shape == (18,)
    seen = values[:16, [ATTRIBUTES.index(name) for name in SEEN]] > 0
    assert torch.equal(visual.x["attributes"], torch.from_numpy(seen).float())
    assert torch.equal(visual.labels, torch.from_numpy(values[:16, -1] > 0).long())


def words_of_rows(rows):
    """The words of each row, sorted."""
    found = []
    for row in VALUES[rows]:
        held = {name for name, value in zip(ATTRIBUTES, row, strict=True) if value > 0 and name in SEEN}
        found.append(sorted(held if "Male" in held else {*held, "Female"}))
    return found


def test_words_come_in_a_new_order_at_every_access_in_training_alone(root):
    fake_celeba.write_original(root)
    splits = load_dataset("celeba", root, form="words")
    spell = splits.train.modalities["text"].decode
    for number, name in enumerate(splits.NAMES):
        part, wanted = getattr(splits, name), words_of_rows(torch.arange(number, 12, 3))
        seen = {}
        for epoch in range(5):
            texts = spell(next(iter(part.batches(4, epoch=epoch)))[0]["text"])
            assert [sorted(text.split()) for text in texts] == wanted
            seen[tuple(texts)] = epoch
        assert (len(seen) > 1) == (name == "train")
        again = spell(next(iter(part.batches(4, epoch=4)))[0]["text"])
        assert seen[tuple(again)] == 4 if name == "train" else True
    other = load_dataset("celeba", root, form="words", seed=1).test
    assert not torch.equal(other.x["text"], splits.test.x["text"])
    assert torch.equal(other.x["image"], splits.test.x["image"])


def test_every_order_of_words_is_drawn_alike():
    ids = torch.tensor([[3, 5, 7, 0, 0]]).expand(6_000, 5)
    found = module.shuffle_words({"text": ids}, torch.Generator().manual_seed(0))["text"]
    assert (found[:, 3:] == 0).all()
    orders, counts = found[:, :3].unique(dim=0, return_counts=True)
    assert len(orders) == 6
    # four standard errors of a share of one sixth
    assert ((counts - 1_000).abs() < 4 * (6_000 * 5 / 36) ** 0.5).all()


def test_more_words_than_positions(root):
    values = fake_celeba.attributes(20)
    values[0] = 1
    fake_celeba.write_compact(root, attributes=values)
    part = load_dataset("celeba", root, form="words").train
    (text,) = part.modalities["text"].decode(part.x["text"][:1])
    assert len({*text.split()}) == 9
    assert {*text.split()} < {*SEEN}


def test_attributes_as_a_string(root):
    values = fake_celeba.attributes(20)
    values[1] = 1
    fake_celeba.write_compact(root, attributes=values)
    splits = load_dataset("celeba", root, form="text")
    part = splits.train
    modality = part.modalities["text"]
    texts = modality.decode(part.x["text"])
    names = [name.lower().replace("_", " ") for name in ATTRIBUTES]
    for text, row in zip(texts, values[:16], strict=True):
        assert text == ", ".join(name for name, value in zip(names, row, strict=True) if value > 0)[:255]
    assert (texts[0], len(texts[1])) == ("", 255)
    assert (part.x["text"][:, -1] == 0).all()
    starts = (part.x["text"] != 0).int().argmax(1)
    assert starts[2:].unique().numel() > 7
    assert torch.equal(modality.encode(texts).sort(1).values, part.x["text"].sort(1).values)
    again = load_dataset("celeba", root, form="text")
    assert torch.equal(again.test.x["text"], splits.test.x["text"])
    moved = load_dataset("celeba", root, form="text", seed=1).test
    assert not torch.equal(moved.x["text"], splits.test.x["text"])


def test_the_first_rows(root):
    fake_celeba.write_original(root)
    whole, some = load_celeba(root, form="text"), load_celeba(root, form="text", num_rows=2)
    for name in whole.NAMES:
        assert getattr(whole.head(2), name).content_hash == getattr(some, name).content_hash


def test_originals_are_decoded_once(root, tmp_path, monkeypatch):
    folder = fake_celeba.write_original(root)
    first = load_celeba(root)
    cache = tmp_path / "cache" / "multipyro" / "CelebA"
    assert len(os.listdir(cache)) == 1
    with monkeypatch.context() as patched:
        patched.setattr(module, "decode_images", lambda *arguments: pytest.fail("decodes again"))
        assert load_celeba(root).train.content_hash == first.train.content_hash
        assert load_celeba(root, form="words").train.x["text"].shape == (4, 9)
    load_celeba(root, crop="pooled")
    fake_celeba.face(9).save(folder / "img_align_celeba" / "000001.jpg")
    assert load_celeba(root).train.content_hash != first.train.content_hash
    assert len(os.listdir(cache)) == 3


def test_a_damaged_cache_is_decoded_again(root, tmp_path):
    fake_celeba.write_original(root)
    first = load_celeba(root)
    (path,) = (tmp_path / "cache" / "multipyro" / "CelebA").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=rf"{path} is damaged .* and is built again"):
        assert load_celeba(root).test.content_hash == first.test.content_hash


def test_a_full_disk_leaves_nothing(root, tmp_path, monkeypatch):
    fake_celeba.write_original(root)

    def fsync(number):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.warns(UserWarning, match="CelebA is built at every call: .*no space is left"):
            load_celeba(root)
    assert os.listdir(tmp_path / "cache" / "multipyro" / "CelebA") == []


def test_no_files_at_all(root):
    with pytest.raises(FileNotFoundError, match=r"CelebA is missing: put img_align_celeba/\*.jpg or img_align_celeba"):
        load_celeba(root, download=False)


@pytest.mark.parametrize(("rows", "lacks"), [(0, "train and validation and test"), (1, "train and validation")])
def test_a_compact_file_with_too_few_rows(root, rows, lacks):
    path = fake_celeba.write_compact(root, rows=rows) if rows else fake_celeba.write_compact(root, **NO_ROWS)
    with pytest.raises(ValueError, match=f"{path} has no examples for {lacks}, got 0 train"):
        load_celeba(root)


def test_missing_parts_of_the_original(root):
    folder = fake_celeba.write_original(root)
    (folder / "img_align_celeba" / "000004.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of 12 files are missing \(first: {folder}/.*/000004.jpg\)"):
        load_celeba(root)
    (folder / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match=f"{folder} has no list_eval_partition.txt"):
        load_celeba(root)


def cut(text):
    """The text without its last quarter."""
    return text[: 3 * len(text) // 4]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    {
        "cut off": ("list_attr_celeba.txt", cut, "truncated or damaged: its first line announces '12' rows"),
        "empty": ("list_attr_celeba.txt", lambda text: "", "must name the 40 attributes"),
        "other names": ("list_attr_celeba.txt", lambda text: text.replace("Bald", "Hairless"), "must name the 40"),
        "other values": ("list_attr_celeba.txt", lambda text: text.replace(" 1", " 0"), r"-1 or 1, got \['-1', '0'\]"),
        "rows lack": ("list_eval_partition.txt", cut, "has no part 0, 1 or 2 for 3 images \\(first: 000010.jpg"),
        "another part": ("list_eval_partition.txt", lambda text: text.replace(" 2", " 3"), "for 4 images"),
    }.values(),
)
def test_damaged_lists(root, name, change, message):
    path = fake_celeba.write_original(root) / name
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        load_celeba(root)


@pytest.mark.parametrize("number", [0, 1])
def test_lists_of_full_length_must_be_the_published_ones(root, monkeypatch, number):
    folder = fake_celeba.write_original(root)
    digests = [module.hashlib.md5((folder / name).read_bytes()).hexdigest() for name in module._LISTS]
    monkeypatch.setattr(module, "_PUBLISHED", (12, *digests))
    load_celeba(root)
    path = folder / module._LISTS[number]
    path.write_text(path.read_text() + "\n" * number if number else path.read_text().replace("-1", " 1", 1))
    with pytest.raises(ValueError, match=f"{path} is damaged: its md5 is .*, expected {digests[number]}"):
        load_celeba(root)


@pytest.mark.parametrize("content", [b"", b"no image", b"cut"])
def test_a_file_that_is_not_an_image(root, content):
    path = fake_celeba.write_original(root) / "img_align_celeba" / "000005.jpg"
    path.write_bytes(path.read_bytes()[:-300] if content == b"cut" else content)
    with pytest.raises(ValueError, match=f"{path} cannot be read as an image"):
        load_celeba(root)


@pytest.mark.parametrize(("crop", "message"), [("center", "at least 148x148 pixels"), ("pooled", "at least 176 rows")])
def test_a_image_of_another_size(root, crop, message):
    path = fake_celeba.write_original(root) / "img_align_celeba" / "000005.jpg"
    Image.new("RGB", (178, 100)).save(path)
    with pytest.raises(ValueError, match=f"{path}: an image must have {message}"):
        load_celeba(root, crop=crop)


class Code:
    """Something whose loading runs code."""

    def __reduce__(self):
        return pytest.fail, ("the file has run code",)


@pytest.mark.parametrize(
    ("changes", "message"),
    {
        "code": ({"filenames": np.array([Code()], dtype=object)}, "damaged or not the compact file of CelebA"),
        "offsets": ({"offsets": np.arange(21)}, "offsets do not divide"),
        "no offsets": ({"offsets": np.arange(0)}, "offsets do not divide"),
        "rows": ({"attributes": fake_celeba.attributes(19)}, r"each of its 20 images.*got shape \(19, 40\)"),
        "values": ({"attributes": np.zeros((20, 40), np.int8)}, "attributes of -1 or 1, got"),
        "names": ({"attribute_names": np.array(ATTRIBUTES[::-1])}, "in the published order"),
        "names in a column": ({"attribute_names": np.array(ATTRIBUTES)[:, None]}, r"names of shape \(40, 1\)"),
        "one name": ({"attribute_names": np.array("Bald")}, r"names of shape \(\)"),
        "a number for names": ({"attribute_names": np.array(40)}, r"names of shape \(\)"),
        "one file name": ({"filenames": np.array("000001.jpg")}, "offsets do not divide"),
    }.values(),
)
def test_compact_files_that_contradict_themselves(root, changes, message):
    path = fake_celeba.write_compact(root, **changes)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        load_celeba(root)


@pytest.mark.parametrize("kept", [0, 100, 5_000, -1])
def test_a_compact_file_that_is_truncated(root, kept):
    path = fake_celeba.write_compact(root)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{path} is damaged or not the compact file of CelebA"):
        load_celeba(root)


def test_a_compact_file_with_a_changed_byte(root):
    path = fake_celeba.write_compact(root)
    content = bytearray(path.read_bytes())
    content[3_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        load_celeba(root)


def test_a_compact_image_of_another_size(root):
    jpeg, offsets = fake_celeba.jpegs([Image.new("RGB", (64, 60 if n == 3 else 64)) for n in range(20)])
    path = fake_celeba.write_compact(root, jpeg=jpeg, offsets=offsets)
    with pytest.raises(ValueError, match=f"000004.jpg in {path} must have 64x64 pixels, got 64x60"):
        load_celeba(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "poem"}, r"form must be one of \('attributes', 'visual', 'words', 'text'\), got 'poem'"),
        ({"likelihood": "laplace"}, "likelihood must be one of"),
        ({"likelihood": "normal", "form": "text"}, "applies to attributes as numbers, got form 'text'"),
        ({"label": "Nice"}, "label must be one of"),
        ({"crop": "face"}, "crop must be one of"),
        ({"crop": "pooled"}, "have had their center crop, got crop 'pooled'"),
        ({"num_rows": 0}, "num_rows must be a positive integer or None, got 0"),
    ],
)
def test_options_that_cannot_be(root, options, message):
    fake_celeba.write_compact(root)
    with pytest.raises(ValueError, match=message):
        load_celeba(root, **options)


def test_the_real_file():
    if not os.environ.get("MULTIPYRO_DATA"):
        pytest.skip("MULTIPYRO_DATA is not set: this test needs the real CelebA")
    try:
        source = celeba_source()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if source.is_dir():
        pytest.skip("the original CelebA takes long to decode")
    assert np.bincount(module._compact(source).parts).tolist() == [8_000, 1_000, 1_000]
    x = load_dataset("celeba", form="visual", num_rows=1_000).train.x
    bright = x["image"][:, :, :20].float().mean((1, 2, 3))
    black, blond = (x["attributes"][:, SEEN.index(name)] > 0 for name in ("Black_Hair", "Blond_Hair"))
    assert bright[blond].mean() > bright[black].mean() + 20
