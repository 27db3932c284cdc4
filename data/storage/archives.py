"""Zip archives of images, read and unpacked with bounds on what they may contain."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from multipyro.data.storage.files import printable, temporary_folder

__all__ = ["member_bytes", "open_zip", "unpacked"]

# images of CelebA have about 10 KB each and 1.4 GB in all, those of PolyMNIST less; both archives contain networks too
_MEMBER_BYTES, _TOTAL_BYTES = 2**22, 2**33
# compressed bytes that are read at a time: methods without a bound of their own make 100 MB of them at most
_CHUNK = 4_096


def open_zip(path: Path, title: str) -> zipfile.ZipFile:
    """An archive of at most 8 GiB.

    Args:
        path: The file.
        title: What it should be, in messages.

    Raises:
        ValueError: If it is damaged or not a zip file, or its members together are larger; the message names it.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{printable(path)} is damaged or not {title} ({error}): download it again") from error
    total = sum(member.file_size for member in archive.infolist())
    if total > _TOTAL_BYTES:
        archive.close()
        raise ValueError(
            f"{printable(path)} is not {title}: its members have {total:,} bytes together, expected at most "
            f"{_TOTAL_BYTES:,}; nothing was unpacked"
        )
    return archive


def member_bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a member, an image of at most 4 MiB.

    Raises:
        ValueError: If it is damaged or larger; the message names it and the archive.
    """
    size, title = archive.getinfo(name).file_size, f"{printable(name)} in {printable(archive.filename)}"
    if size > _MEMBER_BYTES:
        raise ValueError(f"{title} must have at most {_MEMBER_BYTES:,} bytes, got {size:,}")
    try:
        with archive.open(name) as file:
            # no more than the announced size is unpacked, and to its end, which checks the CRC
            return b"".join(iter(lambda: file.read(_CHUNK), b""))
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes each method of compression raises a different exception
        message = str(error) or type(error).__name__
        raise ValueError(f"{title} is damaged ({message}): download the archive again") from error


def unpacked(path: Path, folder: Path, keep: Callable[[PurePosixPath], bool], title: str) -> Path:
    """The folder with those files of an archive that are kept, unpacked unless it exists.

    It is filled under a temporary name and renamed when it is complete, so a killed process never leaves a partial
    folder under this name.

    Args:
        path: The archive.
        folder: Where its files go, side by side: only the last part of a member's path is used, so none can be written
            outside the folder, and links become files.
        keep: Whether to unpack the file with this path; what systems leave, `__MACOSX` and names that begin with a dot,
            is never unpacked.
        title: Name of the archive in messages.

    Raises:
        OSError: If the folder cannot be written.
        ValueError: If nothing is kept, or two members have one name; see also `open_zip` and `member_bytes`.
    """
    if folder.is_dir():
        return folder
    with open_zip(path, title) as archive:
        names: dict[str, str] = {}
        for name in archive.namelist():
            inner = PurePosixPath(name)
            skipped = any(part.startswith(".") or part == "__MACOSX" for part in inner.parts)
            if name.endswith("/") or skipped or not keep(inner):
                continue
            if inner.name in names:
                raise ValueError(
                    f"{printable(path)} is not {title}: its members {names[inner.name]!r} and {name!r} would become "
                    "one file; nothing was unpacked"
                )
            names[inner.name] = name
        if not names:
            raise ValueError(f"{printable(path)} is not {title}: it has none of the files that are needed")
        with temporary_folder(folder.parent, folder.name) as temporary:
            for target, name in names.items():
                (temporary / target).write_bytes(member_bytes(archive, name))
            try:
                os.rename(temporary, folder)
            except OSError:
                # another process was first
                if not folder.is_dir():
                    raise
    return folder
