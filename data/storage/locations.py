"""Where data sets are searched: one setting, before any download.

The setting is the argument `data_root` (`--data-root` on the command line), or else the environment variable
`MULTIPYRO_DATA`: a folder, or several separated as in `PATH`. The folders are only read. Each contains data sets as
torchvision or the authors lay them out, or compact files:

* `MNIST/raw/`, `FashionMNIST/raw/`: the four idx files, unpacked or `.gz`;
* `train/m0/` to `train/m4/` and `test/m0/` to `test/m4/` with `NUMBER.DIGIT.png`, in `PolyMNIST/`, `PolyMNIST/MMNIST/`
  or `MMNIST/`, or `PolyMNIST.zip`; or `PolyMNIST/backgrounds/*.jpg`, five photographs;
* `SVHN/train_32x32.mat`, `SVHN/test_32x32.mat`: complete, or the first rows in the same format;
* `celeba/img_align_celeba/*.jpg` or `celeba/img_align_celeba.zip`, `celeba/list_attr_celeba.txt`,
  `celeba/list_eval_partition.txt`; or `CelebA/celeba_10k_64.npz` with `jpeg` (uint8, all files one after the other),
  `offsets` (where each begins and the last ends), `attributes` (rows, 40) of -1 and 1, `attribute_names`,
  `filenames`;
* `cub/train/` and `cub/test/` with a folder of images for each class, `cub/text_trainvalclasses.txt` and
  `cub/text_testclasses.txt` with ten lines for each image; or `CUB_200_2011/` as Caltech's archive unpacks and
  `cvpr2016_cub/text_c10/CLASS/IMAGE.txt` as Reed's does; or `CUB/cub_captioned_64.npz` with `jpeg`, `offsets`, the same
  of `jpeg_crop`, `filenames`, `class_id`, and `CUB/cub_captions.txt.gz`.

What is downloaded or built goes to the download folder, `~/.cache/multipyro` (`$XDG_CACHE_HOME/multipyro` where that
variable is set), which is searched last.
"""

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["VARIABLE", "download_root", "find", "roots"]

VARIABLE = "MULTIPYRO_DATA"


def download_root() -> Path:
    """The folder of what is downloaded or built; it may not exist yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # the XDG rules ignore a relative path, which would put the folder wherever the program happens to run
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "multipyro"


def roots(data_root: str | os.PathLike | None = None) -> list[Path]:
    """The folders that are searched, in order.

    Raises:
        FileNotFoundError: If a folder that the setting names does not exist.
    """
    if data_root is not None:
        named, origin = [Path(data_root).expanduser()], "--data-root"
    else:
        named = [Path(part).expanduser() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
        origin = f"the environment variable {VARIABLE}"
    for folder in named:
        if not folder.is_dir():
            raise FileNotFoundError(f"{origin} names {folder}, which is not a folder: create it or change the setting")
    return [*named, download_root()]


def find(names: Iterable[str], data_root: str | os.PathLike | None = None) -> Path | None:
    """The first existing file among `names` (relative paths, tried in order) in any of the roots; None without one."""
    names = list(names)
    for root in roots(data_root):
        for name in names:
            if (root / name).is_file():
                return root / name
    return None
