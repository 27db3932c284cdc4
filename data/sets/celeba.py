"""CelebA: a face and its attributes, as numbers, as words or as a string."""

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.sets._characters import padded_alphabet, place_randomly
from multipyro.data.sets._faces import boxes_digest, find_faces
from multipyro.data.sets._parts import check_choice, check_parts
from multipyro.data.splits import Splits, check_num_rows
from multipyro.data.storage.archives import unpacked
from multipyro.data.storage.cache import cached
from multipyro.data.storage.download import fetch
from multipyro.data.storage.files import files_digest, printable, read_bounded
from multipyro.data.storage.images import center_crop, decode_images, resized
from multipyro.data.storage.locations import VARIABLE, download_root, roots
from multipyro.data.storage.stored import read_arrays, slices_of

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ATTRIBUTES", "CROPS", "FORMS", "celeba_source", "load_celeba", "shuffle_words"]

ATTRIBUTES = tuple(
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young".split()
)
CROPS = ("center", "pooled", "faces")
FORMS = ("attributes", "visual", "words", "text")

_SIDE = 64
_WIDTH, _HEIGHT = 178, 218
_CENTER = 148
_PADDED = 256
_COMPACT = "CelebA/celeba_10k_64.npz"
_FOLDER = "celeba"
_IMAGES = "img_align_celeba"
_LISTS = ("list_attr_celeba.txt", "list_eval_partition.txt")
# the longer list has 27 MB
_LIST_BYTES = 2**26
# rows and md5 of the published lists, as in torchvision; shorter lists are a selection
_PUBLISHED = (202_599, "75e246fa4810816ffd6ee81facbd244c", "d32c9cbf5e040fd4025c592c306e6668")
_VISUAL = (4, 5, 8, 9, 11, 12, 15, 17, 18, 20, 21, 22, 26, 28, 31, 32, 33, 35)
# by class id, in the order of the released code
_WORDS = tuple(
    "- Bushy_Eyebrows Male Female Mouth_Slightly_Open Smiling Bald Bangs Black_Hair Blond_Hair Brown_Hair Eyeglasses "
    "Gray_Hair Heavy_Makeup Mustache Pale_Skin Receding_Hairline Straight_Hair Wavy_Hair Wearing_Hat".split()
)
_MOST_WORDS = 9
# part of the recipe, whose digest names the cached file: another recipe is another file
_VERSION = 1


@dataclass(frozen=True)
class _Listing:
    """The names, attributes and parts of all faces, before any is decoded."""

    sources: list[Path] | list[bytes]
    names: list[str]
    attributes: np.ndarray  # bool (rows, 40)
    parts: np.ndarray  # 0, 1, 2 (rows,)


