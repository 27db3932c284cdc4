"""Downloads that leave a complete data set or nothing."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from multipyro.data.storage.files import temporary_folder
from multipyro.data.storage.locations import download_root

__all__ = ["fetch"]


def fetch(folder: str, names: Sequence[str], download: Callable[[Path], Path], missing: str) -> None:
    """Downloads into a temporary folder, which takes its name in the download folder when all files are there.

    An interrupted download never leaves a partial data set.

    Args:
        folder: Folder of the data set below the download folder.
        names: Files that the data set needs; others are not kept.
        download: Downloads into the folder that it is given, and returns the one that contains the files.
        missing: Beginning of the message of an error.

    Raises:
        FileNotFoundError: If the download fails or a file is missing; the message continues with the reason.
    """
    target = download_root() / folder
    try:
        with temporary_folder(download_root(), Path(folder).parts[0]) as temporary:
            downloaded, complete = download(temporary), temporary / ".complete"
            complete.mkdir()
            for name in names:
                os.replace(downloaded / name, complete / name)
            _place(complete, target)
    # torchvision, and what it imports, raise various exceptions for a refused download or a wrong md5
    except Exception as error:
        raise FileNotFoundError(f"{missing} (the download failed: {error})") from error


def _place(complete: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # one step, so that a process killed at any moment leaves all files or none
        os.rename(complete, target)
    except OSError:
        # another process was first, or another file has the name
        target.mkdir(exist_ok=True)
        for path in complete.iterdir():
            os.replace(path, target / path.name)
