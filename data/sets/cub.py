"""CUB: an image of a bird, or its features, and captions that people wrote."""

import functools
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multipyro.data.indexed import IndexedTensor
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.sets._parts import check_choice, check_parts
from multipyro.data.sets.captions import caption_ids, caption_modality, caption_vocabulary
from multipyro.data.sets.features import resnet_features, weights_digest
from multipyro.data.splits import Splits, check_num_rows
from multipyro.data.storage.cache import cached
from multipyro.data.storage.files import files_digest, printable, read_bounded
from multipyro.data.storage.images import decode_images, resized
from multipyro.data.storage.locations import VARIABLE, roots
from multipyro.data.storage.stored import read_arrays, slices_of
from multipyro.data.tokenization import tokenize

__all__ = ["CAPTIONS", "CROPS", "cub_source", "load_cub"]

CAPTIONS = ("all", "first")
CROPS = ("whole", "box")

_SIDE = 64
_LENGTH = 32
_CLASSES = frozenset(map(str, range(1, 201)))
# captions of an image
_EACH = 10
_COMPACT = ("CUB/cub_captioned_64.npz", "CUB/cub_captions.txt.gz")
_FOLDER = "cub"
# Caltech's archive and Reed's captions, each as it unpacks
_IMAGES, _REED = "CUB_200_2011", "cvpr2016_cub/text_c10"
_LISTS = ("images.txt", "image_class_labels.txt")
# those of Reed's list `testclasses.txt`, 2,933 images
_TEST_CLASSES = (
    *(1, 4, 6, 8, 9, 14, 23, 29, 31, 33, 34, 35, 36, 37, 38, 43, 49, 51, 53, 66, 72, 79, 83, 84, 86, 91, 95, 96, 98),
    *(101, 102, 103, 112, 114, 119, 121, 130, 135, 138, 147, 156, 163, 165, 166, 180, 183, 185, 186, 187, 197),
)
_TEXTS = {"train": "text_trainvalclasses.txt", "test": "text_testclasses.txt"}
# the captions of all images have 8 MB
_TEXT_BYTES = 2**26
_SUFFIXES = (".jpeg", ".jpg", ".png")
# part of the recipe, whose digest names the cached file: another recipe is another file
_VERSION = 1


@dataclass(frozen=True)
class _Listing:
    """The names, classes and captions of all images, before any is decoded."""

    sources: list[Path] | list[bytes]
    names: list[str]
    captions: list[str]  # ten for each image, in the order of the images
    classes: np.ndarray
    is_test: np.ndarray  # bool: whether the class is for test


