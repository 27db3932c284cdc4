"""Downloads that leave a whole set or nothing."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from multipyro.data.storage.locations import download_root

__all__ = ["fetch"]


def fetch(folder: str, names: Sequence[str], download: Callable[[Path], Path], absent: str) -> None:
    """Downloads to a temporary folder, which takes its name in the download folder when all files are there.

    A download that breaks off leaves nothing that looks like the set.

    Args:
        folder: Folder of the set below the download folder.
        names: Files that the set needs; others are not kept.
        download: Downloads into the folder that it is given, and returns the one that holds the files.
        absent: What an error says first.

    Raises:
        FileNotFoundError: If the download fails or lacks a file; the message goes on to say why.
    """
    target = download_root() / folder
    try:
        download_root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{Path(folder).parts[0]}-", dir=download_root()) as temporary:
            found, whole = download(Path(temporary)), Path(temporary) / ".whole"
            whole.mkdir()
            for name in names:
                os.replace(found / name, whole / name)
            _place(whole, target)
    # of a refusal or a wrong md5, torchvision and what it imports raise classes of their own
    except Exception as error:
        raise FileNotFoundError(f"{absent} (the download failed: {error})") from error


def _place(whole: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # one step, so that a run killed at any moment leaves all files or none
        os.rename(whole, target)
    except OSError:
        # another process was first, or something else lies there
        target.mkdir(exist_ok=True)
        for path in whole.iterdir():
            os.replace(path, target / path.name)
