"""Incomplete data made from complete data: rows lose modalities at random."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import torch

from multipyro.data.multimodal import MultimodalData

__all__ = ["drop_modalities"]


def drop_modalities(data: MultimodalData, missing: float | Mapping[str, float], seed: int = 0) -> MultimodalData:
    """The same rows, each of which has lost some modalities at random.

    Every modality of every row is lost independently, in a way that depends on the seed, the split, the modality and
    the number of rows alone. A row that would lose all that it had keeps one, drawn at random. The masks travel with
    every batch; the values stay where they were, and no program looks at them.

    Args:
        data: Rows, complete or not.
        missing: Share of the rows that lose each modality, from 0 to below 1; or modality -> share, 0 for others.
        seed: Seed of the losses.

    Returns:
        The same values with masks, for modalities that some row has lost.

    Raises:
        ValueError: If a share is out of range or a modality unknown.

    Example:
        >>> from multipyro.data import load_dataset
        >>> train = drop_modalities(load_dataset("digits").train, {"label": 0.9})
        >>> round(train.observed["label"].float().mean().item(), 1)
        0.1
    """
    shares = dict(missing) if isinstance(missing, Mapping) else dict.fromkeys(data.modalities, missing)
    unknown = [name for name in shares if name not in data.modalities]
    if unknown:
        raise ValueError(f"missing names unknown modalities {unknown}: there are {list(data.modalities)}")
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"the missing share of {name!r} must lie in [0, 1), got {share!r}")
    before = {name: _held(data, name) for name in data.modalities}
    after = dict(before)
    for name, share in shares.items():
        after[name] = before[name] & (torch.rand(len(data), generator=_generator(seed, data.split, name)) >= share)
    empty = ~torch.stack(list(after.values())).any(0)
    # the modality that such a row keeps is one of those it had, all alike
    chances = torch.stack(list(before.values()), -1).float()
    chances = chances.masked_fill(~chances.any(-1, keepdim=True).bool(), 1.0)
    kept = torch.multinomial(chances, 1, generator=_generator(seed, data.split, ""))[:, 0]
    for number, name in enumerate(after):
        after[name] = after[name] | (empty & (kept == number) & before[name])
    return replace(data, observed={name: mask for name, mask in after.items() if not mask.all()} or None)


def _held(data: MultimodalData, name: str) -> torch.Tensor:
    mask = (data.observed or {}).get(name)
    return torch.ones(len(data), dtype=torch.bool) if mask is None else mask


def _generator(seed: int, split: str, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {split} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
