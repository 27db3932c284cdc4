"""JPEG and PNG pictures of a whole data set as one array of bytes."""

import hashlib
import itertools
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

__all__ = ["centre_crop", "decode_images", "files_digest", "read_arrays", "slices_of"]

_THREADS = 16


def decode_images(
    sources: Sequence[Path | bytes],
    names: Sequence[str],
    shape: tuple[int, int, int],
    prepare: Callable[[Image.Image], Image.Image | np.ndarray] | None = None,
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """Pixels uint8 `(rows, channels, height, width)` of pictures, decoded by several threads.

    Args:
        sources: Files, or what they hold.
        names: What messages call them.
        shape: Channels (1 for grey, 3 for colour), height and width that each must have in the end.
        prepare: Crops and resizes a picture of these channels; None where all have the size.
        boxes: Left, top, right and lower edge `(rows, 4)` of what is cut out of each picture first; None for all of it.

    Raises:
        ValueError: If one cannot be read as an image or has another size; the message names it.
    """
    pixels = np.empty((len(sources), *shape), np.uint8)
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"

    def decode(row: int) -> None:
        source = sources[row]
        file: Path | BinaryIO = BytesIO(source) if isinstance(source, bytes) else source
        try:
            with Image.open(file) as image:
                picture = image.convert(mode)
                picture = picture if boxes is None else picture.crop(tuple(map(int, boxes[row])))
                found = np.asarray(picture if prepare is None else prepare(picture))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{names[row]} cannot be read as an image ({error}): fetch it again") from error
        except ValueError as error:
            raise ValueError(f"{names[row]}: {error}") from error
        if found.shape[:2] != (height, width):
            raise ValueError(f"{names[row]} must have {width}x{height} pixels, got {found.shape[1]}x{found.shape[0]}")
        pixels[row] = found.reshape(height, width, channels).transpose(2, 0, 1)

    # Pillow decodes without Python's lock
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(len(sources)), chunksize=64):
            pass
    return pixels


def centre_crop(image: Image.Image, crop: int, side: int) -> Image.Image:
    """The square of `crop` pixels in the middle, resized to `side` (bicubic).

    Raises:
        ValueError: If the picture is smaller than the square.
    """
    width, height = image.size
    if min(width, height) < crop:
        raise ValueError(f"a picture must have at least {crop}x{crop} pixels, got {width}x{height}")
    left, top = (width - crop) // 2, (height - crop) // 2
    # `resize` with a box would look beyond its edges
    return image.crop((left, top, left + crop, top + crop)).resize((side, side), Image.Resampling.BICUBIC)


def slices_of(joined: np.ndarray, offsets: np.ndarray, files: int) -> list[bytes]:
    """What files hold that lie one after the other in an array of bytes.

    Args:
        joined: Bytes of all files, uint8 `(bytes,)`.
        offsets: Where each begins, and where the last ends, `(files + 1,)`.
        files: Number of the files.

    Raises:
        ValueError: If the offsets do not divide the bytes into so many.
    """
    sound = joined.ndim == offsets.ndim == 1 and joined.dtype == np.uint8 and offsets.dtype.kind in "iu"
    sound = sound and len(offsets) == files + 1 and offsets[0] == 0 and offsets[-1] == len(joined)
    if not sound or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise ValueError(f"the {offsets.size} offsets do not divide {joined.size} bytes into {files} pictures")
    return [joined[begin:end].tobytes() for begin, end in itertools.pairwise(offsets)]


def read_arrays(path: Path, names: Sequence[str], title: str) -> dict[str, np.ndarray]:
    """Arrays of a `.npz` file, without running code from it.

    Raises:
        ValueError: If the file is damaged or lacks one of them; the message names it and calls it `title`.
    """
    try:
        # numpy leaves a damaged file open that it has opened itself
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            # reading a member to its end checks its CRC
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or not {title} ({error}): fetch it again") from error


def files_digest(paths: Sequence[Path], title: str) -> str:
    """A digest of names, sizes and times of change, which stand for what the files hold: that takes longer to read.

    Raises:
        FileNotFoundError: If files are not there; the message tells how many and names the first.
    """
    digest, absent = hashlib.sha256(), []
    for path in paths:
        try:
            state = path.stat()
        except FileNotFoundError:
            absent.append(path)
        else:
            digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    if absent:
        raise FileNotFoundError(
            f"{title} is incomplete: {len(absent)} of {len(paths)} pictures lack, {absent[0]} first"
        )
    return digest.hexdigest()
