"""The four idx files of MNIST and of the data sets in its format, as torchvision lays them out."""

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.data.storage.download import fetch
from multipyro.data.storage.files import printable, read_bounded
from multipyro.data.storage.locations import VARIABLE, download_root, find

__all__ = ["IMAGES", "LABELS", "IdxSet", "idx_arrays", "idx_is_available"]

# magic numbers of idx files: unsigned bytes in three dimensions, in one
IMAGES, LABELS = 2051, 2049

_SIDE = 28


@dataclass(frozen=True)
class IdxSet:
    """What the files of a data set must contain.

    Args:
        name: Name of the data set, of torchvision's class and of the folder.
        files: Part and kind -> name, magic number, rows, and the md5 of the unpacked file that is commonly published,
            or None.
        train_rows: Number of the first training rows that are for training; the others are for validation.
        foreign: md5 of unpacked files of other data sets, with the same names and sizes -> the name of theirs.
    """

    name: str
    files: Mapping[tuple[str, str], tuple[str, int, int, str | None]]
    train_rows: int
    foreign: Mapping[str, str]

    @property
    def folder(self) -> str:
        """The folder below a data root."""
        return f"{self.name}/raw"


def idx_arrays(
    files: IdxSet, data_root: str | os.PathLike | None = None, download: bool = True
) -> dict[str, tuple[Tensor, Tensor]]:
    """Pixels uint8 `(rows, 28, 28)` and labels int64 `(rows,)` of `"train"`, `"validation"` and `"test"`.

    Args:
        files: The data set.
        data_root: Folder that is searched first.
        download: Whether torchvision may download files of which none is found.

    Raises:
        FileNotFoundError: If the files are not found and cannot be downloaded, or only some of them are found.
        ValueError: If a file is truncated, damaged or another one; the message names it.
    """
    paths = _located(files, data_root)
    if download and not any(paths.values()):
        _download(files)
        paths = _located(files, data_root)
    missing = [files.files[key][0] for key, path in paths.items() if path is None]
    if missing:
        raise FileNotFoundError(_missing(files, missing, [path for path in paths.values() if path is not None]))
    pixels, labels = {}, {}
    for (part, kind), path in paths.items():
        values = torch.from_numpy(_read(path, files, *files.files[part, kind][1:]))
        if kind == "images":
            pixels[part] = values.reshape(-1, _SIDE, _SIDE)
        else:
            labels[part] = values.long()
    rows = files.train_rows
    return {
        "train": (pixels["train"][:rows], labels["train"][:rows]),
        "validation": (pixels["train"][rows:], labels["train"][rows:]),
        "test": (pixels["test"], labels["test"]),
    }


def idx_is_available(files: IdxSet, data_root: str | os.PathLike | None = None) -> bool:
    """Whether all four files are found without a download."""
    return all(_located(files, data_root).values())


def _located(files: IdxSet, data_root: str | os.PathLike | None) -> dict[tuple[str, str], Path | None]:
    names = {key: f"{files.folder}/{file[0]}" for key, file in files.files.items()}
    return {key: find([name, f"{name}.gz"], data_root) for key, name in names.items()}


def _missing(files: IdxSet, missing: list[str], found: list[Path]) -> str:
    names = ", ".join(f"{name}[.gz]" for name in missing)
    where = f"{files.name} is incomplete: {found[0].parent} has no" if found else f"{files.name} is missing:"
    otherwise = "" if found else f", or let torchvision download it to {download_root()}"
    return (
        f"{where} {names}; put them into <folder>/{files.folder} and name <folder> with --data-root or "
        f"{VARIABLE}{otherwise}"
    )


def _download(files: IdxSet) -> None:
    names = [file[0] for file in files.files.values()]

    def download(folder: Path) -> Path:
        # torchvision takes seconds to import, and only a download needs it
        with optional_imports("a download"):
            from torchvision import datasets

        getattr(datasets, files.name)(folder, download=True)
        return folder / files.folder

    fetch(files.folder, names, download, _missing(files, names, []))


def _read(path: Path, files: IdxSet, magic: int, rows: int, md5: str | None) -> np.ndarray:
    """The bytes after the header of one idx file, checked against what the file must contain."""
    header = 16 if magic == IMAGES else 8
    expected = header + rows * (_SIDE**2 if magic == IMAGES else 1)
    content = read_bounded(path, expected)
    start = struct.unpack(">II", content[:8]) if len(content) >= 8 else ()
    if start != (magic, rows) or len(content) != expected:
        found = f"magic number {start[0]}, {start[1]} rows" if start else "no header"
        raise ValueError(
            f"{printable(path)} is truncated or not the {files.name} file: expected magic number {magic}, {rows} rows "
            f"and {expected} bytes unpacked, got {found} and {len(content)} bytes"
        )
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is not None and digest != md5:
        raise ValueError(
            f"{printable(path)} is damaged: its unpacked md5 is {digest}, expected {md5}; download it again"
        )
    if digest in files.foreign:
        raise ValueError(f"{printable(path)} is the file of {files.foreign[digest]}, expected that of {files.name}")
    values = np.frombuffer(content, np.uint8, offset=header).copy()
    if magic == LABELS and len(values) and values.max() > 9:
        raise ValueError(f"{printable(path)} must contain the classes 0 to 9, got {values.max()}")
    return values