def load_celeba(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    form: str = "attributes",
    likelihood: str = "bernoulli",
    label: str | None = "Smiling",
    crop: str = "center",
    num_rows: int | None = None,
    download: bool = True,
) -> Splits:
    """Faces of 64x64 pixels and 40 attributes of each.

    Modalities: `image` `(rows, 3, 64, 64)`, uint8 in memory and float32 in `[0, 1]` in batches; and, by `form`,

    * `"attributes"`: `attributes` float32 `(rows, 40)`, in the order of `ATTRIBUTES`;
    * `"visual"`: `attributes` float32 `(rows, 18)`, those that are visible;
    * `"words"`: `text` int64 `(rows, 9)`, the names of those of the 18 that are present, and one of Male and Female,
      in a random order that is drawn anew at every access in training and once in validation and test, then blanks (of
      more than nine words, those that the order puts last are dropped);
    * `"text"`: `text` int64 `(rows, 256)`, the names of those of the 40 that are present, in lower case, joined by
      `", "` and cut after 255 characters (1 of the first 10,000 rows has more), from a random start that is drawn once,
      with `*` around them.

    The original distribution, as torchvision lays it out, comes with its partition into 162,770, 19,867 and 19,962
    examples. Where only the archive of its images is found, it is unpacked into the download folder. The images are
    decoded once and cached there, complete or not at all. The compact file contains 10,000 faces of the original
    training part, of which the first 8,000 are for training, the next 1,000 for validation and the last 1,000 for test:
    the same person may occur in two parts. Where one folder contains both, the original is used.

    The crop `"faces"` is the filter of JMVAE: an example is a face that OpenCV's frontal Haar cascade finds (`alt`,
    scale 1.2, 2 neighbors, 10 pixels or more), enlarged to 1.3 times its sides, unless it extends beyond the left or
    the upper edge or is not higher than 0.4 of the image; what extends beyond the other edges is cut off. An image
    gives no example, one, or several with the same attributes. The paper counts 191,899 examples, and splits them 90 to
    10 (its code 99 to 1) without specifying the split; here each keeps the published part of its image. They are
    resized as the others are (bicubic). The first search takes an hour and a half on one core; its result is stored,
    and it continues after an interruption.

    References:
        Deep Learning Face Attributes in the Wild (Liu et al., 2015). 18 attributes: Generative Models of Visually
        Grounded Imagination (Vedantam et al., 2018). Strings: Generalized Multimodal ELBO (Sutter et al., 2021), whose
        code draws the start one position shorter and evaluates on the validation part. The words are those of the
        paper on aggregate posteriors, which splits by image number; here the published partition is used. Faces: Joint
        Multimodal Learning with Deep Generative Models (Suzuki et al., 2017), section 4.1.2, and its code.

    Args:
        data_root: Folder with `celeba/` or `CelebA/celeba_10k_64.npz`.
        seed: Seed of the orders and starts that are drawn once.
        form: One of `FORMS`.
        likelihood: Of attributes as numbers: `"bernoulli"`, 0 or 1; or `"normal"`, -1 or 1, as JMVAE has them.
        label: The attribute that is the class of an example, for metrics; None for no classes.
        crop: How originals of 178x218 pixels become 64x64: `"center"`, the 148x148 in the middle resized (bicubic), or
            `"pooled"`, rows 48 to 175 and columns 25 to 152 averaged two by two, as for the words; or `"faces"`, those
            that are detected, with the extra `[faces]`. The compact file has had its center crop.
        num_rows: Largest number of rows of each part, the first ones; None for all. Only these are decoded, and images
            are searched for faces, 200 at a time, until there are so many.
        download: Whether torchvision may download the original where neither distribution is found; it needs `gdown`.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If neither distribution is found and none can be downloaded, or an image or list of the
            original is missing.
        ImportError: If faces are to be detected and OpenCV is not installed.
        ValueError: If an option is unknown, a file is damaged or contradicts another one, a part has no examples, or no
            face of a part is kept; the message names it.
    """
    check_choice("form", form, FORMS)
    check_choice("likelihood", likelihood, ("bernoulli", "normal"))
    check_choice("label", label, (None, *ATTRIBUTES))
    check_choice("crop", crop, CROPS)
    if likelihood != "bernoulli" and form in ("words", "text"):
        raise ValueError(f"likelihood {likelihood!r} applies to attributes as numbers, got form {form!r}")
    check_num_rows(num_rows)
    source = celeba_source(data_root, download)
    if source.is_file() and crop != "center":
        raise ValueError(
            f"the faces in {source} have had their center crop, got crop {crop!r}: it needs the original images of "
            f"{_WIDTH}x{_HEIGHT} pixels in <folder>/{_FOLDER}"
        )
    listing = _compact(source) if source.is_file() else _original(source)
    rows = [np.flatnonzero(listing.parts == part)[:num_rows] for part in range(3)]
    check_parts(dict(zip(Splits.NAMES, rows, strict=True)), source)
    boxes = None
    if crop == "faces":
        rows, boxes = _faces(source, listing, num_rows)
    pixels = _pixels(source, listing, np.concatenate(rows), crop, boxes)
    modalities = {"image": Modality("image", (3, _SIDE, _SIDE), "image", "laplace")}
    parts, begin = {}, 0
    for number, (split, mine) in enumerate(zip(Splits.NAMES, rows, strict=True)):
        present = torch.from_numpy(listing.attributes[mine])
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        modality, values = _second_modality(present, form, likelihood, generator)
        modalities[modality.name] = modality
        parts[split] = MultimodalData(
            "celeba",
            modalities,
            {"image": torch.from_numpy(pixels[begin : begin + len(mine)]), modality.name: values},
            labels=None if label is None else present[:, ATTRIBUTES.index(label)].long(),
            split=split,
            transform=shuffle_words if form == "words" and split == "train" else None,
            ids=np.array([listing.names[row] for row in mine]),
            label_names=None if label is None else (f"not {label}", label),
        )
        begin += len(mine)
    return Splits(**parts)


