"""Faces that OpenCV's Haar cascade finds in images; OpenCV is imported when some are searched: the extra `[faces]`."""

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from multipyro._optional import optional_imports
from multipyro.data.storage.cache import cached
from multipyro.data.storage.files import files_digest
from multipyro.data.storage.images import decode_images, usable_cores

__all__ = ["Box", "boxes_digest", "face_crop", "find_faces"]

#: Left, top, right and lower edge; the last two are outside.
Box = tuple[int, int, int, int]
_Detector = Callable[[np.ndarray], np.ndarray]

# part of what names a file: other detections are other files
_VERSION = 1
_FILTER = {"cascade": "haarcascade_frontalface_alt.xml", "scale": 1.2, "neighbors": 2, "least": 10}
# images whose detections are in one file, so that an interrupted search continues from there
_PIECE = 200


def face_crop(detection: Sequence[int], width: int, height: int) -> Box | None:
    """The square around a detection that JMVAE cuts out, or None where it drops the face.

    The detection is enlarged to 1.3 times its sides about its center, and its corners are rounded down to whole pixels.
    It is dropped if a corner is negative; what extends beyond the right or the lower edge is cut off; then it is
    dropped if it is not higher than 0.4 of the image.

    Args:
        detection: Left and upper edge, width and height of a detection.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        The edges, or None.

    Example:
        >>> face_crop((40, 60, 100, 100), 178, 218)
        (25, 45, 155, 175)
        >>> face_crop((40, 10, 100, 100), 178, 218) is None  # its upper edge is -5
        True
    """
    left, top, wide, high = map(int, detection)
    # in integers, because 0.15 * 20 may be more than 3
    edges = (left - -(-3 * wide // 20), top - -(-3 * high // 20))
    edges += (min(left + wide + 3 * wide // 20, width), min(top + high + 3 * high // 20, height))
    if min(edges) < 0 or 5 * (edges[3] - edges[1]) <= 2 * height:
        return None
    return edges


def find_faces(
    parts: Sequence[Sequence[Path]], width: int, height: int, num_rows: int | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The faces in the images of each part, in the order of its images and, within one, from the left.

    Images are searched 200 at a time, and the detections are stored in the download folder: an interrupted search
    continues from there, and one for some rows ends when it has them.

    Args:
        parts: Files of each part.
        width: Width of every image in pixels.
        height: Height of every image in pixels.
        num_rows: Largest number of faces of each part; None for all.

    Returns:
        For each part, which of its images each face is in, int64 `(faces,)`, and its edges, int64 `(faces, 4)`.

    Raises:
        FileNotFoundError: If images are missing.
        ImportError: If images have not been searched yet and OpenCV cannot be imported.
        ValueError: If an image cannot be read or has another size; the message names it.
    """
    if num_rows is None:  # before anything slow
        files_digest([path for paths in parts for path in paths], "CelebA")
    # about so many images are needed for some rows
    needed = math.inf if num_rows is None else _PIECE * math.ceil(num_rows / _PIECE)
    total = sum(min(len(paths), needed) for paths in parts)
    with optional_imports("a progress bar"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    columns = (TextColumn("looking for faces"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done, results = 0, []
    with ExitStack() as stack:

        @cache
        def start() -> tuple[_Detector, Callable[[int], None]]:
            detect, progress = _detector(), stack.enter_context(Progress(*columns, console=Console(stderr=True)))
            bar = progress.add_task("", total=total, completed=done)
            return detect, lambda now: progress.update(bar, completed=now)

        for paths in parts:
            faces: list[tuple[int, Box]] = []
            for begin in range(0, len(paths), _PIECE):
                if num_rows is not None and len(faces) >= num_rows:
                    break
                piece = paths[begin : begin + _PIECE]
                for row, box in _detections(piece, width, height, lambda: start()[0]):
                    edges = face_crop(box, width, height)
                    faces += [] if edges is None else [(begin + row, edges)]
                done += len(piece)
                if start.cache_info().currsize:
                    start()[1](done)
            faces = faces[:num_rows]
            boxes = np.array([box for _, box in faces], np.int64).reshape(-1, 4)
            results.append((np.array([row for row, _ in faces], np.int64), boxes))
    return results


def boxes_digest(boxes: np.ndarray) -> str:
    """A digest of the edges of faces."""
    return hashlib.sha256(np.ascontiguousarray(boxes, np.int64).tobytes()).hexdigest()


def _detections(
    paths: Sequence[Path], width: int, height: int, start: Callable[[], _Detector]
) -> Iterator[tuple[int, list[int]]]:
    """Which image each detection is in, and its left and upper edge, width and height; the detector starts late."""

    def build() -> dict[str, np.ndarray]:
        detect = start()
        images = decode_images(paths, list(map(str, paths)), (1, height, width))[:, 0]
        with ThreadPoolExecutor(usable_cores()) as pool:
            detected = [np.asarray(boxes, np.int64).reshape(-1, 4) for boxes in pool.map(detect, images)]
        return {"image": np.repeat(np.arange(len(paths)), list(map(len, detected))), "box": np.concatenate(detected)}

    recipe = {"version": _VERSION, **_FILTER, "images": files_digest(paths, "CelebA"), "size": [width, height]}
    arrays = cached("CelebA/faces", recipe, ("image", "box"), build)
    return zip(arrays["image"].tolist(), arrays["box"].tolist(), strict=True)


def _detector() -> _Detector:
    """A function that finds faces in a gray image uint8 `(height, width)`; several threads may call it."""
    cv2 = _opencv()
    threads = threading.local()

    def detect(image: np.ndarray) -> np.ndarray:
        if not hasattr(threads, "cascade"):  # a cascade keeps state during a search
            threads.cascade = cv2.CascadeClassifier(cv2.data.haarcascades + _FILTER["cascade"])
        boxes = threads.cascade.detectMultiScale(
            image,
            scaleFactor=_FILTER["scale"],
            minNeighbors=_FILTER["neighbors"],
            minSize=(_FILTER["least"], _FILTER["least"]),
        )
        # threads within OpenCV return them in any order
        return np.array(sorted(map(tuple, boxes)), np.int64).reshape(-1, 4)

    return detect


def _opencv() -> ModuleType:
    try:
        import cv2

        if not (Path(cv2.data.haarcascades) / _FILTER["cascade"]).is_file() or not hasattr(cv2, "CascadeClassifier"):
            raise ImportError(f"version {cv2.__version__} has no Haar cascades")
    except (ImportError, AttributeError) as error:  # some builds leave out `cv2.data`
        raise ImportError(
            f"faces are found by OpenCV below 5, which cannot be used ({error}): "
            'pip install "multipyro[faces]", or choose another crop'
        ) from error
    return cv2
