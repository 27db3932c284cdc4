"""JPEG and PNG pictures of a whole data set as one array of bytes."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

__all__ = ["centre_crop", "decode_images", "slices_of"]

_THREADS = 16


def decode_images(
    sources: Sequence[Path | bytes],
    names: Sequence[str],
    side: int,
    prepare: Callable[[Image.Image], Image.Image | np.ndarray] | None = None,
) -> np.ndarray:
    """Pixels uint8 `(rows, 3, side, side)` of pictures, decoded by several threads.

    Args:
        sources: Files, or what they hold.
        names: What messages call them.
        side: Height and width that each must have in the end.
        prepare: Crops and resizes an RGB picture; None where all have the size.

    Raises:
        ValueError: If one cannot be read as an image or has another size; the message names it.
    """
    pixels = np.empty((len(sources), 3, side, side), np.uint8)

    def decode(row: int) -> None:
        source = sources[row]
        file: Path | BinaryIO = BytesIO(source) if isinstance(source, bytes) else source
        try:
            with Image.open(file) as image:
                found = np.asarray(image.convert("RGB") if prepare is None else prepare(image.convert("RGB")))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{names[row]} cannot be read as an image ({error}): fetch it again") from error
        except ValueError as error:
            raise ValueError(f"{names[row]}: {error}") from error
        if found.shape != (side, side, 3):
            raise ValueError(f"{names[row]} must have {side}x{side} pixels, got {found.shape[1]}x{found.shape[0]}")
        pixels[row] = found.transpose(2, 0, 1)

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


def slices_of(joined: np.ndarray, offsets: np.ndarray, rows: Iterable[int]) -> list[bytes]:
    """What the chosen files hold, of files that lie one after the other in an array of bytes.

    Args:
        joined: Bytes of all files, uint8 `(bytes,)`.
        offsets: Where each begins, and where the last ends, `(files + 1,)`.
        rows: Which files.

    Raises:
        ValueError: If the offsets do not divide the bytes.
    """
    sound = joined.ndim == offsets.ndim == 1 and joined.dtype == np.uint8 and offsets.dtype.kind in "iu"
    if not sound or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(joined) or (np.diff(offsets) < 0).any():
        raise ValueError(f"the offsets do not divide the {joined.size} bytes of the pictures")
    return [joined[offsets[row] : offsets[row + 1]].tobytes() for row in rows]
