"""Arrays that may be larger than memory: written once, piece by piece, then mapped from the file."""

import functools
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from multipyro.data.storage.files import write_atomically
from multipyro.data.storage.images import decode_images, files_digest, resized
from multipyro.data.storage.locations import download_root
from multipyro.data.storage.stored import stored_array

__all__ = ["mapped_pictures", "mapped_rows"]

# part of what names a file: another way of making it is another file
_VERSION = 2
# rows that are held at a time: so many, or fewer if they are large
_ROWS, _BYTES = 1_024, 2**28
# smaller arrays are read
_MAPPED_BYTES = 2**26


def mapped_pictures(files: Sequence[Path | None], shape: tuple[int, int, int]) -> np.ndarray:
    """Pictures resized to `(channels, height, width)`, uint8 `(rows, *shape)`; zeros where there is no file.

    Raises:
        FileNotFoundError: If a picture is not there.
        ValueError: If a file cannot be read as an image; the message names it.
    """
    there = [file for file in files if file is not None]
    held = hashlib.sha256(bytes(file is not None for file in files)).hexdigest()
    recipe = {"pictures": files_digest(there, "the table"), "held": held, "shape": list(shape)}

    resize = functools.partial(resized, width=shape[2], height=shape[1])

    def pieces() -> Iterator[np.ndarray]:
        step = _step(shape, np.uint8)
        for begin in range(0, len(files), step):
            part = files[begin : begin + step]
            kept = [row for row, file in enumerate(part) if file is not None]
            pixels = np.zeros((len(part), *shape), np.uint8)
            pixels[kept] = decode_images([part[row] for row in kept], [str(part[row]) for row in kept], shape, resize)
            yield pixels

    return _mapped(recipe, (len(files), *shape), np.uint8, pieces)


def mapped_rows(file: Path, array: np.ndarray, order: np.ndarray, dtype: type) -> np.ndarray:
    """The rows `order` of an array that a file holds, of a dtype; mapped from a file of its own if they are many."""
    shape = (len(order), *array.shape[1:])
    if math.prod(shape) * np.dtype(dtype).itemsize < _MAPPED_BYTES:
        return array[order].astype(dtype)

    def pieces() -> Iterator[np.ndarray]:
        step = _step(shape[1:], dtype)
        for begin in range(0, len(order), step):
            yield array[order[begin : begin + step]].astype(dtype)

    rows = hashlib.sha256(order.astype(np.int64).tobytes()).hexdigest()
    recipe = {"file": files_digest([file], "the data"), "rows": rows, "dtype": np.dtype(dtype).str}
    return _mapped(recipe, shape, dtype, pieces)


def _step(shape: tuple[int, ...], dtype: type) -> int:
    """Rows of this shape that are held at a time."""
    return max(1, min(_ROWS, _BYTES // max(1, math.prod(shape) * np.dtype(dtype).itemsize)))


def _mapped(
    recipe: dict[str, Any], shape: tuple[int, ...], dtype: type, pieces: Callable[[], Iterator[np.ndarray]]
) -> np.ndarray:
    digest = hashlib.sha256(json.dumps({**recipe, "version": _VERSION}, sort_keys=True).encode()).hexdigest()
    path = download_root() / "own" / f"{digest[:24]}.npy"
    found = _opened(path, shape, dtype)
    if found is not None:
        return found

    failed: list[OSError] = []

    def read() -> Iterator[np.ndarray]:
        try:
            yield from pieces()
        except OSError as error:  # of what is read, not of the file that is written
            failed.append(error)
            raise

    def write(file: BinaryIO) -> None:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for piece in read():
            file.write(np.ascontiguousarray(piece, dtype).tobytes())

    try:
        write_atomically(path, write)
        found, reason = _opened(path, shape, dtype), f"{path} cannot be read again"
    except OSError as error:
        if failed:
            raise failed[0] from None
        reason = str(error)
    if found is None:
        warnings.warn(f"data is held in memory: {reason}", stacklevel=4)
        found = np.concatenate([np.empty((0, *shape[1:]), dtype), *pieces()])
    return found


def _opened(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray | None:
    """The array in a file, mapped so that what is written to it stays in memory; None if it is not there or damaged."""
    try:
        found = stored_array(path, "c")
    except ValueError:
        return None
    return found if found.shape == shape and found.dtype == dtype else None
