"""CUB: a picture of a bird, or its features, and what people say of it."""

import functools
import gzip
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multipyro.data.indexed import IndexedTensor
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.sets._parts import check_parts
from multipyro.data.sets.captions import caption_ids, caption_modality, vocabulary_of
from multipyro.data.sets.features import resnet_features, weights_digest
from multipyro.data.splits import Splits, check_num_rows
from multipyro.data.storage.cache import cached
from multipyro.data.storage.images import decode_images, files_digest, read_arrays, resized, slices_of
from multipyro.data.storage.locations import VARIABLE, roots
from multipyro.data.tokenization import tokenize

__all__ = ["CAPTIONS", "CROPS", "cub_source", "load_cub"]

CAPTIONS = ("all", "first")
CROPS = ("whole", "box")

_SIDE = 64
_LENGTH = 32
_CLASSES = frozenset(map(str, range(1, 201)))
# captions of a picture
_EACH = 10
_COMPACT = ("CUB/cub_captioned_64.npz", "CUB/cub_captions.txt.gz")
_FOLDER = "cub"
# Caltech's archive and Reed's captions, each as it unpacks
_PICTURES, _CAPTIONS = "CUB_200_2011", "cvpr2016_cub/text_c10"
_LISTS = ("images.txt", "image_class_labels.txt")
# those of Reed's list `testclasses.txt`, 2,933 pictures
_TESTED = (
    *(1, 4, 6, 8, 9, 14, 23, 29, 31, 33, 34, 35, 36, 37, 38, 43, 49, 51, 53, 66, 72, 79, 83, 84, 86, 91, 95, 96, 98),
    *(101, 102, 103, 112, 114, 119, 121, 130, 135, 138, 147, 156, 163, 165, 166, 180, 183, 185, 186, 187, 197),
)
_TEXTS = {"train": "text_trainvalclasses.txt", "test": "text_testclasses.txt"}
_SUFFIXES = (".jpeg", ".jpg", ".png")
# part of the recipe, whose digest names the cached file: another recipe is another file
_VERSION = 1


@dataclass(frozen=True)
class _Listed:
    """What is known of every picture before any is decoded."""

    sources: list[Path] | list[bytes]
    names: list[str]
    captions: list[str]  # ten a picture, in the order of the pictures
    classes: np.ndarray
    tested: np.ndarray  # bool: whether the class is one to test


