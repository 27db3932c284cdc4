"""CUB's files: missing, truncated, foreign, or more than the options need."""

import os

import fake_cub
import fake_mnist
import numpy as np
import pytest

from multipyro.data import load_dataset
from multipyro.data.sets import cub as module
from multipyro.data.sets import load_cub
from multipyro.data.sets.cub import cub_source
from multipyro.data.storage.images import decode_images


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder, and nothing else to be found."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_images_of_caltech_without_captions(root):
    fake_cub.write_caltech(root)
    os.rename(root / "cvpr2016_cub", root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"\({root} has CUB_200_2011/ but no cvpr2016_cub/text_c10/\)"):
        load_cub(root)
    # other captions lie beside them
    path = fake_cub.write_compact(root)
    assert cub_source(root) == path


def test_no_files_at_all(root):
    with pytest.raises(FileNotFoundError, match="CUB is missing: put into <folder> CUB_200_2011/"):
        load_dataset("cub", root)


@pytest.mark.parametrize("lacks", ["text_testclasses.txt", "test"])
def test_missing_parts_of_the_original(root, lacks):
    folder = fake_cub.write_original(root)
    os.rename(folder / lacks, folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"CUB is incomplete: {folder} has no text_testclasses.txt or no test/"):
        load_cub(root)


def test_missing_compact_captions(root):
    path = fake_cub.write_compact(root).with_name("cub_captions.txt.gz")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"CUB is incomplete: {root} has no CUB/cub_captions.txt.gz"):
        load_cub(root)


def test_captions_that_are_truncated(root):
    path = fake_cub.write_original(root) / "text_trainvalclasses.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-3]))
    with pytest.raises(ValueError, match=f"{path} must have 10 captions for each of 10 images, got 97 lines"):
        load_cub(root)
    packed = fake_cub.write_compact(root / "other", lines=fake_cub.captions(range(29))).with_name("cub_captions.txt.gz")
    with pytest.raises(ValueError, match=f"{packed} must have 10 captions for each of 30 images, got 290 lines"):
        load_cub(root / "other")
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"{packed} is truncated or damaged"):
        load_cub(root / "other")


def test_a_missing_or_damaged_image(root):
    folder = fake_cub.write_original(root)
    path = folder / "test" / "001.Wren" / "x.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"{path} cannot be read as an image"):
        load_cub(root)
    path.unlink()
    with pytest.raises(ValueError, match="text_testclasses.txt must have 10 captions for each of 1 images, got 20"):
        load_cub(root)


def test_only_a_line_feed_ends_a_caption(root):
    """Not a vertical tab, nor what Unicode has beside it; a carriage return before it is none of the caption."""
    texts = fake_cub.captions(range(30))
    odd = ["a\x0b bird\x0c n\x1c a\x85 b\u2028 c\u2029 d", *texts[1:]]
    plain = ["a bird n a b c d", *texts[1:]]
    packed = fake_cub.write_compact(root, lines=[f"{line}\r" for line in odd]).parent
    expected = fake_cub.write_compact(root / "other", lines=plain).parent
    assert load_cub(packed.parent).train.content_hash == load_cub(expected.parent).train.content_hash
    path = fake_cub.write_caltech(root / "third") / "../cvpr2016_cub/text_c10/010.Jay/03.txt"
    whole = load_cub(root / "third").train.content_hash
    path.write_bytes(path.read_bytes().replace(b"a red bird", "a\u2028red\x0bbird".encode()).replace(b"\n", b"\r\n"))
    assert load_cub(root / "third").train.content_hash == whole


def remove(path):
    """Remove the file."""
    path.unlink()


