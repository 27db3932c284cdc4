"""The objective of mmJSD: the Jensen-Shannon divergence of the experts in place of the KL to the prior."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pyro.distributions import Distribution
from torch import Tensor

from multipyro.batch import Masks, Values, modalities_in
from multipyro.guides import StratifiedMixture, product_of_experts
from multipyro.inference.objectives._base import Evaluation, Objective, replayed
from multipyro.inference.objectives.sites import TracePair, closed_form, log_prob_of, sample_sites
from multipyro.inference.objectives.stratified import expert_mixture
from multipyro.inference.objectives.weights import SiteWeights, Weight
from multipyro.inference.programs import Program

__all__ = ["JensenShannonELBO", "jensen_shannon"]


def jensen_shannon(
    mixture: StratifiedMixture, prior: Distribution, weights: Mapping[str, float] | None = None
) -> tuple[Tensor, Tensor]:
    r"""The divergence of experts and prior to their geometric mean, the dynamic prior.

    .. math::
        \mathrm{JS} = \sum_{k=0}^{M} \pi_k \mathrm{KL}(q_k \| p_{dyn}), \qquad
        p_{dyn} \propto \prod_{k=0}^{M} q_k^{\pi_k}, \qquad q_0 = p(z)

    References:
        Multimodal Generative Learning Utilizing Jensen-Shannon-Divergence (Sutter et al., 2020), section 3.

    Args:
        mixture: Of one normal expert per modality, of weight 0 where it is missing; batch shape `(..., batch)`.
        prior: The prior, an independent normal.
        weights: Modality name, or `"prior"`, -> weight; 1 for all by default; normalized over
            what is observed.

    Returns:
        The divergence `(..., batch)` in nats, and the weights `(..., batch, M + 1)`, the prior's last.

    Raises:
        TypeError: If an expert or the prior is not normal.
        ValueError: If the weights have other names, or are negative.
    """
    names, weights = (*mixture.names, "prior"), dict(weights or {})
    unknown = [name for name in weights if name not in names]
    if unknown or any(weight < 0 for weight in weights.values()):
        raise ValueError(f"weights must be at least 0 and name some of {list(names)}, got {weights}")
    present = torch.cat([(mixture.weights > 0).to(mixture.weights), torch.ones_like(mixture.weights[..., :1])], -1)
    weighted = [weights.get(name, 1.0) * column for name, column in zip(names, present.unbind(-1), strict=True)]
    shares = torch.stack(weighted, -1) / sum(weighted).unsqueeze(-1)
    parts = dict(zip(names, (*mixture.components, prior.expand(mixture.batch_shape)), strict=True))
    powers = {name: shares[..., [index]] for index, name in enumerate(names)}
    dynamic = product_of_experts(parts, powers=powers)
    divergences = torch.stack([closed_form(part, dynamic) for part in parts.values()], -1)
    return torch.where(shares > 0, shares * divergences, 0.0).sum(-1), shares


@dataclass(eq=False, repr=False)
class JensenShannonELBO(Objective):
    r"""Reconstruction under the mixture of experts, minus their Jensen-Shannon divergence to a dynamic prior.

    .. math:: L = E_{q(z|x)} \sum_m \log p(x_m|z) - \beta\, \mathrm{JS}(q_1, \ldots, q_M, p), \qquad
        q = \tfrac1M \sum_m q_m

    It is not a lower bound on `log p(x)`: the divergence to the dynamic prior is smaller than that to the model's
    prior, so the objective may lie above the evidence. Compare methods by `log_likelihood`.

    The samples come from the mixture, one expert per data point, as in `StratifiedMixture`. The original code
    never samples from the prior; MoPoE's code counts it as a further expert, so that a share of the data points is
    decoded from prior samples: `prior_samples=True`.

    References:
        Multimodal Generative Learning Utilizing Jensen-Shannon-Divergence (Sutter et al., 2020), section 3; baseline in
        Generalized Multimodal ELBO (Sutter et al., 2021).

    Args:
        weights: As in `jensen_shannon`.
        prior_samples: Whether the prior has its share, as in the divergence, of the samples.
        sites: Site name -> weight; that of `z` scales the divergence.
        num_particles: Number of samples of the latents per data point.

    Raises:
        TypeError: When called with experts or a prior that are not normal.
        ValueError: When called with a guide whose `z` is not a mixture of one expert per modality.

    Example:
        >>> JensenShannonELBO(sites={"z": 2.5})
        E_g log m(x|z) - JS(experts of g, prior; z: 2.5)
    """

    weights: Mapping[str, float] | None = None
    prior_samples: bool = False
    sites: Mapping[str, float | Tensor | Weight] = field(default_factory=dict)
    num_particles: int = 1

    def __post_init__(self) -> None:
        super().__init__(self.num_particles)
        self.sites = SiteWeights(self.sites)

    def equation(self) -> str:
        return f"E_g log m(x|z) - JS(experts of g, prior{self.sites})"

    def evaluate(self, model: Program, guide: Program, x: Values, observed: Masks = None) -> Evaluation:
        model_trace, guide_trace = self.traces(model, guide, x, observed)
        q_sites, prior = sample_sites(guide_trace), sample_sites(model_trace)["z"]["fn"]
        divergence, shares = jensen_shannon(expert_mixture(q_sites), prior, self.weights)
        if self.prior_samples:
            from_prior = torch.rand_like(shares[..., -1]) < shares[..., -1]
            z = q_sites["z"]["value"]
            q_sites["z"]["value"] = torch.where(from_prior.unsqueeze(-1), prior.expand(z.shape[:-1]).rsample(), z)
            model_trace = replayed(model, guide_trace, self.num_particles, x, observed)
        pair = TracePair.of_traces(model_trace, guide_trace)
        result = Evaluation(torch.zeros((), dtype=divergence.dtype, device=divergence.device))
        num_modalities = len(modalities_in(x))
        for name, site in pair.p_sites.items():
            if name == "z":
                value, kind = -pair.subsample_scale * divergence, "divergence"
            elif name in pair.latents:
                value, kind = -pair.kl(name), "kl"
            else:
                value, kind = log_prob_of(site), "reconstruction"
            result.add(name, pair.masked(name, value), self.sites.of(name, num_modalities), kind)
        return result
