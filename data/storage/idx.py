"""The four idx files of MNIST and of the sets that have its format, as torchvision lays them out."""

import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.data.storage.download import fetch
from multipyro.data.storage.locations import VARIABLE, download_root, find

__all__ = ["IMAGES", "LABELS", "IdxSet", "idx_arrays", "idx_found"]

# magic numbers of idx files: unsigned bytes in three dimensions, in one
IMAGES, LABELS = 2051, 2049

_SIDE = 28


@dataclass(frozen=True)
class IdxSet:
    """What the files of a set must hold.

    Args:
        name: Name of the set, of torchvision's class and of the folder.
        files: Part and kind -> name, magic number, rows, and md5 of the unpacked file as commonly published; None where
            none is.
        train_rows: So many of the first training rows train, the others validate.
        foreign: md5 of unpacked files of other sets, which have the same names and sizes -> their name.
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
        files: The set.
        data_root: Folder searched before all others.
        download: Whether torchvision may download what is found nowhere.

    Raises:
        FileNotFoundError: If the files are found nowhere and cannot be downloaded, or only some of them are found.
        ValueError: If a file is truncated, damaged or another one; the message names it.
    """
    paths = _located(files, data_root)
    if download and not any(paths.values()):
        _download(files)
        paths = _located(files, data_root)
    missing = [files.files[key][0] for key, path in paths.items() if path is None]
    if missing:
        raise FileNotFoundError(_absent(files, missing, [path for path in paths.values() if path is not None]))
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


def idx_found(files: IdxSet, data_root: str | os.PathLike | None = None) -> bool:
    """Whether all four files are found without a download."""
    return all(_located(files, data_root).values())


def _located(files: IdxSet, data_root: str | os.PathLike | None) -> dict[tuple[str, str], Path | None]:
    names = {key: f"{files.folder}/{file[0]}" for key, file in files.files.items()}
    return {key: find([name, f"{name}.gz"], data_root) for key, name in names.items()}


def _absent(files: IdxSet, missing: list[str], there: list[Path]) -> str:
    names = ", ".join(f"{name}[.gz]" for name in missing)
    title = files.name
    where = f"{title} is incomplete: {there[0].parent} lacks" if there else f"{title} is not there: missing are"
    otherwise = "" if there else f", or let torchvision download it to {download_root()}"
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

    fetch(files.folder, names, download, _absent(files, names, []))


def _read(path: Path, files: IdxSet, magic: int, rows: int, md5: str | None) -> np.ndarray:
    """The bytes after the header of one idx file, checked against what the file must hold."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}): fetch it again") from error
    header = 16 if magic == IMAGES else 8
    expected = header + rows * (_SIDE**2 if magic == IMAGES else 1)
    seen = struct.unpack(">II", content[:8]) if len(content) >= 8 else ()
    if seen != (magic, rows) or len(content) != expected:
        found = f"magic number {seen[0]}, {seen[1]} rows" if seen else "no header"
        raise ValueError(
            f"{path} is truncated or not the {files.name} file: expected magic number {magic}, {rows} rows and "
            f"{expected} bytes unpacked, got {found} and {len(content)} bytes"
        )
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is not None and digest != md5:
        raise ValueError(f"{path} is damaged: its unpacked md5 is {digest}, expected {md5}; fetch it again")
    if digest in files.foreign:
        raise ValueError(f"{path} is the file of {files.foreign[digest]}, expected that of {files.name}")
    values = np.frombuffer(content, np.uint8, offset=header).copy()
    if magic == LABELS and len(values) and values.max() > 9:
        raise ValueError(f"{path} must hold the classes 0 to 9, got {values.max()}")
    return values
