"""The faces of CelebA: the crops of JMVAE's filter, the examples they give, and the cached detections."""

import importlib
import importlib.util
import io
import os
import sys
import types

import fake_celeba
import fake_mnist
import numpy as np
import pytest
import torch
from PIL import Image

from multipyro.data import load_dataset
from multipyro.data.sets import _faces
from multipyro.data.sets import celeba as module
from multipyro.data.sets._faces import face_crop, find_faces
from multipyro.data.sets.celeba import ATTRIBUTES, celeba_source

needs_opencv = pytest.mark.skipif(
    importlib.util.find_spec("cv2") is None, reason='needs OpenCV: pip install "multipyro[faces]"'
)

VALUES = torch.from_numpy(fake_celeba.attributes()).float()
LEFT, RIGHT, ABOVE, SMALL = (40, 60, 80, 80), (90, 80, 80, 80), (40, 5, 80, 80), (80, 100, 40, 40)
# what is found in the twelve images, of which each third one is in the same part
FOUND = {0: [LEFT], 2: [RIGHT, LEFT], 3: [LEFT, RIGHT], 4: [LEFT], 5: [SMALL], 7: [ABOVE], 9: [LEFT], 10: [LEFT]}
FOUND[11] = [ABOVE, RIGHT]
KEPT = {"train": [0, 3, 3, 9], "validation": [4, 10], "test": [2, 2, 11]}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with twelve images in the original layout, and nothing else to be found."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    (tmp_path / "data").mkdir()
    fake_celeba.write_original(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def pieces(tmp_path):
    """The folder of what is kept of the search."""
    return tmp_path / "cache" / "multipyro" / "CelebA" / "faces"


def number_of(picture):
    """The number that the gray level in the middle tells."""
    return round((float(picture[109, 89]) - 20) / 15)


def stub(monkeypatch, found, broken=None):
    """Stands for OpenCV; the list of the images that are looked at."""
    seen = []

    def detect(picture):
        seen.append(number_of(picture))
        if seen[-1] == broken:
            raise RuntimeError("broken off")
        return np.array(found.get(seen[-1], []))

    monkeypatch.setattr(_faces, "_detector", lambda: detect)
    return seen


def faces(root, **options):
    """The three parts."""
    return load_dataset("celeba", root, crop="faces", **options)


@pytest.mark.parametrize(
    ("found", "size", "edges"),
    {
        "1.3 times": ((40, 60, 100, 100), (178, 218), (25, 45, 155, 175)),
        "to whole pixels before": ((40, 60, 101, 101), (178, 218), (24, 44, 156, 176)),  # 24.85, 44.85, 156.15, 176.15
        "left at 0": ((15, 60, 100, 100), (178, 218), (0, 45, 130, 175)),
        "left at -1": ((14, 60, 100, 100), (178, 218), None),
        "left at -0.15": ((15, 60, 101, 101), (178, 218), None),
        "left at 0 beyond floats": ((21, 60, 140, 140), (178, 218), (0, 39, 178, 218)),
        "top at 0": ((40, 15, 100, 100), (178, 218), (25, 0, 155, 130)),
        "top at -1": ((40, 14, 100, 100), (178, 218), None),
        "right at the edge": ((63, 60, 100, 100), (178, 218), (48, 45, 178, 175)),
        "right beyond": ((80, 60, 100, 100), (178, 218), (65, 45, 178, 175)),
        "below": ((40, 120, 100, 100), (178, 218), (25, 105, 155, 218)),
        "below, 88 of 87.2 rows left": ((40, 145, 100, 100), (178, 218), (25, 130, 155, 218)),
        "below, 87 of 87.2 rows left": ((40, 146, 100, 100), (178, 218), None),
        "0.4 of the height": ((40, 60, 80, 80), (178, 260), None),
        "above 0.4": ((40, 60, 80, 80), (178, 259), (28, 48, 132, 152)),
    }.values(),
)
def test_the_crop(found, size, edges):
    assert face_crop(found, *size) == edges
    assert face_crop(np.array(found, np.int32), *size) == edges


def test_a_row_for_each_face(root, monkeypatch):
    seen = stub(monkeypatch, FOUND)
    splits = faces(root)
    assert sorted(seen) == list(range(12))
    for name in splits.NAMES:
        part, rows = getattr(splits, name), torch.tensor(KEPT[name])
        assert part.x["image"].shape == (len(rows), 3, 64, 64)
        assert part.x["image"].dtype == torch.uint8
        # what `RIGHT` gives has a little of the white frame
        levels = ((part.x["image"].float().median(-1).values.median(-1).values.mean(1) - 20) / 15).round()
        assert levels.long().tolist() == rows.tolist()
        assert torch.equal(part.x["attributes"], (VALUES[rows] + 1) / 2)
        assert torch.equal(part.labels, (VALUES[rows, ATTRIBUTES.index("Smiling")] > 0).long())
        assert part.options["crop"] == "faces"
    words = faces(root, form="words").train
    texts = [sorted(text.split()) for text in words.modalities["text"].decode(words.x["text"])]
    assert texts[1] == texts[2] != texts[3]


def test_the_pixels_of_a_face(root, monkeypatch):
    path = root / "celeba" / "img_align_celeba" / "000004.jpg"
    blocks = np.random.default_rng(0).integers(0, 256, (28, 23, 3))
    pixels = np.kron(blocks, np.ones((8, 8, 1)))[:218, :178].astype(np.uint8)
    pixels[105:113, 85:93] = 15 * 3 + 20
    Image.fromarray(pixels).save(path, quality=100, subsampling=0)
    stub(monkeypatch, FOUND)
    found = faces(root).train.x["image"][1:3]
    # LEFT and RIGHT, whose right edge would be 182
    for face, edges in zip(found, [(28, 48, 132, 152), (78, 68, 178, 172)], strict=True):
        picture = Image.open(path).crop(edges).resize((64, 64), Image.Resampling.BICUBIC)
        assert np.array_equal(face.permute(1, 2, 0), np.asarray(picture))


def test_some_rows_need_some_images(root, monkeypatch):
    monkeypatch.setattr(_faces, "_PIECE", 2)
    seen = stub(monkeypatch, FOUND)
    some = faces(root, num_rows=2)
    # the second piece of the training part is not needed: its first has three faces
    assert sorted(seen) == [0, 1, 2, 3, 4, 5, 7, 10]
    seen.clear()
    whole = faces(root)
    assert sorted(seen) == [6, 8, 9, 11]
    for name in whole.NAMES:
        assert getattr(whole.head(2), name).content_hash == getattr(some, name).content_hash


def test_detections_are_stored(root, pieces, monkeypatch):
    with monkeypatch.context() as patched:
        stub(patched, FOUND)
        first = faces(root)
    # whoever looks again has no OpenCV to look with
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert faces(root).train.content_hash == first.train.content_hash
    # nor are pixels needed that were cut out before
    for path in pieces.parent.glob("*.npz"):
        path.unlink()
    assert faces(root).test.content_hash == first.test.content_hash


@pytest.mark.parametrize("change", ["picture", "filter"])
def test_another_image_or_filter_is_another_search(root, monkeypatch, change):
    monkeypatch.setattr(_faces, "_PIECE", 2)
    seen = stub(monkeypatch, FOUND)
    faces(root)
    seen.clear()
    if change == "picture":
        fake_celeba.face(4).save(root / "celeba" / "img_align_celeba" / "000001.jpg")
    else:
        monkeypatch.setitem(_faces._FILTER, "neighbors", 3)
    faces(root)
    assert sorted(seen) == ([3, 4] if change == "picture" else list(range(12)))


def test_other_faces_are_other_pixels(root, monkeypatch):
    stub(monkeypatch, FOUND)
    first = faces(root)
    monkeypatch.setitem(_faces._FILTER, "neighbors", 3)
    stub(monkeypatch, FOUND | {9: [RIGHT]})
    assert not torch.equal(faces(root).train.x["image"][3], first.train.x["image"][3])


def test_a_search_that_is_broken_off_goes_on(root, pieces, monkeypatch):
    monkeypatch.setattr(_faces, "_PIECE", 2)
    stub(monkeypatch, FOUND, broken=7)
    with pytest.raises(RuntimeError, match="broken off"):
        faces(root)
    # the training part, and the first two images to validate
    assert [path.suffix for path in pieces.iterdir()] == [".npz"] * 3
    seen = stub(monkeypatch, FOUND)
    assert len(faces(root).train) == 4
    assert sorted(seen) == [2, 5, 7, 8, 10, 11]


@pytest.mark.parametrize("kept", [0.0, 0.5, None])
def test_a_damaged_search_is_made_again(root, pieces, monkeypatch, kept):
    seen = stub(monkeypatch, FOUND)
    first = faces(root)
    seen.clear()
    for path in pieces.parent.glob("*.npz"):
        path.unlink()
    path = sorted(pieces.iterdir())[0]
    content = bytearray(path.read_bytes())
    if kept is None:  # a bit of what is stored changes
        content[content.index(b"box.npy") + 200] ^= 1
    path.write_bytes(content if kept is None else content[: int(kept * len(content))])
    with pytest.warns(UserWarning, match=rf"{path} is damaged .* and is built again"):
        again = faces(root)
    assert len(seen) == 4
    assert all(getattr(again, name).content_hash == getattr(first, name).content_hash for name in first.NAMES)


def test_a_part_without_faces(root, monkeypatch):
    stub(monkeypatch, {number: boxes for number, boxes in FOUND.items() if number % 3 != 1 or number == 7})
    with pytest.raises(ValueError, match=rf"no face is kept of the 4 validation images in {root}"):
        faces(root)


def test_without_opencv(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r'found by OpenCV below 5.*pip install "multipyro\[faces\]"'):
        faces(root)


def test_an_opencv_without_data(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
    with pytest.raises(ImportError, match=r"module 'cv2' has no attribute 'data'.*pip install"):
        faces(root)


def test_a_system_that_does_not_report_usable_cores(root, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    seen = stub(monkeypatch, FOUND)
    faces(root)
    assert len(seen) == 12


def test_an_opencv_without_cascades(root, tmp_path, monkeypatch):
    data = types.SimpleNamespace(haarcascades=f"{tmp_path}/")
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(__version__="5.0.0", data=data))
    with pytest.raises(ImportError, match=r"version 5.0.0 has no Haar cascades.*pip install"):
        faces(root)


def test_the_compact_file_has_no_faces(tmp_path, monkeypatch):
    fake_mnist.no_data(monkeypatch, tmp_path)
    path = fake_celeba.write_compact(tmp_path)
    with pytest.raises(ValueError, match=rf"{path} .* got crop 'faces': it needs the original images of 178x218"):
        faces(tmp_path)


def test_images_that_cannot_be_searched(root, monkeypatch):
    seen = stub(monkeypatch, FOUND)
    path = root / "celeba" / "img_align_celeba" / "000012.jpg"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of 12 files are missing \(first: {path}\)"):
        faces(root)
    assert seen == []
    path.write_bytes(content[:-300])
    with pytest.raises(ValueError, match=f"{path} cannot be read as an image"):
        faces(root)
    Image.new("RGB", (178, 178)).save(path)
    with pytest.raises(ValueError, match=f"{path} must have 178x218 pixels, got 178x178"):
        faces(root)


@needs_opencv
def test_real_faces(tmp_path, monkeypatch):
    if not os.environ.get("MULTIPYRO_DATA"):
        pytest.skip("MULTIPYRO_DATA is not set: this test needs the real CelebA")
    try:
        source = celeba_source()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if source.is_dir():
        pytest.skip("this test enlarges the pictures of the compact file")
    pictures = module._compact(source).sources[:12]
    fake_mnist.no_data(monkeypatch, tmp_path)
    folder = fake_celeba.write_original(tmp_path) / "img_align_celeba"
    paths = sorted(folder.iterdir())
    for path, picture in zip(paths, pictures, strict=True):
        square = Image.open(io.BytesIO(picture)).resize((148, 148), Image.Resampling.BICUBIC)
        # where the center crop was; what was around it is made of its edge
        pixels = np.pad(np.asarray(square), ((35, 35), (15, 15), (0, 0)), mode="edge")
        Image.fromarray(pixels).save(path, quality=95)
    ((rows, boxes),) = find_faces([paths], 178, 218)
    # two of the twelve are seen from the side
    assert rows.tolist() == [0, 1, *range(4, 12)]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    # eyes and mouths of all images are aligned
    assert abs(middle - (89, 122)).max() < 15
    assert (boxes[:, 2:] - boxes[:, :2]).min() > 87
    splits = faces(tmp_path)
    assert [len(getattr(splits, name)) for name in splits.NAMES] == [3, 4, 3]
    assert torch.equal(splits.test.x["attributes"], (VALUES[[5, 8, 11]] + 1) / 2)


@needs_opencv
def test_no_faces_in_empty_images(root):
    with pytest.raises(ValueError, match="no face is kept of the 4 train images"):
        faces(root)
