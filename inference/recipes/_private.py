"""Private latents of a recipe, from two options: their sizes and the weight of their KLs."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from multipyro.inference.objectives.weights import LinearWarmup
from multipyro.inference.recipes._base import Weighting
from multipyro.inference.recipes.networks import Networks

__all__ = ["PrivateLatents", "private_latents"]


@dataclass(frozen=True)
class PrivateLatents:
    """The changes to a recipe by private latents; with no private latent, none.

    Args:
        dims: Modality name -> size of its private latent.
        likelihoods: Modality name -> likelihood over its latents, of every modality.
        encoders: Modality name -> encoder of its private latent.
        sites: Site -> weight, those of the private latents `z_<modality>` included.
    """

    dims: dict[str, int]
    likelihoods: dict[str, nn.Module]
    encoders: dict[str, nn.Module]
    sites: dict[str, float | LinearWarmup]


def private_latents(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    private: int | Mapping[str, int] | None,
    private_beta: float | Mapping[str, float],
    family: str = "normal",
) -> PrivateLatents:
    r"""Private latents `z_m` beside the shared one, as in eq. 34 of MoPoE.

    .. math:: E \sum_m \log p(x_m \mid z, z_m) - \beta\,[\mathrm{KL}(z) + \sum_m \beta_m \mathrm{KL}(z_m)]

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), eq. 34.

    Args:
        networks: Builds decoders and encoders.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites; its `beta` and warm-up scale the KLs of the private latents too.
        private: Size of every private latent, or modality name -> size; None for none.
        private_beta: `beta_m`, one for all or modality name -> number (1 where it is not named).
        family: Family of the private posteriors, `"normal"` or `"laplace"`.

    Raises:
        ValueError: If an unknown modality is named, a size is below 1, or a modality without a private latent has a
            weight.
    """
    dims = dict.fromkeys(networks.modalities, private) if isinstance(private, int) else dict(private or {})
    unknown = [name for name in dims if name not in networks.modalities]
    if unknown:
        raise ValueError(f"private names unknown modalities {unknown}: there are {list(networks.modalities)}")
    small = {name: size for name, size in dims.items() if size < 1}
    if small:
        raise ValueError(f"sizes of private latents must be at least 1, got {small}")
    betas = dict(private_beta) if isinstance(private_beta, Mapping) else dict.fromkeys(dims, private_beta)
    unknown = [name for name in betas if name not in dims]
    if unknown:
        raise ValueError(f"private_beta names {unknown}, but private latents have {list(dims)}")
    parts = {name: networks.select([name]) for name in networks.modalities}
    likelihoods = {name: part.likelihoods(latent_dim + dims.get(name, 0))[name] for name, part in parts.items()}
    encoders = {name: parts[name].encoders(size, family)[name] for name, size in dims.items()}
    schedules = {
        f"z_{name}": LinearWarmup(weighting.warmup, peak=weighting.beta * betas.get(name, 1.0)) for name in dims
    }
    return PrivateLatents(dims, likelihoods, encoders, {**weighting.sites, **schedules})
