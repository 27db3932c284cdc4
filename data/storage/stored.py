"""Arrays in `.npy` and `.npz` files, which may be damaged, other files under their name, or hostile."""

import itertools
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from multipyro.data.storage.files import printable

__all__ = ["read_arrays", "slices_of", "stored_array", "stored_arrays"]

# bytes that any file may unpack to, and the ratio to its own size that a larger one may reach
_SMALL, _RATIO = 2**26, 20


def stored_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a `.npz` file, all or those named, without running code from it.

    Raises:
        ValueError: If the file cannot be read, has another format, is damaged, does not have one of the arrays, or
            would unpack to far more than its own size.
    """
    try:
        # numpy does not close a damaged file that it has opened itself
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, not a .npz file")
            # reading a member to its end checks its CRC
            with stored:
                wanted = stored.files if names is None else names
                missing = [name for name in wanted if name not in stored.files]
                if missing:
                    raise ValueError(f"it has no array {missing[0]!r}")
                _check_size(stored.zip, path)
                return {name: stored[name] for name in wanted}
    except Exception as error:  # on damaged bytes zipfile, zlib and numpy may raise any exception
        raise ValueError(_message(error)) from error


def stored_array(path: Path, mmap_mode: str) -> np.ndarray:
    """The array of a `.npy` file, mapped, without running code from it.

    Raises:
        ValueError: If the file cannot be read, has another format or is damaged.
    """
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except Exception as error:  # as above
        raise ValueError(_message(error)) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("it is a .npz file, not a single array")
    return array


def read_arrays(path: Path, names: Sequence[str], title: str) -> dict[str, np.ndarray]:
    """Arrays of a `.npz` file of a published data set.

    Raises:
        ValueError: If the file is damaged or has not one of them; the message names it and calls it `title`.
    """
    try:
        return stored_arrays(path, names)
    except ValueError as error:
        raise ValueError(f"{printable(path)} is damaged or not {title} ({error}): download it again") from error


def slices_of(path: Path, joined: np.ndarray, offsets: np.ndarray, files: int) -> list[bytes]:
    """The contents of files that are stored one after the other in an array of bytes.

    Args:
        path: The file that contains the arrays, for messages.
        joined: Bytes of all files, uint8 `(bytes,)`.
        offsets: Where each begins, and where the last ends, `(files + 1,)`.
        files: Number of the files.

    Raises:
        ValueError: If the offsets do not divide the bytes into so many.
    """
    valid = joined.ndim == offsets.ndim == 1 and joined.dtype == np.uint8 and offsets.dtype.kind in "iu"
    valid = valid and len(offsets) == files + 1 and offsets[0] == 0 and offsets[-1] == len(joined)
    if not valid or (np.diff(offsets.astype(np.int64)) < 0).any():
        problem = f"the {offsets.size} offsets do not divide {joined.size} bytes into {files} images"
        raise ValueError(f"{path} is damaged ({problem}): download it again")
    return [joined[begin:end].tobytes() for begin, end in itertools.pairwise(offsets)]


def _check_size(archive: zipfile.ZipFile, path: Path) -> None:
    unpacked, packed = sum(member.file_size for member in archive.infolist()), path.stat().st_size
    if unpacked > max(_SMALL, _RATIO * packed):
        raise ValueError(f"its {packed:,} bytes would unpack to {unpacked:,}")


def _message(error: Exception) -> str:
    """The message of an error, or its name if it has none."""
    return str(error) or type(error).__name__
