"""The table of published data sets, and loading them by name."""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from multipyro.data.custom import is_data_file, load_file
from multipyro.data.modality import Modality
from multipyro.data.scenes.two_objects import load_scenes, scenes_missing
from multipyro.data.sets.celeba import celeba_source, load_celeba
from multipyro.data.sets.cub import cub_source, load_cub
from multipyro.data.sets.digits import load_digits
from multipyro.data.sets.mnist import MNIST_FILES, load_mnist
from multipyro.data.sets.mnist_fashion import FASHION_FILES, load_mnist_fashion
from multipyro.data.sets.mnist_svhn import load_mnist_svhn
from multipyro.data.sets.polymnist import background_paths, load_polymnist, polymnist_source
from multipyro.data.sets.svhn import svhn_paths
from multipyro.data.splits import Splits
from multipyro.data.storage.idx import idx_is_available
from multipyro.data.storage.locations import VARIABLE, roots

__all__ = ["DATASETS", "DatasetInfo", "load_dataset"]


# parameters of loading functions that are no options: `text` is fixed by the name of the data set
_OTHER_PARAMETERS = ("data_root", "seed", "download", "processes", "text")


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """An entry of the table of data sets.

    Args:
        name: Name for `load_dataset` and the command line.
        title: One line about the content.
        modalities: Names of the modalities with default options.
        rows: Number of examples for training, validation and test.
        default_given: The modalities that are conditioned on by default.
        default_targets: The modalities that are predicted by default.
        source: Where the data comes from.
        license: License, as far as the owners state one.
        load: Called as `load(seed=..., **options)`, with `data_root=...` if it has this parameter.
        missing: Called with a data root; returns which files are missing and what to do, or an empty string.

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
    load: Callable[..., Splits]
    missing: Callable[[str | os.PathLike | None], str]

    @property
    def options(self) -> dict[str, Any]:
        """Option name -> default: the parameters of `load`, but for those that say where and how it reads."""
        parameters = inspect.signature(self.load).parameters
        return {name: one.default for name, one in parameters.items() if name not in _OTHER_PARAMETERS}


def _not_found(folder: str) -> str:
    return (
        f"not found: name a folder that contains {folder} with --data-root or {VARIABLE}, or let it be downloaded at "
        "first use"
    )


def _mnist_missing(data_root: str | os.PathLike | None) -> str:
    return "" if idx_is_available(MNIST_FILES, data_root) else _not_found("MNIST/raw")


def _mnist_fashion_missing(data_root: str | os.PathLike | None) -> str:
    found = idx_is_available(FASHION_FILES, data_root)
    return _mnist_missing(data_root) if found else _not_found("FashionMNIST/raw")


def _polymnist_missing(data_root: str | os.PathLike | None) -> str:
    if polymnist_source(data_root) is not None:
        return ""
    try:
        background_paths(data_root)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return _mnist_missing(data_root)


def _mnist_svhn_missing(data_root: str | os.PathLike | None) -> str:
    return _missing(svhn_paths, data_root) or _mnist_missing(data_root)


def _missing(find_source: Callable[..., Any], data_root: str | os.PathLike | None) -> str:
    """The message of the `FileNotFoundError` raised by a search for a data set, or an empty string."""
    try:
        find_source(data_root)
    except FileNotFoundError as error:
        return str(error)
    return ""


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            title="8x8 handwritten digits, their labels and their names",
            modalities=("image", "label", "word"),
            rows=(1_297, 200, 300),
            default_given=("image",),
            default_targets=("label", "word"),
            source="scikit-learn (embedded)",
            license="CC BY 4.0 (UCI)",
            load=load_digits,
            missing=lambda data_root: "",
        ),
        DatasetInfo(
            name="mnist",
            title="MNIST, 28x28, and labels",
            modalities=("image", "label"),
            rows=(50_000, 10_000, 10_000),
            default_given=("label",),
            default_targets=("image",),
            source="torchvision's files",
            license="CC BY-SA 3.0",
            load=load_mnist,
            missing=_mnist_missing,
        ),
        DatasetInfo(
            name="polymnist",
            title="one digit in five handwritings over five photographs",
            modalities=("m0", "m1", "m2", "m3", "m4"),
            rows=(50_000, 10_000, 10_000),
            default_given=("m0",),
            default_targets=("m1", "m2", "m3", "m4"),
            source="the authors' images, or built from MNIST and five photographs",
            license="that of MNIST and of the photographs",
            load=load_polymnist,
            missing=_polymnist_missing,
        ),
        DatasetInfo(
            name="celeba",
            title="CelebA, 64x64, and 40 attributes; 8,000 + 1,000 + 1,000 examples from the compact file",
            modalities=("image", "attributes"),
            rows=(162_770, 19_867, 19_962),
            default_given=("image",),
            default_targets=("attributes",),
            source="torchvision's files, or a compact one",
            license="non-commercial research",
            load=load_celeba,
            missing=partial(_missing, celeba_source),
        ),
        DatasetInfo(
            name="cub",
            title="CUB, 64x64, and captions of birds; 21,120 + 2,340 + 5,870 examples from the compact file",
            modalities=("image", "caption"),
            rows=(79_700, 8_850, 29_330),
            default_given=("image",),
            default_targets=("caption",),
            source="MMVAE's files, Caltech's and Reed's, or compact ones",
            license="non-commercial research",
            load=load_cub,
            missing=partial(_missing, cub_source),
        ),
        DatasetInfo(
            name="mnist-fashion",
            title="MNIST and Fashion-MNIST, 28x28, joined on their label",
            modalities=("image", "fashion", "label"),
            rows=(49_046, 9_807, 9_786),
            default_given=("label",),
            default_targets=("image", "fashion"),
            source="torchvision's files",
            license="CC BY-SA 3.0 (MNIST), MIT (Fashion-MNIST)",
            load=load_mnist_fashion,
            missing=_mnist_fashion_missing,
        ),
        DatasetInfo(
            name="mnist-svhn",
            title="pairs of a handwritten digit and a house-number digit; fewer examples from a selection of SVHN",
            modalities=("mnist", "svhn"),
            rows=(965_460, 139_360, 200_000),
            default_given=("mnist",),
            default_targets=("svhn",),
            source="torchvision's files",
            license="CC BY-SA 3.0 (MNIST), non-commercial use (SVHN)",
            load=load_mnist_svhn,
            missing=_mnist_svhn_missing,
        ),
        DatasetInfo(
            name="mnist-svhn-text",
            title="the same pairs and the digit's name at a random position",
            modalities=("mnist", "svhn", "text"),
            rows=(965_460, 139_360, 200_000),
            default_given=("mnist",),
            default_targets=("svhn", "text"),
            source="torchvision's files",
            license="CC BY-SA 3.0 (MNIST), non-commercial use (SVHN)",
            load=partial(load_mnist_svhn, text=True),
            missing=_mnist_svhn_missing,
        ),
        DatasetInfo(
            name="two-objects",
            title="two objects in the style of CLEVR, 112x112, rendered, and sentences of nine words",
            modalities=("image", "text"),
            rows=(90_000, 5_000, 5_000),
            default_given=("text",),
            default_targets=("image",),
            source="rendered by pyvista",
            license="none: rendered locally",
            load=partial(load_scenes, "two-objects"),
            missing=partial(scenes_missing, "two-objects"),
        ),
        DatasetInfo(
            name="one-object",
            title="one red or blue metal sphere, 112x112, rendered, and sentences of four words",
            modalities=("image", "text"),
            rows=(9_000, 500, 500),
            default_given=("text",),
            default_targets=("image",),
            source="rendered by pyvista",
            license="none: rendered locally",
            load=partial(load_scenes, "one-object"),
            missing=partial(scenes_missing, "one-object"),
        ),
    )
}


def load_dataset(
    name: str,
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    *,
    modalities: Mapping[str, Modality] | None = None,
    **options: Any,
) -> Splits:
    """Loads a data set by name.

    Args:
        name: A key of `DATASETS`, or the path of a file that `load_file` reads: a description (`.toml`), a table
            (`.csv`, `.tsv`, `.parquet`) or arrays (`.npz`).
        data_root: Folder that is searched first; by default the folders in the environment variable `MULTIPYRO_DATA`.
        seed: Seed of what the data set draws once: fixed binarization, PolyMNIST's pairs and patches. The split into
            training, validation and test never depends on it.
        modalities: Descriptions that the modalities of a file must follow, such as those of a trained model. A
            published data set has its own.
        **options: Options of the data set (`DATASETS[name].options`), or of `load_file`.

    Returns:
        Training, validation and test data, each with the options that load it again.

    Raises:
        ValueError: If the name or an option is unknown, or a file is damaged.
        FileNotFoundError: If files are missing; the message says which, and where to put them.

    Example:
        >>> splits = load_dataset("digits")
        >>> len(splits.train), sorted(splits.train.modalities)
        (1297, ['image', 'label', 'word'])
    """
    if is_data_file(name):
        return load_file(name, modalities, **({"seed": seed} if seed else {}), **options)
    if name not in DATASETS:
        raise ValueError(
            f"unknown data set {name!r}: choose {', '.join(DATASETS)}, or a file ending in .toml, .csv, .tsv, .parquet "
            "or .npz"
        )
    info = DATASETS[name]
    unknown = [option for option in options if option not in info.options]
    if unknown:
        raise ValueError(
            f"data set {name} has no option {', '.join(unknown)}: it has {', '.join(info.options) or 'none'}"
        )
    roots(data_root)  # a wrong folder is an error even for a data set that does not need one
    place = {"data_root": data_root} if "data_root" in inspect.signature(info.load).parameters else {}
    chosen = {"seed": seed, **info.options, **options}
    return info.load(seed=seed, **place, **options).map(lambda part: replace(part, options=chosen))
