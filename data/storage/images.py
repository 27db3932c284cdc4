"""JPEG and PNG pictures of a whole data set as one array of bytes."""

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from multipyro._optional import optional_imports
from multipyro.data.storage.stored import stored_arrays

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "GrayError",
    "center_crop",
    "decode_images",
    "eight_bits",
    "files_digest",
    "read_arrays",
    "read_rgb",
    "resized",
    "slices_of",
    "usable_cores",
]

_THREADS = 16


class GrayError(ValueError):
    """A picture is sound, and how bright its grays are is not known."""


def decode_images(
    sources: Sequence[Path | bytes],
    names: Sequence[str],
    shape: tuple[int, int, int],
    prepare: "Callable[[Image.Image], Image.Image | np.ndarray] | None" = None,
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """Pixels uint8 `(rows, channels, height, width)` of pictures, decoded by several threads.

    Args:
        sources: Files, or what they hold.
        names: What messages call them.
        shape: Channels (1 for gray, 3 for color), height and width that each must have in the end.
        prepare: Crops and resizes a picture of these channels; None where all have the size.
        boxes: Left, top, right and lower edge `(rows, 4)` of what is cut out of each picture first; None for all of it.

    Raises:
        MemoryError: If there is no memory to decode one; the message names it.
        OSError: If the system does not let one be read; the message names it.
        ValueError: If one cannot be read as an image or has another size; the message names it.
    """
    with optional_imports("reading images"):
        from PIL import Image
    pixels = np.empty((len(sources), *shape), np.uint8)
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"

    def decode(row: int) -> None:
        source = sources[row]
        file: Path | BinaryIO = BytesIO(source) if isinstance(source, bytes) else source
        try:
            with Image.open(file) as image:
                picture = eight_bits(image).convert(mode)
        except GrayError as error:
            raise ValueError(f"{names[row]}: {error}") from error
        except MemoryError as error:
            raise MemoryError(f"no memory is left to decode {names[row]}") from error
        except Exception as error:  # of damaged bytes the readers of Pillow raise what they stumble over
            # what the system says has a number; damaged bytes may send a reader to a place that is none
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise OSError(error.errno, f"{names[row]} cannot be read: {error.strerror}") from error
            said = str(error) or type(error).__name__
            raise ValueError(f"{names[row]} cannot be read as an image ({said}): fetch it again") from error
        try:
            picture = picture if boxes is None else picture.crop(tuple(map(int, boxes[row])))
            found = np.asarray(picture if prepare is None else prepare(picture))
        except ValueError as error:
            raise ValueError(f"{names[row]}: {error}") from error
        if found.shape[:2] != (height, width):
            raise ValueError(f"{names[row]} must have {width}x{height} pixels, got {found.shape[1]}x{found.shape[0]}")
        pixels[row] = found.reshape(height, width, channels).transpose(2, 0, 1)

    # Pillow decodes without Python's lock
    with ThreadPoolExecutor(min(_THREADS, usable_cores())) as pool:
        for _ in pool.map(decode, range(len(sources)), chunksize=64):
            pass
    return pixels


def usable_cores() -> int:
    """How many cores this process may use; all of the machine where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def eight_bits(image: "Image.Image") -> "Image.Image":
    """The picture, in gray of 8 bits if it is one of 16; Pillow would make all that is above 255 white.

    65535 becomes 255, and what is between is rounded to the nearest byte.

    Raises:
        GrayError: If its grays are whole numbers or floats of which nothing says how large white is.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    gray = np.asarray(image)
    if image.format == "TIFF":  # it may hold 12 bits in 16, or have white at 0
        certain = (image.tag_v2.get(258), image.tag_v2.get(262)) == ((16,), 1)
    else:  # some readers of 16 bits give whole numbers
        certain = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
    if image.mode == "F" or not certain or gray.min() < 0 or gray.max() > 65_535:
        raise GrayError(
            f"gray of mode {image.mode!r} in a file of {image.format} is not known to be of 8 or 16 bits: convert it"
        )
    from PIL import Image

    return Image.fromarray(((gray.astype(np.int64) + 128) // 257).astype(np.uint8))


def center_crop(image: "Image.Image", crop: int, side: int) -> "Image.Image":
    """The square of `crop` pixels in the middle, resized to `side` (bicubic).

    Raises:
        ValueError: If the picture is smaller than the square.
    """
    width, height = image.size
    if min(width, height) < crop:
        raise ValueError(f"a picture must have at least {crop}x{crop} pixels, got {width}x{height}")
    left, top = (width - crop) // 2, (height - crop) // 2
    # `resize` with a box would look beyond its edges
    return resized(image.crop((left, top, left + crop, top + crop)), side, side)


def resized(
    image: "Image.Image", width: int, height: int, interpolation: Literal["bilinear", "bicubic"] = "bicubic"
) -> "Image.Image":
    """The image at another size."""
    from PIL.Image import Resampling

    return image.resize((width, height), Resampling[interpolation.upper()])


def read_rgb(path: Path) -> np.ndarray:
    """Pixels of one image file, uint8 `(height, width, 3)`.

    Raises:
        ValueError: If the file cannot be read as an image; the message names it.
    """
    with optional_imports("reading images"):
        from PIL import Image
    try:
        with Image.open(path) as image:
            return np.array(eight_bits(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): replace it") from error


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
        return stored_arrays(path, names)
    except ValueError as error:
        raise ValueError(f"{path} is damaged or not {title} ({error}): fetch it again") from error


def files_digest(paths: Sequence[Path], title: str) -> str:
    """A digest of which files these are and when they changed, which stands for what they hold: that takes longer.

    Of each file it has the full path, the size, and the times when the content and when anything about it changed:
    unpacking and copying may set the first time to an old one, never the second. So a folder that is moved or unpacked
    again has another digest, and what is kept under the old one is made once more.

    Raises:
        FileNotFoundError: If files are not there; the message tells how many and names the first.
    """
    digest, absent = hashlib.sha256(), []
    folders: dict[Path, str] = {}  # those of many pictures are few, and resolving one takes longer than all else
    for path in paths:
        try:
            state = path.stat()
        except PermissionError:
            raise
        except (OSError, ValueError):  # a part of the path is a file, or no file can have such a name
            absent.append(path)
            continue
        if path.parent not in folders:
            folders[path.parent] = os.path.realpath(path.parent)
        told = (folders[path.parent], path.name, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        digest.update(f"{json.dumps(told)}\n".encode())
    if absent:
        raise FileNotFoundError(
            f"{title} is incomplete: {len(absent)} of {len(paths)} pictures lack, {absent[0]} first"
        )
    return digest.hexdigest()
