"""Files that are whole or not there at all."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["write_atomically"]


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], object] | bytes | str) -> Path:
    """Writes a file so that a reader, or a run killed at any moment, finds the old one or the new one, never a part.

    The content goes to a temporary file in the same folder, is forced to the disk, and then takes the name.

    Args:
        path: The file; missing parent folders are made.
        write: Called with the open binary file; or the content itself.

    Raises:
        OSError: If the folder cannot be written or the disk is full; the message names the file, and what stood
            there before stays.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            if callable(write):
                write(file)
            else:
                file.write(write.encode() if isinstance(write, str) else write)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # a temporary file is made for its owner alone
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            cause = "no space is left on the device" if error.errno == errno.ENOSPC else error.strerror or str(error)
            raise OSError(error.errno, f"cannot write {path}: {cause}; what stood there before is unchanged") from error
        raise
    return path
