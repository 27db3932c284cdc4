"""SVHN's cropped digits from the `.mat` files, of the complete data set or of its first rows."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.data.storage.download import fetch
from multipyro.data.storage.files import printable
from multipyro.data.storage.locations import VARIABLE, download_root, find

__all__ = ["svhn_arrays", "svhn_paths"]

_FOLDER = "SVHN"
# name, rows and md5 of the complete file, as torchvision has it
_FILES = {
    "train": ("train_32x32.mat", 73_257, "e26dedcc434d2e4c54c9b2d4a06d8373"),
    "test": ("test_32x32.mat", 26_032, "eb5a983be6a315427106f1b164d9cef3"),
}
_SIDE = 32


def svhn_arrays(data_root: str | os.PathLike | None = None, download: bool = True) -> dict[str, tuple[Tensor, Tensor]]:
    """Pixels uint8 `(rows, 3, 32, 32)` and digits int64 `(rows,)` of `"train"` and `"test"`.

    A file with fewer rows than the complete data set is a selection; one with as many must be the published one. The
    class 10 of the files is the digit 0.

    References:
        Reading Digits in Natural Images with Unsupervised Feature Learning (Netzer et al., 2011).

    Args:
        data_root: Folder with `SVHN/train_32x32.mat` and `SVHN/test_32x32.mat`.
        download: Whether torchvision may download files of which none is found.

    Raises:
        FileNotFoundError: If the files are not found and cannot be downloaded, or only one of them is found.
        ValueError: If a file is truncated, damaged or another one; the message names it.
    """
    return {part: _read(path, *_FILES[part][1:]) for part, path in svhn_paths(data_root, download).items()}


def svhn_paths(data_root: str | os.PathLike | None = None, download: bool = False) -> dict[str, Path]:
    """The two files by part.

    Raises:
        FileNotFoundError: See `svhn_arrays`.
    """
    paths = _located(data_root)
    if download and not any(paths.values()):
        _download()
        paths = _located(data_root)
    missing = [_FILES[part][0] for part, path in paths.items() if path is None]
    if missing:
        raise FileNotFoundError(_missing(missing))
    return {part: path for part, path in paths.items() if path is not None}


def _located(data_root: str | os.PathLike | None) -> dict[str, Path | None]:
    return {part: find([f"{_FOLDER}/{file[0]}"], data_root) for part, file in _FILES.items()}


def _missing(missing: list[str]) -> str:
    state = "is missing:" if len(missing) == len(_FILES) else "is incomplete: there is no"
    otherwise = f", or let torchvision download it to {download_root()}" if len(missing) == len(_FILES) else ""
    return (
        f"SVHN {state} {', '.join(missing)}; put them (from http://ufldl.stanford.edu/housenumbers) into "
        f"<folder>/{_FOLDER} and name <folder> with --data-root or {VARIABLE}{otherwise}"
    )


def _download() -> None:
    names = [file[0] for file in _FILES.values()]

    def download(folder: Path) -> Path:
        # torchvision takes seconds to import, and only a download needs it
        with optional_imports("a download"):
            from torchvision.datasets import SVHN

        for part in _FILES:
            SVHN(folder, split=part, download=True)
        return folder

    fetch(_FOLDER, names, download, _missing(names))


def _read(path: Path, rows: int, md5: str) -> tuple[Tensor, Tensor]:
    with optional_imports("SVHN"):
        from scipy.io import loadmat, whosmat

    title = printable(path)
    try:
        # objects and code have other classes, and are not read
        headers = {name: (tuple(shape), kind) for name, shape, kind in whosmat(path)}
    except Exception as error:  # on a damaged file the reader may raise any exception
        raise ValueError(f"{title} is truncated, damaged or not a file of SVHN ({error}): download it again") from error
    shape, number = headers.get("X", ((), ""))[0], 0
    valid = len(shape) == 4 and headers["X"] == ((_SIDE, _SIDE, 3, shape[-1]), "uint8") and shape[-1] <= rows
    if valid:
        number = shape[-1]
        valid = headers.get("y", ((), ""))[0] == (number, 1) and headers["y"][1] in ("uint8", "double")
    if not valid:
        raise ValueError(
            f"{title} is truncated or not a file of SVHN: expected X (32, 32, 3, rows) of uint8 and y (rows, 1) with "
            f"at most {rows:,} rows, got {headers or 'nothing'}"
        )
    if number == rows:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if digest != md5:
            raise ValueError(f"{title} has {number} rows, but its md5 is {digest}, expected {md5}; download it again")
    try:
        values = loadmat(path, variable_names=["X", "y"])
    except Exception as error:
        raise ValueError(f"{title} is truncated or damaged ({error}): download it again") from error
    digits = values["y"].ravel().astype(np.int64)
    if number and not 1 <= digits.min() <= digits.max() <= 10:
        raise ValueError(f"{title} must contain the classes 1 to 10, got {digits.min()} to {digits.max()}")
    pixels = np.ascontiguousarray(values["X"].transpose(3, 2, 0, 1))
    return torch.from_numpy(pixels), torch.from_numpy(digits % 10)