def load_cub(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    captions: str = "all",
    crop: str = "whole",
    features: str | os.PathLike | None = None,
    num_rows: int | None = None,
) -> Splits:
    """Birds of 64x64 pixels, or features of them, and captions of 32 words.

    Modalities: `image` `(rows, 3, 64, 64)`, uint8 in memory, where each picture is held once for its ten captions, and
    float32 in `[0, 1]` in batches; or with `features` float32 `(rows, 2048)`. `caption` int64 `(rows, 32)`: the first
    31 words, `<eos>`, then `<pad>`; words that occur fewer than four times in the
    training captions are `<exc>`. Labels are the
    classes from 0 to 199. A row is a picture and one of its captions, ten rows a picture in turn.

    Classes that test do not train. The original distribution has 150 and 50 of them: its own folders part them, or
    where the pictures lie as Caltech has them, Reed's list of test classes. The compact file holds those 50 alone, of
    which every fifth in the order of their numbers tests (10 of 50). Every tenth picture of the training classes
    validates, in the order of their paths.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), section
        4.3. Captions: Learning Deep Representations of Fine-Grained Visual Descriptions (Reed et al., 2016). Departures
        from the released code: a caption is a line, where the code finds sentences in the whole file; words are found
        by `tokenize`; there is a validation part. In the released code the loss ignores class 0, the unknown word, and
        scores padding; here each position is scored.

    Args:
        data_root: Folder with `cub/` as MMVAE has it (`train/` and `test/` with a folder of pictures a class,
            `text_trainvalclasses.txt` and `text_testclasses.txt`); or with Caltech's `CUB_200_2011/` and Reed's
            captions, `cvpr2016_cub/text_c10/CLASS/PICTURE.txt` with ten lines each; or with the two compact files in
            `CUB/`.
        seed: Not used; every data set takes one.
        captions: `"all"`, or `"first"` for the first caption of each picture alone.
        crop: `"whole"`, the picture squeezed into a square; or `"box"`, a square around the bird, which only the
            compact file has.
        features: File with weights of ResNet-101, whose features are the modality `image`; see `resnet_features`. They
            are computed once and cached, from the pictures as they are: of the compact file those of 64x64.
        num_rows: At most so many rows of each part, the first ones; None for all. Only their pictures are decoded; the
            vocabulary is that of all.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If no distribution is found, or a part of one is missing.
        ValueError: If an option is unknown, a part has no rows, or a file is damaged or contradicts another one; the
            message names it.
    """
    for option, value, known in (("captions", captions, CAPTIONS), ("crop", crop, CROPS)):
        if value not in known:
            raise ValueError(f"{option} must be one of {known}, got {value!r}")
    check_num_rows(num_rows)
    source = cub_source(data_root)
    if source.is_dir() and crop != "whole":
        raise ValueError(f"{source} has no boxes of the birds, got crop {crop!r}")
    listed = _listed(source, crop)
    each = 1 if captions == "first" else _EACH
    trained = np.flatnonzero(~listed.tested)
    validates = np.arange(len(trained)) % 10 == 9
    pictures = {"train": trained[~validates], "validation": trained[validates], "test": np.flatnonzero(listed.tested)}
    check_parts(pictures, source)

    @functools.cache
    def words(picture: int) -> list[list[str]]:
        return [tokenize(caption) for caption in listed.captions[_EACH * picture : _EACH * (picture + 1)]]

    # of all ten captions and all pictures, whichever are kept: the vocabulary is that of the set
    vocabulary = vocabulary_of(found for picture in pictures["train"].tolist() for found in words(picture))
    caption = caption_modality("caption", vocabulary, _LENGTH)
    if num_rows is not None:
        pictures = {split: mine[: -(-num_rows // each)] for split, mine in pictures.items()}
    wanted = np.concatenate(list(pictures.values()))
    values = _pixels(source, listed, wanted) if features is None else _features(source, listed, wanted, crop, features)
    kind, shape = ("image", (3, _SIDE, _SIDE)) if features is None else ("vector", tuple(values.shape[1:]))
    modalities = {"image": Modality("image", shape, kind, "laplace"), "caption": caption}
    parts = {}
    for (split, mine), pool in zip(pictures.items(), values.split([*map(len, pictures.values())]), strict=True):
        x = {
            "image": IndexedTensor(pool, torch.arange(len(mine)).repeat_interleave(each)),
            "caption": caption_ids([found for picture in mine.tolist() for found in words(picture)[:each]], caption),
        }
        labels = torch.from_numpy(listed.classes[mine]).repeat_interleave(each)
        parts[split] = MultimodalData("cub", modalities, x, labels=labels, split=split)
    return Splits(**parts).head(num_rows)


def cub_source(data_root: str | os.PathLike | None = None) -> Path:
    """The folder of MMVAE or that of Caltech, or the compact file of pictures: the first that is found.

    Raises:
        FileNotFoundError: If none is found, or pictures without their captions.
    """
    lacking = []
    for root in roots(data_root):
        if (root / _FOLDER / _TEXTS["train"]).is_file():
            return root / _FOLDER
        if (root / _PICTURES / _LISTS[0]).is_file():
            if (root / _CAPTIONS).is_dir():
                return root / _PICTURES
            lacking.append(f"{root} has {_PICTURES}/ and lacks {_CAPTIONS}/")
        if (root / _COMPACT[0]).is_file():
            if not (root / _COMPACT[1]).is_file():
                raise FileNotFoundError(f"CUB is incomplete: {root} lacks {_COMPACT[1]}")
            return root / _COMPACT[0]
    raise FileNotFoundError(
        f"CUB is not there{''.join(f' ({lack})' for lack in lacking)}: put into <folder> {_PICTURES}/ (the archive of "
        f"pictures of https://www.vision.caltech.edu/datasets/cub_200_2011, unpacked) and {_CAPTIONS}/ (the archive of "
        f"birds of https://github.com/reedscot/cvpr2016, unpacked); or, as https://github.com/iffsid/mmvae has them, "
        f"{_FOLDER}/train/ and {_FOLDER}/test/ with a folder of pictures for each class and "
        f"{' and '.join(f'{_FOLDER}/{name}' for name in _TEXTS.values())}; or {' and '.join(_COMPACT)}; and name "
        f"<folder> with --data-root or {VARIABLE}"
    )


def _listed(source: Path, crop: str) -> _Listed:
    if source.is_file():
        return _compact(source, crop)
    return _caltech(source) if source.name == _PICTURES else _original(source)


def _compact(path: Path, crop: str) -> _Listed:
    jpeg, offsets = ("jpeg", "offsets") if crop == "whole" else ("jpeg_crop", "offsets_crop")
    found = read_arrays(path, (jpeg, offsets, "filenames", "class_id"), "the compact file of CUB")
    names, classes = found["filenames"].ravel().tolist(), found["class_id"]
    sound = classes.shape == (len(names),) and classes.dtype.kind in "iu"
    if not sound or not ((classes > 0) & (classes < 201)).all():
        raise ValueError(f"{path} must hold a class from 1 to 200 for each of its {len(names)} names, got {classes}")
    classes = classes.astype(np.int64)
    try:
        sources = slices_of(found[jpeg], found[offsets], len(names))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
    texts = path.parent / Path(_COMPACT[1]).name
    try:
        content = gzip.decompress(texts.read_bytes()).decode("utf-8", "replace")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{texts} is truncated or damaged ({error}): fetch it again") from error
    tested = np.isin(classes, np.unique(classes)[4::5])
    return _Listed(sources, names, _lines(texts, content, len(names)), classes - 1, tested)


def _original(folder: Path) -> _Listed:
    sources: list[Path] = []
    captions: list[str] = []
    tested: list[bool] = []
    for part, name in _TEXTS.items():
        if not (folder / name).is_file() or not (folder / part).is_dir():
            raise FileNotFoundError(f"CUB is incomplete: {folder} lacks {name} or {part}/")
        pictures = sorted(path for path in (folder / part).glob("*/*") if path.suffix.lower() in _SUFFIXES)
        captions += _lines(folder / name, (folder / name).read_bytes().decode("utf-8", "replace"), len(pictures))
        sources += pictures
        tested += [part == "test"] * len(pictures)
    folders = sorted({path.parent.name for path in sources})
    numbers = [re.match(r"(\d{3})\.", name) for name in folders]
    ids = {
        name: rank if any(number is None for number in numbers) else int(number.group(1)) - 1
        for rank, (name, number) in enumerate(zip(folders, numbers, strict=True))
    }
    classes = np.array([ids[path.parent.name] for path in sources], np.int64)
    both = {*classes[np.array(tested, bool)]} & {*classes[~np.array(tested, bool)]}
    if both:
        raise ValueError(f"{folder}: classes that test must not train, got {len(both)} that do both")
    return _Listed(sources, [str(path) for path in sources], captions, classes, np.array(tested, bool))


def _caltech(folder: Path) -> _Listed:
    names, labels = (_numbered(folder / name) for name in _LISTS)
    if names.keys() != labels.keys():
        raise ValueError(
            f"{folder}: {' and '.join(_LISTS)} must number the same pictures, got {len(names)} and {len(labels)}"
        )
    wrong = [f"{labels[number]} for {name}" for number, name in names.items() if labels[number] not in _CLASSES]
    if wrong:
        raise ValueError(f"{folder / _LISTS[1]} must hold classes from 1 to 200, got {wrong[0]}")
    # in the order of the files of MMVAE
    ordered = sorted(names, key=lambda number: Path(names[number]))
    classes = np.array([int(labels[number]) for number in ordered], np.int64)
    texts = [folder.parent / _CAPTIONS / Path(names[number]).with_suffix(".txt") for number in ordered]
    absent = [path for path in texts if not path.is_file()]
    if absent:
        raise FileNotFoundError(
            f"CUB is incomplete: {len(absent)} of {len(texts)} files of captions lack, {absent[0]} first"
        )
    captions = [line for path in texts for line in _lines(path, path.read_bytes().decode("utf-8", "replace"), 1)]
    sources = [folder / "images" / names[number] for number in ordered]
    return _Listed(sources, [*map(str, sources)], captions, classes - 1, np.isin(classes, _TESTED))


def _numbered(path: Path) -> dict[str, str]:
    """What a list of Caltech says of each picture, by its number."""
    if not path.is_file():
        raise FileNotFoundError(f"CUB is incomplete: {path.parent} lacks {path.name}")
    lines = [line.split() for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
    wrong = [line for line in lines if len(line) != 2]
    if wrong:
        raise ValueError(
            f"{path} must have a number and a value in each line, got {' '.join(wrong[0])!r}: fetch it again"
        )
    twice = [number for number, times in Counter(number for number, _ in lines).items() if times > 1]
    if twice:
        raise ValueError(f"{path} must have each number once, got {twice[0]} more often: fetch it again")
    return dict(lines)


def _lines(path: Path, content: str, pictures: int) -> list[str]:
    # nothing else ends a caption, not what `splitlines` takes for the end of a line
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) != _EACH * pictures:
        raise ValueError(f"{path} must hold {_EACH} captions for each of {pictures} pictures, got {len(lines)} lines")
    return lines


def _pixels(source: Path, listed: _Listed, wanted: np.ndarray) -> Tensor:
    sources, names = ([those[picture] for picture in wanted] for those in (listed.sources, listed.names))
    shape = (3, _SIDE, _SIDE)
    if source.is_file():
        return torch.from_numpy(decode_images(sources, [f"{name} in {source}" for name in names], shape))
    recipe = {"version": _VERSION, "pictures": files_digest(sources, "CUB")}
    return torch.from_numpy(
        cached("CUB", recipe, lambda: {"image": decode_images(sources, names, shape, _squeezed)})["image"]
    )


_squeezed = functools.partial(resized, width=_SIDE, height=_SIDE, interpolation="bilinear")


def _features(source: Path, listed: _Listed, wanted: np.ndarray, crop: str, weights: str | os.PathLike) -> Tensor:
    sources = [listed.sources[picture] for picture in wanted]
    pictures = files_digest([source] if source.is_file() else sources, "CUB")
    recipe = {"version": _VERSION, "pictures": pictures, "rows": len(wanted), "crop": crop}
    recipe["resnet101"] = weights_digest(weights)
    given = _pixels(source, listed, wanted) if source.is_file() else sources
    return torch.from_numpy(
        cached("CUB", recipe, lambda: {"features": resnet_features(given, weights).numpy()})["features"]
    )
