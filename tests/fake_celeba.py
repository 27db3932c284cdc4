"""Small files laid out as CelebA: the original distribution, and the compact file."""

import io

import numpy as np
from PIL import Image

from multipyro.data.sets.celeba import ATTRIBUTES

ROWS = 12


def attributes(rows=ROWS, seed=0):
    """Attributes of -1 and 1 `(rows, 40)`, the first row without any."""
    values = np.random.default_rng(seed).choice([-1, 1], (rows, 40), p=[0.8, 0.2]).astype(np.int8)
    values[0] = -1
    return values


def face(number, width=178, height=218):
    """A image whose gray level tells its number, with a white frame that no crop keeps."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[20:-20, 10:-10] = 15 * number + 20
    return Image.fromarray(pixels)


def write_original(root, rows=ROWS, seed=0, reverse=False):
    """Write the folder that torchvision makes; a third of the rows each in parts 0, 1 and 2."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    values = attributes(rows, seed)
    names = [f"{number + 1:06d}.jpg" for number in range(rows)]
    for number, name in enumerate(names):
        face(number).save(folder / "img_align_celeba" / name, quality=95)
    lines = [f"{name} " + " ".join(f"{value:2d}" for value in row) for name, row in zip(names, values, strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(rows), " ".join(ATTRIBUTES) + " ", *lines, ""]))
    # the partition has lines of its own, whose order need not be that of the attributes
    partition = [f"{name} {number % 3}" for number, name in enumerate(names)]
    (folder / "list_eval_partition.txt").write_text("\n".join([*(partition[::-1] if reverse else partition), ""]))
    return folder


def jpegs(pictures):
    """JPEG files one after the other, and where each begins."""
    files = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    offsets = np.cumsum([0, *map(len, files)]).astype(np.int64)
    return np.frombuffer(b"".join(files), np.uint8), offsets


def write_compact(root, rows=20, **changes):
    """Write the compact file; `changes` replace its arrays."""
    folder = root / "CelebA"
    folder.mkdir(parents=True, exist_ok=True)
    jpeg, offsets = jpegs([Image.fromarray(np.full((64, 64, 3), 12 * n, np.uint8)) for n in range(rows)])
    arrays = {
        "jpeg": jpeg,
        "offsets": offsets,
        "attributes": attributes(rows),
        "attribute_names": np.array(ATTRIBUTES),
        "filenames": np.array([f"{n + 1:06d}.jpg" for n in range(rows)]),
    }
    np.savez(folder / "celeba_10k_64.npz", **{**arrays, **changes})
    return folder / "celeba_10k_64.npz"
