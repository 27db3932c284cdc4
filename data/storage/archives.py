"""Zip archives of pictures: what they hold is checked before any of it is read or written."""

import os
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

__all__ = ["member_bytes", "open_zip", "unpacked"]

# pictures of CelebA have some 10 KB and all of them 1.4 GB, those of PolyMNIST less, and networks lie beside them
_MEMBER_BYTES, _TOTAL_BYTES = 2**22, 2**33
# compressed bytes that are read at a time: methods without a bound of their own make 100 MB of them at most
_CHUNK = 4_096


def open_zip(path: Path, title: str) -> zipfile.ZipFile:
    """An archive none of whose members leads out of the folder into which it were unpacked.

    Args:
        path: The file.
        title: What messages call what it should be.

    Raises:
        ValueError: If it is damaged or no zip file, a member has an absolute path, climbs out of its folder or is a
            link, or all members together are larger than 8 GiB; the message names it and the member.
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
    total = sum(member.file_size for member in archive.infolist())
    if total > _TOTAL_BYTES:
        archive.close()
        raise ValueError(
            f"{path} is not {title}: its members have {total:,} bytes together, expected at most {_TOTAL_BYTES:,}; "
            "nothing was unpacked"
        )
    return archive


def member_bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    """What a member holds, a picture of at most 4 MiB.

    Raises:
        ValueError: If it is damaged or larger; the message names it and the archive.
    """
    size = archive.getinfo(name).file_size
    if size > _MEMBER_BYTES:
        raise ValueError(f"{name} in {archive.filename} must have at most {_MEMBER_BYTES:,} bytes, got {size:,}")
    try:
        with archive.open(name) as file:
            # no more than the size that is told, and to its end, which checks the CRC
            return b"".join(iter(lambda: file.read(_CHUNK), b""))
    except MemoryError:
        raise
    except Exception as error:  # of damaged bytes each method of compression raises an error of its own
        said = str(error) or type(error).__name__
        raise ValueError(f"{name} in {archive.filename} is damaged ({said}): fetch the archive again") from error


def unpacked(path: Path, folder: Path, keep: Callable[[PurePosixPath], bool], title: str) -> Path:
    """The folder with those files of an archive that are kept, unpacked unless it is there.

    It is filled under another name and takes its own when it is whole, so a run that is killed leaves nothing that
    looks like it, and the next one begins anew.

    Args:
        path: The archive.
        folder: Where its files go, side by side, whatever folders they have in the archive.
        keep: Whether to unpack the file with this path; what systems leave, `__MACOSX` and names with a dot before
            them, is never unpacked.
        title: What messages call the archive.

    Raises:
        OSError: If the folder cannot be written.
        ValueError: If nothing is kept, or two members have one name; else see `open_zip` and `member_bytes`.
    """
    if folder.is_dir():
        return folder
    with open_zip(path, title) as archive:
        names: dict[str, str] = {}
        for name in archive.namelist():
            inner = PurePosixPath(name)
            left = any(part.startswith(".") or part == "__MACOSX" for part in inner.parts)
            if name.endswith("/") or left or not keep(inner):
                continue
            if inner.name in names:
                raise ValueError(
                    f"{path} is not {title}: its members {names[inner.name]!r} and {name!r} would become one file; "
                    "nothing was unpacked"
                )
            names[inner.name] = name
        if not names:
            raise ValueError(f"{path} is not {title}: none of its {len(archive.namelist())} members is one to unpack")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            # the temporary folder is its owner's alone, one made within is as any other
            whole = Path(temporary) / folder.name
            whole.mkdir()
            for target, name in names.items():
                (whole / target).write_bytes(member_bytes(archive, name))
            try:
                os.rename(whole, folder)
            except OSError:
                # another process was first
                if not folder.is_dir():
                    raise
    return folder
