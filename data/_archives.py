"""Zip archives of pictures: what they hold is checked before any of it is read or written."""

import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

__all__ = ["member_bytes", "open_zip", "unpacked"]


def open_zip(path: Path, title: str) -> zipfile.ZipFile:
    """An archive none of whose members leads out of the folder into which it were unpacked.

    Args:
        path: The file.
        title: What messages call what it should be.

    Raises:
        ValueError: If it is damaged or no zip file, or a member has an absolute path, climbs out of its folder or is a
            link; the message names both.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged or not {title} ({error}): fetch it again") from error
    for member in archive.infolist():
        # a backslash parts folders on one system and is a letter on others
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        reason = None
        if parts.is_absolute() or PureWindowsPath(member.filename).drive:
            reason = "has an absolute path"
        elif ".." in parts.parts:
            reason = "climbs out of its folder"
        elif stat.S_ISLNK(member.external_attr >> 16):
            reason = "is a link"
        if reason is not None:
            archive.close()
            raise ValueError(f"{path} is not {title}: its member {member.filename!r} {reason}; nothing was unpacked")
    return archive


def member_bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    """What a member holds.

    Raises:
        ValueError: If it is damaged; the message names it and the archive.
    """
    try:
        return archive.read(name)  # reading a member to its end checks its CRC
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{name} in {archive.filename} is damaged ({error}): fetch the archive again") from error


def unpacked(path: Path, folder: Path, keep: Callable[[PurePosixPath], bool], title: str) -> Path:
    """The folder with those files of an archive that are kept, unpacked unless it is there.

    It is filled under another name and takes its own when it is whole, so a run that is killed leaves nothing that
    looks like it, and the next one begins anew.

    Args:
        path: The archive.
        folder: Where its files go, side by side, whatever folders they have in the archive.
        keep: Whether to unpack the file with this path.
        title: What messages call the archive.

    Raises:
        OSError: If the folder cannot be written.
        ValueError: See `open_zip` and `member_bytes`.
    """
    if folder.is_dir():
        return folder
    with open_zip(path, title) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and keep(PurePosixPath(name))]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            # the temporary folder is its owner's alone, one made within is as any other
            whole = Path(temporary) / folder.name
            whole.mkdir()
            for name in names:
                (whole / PurePosixPath(name).name).write_bytes(member_bytes(archive, name))
            try:
                os.rename(whole, folder)
            except OSError:
                # another process was first
                if not folder.is_dir():
                    raise
    return folder
