"""PolyMNIST as its authors distribute it: a folder of small pictures for each modality, or the archive of these."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from multipyro.data.sets._parts import check_parts
from multipyro.data.splits import Splits
from multipyro.data.storage.archives import member_bytes, open_zip
from multipyro.data.storage.images import decode_images, files_digest

__all__ = ["original_arrays", "original_digest", "original_in"]

_FOLDERS = ("PolyMNIST", "PolyMNIST/MMNIST", "MMNIST")
_ARCHIVES = ("PolyMNIST.zip", "PolyMNIST/PolyMNIST.zip")
_PARTS = ("train", "test")
_NAME = re.compile(r"(\d+)\.(\d)\.png")
_TITLE = "the archive of PolyMNIST"
_SHAPE = (3, 28, 28)
# so many pictures that train have one that validates
_EVERY = 6

# number within its class and class, which name a picture
_Key = tuple[int, int]
_Listing = dict[tuple[str, int], dict[_Key, str]]


def original_in(root: Path) -> Path | None:
    """The folder with `train/m0/` of the first place where it may lie, or the archive, None without either."""
    for name in _FOLDERS:
        if (root / name / "train" / "m0").is_dir():
            return root / name
    return next((root / name for name in _ARCHIVES if (root / name).is_file()), None)


def original_digest(source: Path, num_modalities: int) -> str:
    """A digest of the archive, or of the pictures of the first modalities.

    Raises:
        FileNotFoundError: If a folder of pictures is not there.
        ValueError: If the folders have not the same pictures, or a name is none of theirs.
    """
    if source.is_file():
        return files_digest([source], "PolyMNIST")
    listing = _listed(source, _in_folder(source, num_modalities), num_modalities)
    return files_digest([source / name for names in listing.values() for name in names.values()], "PolyMNIST")


def original_arrays(source: Path, num_modalities: int, num_rows: int | None) -> dict[str, np.ndarray]:
    """Pixels uint8 `(rows, 3, 28, 28)` as `PART_mM` and digits int64 `(rows,)` as `PART_labels`.

    The pictures that train, class by class and in each by their number, validate where they are the sixth, twelfth and
    so on. Rows come by their number, the classes in turn.

    Args:
        source: What `original_in` returns.
        num_modalities: The first so many.
        num_rows: At most so many rows of each part; None for all.

    Raises:
        FileNotFoundError: If a folder of pictures is not there.
        ValueError: If the folders have not the same pictures, or a file is damaged or another one.
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
    """The paths of pictures by part and modality, and there by number and class, sorted by these."""
    listing: _Listing = {(part, m): {} for part in _PARTS for m in range(num_modalities)}
    for name in names:
        path = PurePosixPath(name)
        place = path.parts[-3:-1]
        # other files lie beside them, networks and what systems leave
        if path.suffix != ".png" or path.name.startswith(".") or len(place) < 2 or not re.fullmatch(r"m\d", place[1]):
            continue
        found = listing.get((place[0], int(place[1][1:])))
        if found is None:
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{name} in {source} must be named NUMBER.DIGIT.png, as 12.7.png")
        key = int(match[1]), int(match[2])
        if key in found:
            raise ValueError(f"{source} has a picture twice, {found[key]} and {name}")
        found[key] = name
    for (part, m), found in listing.items():
        first = listing[part, 0]
        if not found:
            raise FileNotFoundError(f"PolyMNIST is incomplete: {source} lacks pictures in {part}/m{m}")
        if found.keys() != first.keys():
            number, digit = min(found.keys() ^ first.keys())
            has, lacks = (0, m) if (number, digit) in first else (m, 0)
            raise ValueError(
                f"{source} must have the same pictures in all folders of {part}: {number}.{digit}.png is in m{has} and "
                f"not in m{lacks}"
            )
    return {place: dict(sorted(found.items())) for place, found in listing.items()}


def _decoded(
    listing: _Listing, num_modalities: int, num_rows: int | None, source_of: Callable[[str], Path | bytes], source: Path
) -> dict[str, np.ndarray]:
    arrays, parts = {}, _parted(listing)
    check_parts(parts, source)
    for split, keys in parts.items():
        rows = keys[:num_rows]
        arrays[f"{split}_labels"] = np.array([digit for _, digit in rows], np.int64)
        for m in range(num_modalities):
            found = listing["test" if split == "test" else "train", m]
            names = [found[key] for key in rows]
            # those of an archive are held until they are decoded, one modality of one part
            sources = [source_of(name) for name in names]
            arrays[f"{split}_m{m}"] = decode_images(sources, [f"{name} in {source}" for name in names], _SHAPE)
    return arrays


def _parted(listing: _Listing) -> dict[str, list[_Key]]:
    """The pictures of each part, which are the same in all modalities."""
    training = sorted(listing["train", 0], key=lambda key: key[::-1])
    validating = set(training[_EVERY - 1 :: _EVERY])
    # sorted again, so that the first rows have all classes
    parts = ([key for key in listing["train", 0] if key not in validating], sorted(validating), [*listing["test", 0]])
    return dict(zip(Splits.NAMES, parts, strict=True))