def celeba_source(data_root: str | os.PathLike | None = None, download: bool = False) -> Path:
    """The folder of the original distribution, or the compact file: the first that is found, or is downloaded.

    Args:
        data_root: Folder that is searched first.
        download: Whether torchvision may download the original where no part of it is found.

    Raises:
        FileNotFoundError: If neither is found, or the download fails.
    """
    places = roots(data_root)
    for root in places:
        if (root / _FOLDER / _LISTS[0]).is_file():
            return root / _FOLDER
        if (root / _COMPACT).is_file():
            return root / _COMPACT
    partial = [root / _FOLDER for root in places if any((root / _FOLDER).glob("*"))]
    found = "".join(f"; {folder} exists, but has no {_absent(folder)}" for folder in partial)
    missing = (
        f"CelebA is {'incomplete' if partial else 'missing'}{found}: put {_IMAGES}/*.jpg or {_IMAGES}.zip, "
        f"{' and '.join(_LISTS)} into <folder>/{_FOLDER} (from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; with "
        f"gdown installed, torchvision downloads them at first use), or {_COMPACT} into <folder>, and name <folder> "
        f"with --data-root or {VARIABLE}"
    )
    if not download or partial:
        raise FileNotFoundError(missing)
    fetch(_FOLDER, (f"{_IMAGES}.zip", *_LISTS), _download, missing)
    return download_root() / _FOLDER


def _absent(folder: Path) -> str:
    """The files that are missing from a folder of the original."""
    lists = [name for name in _LISTS if not (folder / name).is_file()]
    images = (folder / _IMAGES).is_dir() or (folder / f"{_IMAGES}.zip").is_file()
    return " and no ".join([*lists, *([] if images else [f"{_IMAGES}/ or {_IMAGES}.zip"])])


def _download(folder: Path) -> Path:
    """Downloads those of torchvision's files that are needed, and checks their md5."""
    # torchvision takes seconds to import, and only a download needs it
    with optional_imports("a download"):
        from torchvision.datasets import CelebA, utils

    for number, md5, name in CelebA.file_list:
        if name in (f"{_IMAGES}.zip", *_LISTS):
            utils.download_file_from_google_drive(number, folder, name, md5)
    return folder


