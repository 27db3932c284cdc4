"""User-defined data: tensors, data sets of dicts, and TOML descriptions of tables, images and arrays."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from multipyro.data import Modality, from_dataset, from_tensors, infer_modality, load_toml

COLORS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
ROWS = 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "multipyro" / "user-defined"


@pytest.fixture
def folder(tmp_path):
    """Forty images of one color each, of several sizes, with a class, a caption, numbers and an array."""
    place = tmp_path / "birds"
    (place / "pictures").mkdir(parents=True)
    names = list(COLORS)
    with (place / "birds.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "color", "caption", "bald", "old", "weight", "part"])
        for row in range(ROWS):
            name = names[row % 3]
            Image.new("RGB", (10 + row % 4, 8), COLORS[name]).save(place / "pictures" / f"{row}.png")
            part = ("train", "validation", "test")[0 if row < 30 else 1 + row % 2]
            caption = f"A {name} bird, isn't it?" if row != 3 else ""
            table.writerow([f"{row}.png", name, caption, row % 2, 1 - row % 2, 0.5 * row, part])
    np.save(place / "spectrum.npy", np.arange(ROWS * 4.0).reshape(ROWS, 4))
    return place


DESCRIPTION = """
table = "birds.csv"
labels = "color"
[modalities.image]
column = "file"
folder = "pictures"
size = [8, 6]
[modalities.color]
column = "color"
[modalities.caption]
column = "caption"
kind = "text"
[modalities.attributes]
columns = ["bald", "old"]
[modalities.weight]
column = "weight"
kind = "vector"
scaling = "none"
[modalities.spectrum]
file = "spectrum.npy"
likelihood = "laplace"
scale = 0.5
"""


def written(folder, text=DESCRIPTION, name="birds.toml"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_modalities_stay_aligned_and_no_row_is_in_two_parts(folder):
    splits = load_toml(written(folder))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [32, 4, 4]
    seen = []
    for part in (splits.train, splits.validation, splits.test):
        x, observed = part.rows(torch.arange(len(part)))
        rows = (x["weight"][:, 0] * 2).long()
        seen += rows.tolist()
        assert torch.equal(x["spectrum"][:, 0], rows * 4.0)
        assert torch.equal(x["attributes"], torch.stack([rows % 2, 1 - rows % 2], 1).float())
        names = [part.modalities["color"].class_names[i] for i in x["color"]]
        assert names == [list(COLORS)[row % 3] for row in rows.tolist()]
        expected = torch.tensor([COLORS[name] for name in names])[:, :, None, None] / 255
        assert x["image"].shape[1:] == (3, 8, 6) and (x["image"] - expected).abs().max() < 1e-6
        captions = part.modalities["caption"].decode(x["caption"])
        held = torch.ones(len(rows), dtype=torch.bool) if observed is None else observed["caption"]
        assert [text for text, there in zip(captions, held, strict=True) if there] == [
            f"a {name} bird , is n't it ?" for name, there in zip(names, held, strict=True) if there
        ]
        assert held.tolist() == [row != 3 for row in rows.tolist()]
        assert torch.equal(part.labels, x["color"])
    assert sorted(seen) == list(range(ROWS))


def test_kinds_are_inferred_or_declared(folder):
    modalities = load_toml(written(folder)).train.modalities
    found = {name: (modality.kind, modality.likelihood) for name, modality in modalities.items()}
    assert found == {
        "image": ("image", "laplace"),
        "color": ("label", "categorical"),
        "caption": ("text", "categorical"),
        "attributes": ("vector", "bernoulli"),
        "weight": ("vector", "normal"),
        "spectrum": ("vector", "laplace"),
    }
    assert (modalities["spectrum"].scale, modalities["weight"].scale) == (0.5, None)


def test_a_column_may_name_the_part_of_each_row(folder):
    splits = load_toml(written(folder, 'split = "part"\n' + DESCRIPTION))
    assert splits.train.x["weight"][:, 0].tolist() == [0.5 * row for row in range(30)]
    assert splits.test.x["weight"][:, 0].tolist() == [0.5 * row for row in range(31, 40, 2)]


def test_the_split_is_drawn_once_from_its_seed(folder):
    first, again = (load_toml(written(folder)).train.x["weight"] for _ in range(2))
    other = load_toml(written(folder, "seed = 1\n" + DESCRIPTION)).train.x["weight"]
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_words_that_no_training_row_has_are_unknown(folder):
    text = 'split = "part"\ntable = "birds.csv"\n[modalities.file]\ncolumn = "file"\nkind = "text"\n'
    splits = load_toml(written(folder, text))
    assert splits.test.modalities["file"].decode(splits.test.x["file"])[0] == "<unk>"
    characters = load_toml(written(folder, text + 'tokens = "characters"\nlength = 3\n'))
    assert characters.train.modalities["file"].decode(characters.train.x["file"])[11] == "11."


def test_images_are_resized_once_and_mapped(folder, cache, monkeypatch):
    path = written(folder)
    first = load_toml(path).train.x["image"].clone()
    (stored,) = cache.iterdir()
    monkeypatch.setattr("multipyro.data.custom.mapped.decode_images", None)  # nothing is decoded again
    assert torch.equal(load_toml(path).train.x["image"], first)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    stored.write_bytes(stored.read_bytes()[:-100])  # cut off: it is made again
    assert torch.equal(load_toml(path).train.x["image"], first)
    with stored.open("wb") as file:  # another file under its name
        np.savez(file, first)
    assert torch.equal(load_toml(path).train.x["image"], first)
    Image.new("RGB", (9, 9), (0, 0, 0)).save(folder / "pictures" / "0.png")
    assert not torch.equal(load_toml(path).train.x["image"], first)


def test_large_arrays_are_mapped_and_equal_those_that_are_read(folder, cache, monkeypatch):
    path = written(folder, '[modalities.spectrum]\nfile = "spectrum.npy"\nscaling = "none"\n')
    read = load_toml(path).train.x["spectrum"]
    monkeypatch.setattr("multipyro.data.custom.mapped._MAPPED_BYTES", 0)
    assert torch.equal(load_toml(path).train.x["spectrum"], read) and len(list(cache.iterdir())) == 1


WRONG = [
    ('table = 3\n[modalities.a]\ncolumn = "bald"', "table must be a string, got 3"),
    ("tabel = 1", "unknown key tabel"),
    ("x =", "not a TOML file"),
    ('table = "other.csv"\n[modalities.a]\ncolumn = "bald"', "there is no table"),
    ('table = "birds.csv"', "at least one modality"),
    ('table = "birds.csv"\n[modalities.a]\ncolumn = "wings"', r"column 'wings': the table has \['file', 'color'"),
    ('table = "birds.csv"\n[modalities.a]\ncolumn = "bald"\nkind = "sound"', "kind must be one of"),
    ('table = "birds.csv"\n[modalities.a]\ncolumns = ["color"]', "must be a column of numbers.*'red'"),
    ('table = "birds.csv"\n[modalities.a]\ncolumn = "file"', r"size must be \[height, width\]"),
    ('table = "birds.csv"\n[modalities.a]\ncolumn = "file"\nsize = [4, 4]', "40 of 40 files are missing"),
    ('table = "birds.csv"\n[modalities.a]\nfile = "few.npy"', "same number of rows.*'modalities.a.file': 3"),
    ('[modalities.a]\nfile = "objects.npy"', "is not an array of numbers"),
    ('[modalities.a]\ncolumn = "bald"', "there is no table"),
    ('[modalities.a]\nfile = "few.npy"\ncolumn = "b"', "needs one of column, columns and file"),
    ('split = [0.5, 0.1]\n[modalities.a]\nfile = "few.npy"', "three fractions"),
    ('[modalities.a]\nfile = "few.npy"', "a part would have no rows"),
    (
        'split = "color"\ntable = "birds.csv"\n[modalities.a]\ncolumn = "bald"',
        "must have .'train', 'validation', 'test'",
    ),
    ('labels = "caption"\ntable = "birds.csv"\n[modalities.a]\ncolumn = "bald"', "every row needs a class, 1 cells"),
    ('name = 3\n[modalities.a]\nfile = "few.npy"', "name must be a string, got 3"),
    ('seed = true\n[modalities.a]\nfile = "few.npy"', "seed must be a whole number from 0 .*, got True"),
    ('split = 3\n[modalities.a]\nfile = "few.npy"', "split must be a list of three fractions or a column, got 3"),
    ('split = [0.9, 0.1, 0.0]\n[modalities.a]\nfile = "few.npy"', r"fractions above 0 .*, got \(0.9, 0.1, 0.0\)"),
    ('split = [true, 0.1, 0.1]\n[modalities.a]\nfile = "few.npy"', "three fractions above 0"),
    ('split = "part"\n[modalities.a]\nfile = "few.npy"', "split names the column 'part': there is no table"),
    (
        '[modalities.a]\nfile = "scalar.npy"',
        "a.file names .*scalar.npy, which is not an array .*single number",
    ),
    ('[modalities.a]\nfile = "several.npz"', "modalities.a.file names .*several.npz, which is not an array .*npz file"),
    ('[modalities.a]\nfile = "bytes.npy"', "birds.toml: modalities.a: uint8 is for images"),
]
# what is said of a column, and what is wrong with it
COLUMNS = [
    ('column = ["bald"]', r".column must be a string, got \['bald'\]"),
    ('columns = "bald"', ".columns must be a list of different names of columns, got 'bald'"),
    ("columns = [3]", r"columns must be a list of different names of columns, got \[3\]"),
    ('column = "file"\nfolder = 3', ".folder must be a string, got 3"),
    ('column = "file"\nsize = [true, 8]', r"size must be \[height, width\], in pixels .*, got \[True, 8\]"),
    ('column = "file"\nsize = [1000000, 1000000]', r"size must be .* from 1 to 4096, got \[1000000, 1000000\]"),
    ('column = "file"\nsize = [8, 8]\nchannels = true', r"channels must be one of \(1, 3\), got True"),
    ('column = "caption"\nkind = "text"\nlength = true', "length must be a whole number from 1 .*, got True"),
    ('column = "caption"\nkind = "text"\nlength = 1000000000000', "length must be a whole number from 1 to 65536"),
    ('column = "color"\nkind = "image"\nsize = [8, 8]', "must name images: none of the 40 cells of 'color'"),
    (
        'column = "color"\nlikelihood = "normal"',
        r"of kind 'label', must be one of \('categorical',\), got 'nor",
    ),
    ('column = "weight"\nlikelihood = "categorical"', "of kind 'vector', must be one of .*'normal'.*, got 'cat"),
    ('column = "weight"\nscale = true', "scale must be a number above 0, 'learned' or 'channels', got True"),
    ('columns = ["bald"]\nscale = 2', "modality 'a' has a bernoulli likelihood, which takes no scale, got 2"),
    ('column = "color"\nscale = 2', "a label, inferred to be of kind 'label': scale does not apply"),
    ('columns = ["bald"]\nkind = "label"', "several columns, whose kind can be .*'vector'.*, got 'label'"),
    ('columns = ["bald"]\nsize = [1, 1]\nlength = 1', "several columns, inferred.*: size, length do not apply"),
    ('file = "spectrum.npy"\nkind = "label"', r"label 'a' must have shape \(rows,\), got \(40, 4\)"),
    ('column = "color"\nlength = 3', "a label, inferred.*: length does not apply"),
    ('column = "weight"\nkind = "vector"\ntokens = "words"', "a column of numbers: tokens does not apply"),
    ('column = "file"\nsize = [8, 8]\ntokens = "words"', "a column of images, inferred.*: tokens does not apply"),
    (
        'column = "caption"\nkind = "text"\nfolder = "pictures"',
        "a text: folder does not apply, what applies is .*token",
    ),
]


@pytest.mark.parametrize("text, message", WRONG)
def test_wrong_descriptions_are_named(folder, text, message):
    np.save(folder / "few.npy", np.zeros((3, 2)))
    np.save(folder / "scalar.npy", np.array(3.0))
    np.savez(folder / "several.npz", a=np.zeros((40, 2)))
    np.save(folder / "bytes.npy", np.zeros((40, 5, 5, 5), np.uint8))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_toml(written(folder, text))


@pytest.mark.parametrize("said, message", COLUMNS)
def test_impossible_modalities_are_named(folder, said, message):
    with pytest.raises(ValueError, match=f"birds.toml: modalities.a.*{message}"):
        load_toml(written(folder, f'table = "birds.csv"\n[modalities.a]\n{said}\n'))


@pytest.mark.parametrize("name", ["7.png", "birds.csv"])
def test_a_damaged_file_is_named(folder, name):
    file = folder / "pictures" / name if name.endswith("png") else folder / name
    file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2])
    with pytest.raises(ValueError, match=name):
        load_toml(written(folder))
    assert not list((folder.parent / "cache").rglob("*.npy"))


def test_tensors_are_described_by_what_they_hold():
    gray = torch.rand(50, 1, 4, 4)
    splits = from_tensors(
        {
            "photo": (torch.rand(50, 3, 4, 4) * 255).to(torch.uint8),
            "gray": gray,
            "drawing": (gray > 0.5).float(),
            "label": torch.arange(50) % 4,
            "text": torch.randint(5, (50, 6)),
            "flags": (torch.rand(50, 3) > 0.5).float(),
            "number": torch.randn(50),
        },
        modalities={"text": Modality("text", (6,), "text", "categorical", 9)},
        split=(0.5, 0.25, 0.25),
    )
    found = {name: (m.kind, m.likelihood, m.num_classes) for name, m in splits.train.modalities.items()}
    assert found == {
        "photo": ("image", "laplace", None),
        "gray": ("image", "continuous_bernoulli", None),
        "drawing": ("image", "bernoulli", None),
        "label": ("label", "categorical", 4),
        "text": ("text", "categorical", 9),
        "flags": ("vector", "bernoulli", None),
        "number": ("vector", "normal", None),
    }
    assert [len(getattr(splits, part)) for part in splits.NAMES] == [25, 13, 12]
    assert splits.validation.x["number"].shape == (13, 1) and splits.validation.split == "validation"


def test_items_may_lack_modalities():
    items = [{"signal": torch.full((2,), float(i)), "label": None if i % 4 == 0 else i % 3} for i in range(40)]
    splits = from_dataset(items, seed=3)
    for part in (splits.train, splits.validation, splits.test):
        rows = part.x["signal"][:, 0].long()
        held = part.observed["label"] if part.observed else torch.ones(len(rows), dtype=torch.bool)
        assert torch.equal(held, rows % 4 != 0)
        assert torch.equal(part.x["label"][held], rows[held] % 3)


@pytest.mark.parametrize(
    "items, error, message",
    [
        ([], ValueError, "has no items"),
        ([{"a": None}], ValueError, "item 0 has no modality"),
        ([(1, 2)], TypeError, "an item must be a dict.*tuple"),
        ([{"a": torch.zeros(2)}, {"a": torch.zeros(3)}], ValueError, r"one shape, got \(2,\) and \(3,\)"),
    ],
)
def test_wrong_items_are_named(items, error, message):
    with pytest.raises(error, match=message):
        from_dataset(items)


@pytest.mark.parametrize(
    "values, error, message",
    [
        (
            torch.tensor([-1, 2]),
            ValueError,
            "whole numbers from -1 to 2, .* can be label, ordinal, counts or",
        ),
        (torch.zeros(4, 3).long(), ValueError, r"can be counts, text \(token ids\) or vector; declare it: kinds"),
        (
            torch.zeros(4, 2, dtype=torch.complex64),
            TypeError,
            "floating point, integer, bool or uint8, got",
        ),
        (torch.zeros(4, 2, dtype=torch.uint8), ValueError, "uint8 is for images"),
        (torch.zeros(0, 2), ValueError, "at least one row"),
    ],
)
def test_values_of_no_kind_are_named(values, error, message):
    with pytest.raises(error, match=message):
        infer_modality("x", values)
