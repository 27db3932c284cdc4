"""The 71 characters in which several data sets write their texts, and texts that start at a random position."""

import torch
from torch import Tensor

__all__ = ["padded_alphabet", "place_randomly", "replace_randomly"]

# The published alphabet has '-' at positions 36 and 59 and looks up the first, so the second is never used. Here a
# minus sign is in its place: every id has one character, and no text of these data sets contains it.
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"\\/|_@#$%^&*~`+\N{MINUS SIGN}=<>()[]{} \n"


def padded_alphabet(pad: str) -> str:
    """The 71 characters with the padding moved to the front, where `Modality` expects it."""
    return pad + _CHARACTERS.replace(pad, "")


def place_randomly(ids: Tensor, generator: torch.Generator) -> Tensor:
    r"""Texts at a random start, uniform in :math:`\{0, \ldots, L - 1 - \ell\}`: the last position is always padding.

    Args:
        ids: Token ids `(rows, positions)`, 0 before and after a text and not within.
        generator: Draws the starts, one number for each row.

    Raises:
        ValueError: If a text leaves no position for the padding.
    """
    length = ids.shape[1]
    inside = ids != 0
    used = inside.sum(1)
    if len(ids) and used.max() > length - 1:
        raise ValueError(f"a text may have at most {length - 1} of {length} characters, got {used.max().item()}")
    first = inside.to(torch.uint8).argmax(1)
    # the draw lies below 1, but its product may round up to the bound
    starts = (torch.rand(len(ids), generator=generator) * (length - used)).long().minimum(length - 1 - used)
    source = torch.arange(length) - (starts - first)[:, None]
    return ids.gather(1, source % length)


def replace_randomly(x: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Moves each row of `text` to a new random start; other modalities stay."""
    return {**x, "text": place_randomly(x["text"], generator)} if "text" in x else x
