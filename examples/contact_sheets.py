"""Do the pictures of each data set agree with their labels, words and captions?

For every data set that is found here, some rows as a batch gives them: the pictures side by side, below them what the
row says in letters. Looking at them is the test: a wrong order of files, a crop beside the face, a channel in the
wrong place or a caption of the neighbor shows at once, and no number does. What is not found is named with what to
fetch.

    python examples/contact_sheets.py --out sheets
    python examples/contact_sheets.py --data celeba cub --part train --seed 3 --out sheets

Expect digits that are their names, faces with the hair, hats and glasses that stand below them, birds in the colors of
their captions, and pairs of one digit in two hands; texts of MNIST-SVHN start anywhere, and words of CelebA come in
any order.
"""

import argparse
import math
import textwrap
from pathlib import Path

import torch
from torch import nn

from multipyro.data import DATASETS, load_dataset
from multipyro.data.sets.celeba import ATTRIBUTES

# name of the sheet -> data set and options, where one sheet is not enough or the options say little
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


def beside(pictures, gap=2):
    """Pictures `(channels, height, width)` side by side `(height, width, 3)`, white around them."""
    height = max(picture.shape[1] for picture in pictures)
    parts = []
    for picture in pictures:
        spare = height - picture.shape[1]
        sides = (gap, gap, spare // 2, spare - spare // 2)
        parts.append(nn.functional.pad(picture.expand(3, -1, -1), sides, value=1.0))
    return torch.cat(parts, -1).clamp(0, 1).permute(1, 2, 0)


def letters(modality, value):
    """What a row says in a modality that is no picture."""
    if modality.kind == "text":
        # middle dots show where a text starts
        start = int((value != 0).int().argmax()) if modality.alphabet is not None else 0
        return "·" * min(start, 9) + modality.decode(value[None])[0]
    if modality.kind == "label":
        return str(value.item()) if modality.class_names is None else modality.class_names[value]
    if len(value) == len(ATTRIBUTES):
        return ", ".join(name for name, held in zip(ATTRIBUTES, value, strict=True) if held > 0)
    return " ".join(f"{number:.2g}" for number in value.flatten()[:12].tolist())


def figure(part, index, columns):
    """The sheet of some rows of a part."""
    from matplotlib.figure import Figure

    x, _ = part.rows(index)
    pictures = [name for name, modality in part.modalities.items() if modality.kind == "image"]
    others = [name for name in part.modalities if name not in pictures]
    texts = [
        "\n".join(
            "\n".join(textwrap.wrap(f"{name}: {letters(part.modalities[name], x[name][row])}", WIDTH))
            for name in others
        )
        for row in range(len(index))
    ]
    columns = max(1, columns // math.ceil(len(pictures) / 2))
    lines = max((text.count("\n") + 1 for text in texts), default=0)
    down = math.ceil(len(index) / columns)
    # in inches: as high as wide for one picture, lower for several side by side
    cell = 2.1 if len(pictures) < 3 else 5.0
    height = cell / max(len(pictures), 1) + 0.17 * lines + 0.1
    picture = Figure(figsize=(cell * columns, height * down), layout="constrained")
    axes = picture.subplots(down, columns, squeeze=False).flat
    for row, ax in enumerate(axes):
        ax.set_axis_off()
        if row < len(index):
            ax.imshow(beside([x[name][row] for name in pictures]).numpy(), interpolation="nearest")
            ax.text(0.5, -0.03, texts[row], ha="center", va="top", fontsize=7, transform=ax.transAxes)
    return picture


def main(args):
    """Draw the sheets of what is found, and say what is not."""
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
        print(f"{name:16} {len(index)} of {len(part):,} rows of {args.part}: {', '.join(part.modalities)}")
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            sheet.savefig(args.out / f"{name}.png", dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", nargs="+", help="data sets, all by default")
    parser.add_argument("--data-root", type=Path, help="folder searched before all others")
    parser.add_argument("--part", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the pictures; none are written without it")
    parser.add_argument("--smoke", action="store_true", help="a few of the embedded digits")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.data, arguments.rows = ["digits"], 6
    main(arguments)
