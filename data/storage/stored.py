"""Arrays in files that may be damaged, or other files under their name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["stored_array", "stored_arrays"]


def stored_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a `.npz` file, all or those named, without running code from it.

    Raises:
        ValueError: If the file cannot be read, is another one, is damaged, or lacks one of them.
    """
    try:
        # numpy leaves a damaged file open that it has opened itself
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, not a .npz file")
            # reading a member to its end checks its CRC
            with stored:
                return {name: stored[name] for name in (stored.files if names is None else names)}
    except Exception as error:  # of damaged bytes zipfile, zlib and numpy raise what they stumble over
        raise ValueError(_said(error)) from error


def stored_array(path: Path, mmap_mode: str) -> np.ndarray:
    """The array of a `.npy` file, mapped, without running code from it.

    Raises:
        ValueError: If the file cannot be read, is another one or is damaged.
    """
    try:
        found = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except Exception as error:  # as above
        raise ValueError(_said(error)) from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError("it is a .npz file, not a single array")
    return found


def _said(error: Exception) -> str:
    """What an error says; some say nothing but their name."""
    return str(error) or type(error).__name__
