"""CUB: a picture of a bird, or its features, and what people say of it."""

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from multipyro.data._cache import cached
from multipyro.data._images import decode_images, files_digest, read_arrays, slices_of
from multipyro.data._root import VARIABLE, roots
from multipyro.data.captions import caption_ids, caption_modality, vocabulary_of, words_of
from multipyro.data.features import resnet_features, weights_digest
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.shared import SharedRows
from multipyro.data.splits import Splits

__all__ = ["CAPTIONS", "CROPS", "cub", "cub_source"]

CAPTIONS = ("all", "first")
CROPS = ("whole", "box")

_SIDE = 64
_LENGTH = 32
# captions of a picture
_EACH = 10
_COMPACT = ("CUB/cub_captioned_64.npz", "CUB/cub_captions.txt.gz")
_FOLDER = "cub"
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


def cub(
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

    Classes that test do not train. The original distribution has 150 and 50 of them; the compact file holds those 50
    alone, of which every fifth in the order of their numbers tests (10 of 50). Every tenth picture of the training
    classes validates.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), section
        4.3. Captions: Learning Deep Representations of Fine-Grained Visual Descriptions (Reed et al., 2016). Departures
        from the released code: a caption is a line, where the code finds sentences in the whole file; words are found
        by `words_of`; there is a validation part. In the released code the loss ignores class 0, the unknown word, and
        scores padding; here each position is scored.

    Args:
        data_root: Folder with `cub/` (`train/` and `test/` with a folder of pictures a class,
            `text_trainvalclasses.txt` and `text_testclasses.txt`) or with the two compact files in `CUB/`.
        seed: Not used; every data set takes one.
        captions: `"all"`, or `"first"` for the first caption of each picture alone.
        crop: `"whole"`, the picture squeezed into a square; or `"box"`, a square around the bird, which only the
            compact file has.
        features: File with weights of ResNet-101, whose features are the modality `image`; see `resnet_features`. They
            are computed once and cached, from the pictures as they are: of the compact file those of 64x64.
        num_rows: At most so many rows of each part, the first ones; None for all.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If neither distribution is found, or a part of one is missing.
        ValueError: If an option is unknown, or a file is damaged or contradicts another one; the message names it.
    """
    for option, value, known in (("captions", captions, CAPTIONS), ("crop", crop, CROPS)):
        if value not in known:
            raise ValueError(f"{option} must be one of {known}, got {value!r}")
    source = cub_source(data_root)
    if source.is_dir() and crop != "whole":
        raise ValueError(f"{source} has no boxes of the birds, got crop {crop!r}")
    listed = _compact(source, crop) if source.is_file() else _original(source)
    kept = range(1 if captions == "first" else _EACH)
    trained = np.flatnonzero(~listed.tested)
    validates = np.arange(len(trained)) % 10 == 9
    pictures = {"train": trained[~validates], "validation": trained[validates], "test": np.flatnonzero(listed.tested)}
    words = [words_of(caption) for caption in listed.captions]
    # of all ten captions, whichever are kept: the vocabulary is that of the set
    vocabulary = vocabulary_of(words[_EACH * number + i] for number in pictures["train"] for i in range(_EACH))
    caption = caption_modality("caption", vocabulary, _LENGTH)
    values = _pixels(source, listed) if features is None else _features(source, listed, crop, features)
    kind, shape = ("image", (3, _SIDE, _SIDE)) if features is None else ("vector", tuple(values.shape[1:]))
    modalities = {"image": Modality("image", shape, kind, "laplace"), "caption": caption}
    parts = {}
    for split, mine in pictures.items():
        x = {
            "image": SharedRows(values[torch.from_numpy(mine)], torch.arange(len(mine)).repeat_interleave(len(kept))),
            "caption": caption_ids([words[_EACH * number + i] for number in mine for i in kept], caption),
        }
        labels = torch.from_numpy(listed.classes[mine]).repeat_interleave(len(kept))
        parts[split] = MultimodalData("cub", modalities, x, labels=labels, split=split)
    return Splits(**parts).head(num_rows)


def cub_source(data_root: str | os.PathLike | None = None) -> Path:
    """The folder of the original distribution, or the compact file of pictures: the first that is found.

    Raises:
        FileNotFoundError: If neither is found, or the compact file without its captions.
    """
    for root in roots(data_root):
        if (root / _FOLDER / _TEXTS["train"]).is_file():
            return root / _FOLDER
        if (root / _COMPACT[0]).is_file():
            if not (root / _COMPACT[1]).is_file():
                raise FileNotFoundError(f"CUB is incomplete: {root} lacks {_COMPACT[1]}")
            return root / _COMPACT[0]
    raise FileNotFoundError(
        f"CUB is not there: put train/ and test/ with a folder of pictures for each class, and "
        f"{' and '.join(_TEXTS.values())}, into <folder>/{_FOLDER} (pictures from "
        "https://www.vision.caltech.edu/datasets/cub_200_2011, captions from https://github.com/reedscott/cvpr2016 or "
        f"the files of https://github.com/iffsid/mmvae), or {' and '.join(_COMPACT)} into <folder>, and name <folder> "
        f"with --data-root or {VARIABLE}"
    )


def _compact(path: Path, crop: str) -> _Listed:
    jpeg, offsets = ("jpeg", "offsets") if crop == "whole" else ("jpeg_crop", "offsets_crop")
    found = read_arrays(path, (jpeg, offsets, "filenames", "class_id"), "the compact file of CUB")
    names, classes = found["filenames"].tolist(), found["class_id"].astype(np.int64)
    if classes.shape != (len(names),) or not ((classes > 0) & (classes < 201)).all():
        raise ValueError(f"{path} must hold a class from 1 to 200 for each of its {len(names)} names, got {classes}")
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
        captions += _lines(folder / name, (folder / name).read_text("utf-8", "replace"), len(pictures))
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


def _lines(path: Path, content: str, pictures: int) -> list[str]:
    lines = content.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) != _EACH * pictures:
        raise ValueError(f"{path} must hold {_EACH} captions for each of {pictures} pictures, got {len(lines)} lines")
    return lines


def _pixels(source: Path, listed: _Listed) -> Tensor:
    if source.is_file():
        names = [f"{name} in {source}" for name in listed.names]
        return torch.from_numpy(decode_images(listed.sources, names, (3, _SIDE, _SIDE)))
    recipe = {"version": _VERSION, "pictures": files_digest(listed.sources, "CUB")}
    return torch.from_numpy(
        cached(
            "CUB", recipe, lambda: {"image": decode_images(listed.sources, listed.names, (3, _SIDE, _SIDE), _squeezed)}
        )["image"]
    )


def _squeezed(image: Image.Image) -> Image.Image:
    return image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)


def _features(source: Path, listed: _Listed, crop: str, weights: str | os.PathLike) -> Tensor:
    pictures = files_digest([source] if source.is_file() else listed.sources, "CUB")
    recipe = {"version": _VERSION, "pictures": pictures, "crop": crop, "resnet101": weights_digest(weights)}
    given = _pixels(source, listed) if source.is_file() else listed.sources
    return torch.from_numpy(
        cached("CUB", recipe, lambda: {"features": resnet_features(given, weights).numpy()})["features"]
    )