def edited(old, new):
    """A change of a file's text."""
    return lambda path: path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    {
        "no labels": ("image_class_labels.txt", remove, FileNotFoundError, "has no image_class_labels.txt"),
        "no picture": (
            "images/001.Wren/y.jpg",
            remove,
            FileNotFoundError,
            r"1 of 12 files .* \(first: {path}\)",
        ),
        "no captions": (
            "../cvpr2016_cub/text_c10/010.Jay/03.txt",
            remove,
            FileNotFoundError,
            "1 of 12 files are missing",
        ),
        "nine captions": (
            "../cvpr2016_cub/text_c10/010.Jay/03.txt",
            edited("a red", "\n"),
            ValueError,
            "03.txt must have 10 captions for each of 1 images, got 11 lines",
        ),
        "other pictures": ("images.txt", edited("90 ", "91 "), ValueError, "must number the same images, got 12 and"),
        "other lines": ("images.txt", edited("Auk/", "Auk /"), ValueError, "{path} must have a number and a value"),
        "a number twice": (
            "images.txt",
            edited("89 ", "90 "),
            ValueError,
            "{path} must have each number once",
        ),
        "a label twice": ("image_class_labels.txt", edited("89 ", "90 "), ValueError, "{path} must have each number"),
        "other classes": (
            "image_class_labels.txt",
            edited(" 10\n", " x\n"),
            ValueError,
            "1 to 200, got 'x' for '01",
        ),
    }.values(),
)
def test_damaged_folders_of_caltech(root, name, change, error, message):
    path = fake_cub.write_caltech(root) / name
    change(path)
    with pytest.raises(error, match=message.format(path=path)):
        load_cub(root)


def test_few_rows_decode_few_images_and_have_the_complete_vocabulary(root, monkeypatch):
    decoded = []

    def counted(sources, *arguments):
        decoded.append(len(sources))
        return decode_images(sources, *arguments)

    monkeypatch.setattr(module, "decode_images", counted)
    for write in (fake_cub.write_compact, fake_cub.write_caltech):
        write(root)
        decoded.clear()
        whole, some = load_cub(root), load_cub(root, num_rows=13)
        # two images a part, or as many as it has
        pictures = [len(getattr(whole, name)) // 10 for name in whole.NAMES]
        assert decoded == [sum(pictures), sum(min(number, 2) for number in pictures)]
        for name in whole.NAMES:
            assert getattr(some, name).content_hash == getattr(whole.head(13), name).content_hash
        assert some.train.modalities == whole.train.modalities
        assert len(load_dataset("cub", root, num_rows=1, captions="first").train) == 1
        assert decoded[-1] == 3
    with pytest.raises(ValueError, match="num_rows must be a positive integer or None, got 0"):
        load_cub(root, num_rows=0)


@pytest.mark.parametrize(("rows", "lacks"), [(12, "test"), (15, "")])
def test_a_compact_file_with_too_few_classes(root, rows, lacks):
    path = fake_cub.write_compact(root, rows=rows)
    if lacks:
        with pytest.raises(ValueError, match=f"{path} has no examples for test, got 11 train, 1 validation"):
            load_cub(root)
    else:
        assert len(load_cub(root).test) == 30


def test_a_class_may_not_train_and_test(root):
    folder = fake_cub.write_original(root)
    os.rename(folder / "test" / "001.Wren", folder / "test" / "010.Jay")
    with pytest.raises(ValueError, match="test classes must not be training classes, got 1 that are both"):
        load_cub(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    {
        "objects": ({"filenames": np.array([{}] * 30, dtype=object)}, "is damaged or not the compact file of CUB"),
        "offsets": ({"offsets": np.arange(31)}, "offsets do not divide"),
        "rows": ({"class_id": np.arange(29)}, "must have a class from 1 to 200 for each of its 30 names"),
        "classes": ({"class_id": np.arange(30)}, "must have a class from 1 to 200"),
        "words for classes": ({"class_id": np.array(["a"] * 30)}, "must have a class from 1 to 200"),
        "one name": ({"filenames": np.array("a.jpg")}, "must have a class from 1 to 200 for each of its 1 names"),
    }.values(),
)
def test_compact_files_that_contradict_themselves(root, changes, message):
    path = fake_cub.write_compact(root, **changes)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        load_cub(root)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_compact_file_that_is_truncated(root, kept):
    path = fake_cub.write_compact(root)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{path} is damaged or not the compact file of CUB"):
        load_cub(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": "some"}, r"captions must be one of \('all', 'first'\), got 'some'"),
        ({"crop": "head"}, "crop must be one of"),
        ({"crop": "box"}, "has no boxes of the birds, got crop 'box'"),
    ],
)
def test_options_that_cannot_be(root, options, message):
    fake_cub.write_original(root)
    with pytest.raises(ValueError, match=message):
        load_cub(root, **options)
