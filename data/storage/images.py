"""Image files, decoded to arrays of bytes, with bounded memory and without running anything from a file."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from multipyro._optional import optional_imports
from multipyro.data.storage.files import printable

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["center_crop", "decode_images", "eight_bits", "read_rgb", "resized", "usable_cores"]

_THREADS = 16
# Pillow passes other formats, such as EPS, to programs that it finds on the machine
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MOST_PIXELS = 2**26
# images of more pixels are decoded one at a time
_LARGE_PIXELS = 2**23
_LARGE = threading.Lock()
# rows of 16 bits that are converted together
_ROWS = 256


class _ImageError(ValueError):
    """The file is intact, but it cannot be used; the message says why."""


def decode_images(
    sources: Sequence[Path | bytes],
    names: Sequence[str],
    shape: tuple[int, int, int],
    prepare: "Callable[[Image.Image], Image.Image | np.ndarray] | None" = None,
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """Pixels uint8 `(rows, channels, height, width)` of images, decoded by several threads.

    Args:
        sources: Files, or their contents.
        names: Their names in messages.
        shape: Channels (1 for gray, 3 for color), height and width that each must have in the end.
        prepare: Crops and resizes an image with these channels; None if all have the size.
        boxes: Left, top, right and lower edge `(rows, 4)` of what is cut out of each image first; None for all of it.

    Raises:
        MemoryError: If there is not enough memory to decode one; the message names it.
        OSError: If the system does not let one be read; the message names it.
        ValueError: If one cannot be read as an image, is too large or has another size; the message names it.
    """
    with optional_imports("reading images"):
        import PIL.Image  # noqa: F401  before threads need it
    pixels = np.empty((len(sources), *shape), np.uint8)
    channels, height, width = shape

    def decode(row: int) -> None:
        name = printable(names[row])
        with _image_errors(name), _opened(sources[row]) as image:
            image = eight_bits(image).convert("L" if channels == 1 else "RGB")
        try:
            image = image if boxes is None else image.crop(tuple(map(int, boxes[row])))
            prepared = np.asarray(image if prepare is None else prepare(image))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if prepared.shape[:2] != (height, width):
            raise ValueError(f"{name} must have {width}x{height} pixels, got {prepared.shape[1]}x{prepared.shape[0]}")
        pixels[row] = prepared.reshape(height, width, channels).transpose(2, 0, 1)

    # Pillow decodes without Python's lock
    with ThreadPoolExecutor(min(_THREADS, usable_cores())) as pool:
        for _ in pool.map(decode, range(len(sources)), chunksize=64):
            pass
    return pixels


def read_rgb(path: Path) -> np.ndarray:
    """Pixels of one image file, uint8 `(height, width, 3)`.

    Raises:
        MemoryError: See `decode_images`.
        OSError: See `decode_images`.
        ValueError: See `decode_images`.
    """
    with _image_errors(printable(path)), _opened(path) as image:
        return np.array(eight_bits(image).convert("RGB"))


def usable_cores() -> int:
    """How many cores this process may use; all of the machine where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def eight_bits(image: "Image.Image") -> "Image.Image":
    """The image, in gray of 8 bits if it is one of 16; Pillow would make every value above 255 white.

    65535 becomes 255, and values between are rounded to the nearest byte.

    Raises:
        ValueError: If its gray values are integers or floats without a known maximum.
    """
    from PIL import Image

    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    gray = np.asarray(image)
    if image.format == "TIFF":  # it may have 12 bits in 16, or white as 0
        certain = (image.tag_v2.get(258), image.tag_v2.get(262)) == ((16,), 1)
    else:  # some readers of 16 bits return integers
        certain = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
    if image.mode == "F" or not certain or gray.min() < 0 or gray.max() > 65_535:
        raise _ImageError(
            f"gray of mode {image.mode!r} in a {image.format} file is not known to have 8 or 16 bits: convert it"
        )
    narrow = np.empty(gray.shape, np.uint8)
    for begin in range(0, len(gray), _ROWS):
        narrow[begin : begin + _ROWS] = (gray[begin : begin + _ROWS].astype(np.uint32) + 128) // 257
    return Image.fromarray(narrow)


def center_crop(image: "Image.Image", crop: int, side: int) -> "Image.Image":
    """The square of `crop` pixels in the middle, resized to `side` (bicubic).

    Raises:
        ValueError: If the image is smaller than the square.
    """
    width, height = image.size
    if min(width, height) < crop:
        raise ValueError(f"an image must have at least {crop}x{crop} pixels, got {width}x{height}")
    left, top = (width - crop) // 2, (height - crop) // 2
    # `resize` with a box would look beyond its edges
    return resized(image.crop((left, top, left + crop, top + crop)), side, side)


def resized(
    image: "Image.Image", width: int, height: int, interpolation: Literal["bilinear", "bicubic"] = "bicubic"
) -> "Image.Image":
    """The image at another size."""
    from PIL.Image import Resampling

    return image.resize((width, height), Resampling[interpolation.upper()])


@contextmanager
def _opened(source: Path | bytes) -> "Iterator[Image.Image]":
    """An image of a known format and a bounded size; large ones one at a time."""
    with optional_imports("reading images"):
        from PIL import Image
    # opening a pipe would block
    if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
        raise _ImageError("it is not a regular file")
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
        number = image.width * image.height
        if number > _MOST_PIXELS:
            raise _ImageError(f"it has {image.width}x{image.height} pixels, at most {_MOST_PIXELS:,} are read")
        with _LARGE if number > _LARGE_PIXELS else nullcontext():
            yield image


@contextmanager
def _image_errors(name: str) -> Iterator[None]:
    """Errors of reading an image, with the name of the file."""
    try:
        yield
    except _ImageError as error:
        raise ValueError(f"{name}: {error}") from error
    except MemoryError as error:
        raise MemoryError(f"not enough memory to decode {name}") from error
    except ModuleNotFoundError:
        raise
    except Exception as error:  # on damaged bytes the readers of Pillow may raise any exception
        # errors of the system have a number; those from damaged bytes, such as a seek out of range, have none
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise OSError(error.errno, f"{name} cannot be read: {error.strerror}") from error
        message = printable(str(error) or type(error).__name__)
        raise ValueError(f"{name} cannot be read as an image ({message}): replace it") from error
