"""PolyMNIST as its authors distribute it: a folder of small images for each modality, or the archive of these."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from multipyro.data.sets._parts import check_parts
from multipyro.data.splits import Splits
from multipyro.data.storage.archives import member_bytes, open_zip
from multipyro.data.storage.files import files_digest, printable
from multipyro.data.storage.images import decode_images

__all__ = ["find_original", "original_arrays", "original_digest"]

_FOLDERS = ("PolyMNIST", "PolyMNIST/MMNIST", "MMNIST")
_ARCHIVES = ("PolyMNIST.zip", "PolyMNIST/PolyMNIST.zip")
_PARTS = ("train", "test")
_NAME = re.compile(r"(\d+)\.(\d)\.png")
_TITLE = "the archive of PolyMNIST"
_SHAPE = (3, 28, 28)
# every sixth training image is for validation
_EVERY = 6

# the name of an image: its number within the class, and the class
_Key = tuple[int, int]
_Listing = dict[tuple[str, int], dict[_Key, str]]


def find_original(root: Path) -> Path | None:
    """The folder with `train/m0/` of the first place where it may be, or the archive; None without either."""
    for name in _FOLDERS:
        if (root / name / "train" / "m0").is_dir():
            return root / name
    return next((root / name for name in _ARCHIVES if (root / name).is_file()), None)


def original_digest(source: Path, num_modalities: int) -> str:
    """A digest of the archive, or of the images of the first modalities.

    Raises:
        FileNotFoundError: If a folder of images is missing.
        ValueError: If the folders do not have the same images, or a file name is unexpected.
    """
    if source.is_file():
        return files_digest([source], "PolyMNIST")
    listing = _listed(source, _in_folder(source, num_modalities), num_modalities)
    return files_digest([source / name for names in listing.values() for name in names.values()], "PolyMNIST")


def original_arrays(source: Path, num_modalities: int, num_rows: int | None) -> dict[str, np.ndarray]:
    """Pixels uint8 `(rows, 3, 28, 28)` as `PART_mM` and digits int64 `(rows,)` as `PART_labels`.

    Of the training images, class by class and in each by their number, the sixth, twelfth and so on are for validation.
    Rows are ordered by their number, the classes in turn.

    Args:
        source: What `find_original` returns.
        num_modalities: Number of modalities, the first ones.
        num_rows: Largest number of rows of each part; None for all.

    Raises:
        FileNotFoundError: If a folder of images is missing.
        ValueError: If the folders do not have the same images, or a file is damaged or another one.
    """
    if source.is_dir():
        listing = _listed(source, _in_folder(source, num_modalities), num_modalities)
        return _decoded(listing, num_modalities, num_rows, lambda name: source / name, source)
    with open_zip(source, _TITLE) as archive:
        listing = _listed(source, archive.namelist(), num_modalities)
        return _decoded(listing, num_modalities, num_rows, lambda name: member_bytes(archive, name), source)


def _in_folder(source: Path, num_modalities: int) -> Iterator[str]:
    """The paths of files within a folder."""
    for part in _PARTS:
        for m in range(num_modalities):
            folder = source / part / f"m{m}"
            if folder.is_dir():
                yield from (f"{part}/m{m}/{path.name}" for path in folder.iterdir())


def _listed(source: Path, names: Iterable[str], num_modalities: int) -> _Listing:
    """The paths of images by part and modality, and there by number and class, sorted by these."""
    listing: _Listing = {(part, m): {} for part in _PARTS for m in range(num_modalities)}
    for name in names:
        path = PurePosixPath(name)
        place = path.parts[-3:-1]
        # the folders also contain networks and files of the operating system
        if path.suffix != ".png" or path.name.startswith(".") or len(place) < 2 or not re.fullmatch(r"m\d", place[1]):
            continue
        images = listing.get((place[0], int(place[1][1:])))
        if images is None:
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{name!r} in {printable(source)} must be named NUMBER.DIGIT.png, such as 12.7.png")
        key = int(match[1]), int(match[2])
        if key in images:
            raise ValueError(f"{printable(source)} has an image twice, {images[key]!r} and {name!r}")
        images[key] = name
    for (part, m), images in listing.items():
        first = listing[part, 0]
        if not images:
            raise FileNotFoundError(f"PolyMNIST is incomplete: {printable(source)} has no images in {part}/m{m}")
        if images.keys() != first.keys():
            number, digit = min(images.keys() ^ first.keys())
            present, absent = (0, m) if (number, digit) in first else (m, 0)
            raise ValueError(
                f"{printable(source)} must have the same images in all folders of {part}: {number}.{digit}.png is in "
                f"m{present} but not in m{absent}"
            )
    return {place: dict(sorted(images.items())) for place, images in listing.items()}


def _decoded(
    listing: _Listing, num_modalities: int, num_rows: int | None, source_of: Callable[[str], Path | bytes], source: Path
) -> dict[str, np.ndarray]:
    arrays, parts = {}, _split(listing)
    check_parts(parts, source)
    for split, keys in parts.items():
        rows = keys[:num_rows]
        arrays[f"{split}_labels"] = np.array([digit for _, digit in rows], np.int64)
        for m in range(num_modalities):
            images = listing["test" if split == "test" else "train", m]
            names = [images[key] for key in rows]
            # those of an archive are in memory until they are decoded, one modality of one part
            sources = [source_of(name) for name in names]
            arrays[f"{split}_m{m}"] = decode_images(sources, [f"{name} in {source}" for name in names], _SHAPE)
    return arrays


def _split(listing: _Listing) -> dict[str, list[_Key]]:
    """The images of each part, which are the same in all modalities."""
    training = sorted(listing["train", 0], key=lambda key: key[::-1])
    validating = set(training[_EVERY - 1 :: _EVERY])
    # sorted again, so that the first rows have all classes
    parts = ([key for key in listing["train", 0] if key not in validating], sorted(validating), [*listing["test", 0]])
    return dict(zip(Splits.NAMES, parts, strict=True))
