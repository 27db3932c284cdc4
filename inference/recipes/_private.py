"""The options of methods with private latents: their sizes and the weight of their KLs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from multipyro.inference.objectives.weights import LinearWarmup
from multipyro.inference.options import Count, Weight
from multipyro.inference.recipes._base import Weighting

__all__ = ["PrivateWeighting"]


@dataclass(frozen=True, kw_only=True)
class PrivateWeighting(Weighting):
    r"""The weights of a method that may have private latents `z_m` beside the shared one, as in eq. 34 of MoPoE.

    .. math:: E \sum_m \log p(x_m \mid z, z_m) - \beta\,[\mathrm{KL}(z) + \sum_m \beta_m \mathrm{KL}(z_m)]

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), eq. 34.

    Args:
        private: Size of every modality's private latent, or modality -> size; None for none, in `mmvae+` for that of
            the shared latent, as in its paper.
        private_beta: Weight `beta_m` of the KLs of the private latents beside `beta`, or modality -> weight, 1 for
            those that it does not name.

    Raises:
        ValueError: If an unknown modality is named, a size is below 1, or a modality without a private latent has a
            weight.
    """

    private: Count | Mapping[str, Count] | None = None
    private_beta: Weight | Mapping[str, Weight] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        dims = self.private_dims
        unknown = [name for name in dims if name not in self.modalities]
        if unknown:
            raise ValueError(f"private names unknown modalities {unknown}: there are {list(self.modalities)}")
        small = {name: size for name, size in dims.items() if size < 1}
        if small:
            raise ValueError(f"sizes of private latents must be at least 1, got {small}")

    @cached_property
    def private_dims(self) -> dict[str, int]:
        """Modality -> size of its private latent, for those that have one."""
        return _by_name({} if self.private is None else self.private, self.modalities)

    @cached_property
    def private_schedules(self) -> dict[str, LinearWarmup]:
        """Private latent -> weight of its KL, growing over the warm-up."""
        betas = _by_name(self.private_beta, self.private_dims)
        unknown = [name for name in betas if name not in self.private_dims]
        if unknown:
            raise ValueError(f"private_beta names {unknown}, but private latents have {list(self.private_dims)}")
        peaks = {name: self.beta * betas.get(name, 1.0) for name in self.private_dims}
        return {f"z_{name}": LinearWarmup(self.warmup, self.warmup_unit, peak) for name, peak in peaks.items()}

    @property
    def sites(self) -> dict[str, float | LinearWarmup]:
        """Site -> weight, those of the KLs growing over the warm-up."""
        return {**super().sites, **self.private_schedules}


def _by_name(value: Any, names: Iterable[str]) -> dict[str, Any]:
    """A value for each name: the one of all, or those of a mapping."""
    return dict(value) if isinstance(value, Mapping) else dict.fromkeys(names, value)
