"""The 71 characters in which several data sets write their texts, and texts that start anywhere."""

import torch
from torch import Tensor

__all__ = ["draw_start", "padded_alphabet", "placed"]

# The published alphabet holds '-' at positions 36 and 59 and looks up the first, so the second is never used. A minus
# sign stands there: every id has one character, and no text of these data sets holds it.
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"\\/|_@#$%^&*~`+\N{MINUS SIGN}=<>()[]{} \n"


def padded_alphabet(pad: str) -> str:
    """The 71 characters with the one that pads moved to the front, as `Modality` has it."""
    return pad + _CHARACTERS.replace(pad, "")


def placed(ids: Tensor, generator: torch.Generator) -> Tensor:
    r"""Texts moved to a random start, uniform in :math:`\{0, \ldots, L - 1 - \ell\}`: the last position always pads.

    Args:
        ids: Class ids `(rows, positions)`, 0 before and after a text and not within.
        generator: Draws the starts, one number a row.

    Raises:
        ValueError: If a text leaves no position to pad.
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


def draw_start(x: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Moves each row of `text` to a new random start; other modalities stay."""
    return {**x, "text": placed(x["text"], generator)} if "text" in x else x
