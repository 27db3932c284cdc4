"""Files that are whole or not there at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["printable", "write_atomically"]

_CAUSES = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the folder is on a read-only file system",
}


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], object] | bytes | str) -> Path:
    """Writes a file so that a reader, or a run killed at any moment, finds the old one or the new one, never a part.

    The content goes to a temporary file in the same folder, is forced to the disk, and then takes the name.

    Args:
        path: The file; missing parent folders are made.
        write: Called with the open binary file; or the content itself, a string as UTF-8.

    Returns:
        The path.

    Raises:
        OSError: If the folder cannot be written or the disk is full; the message names the file, and what stood
            there before stays.

    Example:
        >>> write_atomically("results/numbers.txt", "1 2 3").read_text()
        '1 2 3'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            if callable(write):
                write(file)
            else:
                file.write(write.encode() if isinstance(write, str) else write)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            cause = _CAUSES.get(error.errno) or error.strerror or str(error)
            raise OSError(error.errno, f"cannot write {path}: {cause}; what stood there before is unchanged") from error
        raise
    return path


def printable(value: object) -> str:
    r"""The text of a value on one line, with the control characters that a terminal would obey escaped.

    Example:
        >>> print(printable("two" + chr(10) + "lines"))
        two\nlines
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
