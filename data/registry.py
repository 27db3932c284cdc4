"""The data sets by name."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from multipyro.data.custom.toml import described
from multipyro.data.scenes.two_objects import one_object, scenes_missing, two_objects
from multipyro.data.sets.celeba import celeba, celeba_source
from multipyro.data.sets.cub import cub, cub_source
from multipyro.data.sets.digits import digits
from multipyro.data.sets.mnist import is_available, mnist
from multipyro.data.sets.mnist_fashion import fashion_found, mnist_fashion
from multipyro.data.sets.mnist_svhn import mnist_svhn, mnist_svhn_text
from multipyro.data.sets.polymnist import background_paths, polymnist, polymnist_source
from multipyro.data.sets.svhn import svhn_paths
from multipyro.data.splits import Splits
from multipyro.data.storage.roots import VARIABLE

__all__ = ["DATASETS", "DatasetInfo", "load_dataset"]


@dataclass(frozen=True)
class DatasetInfo:
    """A row of the table of data sets.

    Args:
        name: Name on the command line.
        title: What it is.
        modalities: Its modalities.
        rows: Rows to train, validate and test.
        default_given: The modalities that are given by default.
        default_targets: The modalities that are predicted by default.
        source: Where it comes from.
        license: Under which terms, as far as its owner states them.
        options: Option name -> default.
        load: Called as `load(seed=..., **options)`, with `data_root` if `on_disk`.
        on_disk: Whether it is read from files.
        missing: Called with a data root, says what is missing and what to do, or an empty string.

    Example:
        >>> DATASETS["digits"].rows
        (1297, 200, 300)
    """

    name: str
    title: str
    modalities: tuple[str, ...]
    rows: tuple[int, int, int]
    default_given: tuple[str, ...]
    default_targets: tuple[str, ...]
    source: str
    license: str
    options: dict[str, Any]
    load: Callable[..., Splits]
    on_disk: bool
    missing: Callable[[str | os.PathLike | None], str]


def _mnist_missing(data_root: str | os.PathLike | None) -> str:
    if is_available(data_root):
        return ""
    return f"not found: name a folder with MNIST/raw by --data-root or {VARIABLE}, or it is downloaded at first use"


def _polymnist_missing(data_root: str | os.PathLike | None) -> str:
    if polymnist_source(data_root) is not None:
        return ""
    try:
        background_paths(data_root)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return _mnist_missing(data_root)


def _mnist_fashion_missing(data_root: str | os.PathLike | None) -> str:
    if fashion_found(data_root):
        return _mnist_missing(data_root)
    return (
        f"not found: name a folder with FashionMNIST/raw by --data-root or {VARIABLE}, or it is downloaded at first use"
    )


def _absent(source: Callable[..., Any]) -> Callable[[str | os.PathLike | None], str]:
    """Says what a function that finds the files of a set misses."""

    def missing(data_root: str | os.PathLike | None) -> str:
        try:
            source(data_root)
        except FileNotFoundError as error:
            return str(error)
        return ""

    return missing


def _mnist_svhn_missing(data_root: str | os.PathLike | None) -> str:
    return _absent(svhn_paths)(data_root) or _mnist_missing(data_root)


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            "digits",
            "8x8 handwritten digits, their labels and their names",
            ("image", "label", "word"),
            (1_297, 200, 300),
            ("image",),
            ("label", "word"),
            "scikit-learn (embedded)",
            "CC BY 4.0 (UCI)",
            {},
            digits,
            False,
            lambda data_root: "",
        ),
        DatasetInfo(
            "mnist",
            "MNIST, 28x28, and labels",
            ("image", "label"),
            (50_000, 10_000, 10_000),
            ("label",),
            ("image",),
            "torchvision's files",
            "CC BY-SA 3.0",
            {"binarize": "dynamic", "word": False, "num_rows": None},
            mnist,
            True,
            _mnist_missing,
        ),
        DatasetInfo(
            "polymnist",
            "one digit in five hands over five photographs",
            ("m0", "m1", "m2", "m3", "m4"),
            (50_000, 10_000, 10_000),
            ("m0",),
            ("m1", "m2", "m3", "m4"),
            "the authors' pictures, or built from MNIST and five photographs",
            "that of MNIST and of the photographs",
            {"num_modalities": 5, "num_rows": None},
            polymnist,
            True,
            _polymnist_missing,
        ),
        DatasetInfo(
            "celeba",
            "CelebA, 64x64, and 40 attributes; 8,000 + 1,000 + 1,000 rows from the compact file",
            ("image", "attributes"),
            (162_770, 19_867, 19_962),
            ("image",),
            ("attributes",),
            "torchvision's files, or a compact one",
            "non-commercial research",
            {"form": "attributes", "likelihood": "bernoulli", "label": "Smiling", "crop": "center", "num_rows": None},
            celeba,
            True,
            _absent(celeba_source),
        ),
        DatasetInfo(
            "cub",
            "CUB, 64x64, and captions of birds; 21,120 + 2,340 + 5,870 rows from the compact file",
            ("image", "caption"),
            (79_700, 8_850, 29_330),
            ("image",),
            ("caption",),
            "MMVAE's files, Caltech's and Reed's, or compact ones",
            "non-commercial research",
            {"captions": "all", "crop": "whole", "features": None, "num_rows": None},
            cub,
            True,
            _absent(cub_source),
        ),
        DatasetInfo(
            "mnist-fashion",
            "MNIST and Fashion-MNIST, 28x28, joined on their label",
            ("image", "fashion", "label"),
            (49_046, 9_807, 9_786),
            ("label",),
            ("image", "fashion"),
            "torchvision's files",
            "CC BY-SA 3.0 (MNIST), MIT (Fashion-MNIST)",
            {"binarize": "dynamic", "pairs": 1, "num_rows": None},
            mnist_fashion,
            True,
            _mnist_fashion_missing,
        ),
        DatasetInfo(
            "mnist-svhn",
            "pairs of a written digit and a house number's; fewer rows from a selection of SVHN",
            ("mnist", "svhn"),
            (965_460, 139_360, 200_000),
            ("mnist",),
            ("svhn",),
            "torchvision's files",
            "CC BY-SA 3.0 (MNIST), non-commercial use (SVHN)",
            {"pairs": 20, "num_rows": None},
            mnist_svhn,
            True,
            _mnist_svhn_missing,
        ),
        DatasetInfo(
            "mnist-svhn-text",
            "the same pairs and the digit's name, which starts anywhere",
            ("mnist", "svhn", "text"),
            (965_460, 139_360, 200_000),
            ("mnist",),
            ("svhn", "text"),
            "torchvision's files",
            "CC BY-SA 3.0 (MNIST), non-commercial use (SVHN)",
            {"pairs": 20, "num_rows": None},
            mnist_svhn_text,
            True,
            _mnist_svhn_missing,
        ),
        DatasetInfo(
            "two-objects",
            "two objects in the manner of CLEVR, 112x112, rendered, and sentences of nine words",
            ("image", "text"),
            (90_000, 5_000, 5_000),
            ("text",),
            ("image",),
            "rendered by pyvista",
            "none: made here",
            {"size": 112, "num_rows": None, "likelihood": "beta"},
            two_objects,
            True,
            partial(scenes_missing, "two-objects"),
        ),
        DatasetInfo(
            "one-object",
            "one red or blue metal sphere, 112x112, rendered, and sentences of four words",
            ("image", "text"),
            (9_000, 500, 500),
            ("text",),
            ("image",),
            "rendered by pyvista",
            "none: made here",
            {"size": 112, "num_rows": None, "likelihood": "beta"},
            one_object,
            True,
            partial(scenes_missing, "one-object"),
        ),
    )
}


def load_dataset(name: str, data_root: str | os.PathLike | None = None, seed: int = 0, **options: Any) -> Splits:
    """Loads a data set by name.

    Args:
        name: A key of `DATASETS`, or a path that ends in `.toml`, of a description as `described` has it.
        data_root: Folder searched before all others; by default those of the environment variable `MULTIPYRO_DATA`.
        seed: Seed of whatever the data set draws once: fixed binarization, PolyMNIST's pairs and patches. Which rows
            train and which test never depends on it.
        **options: Options of the data set (`DATASETS[name].options`).

    Returns:
        The three parts, each with the options that load it again.

    Raises:
        ValueError: If the name or an option is unknown, or a file is damaged.
        FileNotFoundError: If the data is found nowhere or in part; the message says what to put where.

    Example:
        >>> splits = load_dataset("digits")
        >>> len(splits.train), sorted(splits.train.modalities)
        (1297, ['image', 'label', 'word'])
    """
    if name.endswith(".toml"):
        if options:
            raise ValueError(f"a description has no options, got {', '.join(options)}: say it in {name}")
        return described(name)
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: there are {', '.join(DATASETS)}, or a description FILE.toml")
    info = DATASETS[name]
    unknown = [option for option in options if option not in info.options]
    if unknown:
        raise ValueError(
            f"data set {name} has no option {', '.join(unknown)}: it has {', '.join(info.options) or 'none'}"
        )
    where = {"data_root": data_root} if info.on_disk else {}
    splits = info.load(seed=seed, **where, **options)
    chosen = {"seed": seed, **info.options, **options}
    return Splits(*(replace(getattr(splits, part), options=chosen) for part in Splits.NAMES))
