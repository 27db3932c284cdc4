"""Files that are complete or absent, bounded reads, and names that are safe to print."""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "files_digest",
    "printable",
    "read_bounded",
    "remove_leftovers",
    "temporary_folder",
    "write_atomically",
]

_CAUSES = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the folder is on a read-only file system",
}
# seconds within which a file may exist before its writer has locked it
_UNLOCKED = 1.0


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], object] | bytes | str) -> Path:
    """Writes a file atomically: a reader gets the old content or the new one, even if the process is killed.

    The content goes to a temporary file in the same folder, is flushed to the disk, and then renamed. Temporary files
    of killed processes are removed by `remove_leftovers`.

    Args:
        path: The file; missing parent folders are created.
        write: Called with the open binary file; or the content itself, a string as UTF-8.

    Returns:
        The path.

    Raises:
        OSError: If the folder cannot be written or the disk is full; the message names the file, whose old content
            stays.

    Example:
        >>> write_atomically("results/numbers.txt", "1 2 3").read_text()
        '1 2 3'
    """
    path = Path(path)
    temporary = path.with_name(_temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            _lock(file.fileno())
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
            message = f"cannot write {printable(path)}: {cause}; an earlier file of this name is unchanged"
            raise OSError(error.errno, message) from error
        raise
    return path


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A temporary folder for files that must appear together: rename it when it is complete, else it is removed.

    Args:
        parent: The folder in which it is created; created if it is missing.
        name: Part of its name.

    Raises:
        OSError: If the folder cannot be written.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    folder = parent / _temporary_name(name)
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files and folders of writers that were killed; those of running ones are locked and stay."""
    with contextlib.suppress(OSError):
        for path in folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                _remove_unlocked(path)


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a file, unpacked if its name ends in `.gz`.

    Args:
        path: The file.
        most: Number of bytes that it may have; no more than one byte beyond is read or unpacked.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is larger, damaged or truncated; the message names it.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(most + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{printable(path)} is truncated or damaged ({error}): download it again") from error
    if len(content) > most:
        raise ValueError(f"{printable(path)} must have at most {most:,} bytes unpacked, it has more")
    return content


def files_digest(paths: Sequence[Path], title: str) -> str:
    """A digest of the paths, sizes and times of files, which is faster than hashing their content.

    It depends on the full path and the size of each file, and on the times when its content and its metadata changed:
    unpacking and copying may set the first time to an old one, never the second. So a folder that is moved or unpacked
    again has another digest, and what is stored under the old one is made once more.

    Raises:
        FileNotFoundError: If files are missing; the message counts them and names the first.
        ValueError: If a path is not a regular file, such as a pipe that would block.
    """
    digest, missing = hashlib.sha256(), []
    folders: dict[Path, str] = {}  # many images are in few folders, and resolving a folder takes the most time
    for path in paths:
        try:
            state = path.stat()
        except PermissionError:
            raise
        except (OSError, ValueError):  # a part of the path is a file, or the name is invalid
            missing.append(path)
            continue
        if not stat.S_ISREG(state.st_mode):
            raise ValueError(f"{printable(path)} is not a regular file")
        if path.parent not in folders:
            folders[path.parent] = os.path.realpath(path.parent)
        facts = (folders[path.parent], path.name, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        digest.update(f"{json.dumps(facts)}\n".encode())
    if missing:
        raise FileNotFoundError(
            f"{title} is incomplete: {len(missing)} of {len(paths)} files are missing (first: {printable(missing[0])})"
        )
    return digest.hexdigest()


def printable(value: object) -> str:
    r"""The text of a value on one line, with control characters, which a terminal would interpret, escaped.

    Example:
        >>> print(printable("two" + chr(10) + "lines"))
        two\nlines
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def _temporary_name(name: str) -> str:
    return f".{name[:100]}.{secrets.token_hex(8)}.part"


def _lock(descriptor: int) -> None:
    """Locks a file or folder for as long as it is open; the system releases the lock of a killed process."""
    with contextlib.suppress(OSError):  # some network file systems have no locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        state = os.fstat(descriptor)
        if time.time() - state.st_mtime < _UNLOCKED:
            return
        if stat.S_ISDIR(state.st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    finally:
        os.close(descriptor)
