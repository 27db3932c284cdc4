"""Images and arrays of user-defined data, prepared once and mapped from a file, so that they may exceed memory."""

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from multipyro.data.scaling import Scaling
from multipyro.data.storage.cache import mapped
from multipyro.data.storage.files import files_digest, printable
from multipyro.data.storage.images import decode_images, resized

__all__ = ["mapped_images", "mapped_rows"]

_FOLDER = "user-defined"
# part of the recipe, whose digest names the file: increase it whenever the way of making files changes
_VERSION = 3
# maximum number of rows in memory at a time; fewer if they are large
_ROWS, _BYTES = 1_024, 2**28
# smaller arrays are read into memory
_MAPPED_BYTES = 2**26


def mapped_images(files: Sequence[Path | None], shape: tuple[int, int, int]) -> np.ndarray:
    """Images resized to `(channels, height, width)`, uint8 `(rows, *shape)`; zeros where there is no file.

    Raises:
        FileNotFoundError: If an image is missing.
        ValueError: If a file cannot be read as an image; the message names it.
    """
    named = [file for file in files if file is not None]
    present = hashlib.sha256(bytes(file is not None for file in files)).hexdigest()
    recipe = {"images": files_digest(named, "the table"), "present": present, "shape": shape, "version": _VERSION}
    resize = functools.partial(resized, width=shape[2], height=shape[1])

    def pieces() -> Iterator[np.ndarray]:
        step = _step(shape, np.uint8)
        for begin in range(0, len(files), step):
            part = files[begin : begin + step]
            rows = [row for row, file in enumerate(part) if file is not None]
            pixels = np.zeros((len(part), *shape), np.uint8)
            pixels[rows] = decode_images([part[row] for row in rows], [str(part[row]) for row in rows], shape, resize)
            yield pixels

    return mapped(_FOLDER, recipe, (len(files), *shape), np.uint8, pieces)


def mapped_rows(
    file: Path, array: np.ndarray, order: np.ndarray, dtype: type, scaling: Scaling | None = None
) -> np.ndarray:
    """The rows `order` of an array in a file, converted and scaled; mapped from another file if they are many.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    shape = (len(order), *array.shape[1:])

    def converted(rows: np.ndarray) -> np.ndarray:
        values = array[rows].astype(dtype)
        if scaling is None:
            return values
        columns = torch.from_numpy(values.reshape(len(values), -1) if values.ndim == 1 else values)
        return scaling.to_scaled(columns, columns.dim() - 1).reshape(values.shape).numpy()

    if math.prod(shape) * np.dtype(dtype).itemsize < _MAPPED_BYTES:
        return converted(order)

    def pieces() -> Iterator[np.ndarray]:
        step = _step(shape[1:], dtype)
        for begin in range(0, len(order), step):
            yield converted(order[begin : begin + step])

    recipe = {
        "file": files_digest([file], printable(file)),
        "rows": hashlib.sha256(order.astype(np.int64).tobytes()).hexdigest(),
        "dtype": np.dtype(dtype).str,
        "scaling": None if scaling is None else asdict(scaling),
        "version": _VERSION,
    }
    return mapped(_FOLDER, recipe, shape, dtype, pieces)


def _step(shape: tuple[int, ...], dtype: type) -> int:
    """Number of rows of this shape that are in memory at a time."""
    return max(1, min(_ROWS, _BYTES // max(1, math.prod(shape) * np.dtype(dtype).itemsize)))
