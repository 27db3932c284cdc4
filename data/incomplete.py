"""Incomplete data from complete data: examples lose modalities at random."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from multipyro.data.batches import seeded_generator
from multipyro.data.multimodal import MultimodalData

__all__ = ["drop_modalities"]

# number of bits of the digest of a draw's key that are used
_BITS = 56


def drop_modalities(data: MultimodalData, missing: float | Mapping[str, float], seed: int = 0) -> MultimodalData:
    """The same examples, each without some of its modalities, chosen at random.

    Every modality of every example is dropped independently, in a way that depends on the seed, the split, the modality
    and the number of rows alone. An example that would lose everything keeps one of its modalities, chosen uniformly.
    Only the masks change: the values stay, and no program uses them.

    Args:
        data: Examples, complete or not.
        missing: Fraction of the examples that lose each modality, from 0 to below 1; or modality -> fraction, 0 for
            the others.
        seed: Seed of the draws.

    Returns:
        The same values, with masks for the modalities that are missing in some example.

    Raises:
        ValueError: If a fraction is out of range or a modality unknown.

    Example:
        >>> from multipyro.data import load_dataset
        >>> train = drop_modalities(load_dataset("digits").train, {"label": 0.9})
        >>> round(train.observed["label"].float().mean().item(), 1)
        0.1
    """
    fractions = dict(missing) if isinstance(missing, Mapping) else dict.fromkeys(data.modalities, missing)
    unknown = [name for name in fractions if name not in data.modalities]
    if unknown:
        raise ValueError(f"missing names unknown modalities {unknown}: there are {list(data.modalities)}")
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise ValueError(f"the missing fraction of {name!r} must lie in [0, 1), got {fraction!r}")
    everything = torch.ones(len(data), dtype=torch.bool)
    before = {name: (data.observed or {}).get(name, everything) for name in data.modalities}
    after = dict(before)
    for name, fraction in fractions.items():
        after[name] = before[name] & (torch.rand(len(data), generator=_generator(seed, data.split, name)) >= fraction)
    empty = ~torch.stack(list(after.values())).any(0)
    chances = torch.stack(list(before.values()), -1).float()
    # an example that never had a modality has no probabilities, an error in `multinomial`
    chances = chances.masked_fill(~chances.any(-1, keepdim=True).bool(), 1.0)
    kept = torch.multinomial(chances, 1, generator=_generator(seed, data.split, ""))[:, 0]
    for number, name in enumerate(after):
        after[name] = after[name] | (empty & (kept == number) & before[name])
    return replace(data, observed={name: mask for name, mask in after.items() if not mask.all()} or None)


def _generator(seed: int, split: str, name: str) -> torch.Generator:
    return seeded_generator(f"{seed} {split} {name}", _BITS)