def load_cub(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    captions: str = "all",
    crop: str = "whole",
    features: str | os.PathLike | None = None,
    num_rows: int | None = None,
) -> Splits:
    """Birds of 64x64 pixels, or features of them, and captions of 32 words.

    Modalities: `image` `(rows, 3, 64, 64)`, uint8 in memory, where each image is stored once for its ten captions, and
    float32 in `[0, 1]` in batches; or with `features` float32 `(rows, 2048)`. `caption` int64 `(rows, 32)`: the first
    31 words, `<eos>`, then `<pad>`; words that occur fewer than four times in the training captions are `<exc>`. Labels
    are the classes from 0 to 199. An example is an image and one of its captions, ten examples for each image in turn.

    Test classes are not training classes. The original distribution has 150 and 50 of them: its folders separate them,
    or, where the images are laid out as Caltech does, Reed's list of test classes. The compact file has only those 50,
    of which every fifth in the order of their numbers is for test (10 of 50). Every tenth image of the training classes
    is for validation, in the order of their paths.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), section
        4.3. Captions: Learning Deep Representations of Fine-Grained Visual Descriptions (Reed et al., 2016). Departures
        from the released code: a caption is a line, where the code finds sentences in the whole file; words are found
        by `tokenize`; there is a validation part. In the released code the loss ignores class 0, the unknown word, and
        scores padding; here each position is scored.

    Args:
        data_root: Folder with `cub/` as MMVAE has it (`train/` and `test/` with a folder of images for each class,
            `text_trainvalclasses.txt` and `text_testclasses.txt`); or with Caltech's `CUB_200_2011/` and Reed's
            captions, `cvpr2016_cub/text_c10/CLASS/IMAGE.txt` with ten lines each; or with the two compact files in
            `CUB/`.
        seed: Not used; every data set takes one.
        captions: `"all"`, or `"first"` for the first caption of each image only.
        crop: `"whole"`, the image squeezed into a square; or `"box"`, a square around the bird, which only the compact
            file has.
        features: File with weights of ResNet-101, whose features are the modality `image`; see `resnet_features`. They
            are computed once and cached, from the images as they are: of the compact file those of 64x64.
        num_rows: Largest number of rows of each part, the first ones; None for all. Only their images are decoded; the
            vocabulary is that of all.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If no distribution is found, or a part of one is missing.
        ValueError: If an option is unknown, a part has no examples, or a file is damaged or contradicts another one;
            the message names it.
    """
    check_choice("captions", captions, CAPTIONS)
    check_choice("crop", crop, CROPS)
    check_num_rows(num_rows)
    source = cub_source(data_root)
    if source.is_dir() and crop != "whole":
        raise ValueError(f"{source} has no boxes of the birds, got crop {crop!r}")
    listing = _listing(source, crop)
    each = 1 if captions == "first" else _EACH
    training = np.flatnonzero(~listing.is_test)
    validation = np.arange(len(training)) % 10 == 9
    images = {
        "train": training[~validation],
        "validation": training[validation],
        "test": np.flatnonzero(listing.is_test),
    }
    check_parts(images, source)

    @functools.cache
    def words(image: int) -> list[list[str]]:
        return [tokenize(caption) for caption in listing.captions[_EACH * image : _EACH * (image + 1)]]

    # of all ten captions and all images, whichever are kept: the vocabulary is that of the data set
    vocabulary = caption_vocabulary(caption for image in images["train"].tolist() for caption in words(image))
    caption = caption_modality("caption", vocabulary, _LENGTH)
    if num_rows is not None:
        images = {split: mine[: -(-num_rows // each)] for split, mine in images.items()}
    wanted = np.concatenate(list(images.values()))
    values = (
        _pixels(source, listing, wanted) if features is None else _features(source, listing, wanted, crop, features)
    )
    kind, shape = ("image", (3, _SIDE, _SIDE)) if features is None else ("vector", tuple(values.shape[1:]))
    modalities = {"image": Modality("image", shape, kind, "laplace"), "caption": caption}
    parts = {}
    for (split, mine), pool in zip(images.items(), values.split([*map(len, images.values())]), strict=True):
        x = {
            "image": IndexedTensor(pool, torch.arange(len(mine)).repeat_interleave(each)),
            "caption": caption_ids([text for image in mine.tolist() for text in words(image)[:each]], caption),
        }
        labels = torch.from_numpy(listing.classes[mine]).repeat_interleave(each)
        parts[split] = MultimodalData("cub", modalities, x, labels=labels, split=split)
    return Splits(**parts).head(num_rows)


def cub_source(data_root: str | os.PathLike | None = None) -> Path:
    """The folder of MMVAE or that of Caltech, or the compact file of images: the first that is found.

    Raises:
        FileNotFoundError: If none is found, or images without their captions.
    """
    incomplete = []
    for root in roots(data_root):
        if (root / _FOLDER / _TEXTS["train"]).is_file():
            return root / _FOLDER
        if (root / _IMAGES / _LISTS[0]).is_file():
            if (root / _REED).is_dir():
                return root / _IMAGES
            incomplete.append(f"{root} has {_IMAGES}/ but no {_REED}/")
        if (root / _COMPACT[0]).is_file():
            if not (root / _COMPACT[1]).is_file():
                raise FileNotFoundError(f"CUB is incomplete: {root} has no {_COMPACT[1]}")
            return root / _COMPACT[0]
    raise FileNotFoundError(
        f"CUB is missing{''.join(f' ({what})' for what in incomplete)}: put into <folder> {_IMAGES}/ (the archive of "
        f"images of https://www.vision.caltech.edu/datasets/cub_200_2011, unpacked) and {_REED}/ (the archive of birds "
        f"of https://github.com/reedscot/cvpr2016, unpacked); or, as https://github.com/iffsid/mmvae has them, "
        f"{_FOLDER}/train/ and {_FOLDER}/test/ with a folder of images for each class and "
        f"{' and '.join(f'{_FOLDER}/{name}' for name in _TEXTS.values())}; or {' and '.join(_COMPACT)}; and name "
        f"<folder> with --data-root or {VARIABLE}"
    )


def _listing(source: Path, crop: str) -> _Listing:
    if source.is_file():
        return _compact(source, crop)
    return _caltech(source) if source.name == _IMAGES else _original(source)


def _compact(path: Path, crop: str) -> _Listing:
    jpeg, offsets = ("jpeg", "offsets") if crop == "whole" else ("jpeg_crop", "offsets_crop")
    arrays = read_arrays(path, (jpeg, offsets, "filenames", "class_id"), "the compact file of CUB")
    names, classes = arrays["filenames"].ravel().tolist(), arrays["class_id"]
    valid = classes.shape == (len(names),) and classes.dtype.kind in "iu"
    if not valid or not ((classes > 0) & (classes < 201)).all():
        raise ValueError(f"{path} must have a class from 1 to 200 for each of its {len(names)} names, got {classes}")
    classes = classes.astype(np.int64)
    sources = slices_of(path, arrays[jpeg], arrays[offsets], len(names))
    is_test = np.isin(classes, np.unique(classes)[4::5])
    captions = _captions(path.parent / Path(_COMPACT[1]).name, len(names))
    return _Listing(sources, names, captions, classes - 1, is_test)


def _original(folder: Path) -> _Listing:
    sources: list[Path] = []
    captions: list[str] = []
    is_test: list[bool] = []
    for part, name in _TEXTS.items():
        if not (folder / name).is_file() or not (folder / part).is_dir():
            raise FileNotFoundError(f"CUB is incomplete: {folder} has no {name} or no {part}/")
        images = sorted(path for path in (folder / part).glob("*/*") if path.suffix.lower() in _SUFFIXES)
        captions += _captions(folder / name, len(images))
        sources += images
        is_test += [part == "test"] * len(images)
    folders = sorted({path.parent.name for path in sources})
    numbers = [re.match(r"(\d{3})\.", name) for name in folders]
    ids = {
        name: rank if any(number is None for number in numbers) else int(number.group(1)) - 1
        for rank, (name, number) in enumerate(zip(folders, numbers, strict=True))
    }
    classes, tested = np.array([ids[path.parent.name] for path in sources], np.int64), np.array(is_test, bool)
    both = {*classes[tested]} & {*classes[~tested]}
    if both:
        raise ValueError(f"{folder}: test classes must not be training classes, got {len(both)} that are both")
    return _Listing(sources, [str(path) for path in sources], captions, classes, tested)


def _caltech(folder: Path) -> _Listing:
    names, labels = (_numbered(folder / name) for name in _LISTS)
    if names.keys() != labels.keys():
        raise ValueError(
            f"{folder}: {' and '.join(_LISTS)} must number the same images, got {len(names)} and {len(labels)}"
        )
    wrong = [(labels[number], name) for number, name in names.items() if labels[number] not in _CLASSES]
    if wrong:
        raise ValueError(
            f"{folder / _LISTS[1]} must have classes from 1 to 200, got {wrong[0][0]!r} for {wrong[0][1]!r}"
        )
    # in the order of the files of MMVAE
    ordered = sorted(names, key=lambda number: Path(names[number]))
    classes = np.array([int(labels[number]) for number in ordered], np.int64)
    texts = [folder.parent / _REED / Path(names[number]).with_suffix(".txt") for number in ordered]
    files_digest(texts, "CUB")  # raises if some are missing
    captions = [line for path in texts for line in _captions(path, 1)]
    sources = [folder / "images" / names[number] for number in ordered]
    return _Listing(sources, [*map(str, sources)], captions, classes - 1, np.isin(classes, _TEST_CLASSES))


def _numbered(path: Path) -> dict[str, str]:
    """The values in one of Caltech's lists, by the number of the image."""
    if not path.is_file():
        raise FileNotFoundError(f"CUB is incomplete: {path.parent} has no {path.name}")
    content = read_bounded(path, _TEXT_BYTES).decode("utf-8", "replace")
    lines = [line.split() for line in content.splitlines() if line.strip()]
    wrong = [line for line in lines if len(line) != 2]
    if wrong:
        raise ValueError(
            f"{path} must have a number and a value in each line, got {' '.join(wrong[0])!r}: download it again"
        )
    twice = [number for number, times in Counter(number for number, _ in lines).items() if times > 1]
    if twice:
        raise ValueError(f"{path} must have each number once, got {twice[0]!r} more often: download it again")
    return dict(lines)


def _captions(path: Path, images: int) -> list[str]:
    """The lines of a file, ten for each image."""
    content = read_bounded(path, _TEXT_BYTES).decode("utf-8", "replace")
    # only a line feed ends a caption, unlike in `splitlines`
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) != _EACH * images:
        raise ValueError(
            f"{printable(path)} must have {_EACH} captions for each of {images} images, got {len(lines)} lines"
        )
    return lines


def _pixels(source: Path, listing: _Listing, wanted: np.ndarray) -> Tensor:
    sources, names = ([those[image] for image in wanted] for those in (listing.sources, listing.names))
    shape = (3, _SIDE, _SIDE)
    if source.is_file():
        return torch.from_numpy(decode_images(sources, [f"{name} in {source}" for name in names], shape))
    recipe = {"version": _VERSION, "images": files_digest(sources, "CUB")}
    arrays = cached("CUB", recipe, ("image",), lambda: {"image": decode_images(sources, names, shape, _squeezed)})
    return torch.from_numpy(arrays["image"])


_squeezed = functools.partial(resized, width=_SIDE, height=_SIDE, interpolation="bilinear")


def _features(source: Path, listing: _Listing, wanted: np.ndarray, crop: str, weights: str | os.PathLike) -> Tensor:
    sources = [listing.sources[image] for image in wanted]
    images = files_digest([source] if source.is_file() else sources, "CUB")
    recipe = {"version": _VERSION, "images": images, "rows": len(wanted), "crop": crop}
    recipe["resnet101"] = weights_digest(weights)
    inputs = _pixels(source, listing, wanted) if source.is_file() else sources

    def build() -> dict[str, np.ndarray]:
        return {"features": resnet_features(inputs, weights).numpy()}

    return torch.from_numpy(cached("CUB", recipe, ("features",), build)["features"])
