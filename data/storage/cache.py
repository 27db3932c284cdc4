"""Arrays that take long to compute, stored in the download folder in files that are complete or absent."""

import hashlib
import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from multipyro.data.storage.files import printable, remove_leftovers, write_atomically
from multipyro.data.storage.locations import download_root
from multipyro.data.storage.stored import stored_array, stored_arrays

__all__ = ["cached", "mapped"]

# bytes that a checksum is computed from at a time
_PIECE = 2**24
_CHECKSUM = "crc32:{:08x}\n"


def cached(
    folder: str, recipe: Mapping[str, Any], names: Sequence[str], build: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of a recipe, from the file of an earlier call, or built now.

    A file that is damaged, of another recipe or would run code is built again, with a warning; where the folder cannot
    be written, the arrays are built at every call.

    Args:
        folder: Name of the data set's folder in the download folder.
        recipe: What the arrays depend on, as plain values with an integer under `"version"`; its digest names the
            file, so another recipe is another file.
        names: Names of the arrays.
        build: Makes the arrays.
    """
    recipe = dict(recipe)
    path = download_root() / folder / f"v{recipe['version']}-{_digest(recipe)[:16]}.npz"
    arrays = _read(path, recipe, names)
    if arrays is None:
        arrays = build()
        try:
            remove_leftovers(path.parent)
            header = np.array(json.dumps(recipe))
            write_atomically(path, lambda file: np.savez(file, recipe=header, **arrays))
        except OSError as error:
            warnings.warn(f"{folder} is built at every call: {error}", stacklevel=3)
    return arrays


def mapped(
    folder: str,
    recipe: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: type,
    pieces: Callable[[], Iterator[np.ndarray]],
) -> np.ndarray:
    """An array that may be larger than memory: written once, piece by piece, then mapped from the file.

    Changes to the array stay in memory. Where no file can be written, the array is in memory, with a warning.

    Args:
        folder: Name of a folder in the download folder.
        recipe: What the array depends on, as plain values; its digest names the file.
        shape: Its shape.
        dtype: Its type.
        pieces: Makes it, some rows at a time.
    """
    path = download_root() / folder / f"{_digest(recipe)[:24]}.npy"
    array = _mapped(path, shape, dtype)
    if array is not None:
        return array
    failed: list[OSError] = []

    def made() -> Iterator[np.ndarray]:
        try:
            yield from pieces()
        except OSError as error:  # of the file as it is read, not of what is written
            failed.append(error)
            raise

    def write(file: BinaryIO) -> None:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        checksum = 0
        for piece in made():
            content = memoryview(np.ascontiguousarray(piece, dtype)).cast("B") if piece.size else b""
            checksum = zlib.crc32(content, checksum)
            file.write(content)
        file.write(_CHECKSUM.format(checksum).encode())

    try:
        remove_leftovers(path.parent)
        write_atomically(path, write)
        array, reason = _mapped(path, shape, dtype), f"{printable(path)} cannot be read again"
    except OSError as error:
        if failed:
            raise failed[0] from None
        reason = str(error)
    if array is None:
        warnings.warn(f"data is kept in memory: {reason}", stacklevel=4)
        array = np.concatenate([np.empty((0, *shape[1:]), dtype), *pieces()])
    return array


def _digest(recipe: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _read(path: Path, recipe: dict[str, Any], names: Sequence[str]) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    try:
        arrays = stored_arrays(path, ("recipe", *names))
        if json.loads(str(arrays.pop("recipe"))) != recipe:
            raise ValueError("it was made by another recipe")
    except ValueError as error:
        warnings.warn(f"{printable(path)} is damaged ({error}) and is built again", stacklevel=4)
        return None
    return arrays


def _mapped(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray | None:
    """The array in a file; None if it is not there or damaged."""
    try:
        array = stored_array(path, "c")
    except ValueError:
        return None
    if array.shape != shape or array.dtype != dtype:
        return None
    checksum, content = 0, array.reshape(-1).view(np.uint8) if array.size else array
    for begin in range(0, len(content), _PIECE):
        checksum = zlib.crc32(content[begin : begin + _PIECE], checksum)
    with path.open("rb") as file:
        file.seek(-len(_CHECKSUM.format(0)), 2)
        return array if file.read() == _CHECKSUM.format(checksum).encode() else None
