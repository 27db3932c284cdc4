"""Small files laid out as CUB: the folders of MMVAE, those of Caltech and Reed, and the compact files."""

import gzip

import numpy as np
from fake_celeba import jpegs
from PIL import Image

# the last sorts before the others of its class
CLASSES = {"train": {"002.Auk": ("b.jpg", "a.jpg"), "010.Jay": tuple(f"{n:02d}.jpg" for n in range(8))}}
CLASSES["test"] = {"001.Wren": ("x.jpg", "y.jpg")}
LINES = ("a red bird number {}.", "it's gray, with a long bill.", "bird")


def captions(numbers):
    """Ten captions of each image, the first of which tells its number."""
    return [LINES[min(i, 2)].format(f"n{number}") for number in numbers for i in range(10)]


def write_original(root):
    """Write the folder of MMVAE: ten images of two classes to train, two of one to test; their gray tells them."""
    folder, number = root / "cub", 0
    for part, classes in CLASSES.items():
        begin = number
        for name in sorted(classes):
            (folder / part / name).mkdir(parents=True)
            for file in sorted(classes[name]):
                Image.new("RGB", (100 + number, 80), (15 * number + 20,) * 3).save(folder / part / name / file)
                number += 1
        text = "text_trainvalclasses.txt" if part == "train" else "text_testclasses.txt"
        (folder / text).write_text("\n".join([*captions(range(begin, number)), ""]))
    return folder


def write_caltech(root):
    """Write the same images and captions as the archives of Caltech and of Reed have them."""
    folder, texts, number = root / "CUB_200_2011", root / "cvpr2016_cub" / "text_c10", 0
    numbered, labels = [], []
    for classes in CLASSES.values():
        for name in sorted(classes):
            (folder / "images" / name).mkdir(parents=True)
            (texts / name).mkdir(parents=True)
            for file in sorted(classes[name]):
                picture = Image.new("RGB", (100 + number, 80), (15 * number + 20,) * 3)
                picture.save(folder / "images" / name / file)
                (texts / name / file).with_suffix(".txt").write_text("\n".join([*captions([number]), ""]))
                # numbers in no order, as if the lists were those of another set
                numbered.append(f"{90 - number} {name}/{file}\n")
                labels.insert(0, f"{90 - number} {int(name[:3])}\n")
                number += 1
    Image.new("RGB", (9, 9)).save(folder / "images" / "001.Wren" / "unlisted_rgb.jpg")
    (folder / "images.txt").write_text("".join(numbered))
    (folder / "image_class_labels.txt").write_text("".join(labels))
    return folder


def write_compact(root, rows=30, lines=None, **changes):
    """Write the compact files: three images of each of ten classes from 11 on; `changes` replace arrays."""
    folder = root / "CUB"
    folder.mkdir(parents=True, exist_ok=True)
    jpeg, offsets = jpegs([Image.new("RGB", (64, 64), (8 * n,) * 3) for n in range(rows)])
    crop, crops = jpegs([Image.new("RGB", (64, 64), (255 - 8 * n,) * 3) for n in range(rows)])
    arrays = {
        "jpeg": jpeg,
        "offsets": offsets,
        "jpeg_crop": crop,
        "offsets_crop": crops,
        "filenames": np.array([f"{n}.jpg" for n in range(rows)]),
        "class_id": np.arange(rows, dtype=np.int16) // 3 + 11,
    }
    np.savez(folder / "cub_captioned_64.npz", **{**arrays, **changes})
    text = "\n".join([*(captions(range(rows)) if lines is None else lines), ""])
    (folder / "cub_captions.txt.gz").write_bytes(gzip.compress(text.encode()))
    return folder / "cub_captioned_64.npz"
