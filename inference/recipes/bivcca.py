r"""BiVCCA: one encoder per modality, each of which must explain all modalities; no joint encoder.

.. math:: \sum_m \mu_m \left( E_{q(z|x_m)} \sum_n \log p(x_n|z) - \mathrm{KL}(q(z|x_m) \| p(z)) \right), \qquad
    \sum_m \mu_m = 1

An encoder that explains other modalities can at best be :math:`N(E[z|x_m], \mathrm{Var}[z|x])` in a linear-Gaussian
model: the mean of its own posterior with the width of the joint one.

Departures: the papers have two modalities. With more, `mu` is the first one's weight and the others share the rest; a
dict names each. Given several modalities the guide is the equal mixture of their experts, since there is no
joint posterior in the paper. Where a modality is missing in a row, its encoder's ELBO is left out, and
its likelihood from the others.

References:
    Deep Variational Canonical Correlation Analysis (Wang et al., 2016); Bridged Variational Autoencoders (Yadav et
    al.), eq. 6; the released code of Vedantam et al. (2018) uses `mu = 0.3` and `0.7`.
"""

from collections.abc import Mapping

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives import GUIDE, MODEL, SINGLES, SUBSET, by_subset, elbo, sum_over
from multipyro.inference.options import Share, Weight
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks

__all__ = ["bivcca"]


@method(
    "bivcca",
    title="one encoder per modality, each reconstructs all modalities",
    paper="Wang et al., 2016; Yadav et al., eq. 6",
    subsets="every subset, several by their mixture",
)
def bivcca(
    networks: Networks, latent_dim: int, weighting: Weighting, *, mu: Share | Mapping[str, Weight] | None = None
) -> Recipe:
    """BiVCCA.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        mu: Weight of the first modality's ELBO, or modality -> weight; equal weights by default.
    """
    model = networks.model(latent_dim)
    guide = MixtureOfExperts(latent_dim, networks.encoders(latent_dim))
    shares = by_subset("mu", {(name,): share for name, share in _shares(mu, tuple(networks.modalities)).items()})
    m, g, a = MODEL, GUIDE, SUBSET
    # a mixture of one component: its KL is that of the component, exact
    objective = sum_over(SINGLES, shares * elbo(m, g | a, weighting.sites, kl="components"))
    return Recipe(model, guide, (Stage(objective),))


def _shares(mu: Share | Mapping[str, Weight] | None, modalities: tuple[str, ...]) -> dict[str, float]:
    """The weight of each modality's ELBO, summing to 1."""
    number = len(modalities)
    if not isinstance(mu, Mapping):
        first = 1 / number if mu is None else mu
        mu = {m: first if m == modalities[0] else (1 - first) / (number - 1) for m in modalities}
    if set(mu) != set(modalities) or not any(mu.values()):
        raise ValueError(f"mu must be a share or a weight for each of {list(modalities)}, not all 0, got {mu}")
    total = sum(mu.values())
    return {name: value / total for name, value in mu.items()}
