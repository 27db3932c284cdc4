"""Caches and the files they depend on, damaged files, and decoding of images."""

import io
import json
import os
import shutil
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from multipyro.data.custom.mapped import mapped_images, mapped_rows
from multipyro.data.storage import cache as cache_module
from multipyro.data.storage import cached
from multipyro.data.storage.files import files_digest
from multipyro.data.storage.images import decode_images
from multipyro.data.storage.stored import read_arrays, stored_array, stored_arrays


def written(path, content):
    """A file of a fixed time, as unpacking leaves it."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def twins(tmp_path):
    """Files that differ in their folder and in one byte alone."""
    return [written(tmp_path / name / "1.bmp", name.encode()) for name in "ab"]


def test_files_of_one_name_size_and_time_differ_by_their_folder(twins):
    first, second = twins
    digests = {files_digest(files, "x") for files in ([first], [second], [first, second], [second, first])}
    assert len(digests) == 4
    assert files_digest([first], "x") == files_digest([first], "x")


def test_a_file_is_the_same_however_its_folder_is_named(twins, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "b")
    paths = (twins[0], tmp_path / "link" / "1.bmp", tmp_path.relative_to(tmp_path) / ".." / "a" / "1.bmp")
    assert len({files_digest([path], "x") for path in paths}) == 1


@pytest.mark.parametrize("how", ["written", "unpacked", "exchanged"])
def test_other_content_of_one_size_and_time_has_another_digest(twins, how):
    first, second = twins
    before = files_digest([first], "x")
    match how:
        case "written":
            written(first, b"c")
        case "unpacked":
            first.unlink()
            written(first, b"c")
        case "exchanged":
            shutil.move(second, first)
    assert first.stat().st_mtime == 1e9 and first.stat().st_size == 1
    assert files_digest([first], "x") != before


def test_impossible_paths_are_missing_files(twins):
    wrong = [twins[0] / "1.png", twins[0].with_name("x" * 300), twins[0].with_name("a\0b"), twins[0].with_name("c")]
    with pytest.raises(FileNotFoundError, match="the set is incomplete: 4 of 6 files are missing"):
        files_digest([*twins, *wrong], "the set")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of the caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "multipyro" / "user-defined"


def test_cached_images_and_arrays_are_those_of_their_folder(tmp_path, own, monkeypatch):
    monkeypatch.setattr("multipyro.data.custom.mapped._MAPPED_BYTES", 0)
    for name, gray in (("a", 0), ("b", 255)):
        bitmap, array = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (4, 4), (gray,) * 3).save(bitmap, "bmp")
        np.save(array, np.full((5, 2), float(gray)))
        written(tmp_path / name / "1.bmp", bitmap.getvalue())
        file = written(tmp_path / name / "x.npy", array.getvalue())
        assert (mapped_images([tmp_path / name / "1.bmp"], (3, 4, 4)) == gray).all()
        assert (mapped_rows(file, np.load(file), np.arange(5), np.float32) == gray).all()
    paths = [tmp_path / name / "1.bmp" for name in "ba"]
    assert mapped_images(paths, (1, 4, 4)).mean((1, 2, 3)).tolist() == [255, 0]
    assert mapped_images(paths[::-1], (1, 4, 4)).mean((1, 2, 3)).tolist() == [0, 255]


def packed(save, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def patched(content, offset, value):
    """A zip whose entries, each told twice, say something else: its flags are at 6, its compression at 8."""
    content = bytearray(content)
    for mark, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        begin = content.find(mark)
        while begin >= 0:
            content[begin + offset + shift] = value
            begin = content.find(mark, begin + 1)
    return bytes(content)


def zipped(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


SOUND = packed(np.savez, image=np.arange(60, dtype=np.uint8), recipe=np.array(json.dumps({"version": 1})))
SHAPE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999999,), }".ljust(117) + b"\n"
DAMAGED = {
    "a single array": packed(lambda file: np.save(file, np.arange(5))),
    "unknown compression": patched(SOUND, 8, 77),
    "encrypted": patched(SOUND, 6, 1),
    "cut off": SOUND[: len(SOUND) // 2],
    "empty": b"",
    "html": b"<html>not found</html>",
    "a huge array": zipped("image.npy", b"\x93NUMPY\1\0v\0" + SHAPE),
    "no header": zipped("image.npy", b"\x93NUMPY\1\0\4\0(((("),
    "code": packed(np.savez, image=np.array([{}], dtype=object), recipe=np.array(json.dumps({"version": 1}))),
    "another file": zipped("image.txt", b"text"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_arrays_are_named_and_caches_built_again(tmp_path, own, content):
    path = tmp_path / "set.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"set.npz is damaged or not the set \(.+\): download it again"):
        read_arrays(path, ("image",), "the set")

    def build():
        return {"image": np.ones(3)}

    cached("set", {"version": 1}, ("image",), build)
    (stored,) = (own.parent / "set").iterdir()
    stored.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged .* and is built again"):
        assert cached("set", {"version": 1}, ("image",), build)["image"].tolist() == [1, 1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cached("set", {"version": 1}, ("image",), list)["image"].tolist() == [1, 1, 1]


def test_any_byte_may_be_another(tmp_path):
    generator, path = np.random.default_rng(0), tmp_path / "set.npz"
    for save in (np.savez, np.savez_compressed):
        content = packed(save, image=np.arange(60, dtype=np.uint8))
        for _ in range(100):
            flipped = bytearray(content)
            for place in generator.integers(0, len(content), 3):
                flipped[place] = generator.integers(256)
            path.write_bytes(flipped)
            try:  # what is read is what was written: the CRC holds
                assert stored_arrays(path, ("image",))["image"].tolist() == list(range(60))
            except ValueError as error:
                assert str(error)


def test_an_archive_is_not_a_single_array(tmp_path):
    (tmp_path / "x.npy").write_bytes(SOUND)
    with pytest.raises(ValueError, match=r"it is a \.npz file, not a single array"):
        stored_array(tmp_path / "x.npy", "r")


@pytest.mark.parametrize("kind", ["tiff", "png", "gif", "bmp", "webp", "jpeg"])
def test_a_damaged_image_is_named(tmp_path, kind):
    generator, path = np.random.default_rng(1), tmp_path / f"1.{kind}"
    file = io.BytesIO()
    Image.fromarray(generator.integers(0, 255, (8, 8, 3), np.uint8)).save(file, kind)
    for _ in range(30):
        content = bytearray(file.getvalue())
        for place in generator.integers(0, min(len(content), 200), 3):
            content[place] = generator.integers(256)
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, which goes on
            try:
                assert decode_images([path], [str(path)], (3, 8, 8)).shape == (1, 3, 8, 8)
            except ValueError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize(
    "error", [IndexError("index out of range"), OSError(22, "seek"), NotImplementedError(), KeyError(3)]
)
def test_whatever_a_reader_of_images_raises_names_the_file(tmp_path, monkeypatch, error):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")

    def fails(*_, **settings):
        raise error

    monkeypatch.setattr("PIL.Image.Image.convert", fails)
    with pytest.raises(ValueError, match=r"1.png cannot be read as an image \(.+\)"):
        decode_images([tmp_path / "1.png"], ["1.png"], (3, 8, 8))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(13, "Permission denied"), "1.png cannot be read: Permission denied"),
        (OSError(24, "Too many open files"), "1.png cannot be read: Too many open files"),
        (MemoryError(), "not enough memory to decode 1.png"),
    ],
)
def test_errors_of_the_system_are_not_reported_as_damage(tmp_path, own, monkeypatch, error, expected):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")

    def fails(*_, **settings):
        raise error

    monkeypatch.setattr("PIL.Image.open", fails)
    with pytest.raises(type(error), match=expected) as caught:
        decode_images([tmp_path / "1.png"], ["1.png"], (3, 8, 8))
    assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)
    # without a warning that the copy cannot be written
    with pytest.raises(type(error), match=expected.replace("1.png", f"{tmp_path}/1.png")):
        mapped_images([tmp_path / "1.png"], (3, 8, 8))


GRAYS = np.array([[0, 128, 129, 255], [256, 32_767, 32_768, 65_535]], np.uint16)


@pytest.mark.parametrize("kind", ["png", "tiff", "big-endian tiff", "pgm"])
def test_gray_of_16_bits_is_scaled(tmp_path, kind):
    path = tmp_path / f"1.{kind.split()[-1]}"
    if kind == "pgm":
        path.write_bytes(b"P5 4 2 65535\n" + GRAYS.astype(">u2").tobytes())
    else:
        Image.fromarray(GRAYS.astype(">u2") if kind.startswith("big") else GRAYS).save(path)
    with Image.open(path) as image:
        # Pillow before 10.3 reads a PNG of 16 bits as one of 32
        assert image.mode in {"png": ("I", "I;16"), "tiff": ("I;16",), "pgm": ("I",)}.get(kind, ("I;16B",))
    expected = np.rint(GRAYS / 257)
    assert (decode_images([path], ["1"], (1, 2, 4))[0, 0] == expected).all()
    assert (decode_images([path], ["1"], (3, 2, 4))[0] == expected).all()


def test_gray_of_unknown_scale_is_refused(tmp_path):
    path = tmp_path / "1.tiff"
    wrong = [(Image.fromarray(np.full((2, 2), 300, dtype)), {}) for dtype in (np.int32, np.float32)]
    # white is at 0
    wrong += [(Image.fromarray(GRAYS), {"tiffinfo": {262: 0}})]
    for image, options in wrong:
        image.save(path, **options)
        with pytest.raises(ValueError, match=f"{path}: gray of mode '{image.mode}' in a TIFF file is not known"):
            decode_images([path], [str(path)], (1, *image.size[::-1]))


def test_a_copy_that_cannot_be_opened_is_kept_in_memory(tmp_path, own, monkeypatch):
    Image.new("RGB", (4, 4), (7, 7, 7)).save(tmp_path / "1.png")
    monkeypatch.setattr(cache_module, "_mapped", lambda *_: None)
    with pytest.warns(UserWarning, match=r"data is kept in memory: .*\.npy cannot be read again"):
        found = mapped_images([tmp_path / "1.png", None], (3, 4, 4))
    assert found.shape == (2, 3, 4, 4)
    assert found.mean((1, 2, 3)).tolist() == [7, 0]
    with pytest.warns(UserWarning, match="data is kept in memory"):
        assert mapped_images([], (3, 4, 4)).shape == (0, 3, 4, 4)
