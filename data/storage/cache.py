"""Arrays that take long to build, kept in the download folder as files that are whole or not there at all."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from multipyro.data.storage.files import write_atomically
from multipyro.data.storage.locations import download_root
from multipyro.data.storage.stored import stored_arrays

__all__ = ["cached"]


def cached(folder: str, recipe: Mapping[str, Any], build: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a recipe, from the file that an earlier call has left or built anew.

    A file that is damaged, of another recipe or would run code is built again, with a warning; where the folder cannot
    be written, the arrays are built at each call.

    Args:
        folder: Name of the data set's folder in the download folder.
        recipe: What the arrays depend on, as plain values with a whole number under `"version"`; its digest names the
            file, so another recipe is another file.
        build: Makes the arrays.
    """
    recipe = dict(recipe)
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    path = download_root() / folder / f"v{recipe['version']}-{digest}.npz"
    arrays = _read(path, recipe)
    if arrays is None:
        arrays = build()
        _write(path, recipe, arrays, folder)
    return arrays


def _read(path: Path, recipe: dict[str, Any]) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    try:
        arrays = stored_arrays(path)
        if json.loads(str(arrays.pop("recipe", "null"))) != recipe:
            raise ValueError("it was made by another recipe")
    except ValueError as error:
        warnings.warn(f"{path} is damaged ({error}) and is built again", stacklevel=4)
        return None
    return arrays


def _write(path: Path, recipe: dict[str, Any], arrays: dict[str, np.ndarray], folder: str) -> None:
    try:
        header = np.array(json.dumps(recipe))
        write_atomically(path, lambda file: np.savez(file, recipe=header, **arrays))
    except OSError as error:
        warnings.warn(f"{folder} is built anew each time: {error}", stacklevel=4)
