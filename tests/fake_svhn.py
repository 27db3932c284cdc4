"""Small files laid out as SVHN, each image with a number of its own."""

import numpy as np
from scipy.io import savemat

TRAIN, TEST = 60, 30


def arrays(rows, first):
    """Pixels `(32, 32, 3, rows)` that tell the row's number, and classes from 1 to 10."""
    numbers = np.arange(first, first + rows)
    pixels = np.zeros((32, 32, 3, rows), np.uint8)
    pixels[0, 0, 0], pixels[1, 0, 0], pixels[0, 1, 0], pixels[0, 0, 1] = numbers, 10, 20, 30
    # more of the class 1 than of others, as in the real set
    classes = np.where(numbers % 3 == 0, 1, numbers % 10 + 1).astype(np.uint8)[:, None]
    return pixels, classes


def write_svhn(root, train=TRAIN, test=TEST, compressed=True):
    """Write both files as torchvision lays them out."""
    folder = root / "SVHN"
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, first in (("train", train, 0), ("test", test, train)):
        pixels, classes = arrays(rows, first)
        savemat(folder / f"{name}_32x32.mat", {"X": pixels, "y": classes}, do_compression=compressed)
    return folder
