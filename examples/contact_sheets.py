"""Do the images of each data set agree with their labels, words and captions?

For each data set that is found, the script draws some examples as they are batched: the images side by side, the other
modalities below them in words. Look at the sheets: files in a wrong order, a crop beside the face, a wrong channel or
the caption of another image are obvious to the eye and invisible in a metric. For data sets that are not found, it
prints what to download.

    python examples/contact_sheets.py --out sheets
    python examples/contact_sheets.py --data celeba cub --part train --seed 3 --out sheets

Expect digits that match their names, faces with the hair, hats and glasses listed below them, birds in the colors of
their captions, and pairs of one digit in two handwritings. Texts of MNIST-SVHN start at a random position, and words
of CelebA have a random order.
"""

import argparse
import math
import textwrap
from pathlib import Path

import torch
from torch import nn

from multipyro.data import DATASETS, load_dataset
from multipyro.data.sets.celeba import ATTRIBUTES

# name of the sheet -> data set and options, of data sets with more than one form
SHEETS = {
    "celeba": ("celeba", {"form": "attributes"}),
    "celeba-words": ("celeba", {"form": "words"}),
    "celeba-text": ("celeba", {"form": "text"}),
    "cub-box": ("cub", {"crop": "box"}),
    "mnist-gray": ("mnist", {"binarize": "none", "word": True}),
}
WIDTH = 34


def sheets(chosen):
    """Name of the sheet -> data set and options."""
    every = {name: (name, {}) for name in DATASETS} | SHEETS
    return {name: sheet for name, sheet in every.items() if sheet[0] in chosen}


def beside(images, gap=2):
    """Images `(channels, height, width)` side by side `(height, width, 3)`, with white margins."""
    height = max(image.shape[1] for image in images)
    parts = []
    for image in images:
        spare = height - image.shape[1]
        sides = (gap, gap, spare // 2, spare - spare // 2)
        parts.append(nn.functional.pad(image.expand(3, -1, -1), sides, value=1.0))
    return torch.cat(parts, -1).clamp(0, 1).permute(1, 2, 0)


def letters(modality, value):
    """The value of a modality that is not an image, as text."""
    if modality.kind == "text":
        # middle dots show where a text starts
        start = int((value != 0).int().argmax()) if modality.alphabet is not None else 0
        return "·" * min(start, 9) + modality.decode(value[None])[0]
    if modality.kind == "label":
        return str(value.item()) if modality.class_names is None else modality.class_names[value]
    if len(value) == len(ATTRIBUTES):
        return ", ".join(name for name, sign in zip(ATTRIBUTES, value, strict=True) if sign > 0)
    return " ".join(f"{number:.2g}" for number in value.flatten()[:12].tolist())


def figure(part, index, columns):
    """The sheet of some examples of a part."""
    from matplotlib.figure import Figure

    x, _ = part.rows(index)
    images = [name for name, modality in part.modalities.items() if modality.kind == "image"]
    others = [name for name in part.modalities if name not in images]
    texts = [
        "\n".join(
            "\n".join(textwrap.wrap(f"{name}: {letters(part.modalities[name], x[name][row])}", WIDTH))
            for name in others
        )
        for row in range(len(index))
    ]
    columns = max(1, columns // math.ceil(len(images) / 2))
    lines = max((text.count("\n") + 1 for text in texts), default=0)
    down = math.ceil(len(index) / columns)
    # in inches: as high as wide for one image, lower for several side by side
    cell = 2.1 if len(images) < 3 else 5.0
    height = cell / max(len(images), 1) + 0.17 * lines + 0.1
    drawing = Figure(figsize=(cell * columns, height * down), layout="constrained")
    axes = drawing.subplots(down, columns, squeeze=False).flat
    for row, ax in enumerate(axes):
        ax.set_axis_off()
        if row < len(index):
            ax.imshow(beside([x[name][row] for name in images]).numpy(), interpolation="nearest")
            ax.text(0.5, -0.03, texts[row], ha="center", va="top", fontsize=7, transform=ax.transAxes)
    return drawing


def main(args):
    """Draws a sheet per data set, and prints which data sets were not found."""
    unknown = [name for name in args.data or () if name not in DATASETS]
    if unknown:
        raise ValueError(f"unknown data set {unknown[0]!r}: there are {', '.join(DATASETS)}")
    missing = {name: DATASETS[name].missing(args.data_root) for name in args.data or DATASETS}
    for name, (data, options) in sheets(missing).items():
        if missing[data]:
            print(f"{name:16} {missing[data]}")
            continue
        part = getattr(load_dataset(data, args.data_root, args.seed, **options), args.part)
        generator = torch.Generator().manual_seed(args.seed)
        index = torch.randperm(len(part), generator=generator)[: args.rows]
        sheet = figure(part, index, args.columns)
        print(f"{name:16} {len(index)} of {len(part):,} examples of {args.part}: {', '.join(part.modalities)}")
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            sheet.savefig(args.out / f"{name}.png", dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", nargs="+", help="data sets, all by default")
    parser.add_argument("--data-root", type=Path, help="data folder, searched before MULTIPYRO_DATA")
    parser.add_argument("--part", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the figures; none are written without it")
    parser.add_argument("--smoke", action="store_true", help="a few of the embedded digits")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.data, arguments.rows = ["digits"], 6
    main(arguments)
