"""The figures of the commands."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from multipyro.data import Splits
from multipyro.data.storage import write_atomically
from multipyro.inference.evaluation.figures import cross_generation_figure, rows_of_each_class, save_figure
from multipyro.inference.recipes import Recipe

__all__ = ["FORMATS", "draw_cross_generation", "figure_name", "file_name"]

#: The formats of figures.
FORMATS = (".pdf", ".png", ".svg")
# characters of a file's name
_LONGEST = 100


def figure_name(given: Sequence[str], target: Sequence[str]) -> str:
    """The name of a file for a figure, whatever characters the names of the modalities contain.

    Example:
        >>> figure_name(["image"], ["label", "a/b"])
        'image-to-label+a_b.png'
    """
    return file_name(f"{'+'.join(given)}-to-{'+'.join(target)}") + ".png"


def file_name(text: str) -> str:
    """A text with every character that the name of a file should not have replaced, and cut where it is long.

    Example:
        >>> file_name("words of a/b")
        'words_of_a_b'
    """
    return re.sub(r"[^\w.+-]", "_", text)[:_LONGEST]


def draw_cross_generation(
    recipe: Recipe,
    splits: Splits,
    given: Sequence[str],
    target: Sequence[str],
    file: Path,
    num_samples: int = 8,
    rows: int = 10,
    seed: int = 0,
) -> None:
    """Draws modalities generated from test examples, one of each class; what is missing in one is shown as missing.

    Raises:
        ValueError: If the model has no such modality, no test example has one of the given ones, or the name of the
            file has no ending of a figure.
    """
    if file.suffix not in FORMATS:
        raise ValueError(f"{file} must end in {', '.join(FORMATS)}")
    chosen = rows_of_each_class(splits.test, rows, splits.test.select(given).modalities)
    if not len(chosen):
        raise ValueError(f"no test example has {' or '.join(given)}: there is nothing to generate from")
    x, observed = splits.test.select(given).rows(chosen)
    modalities = recipe.networks.modalities
    unknown = [name for name in target if name not in recipe.model.modalities]
    if unknown:
        raise ValueError(f"unknown modality {', '.join(unknown)}: the model has {', '.join(recipe.model.modalities)}")
    torch.manual_seed(seed)
    programs = recipe.model, recipe.guide, modalities
    figure = cross_generation_figure(*programs, x, target, num_samples, observed=observed)
    write_atomically(file, lambda opened: save_figure(figure, opened, format=file.suffix[1:], dpi=100))