def shuffle_words(x: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Draws a new order of the words of each row of `text`, blanks last; other modalities stay."""
    if "text" not in x:
        return x
    ids = x["text"]
    # a random key for each word, and one above all of them for blanks
    keys = torch.rand(ids.shape, generator=generator) + (ids == 0)
    return {**x, "text": ids.gather(1, keys.argsort(1))}


def _second_modality(
    present: Tensor, form: str, likelihood: str, generator: torch.Generator
) -> tuple[Modality, Tensor]:
    """The modality beside the image, and its values."""
    if form == "words":
        positive = {name: present[:, number] for number, name in enumerate(ATTRIBUTES)}
        positive["Female"] = ~positive["Male"]
        flags = torch.stack([positive[word] for word in _WORDS[1:]], 1)
        ids = flags * torch.arange(1, len(_WORDS))
        ids = shuffle_words({"text": ids}, generator)["text"][:, :_MOST_WORDS].clone()
        return Modality("text", (_MOST_WORDS,), "text", "categorical", len(_WORDS), vocabulary=_WORDS), ids
    if form == "text":
        alphabet = padded_alphabet("*")
        modality = Modality("text", (_PADDED,), "text", "categorical", len(alphabet), alphabet=alphabet)
        names = [name.replace("_", " ").lower() for name in ATTRIBUTES]
        texts = [", ".join(names[i] for i in row.nonzero()[0])[: _PADDED - 1] for row in present.numpy()]
        return modality, place_randomly(modality.encode(texts), generator)
    columns = ATTRIBUTES if form == "attributes" else tuple(ATTRIBUTES[i] for i in _VISUAL)
    values = (present if form == "attributes" else present[:, _VISUAL]).float()
    modality = Modality("attributes", (len(columns),), "vector", likelihood, columns=columns)
    return modality, values if likelihood == "bernoulli" else 2 * values - 1


def _compact(path: Path) -> _Listing:
    title = "the compact file of CelebA"
    arrays = read_arrays(path, ("jpeg", "offsets", "attributes", "attribute_names", "filenames"), title)
    attributes, columns, names = arrays["attributes"], arrays["attribute_names"], arrays["filenames"].ravel().tolist()
    rows = range(len(names))
    sources = slices_of(path, arrays["jpeg"], arrays["offsets"], len(rows))
    if not np.array_equal(columns, ATTRIBUTES) or attributes.shape != (len(rows), 40):
        raise ValueError(
            f"{path} must have the 40 attributes of each of its {len(rows)} images in the published order, got shape "
            f"{attributes.shape} and names of shape {columns.shape}"
        )
    if not np.isin(attributes, (-1, 1)).all():
        raise ValueError(f"{path} must have attributes of -1 or 1, got {sorted(set(attributes.flat))[:10]}")
    ends = (8 * len(rows) // 10, 9 * len(rows) // 10)
    return _Listing(sources, names, attributes == 1, np.searchsorted(ends, rows, side="right"))


def _original(folder: Path) -> _Listing:
    texts = {}
    for name in _LISTS:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"CelebA is incomplete: {folder} has no {name}")
        texts[name] = read_bounded(folder / name, _LIST_BYTES)
    attributes, partition = (texts[name].decode("ascii", "replace").splitlines() for name in _LISTS)
    path = folder / _LISTS[0]
    rows = [line.split() for line in attributes[2:]]
    if len(attributes) < 2 or tuple(attributes[1].split()) != ATTRIBUTES:
        raise ValueError(f"{path} must name the 40 attributes in its second line: download it again")
    if attributes[0].strip() != str(len(rows)) or any(len(row) != 41 for row in rows):
        raise ValueError(
            f"{path} is truncated or damaged: its first line announces {attributes[0].strip()[:20]!r} rows of a name "
            f"and 40 values, got {sum(len(row) == 41 for row in rows)}"
        )
    values = {value for row in rows for value in row[1:]}
    if not values <= {"-1", "1"}:
        raise ValueError(f"{path} must have attributes of -1 or 1, got {sorted(values)[:10]}")
    part_of = dict(line.split()[:2] for line in partition if len(line.split()) > 1)
    names = [row[0] for row in rows]
    wrong = [name for name in names if part_of.get(name) not in ("0", "1", "2")]
    if wrong:
        raise ValueError(
            f"{folder / _LISTS[1]} has no part 0, 1 or 2 for {len(wrong)} images (first: {printable(wrong[0])})"
        )
    for name, md5 in zip(_LISTS, _PUBLISHED[1:], strict=True):
        digest = hashlib.md5(texts[name], usedforsecurity=False).hexdigest()
        if len(rows) == _PUBLISHED[0] and digest != md5:
            raise ValueError(f"{folder / name} is damaged: its md5 is {digest}, expected {md5}; download it again")
    parts = np.array([int(part_of[name]) for name in names])
    images, archive = folder / _IMAGES, folder / f"{_IMAGES}.zip"
    if not images.is_dir() and archive.is_file():
        target = download_root() / "CelebA" / f"{_IMAGES}-{files_digest([archive], 'CelebA')[:16]}"
        images = unpacked(archive, target, lambda name: name.suffix == ".jpg", "the archive of CelebA's images")
    sources = [images / name for name in names]
    return _Listing(sources, names, np.array([row[1:] for row in rows]) == "1", parts)


def _faces(source: Path, listing: _Listing, num_rows: int | None) -> tuple[list[np.ndarray], np.ndarray]:
    """The image of each face that is kept, by part, and the edges of all of them, one part after the other."""
    rows = [np.flatnonzero(listing.parts == part) for part in range(3)]
    faces = find_faces([[listing.sources[row] for row in mine] for mine in rows], _WIDTH, _HEIGHT, num_rows)
    for name, mine, (images, _) in zip(Splits.NAMES, rows, faces, strict=True):
        if not len(images):
            raise ValueError(
                f"no face is kept of the {len(mine)} {name} images in {source}: add images, or choose another crop"
            )
    kept = [mine[images] for mine, (images, _) in zip(rows, faces, strict=True)]
    return kept, np.concatenate([boxes for _, boxes in faces])


def _pixels(source: Path, listing: _Listing, rows: np.ndarray, crop: str, boxes: np.ndarray | None) -> np.ndarray:
    sources, shape = [listing.sources[row] for row in rows], (3, _SIDE, _SIDE)
    if source.is_file():
        return decode_images(sources, [f"{listing.names[row]} in {source}" for row in rows], shape)
    recipe = {"version": _VERSION, "crop": crop, "rows": len(rows), "images": files_digest(sources, "CelebA")}
    recipe |= {} if boxes is None else {"boxes": boxes_digest(boxes)}
    prepare = {"center": _center, "pooled": _pooled, "faces": _resized}[crop]
    names = list(map(str, sources))

    def build() -> dict[str, np.ndarray]:
        return {"image": decode_images(sources, names, shape, prepare, boxes)}

    return cached("CelebA", recipe, ("image",), build)["image"]


_center = functools.partial(center_crop, crop=_CENTER, side=_SIDE)
_resized = functools.partial(resized, width=_SIDE, height=_SIDE)


def _pooled(image: "Image.Image") -> np.ndarray:
    pixels = np.asarray(image)[48:176, 25:153]
    if pixels.shape != (2 * _SIDE, 2 * _SIDE, 3):
        raise ValueError(f"an image must have at least 176 rows and 153 columns, got {image.height} and {image.width}")
    # to the nearest byte
    pooled = pixels.reshape(_SIDE, 2, _SIDE, 2, 3).mean((1, 3))
    return np.floor(pooled + 0.5).astype(np.uint8)
