"""The bound of a mixture of experts in which every decoder runs once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from pyro import poutine
from torch import Tensor

from multipyro._distributions import sample_from
from multipyro.batch import Masks, Values, modalities_in
from multipyro.guides import StratifiedMixture
from multipyro.inference.objectives._base import Evaluation, Objective
from multipyro.inference.objectives.sites import TracePair, log_prob_of, sample_sites
from multipyro.inference.objectives.stratified import expert_mixture, unsampled_sites
from multipyro.inference.objectives.weights import SiteWeights, Weight, check_choice
from multipyro.inference.programs import MODEL, Program

__all__ = ["LinearMixtureELBO"]

Gradient = Literal["unbiased", "released"]


@dataclass(eq=False, repr=False)
class LinearMixtureELBO(Objective):
    r"""The mean of the ELBOs of the experts, each decoder applied only to the samples of its own expert.

    .. math::
        L = \sum_r \pi_r \Big[ \sum_d E_{q_r} \log p(x_d | z) - \mathrm{KL}(q_r \| p) \Big], \qquad
        E_{q_r} \log p(x_d | z) = E_{z_d \sim q_d}\, \omega_{rd} \log p(x_d | z_d), \quad
        \omega_{rd} = \frac{q_r(z_d)}{q_d(z_d)}, \; \omega_{dd} = 1

    Naively `M` experts take `M^2` decoder passes, here `M`. The divergences are those of the components, whose mean is
    above that of the mixture, so `L` is a lower bound on `log p(x)`, below the ELBO of the mixture.

    The weights explode when experts do not overlap. Over `D` latent dimensions with normal experts of equal scale `s`
    at a distance `delta` in each, :math:`E \omega^2 = e^{D \delta^2 / s^2}`: at `delta = s` and 20 dimensions 5e8. For
    normal experts it is infinite as soon as :math:`\sigma_r^2 \ge 2 \sigma_d^2` in one dimension, for Laplace ones as
    soon as :math:`b_r \ge 2 b_d`. The estimate is then almost always far too small and rarely far too large, and
    training diverges. Nothing is clipped. Use it for small latents and experts that agree.

    Gradient: with `"unbiased"` the expert `q_r` learns from other modalities through its density in the weights, and
    `q_d` along its samples only from :math:`\omega_{dd}`. The released code also lets the gradient of every weighted
    likelihood run along `z_d`, although :math:`E_{q_r} \log p(x_d|z)` does not depend on `q_d`; that
    is `"released"`, biased for `q_d`.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), section
        3 (on complexity) and its appendix B.

    Args:
        num_particles: Number of samples of each expert; the released code has 1.
        gradient: `"unbiased"` or `"released"`.
        sites: Site name -> weight; a weighted objective is no bound on `log p(x)`.

    Raises:
        ValueError: When called with a guide whose `z` is not a mixture of one expert per modality.

    Example:
        >>> LinearMixtureELBO(sites={"label": 10.0})
        mean over experts of their ELBOs (m || g; label: 10), each decoder run once
    """

    num_particles: int = 1
    gradient: Gradient = "unbiased"
    sites: Mapping[str, float | Tensor | Weight] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.num_particles)
        check_choice("gradient", self.gradient, Gradient)
        self.sites = SiteWeights(self.sites)

    def equation(self) -> str:
        return f"mean over experts of their ELBOs (m || g{self.sites}), each decoder run once"

    def evaluate(self, model: Program, guide: Program, x: Values, observed: Masks = None) -> Evaluation:
        guide_sites = unsampled_sites(guide, x, observed)
        mixture, binding = expert_mixture(guide_sites), self._binding(model, guide)
        result = Evaluation(torch.zeros((), dtype=mixture.weights.dtype, device=mixture.weights.device))
        num_modalities = len(modalities_in(x))
        for index, (name, expert) in enumerate(zip(mixture.names, mixture.components, strict=True)):
            share = mixture.weights[..., index]
            z = sample_from(expert, (self.num_particles,))
            factor = self._factor(mixture, index, z)
            values = {"z": self._along(z, share, factor)}
            if f"z_{name}" in guide_sites:
                values[f"z_{name}"] = sample_from(guide_sites[f"z_{name}"]["fn"], (self.num_particles,))
            program = poutine.condition(binding[MODEL | name], data=values)
            sites = sample_sites(poutine.trace(program).get_trace(x, observed))
            latents = {site: {**guide_sites[site], "value": values[site]} for site in values}
            pair = TracePair(sites, {**latents, "z": {**latents["z"], "fn": expert}})
            for site in (name, *values):
                value = factor * log_prob_of(sites[site]) if site == name else -pair.kl(site)
                value = torch.where(share > 0, pair.masked(site, share * value if site == "z" else value), 0.0)
                kind = "reconstruction" if site == name else "kl"
                result.add(site, value, self.sites.of(site, num_modalities), kind)
        return result

    def _factor(self, mixture: StratifiedMixture, index: int, z: Tensor) -> Tensor:
        """Sum over experts of share times weight of the samples of one of them, `(particles, batch)`."""
        log_probs = mixture.component_log_probs(z.detach())
        log_weights = log_probs - log_probs[index].detach()
        shares = mixture.weights.movedim(-1, 0)
        factor = shares[index].expand(log_weights.shape[1:])
        for other in range(mixture.num_components):
            if other != index:
                # in rows without the other modality its weight may be infinite, and does not count
                log_weight = torch.where(shares[other] > 0, log_weights[other], 0.0)
                factor = factor + shares[other] * log_weight.exp()
        return factor

    def _along(self, z: Tensor, share: Tensor, factor: Tensor) -> Tensor:
        """The samples that the decoder is applied to, gradients along them weighted as `gradient` says."""
        if self.gradient == "released" or not z.requires_grad:
            return z
        # a likelihood comes with all its weights in one factor; of them only the expert's own share belongs to z
        own_share = torch.where(share > 0, share / factor.detach(), 0.0).unsqueeze(-1)
        latents = z.clone()
        latents.register_hook(lambda gradient: gradient * own_share)
        return latents
