"""The objective of mmJSD: the Jensen-Shannon divergence of the experts in place of the KL to the prior."""

from collections.abc import Mapping

import torch
from pyro.distributions import Distribution
from torch import Tensor

from multipyro.guides import StratifiedMixture, product_of_experts
from multipyro.inference.handlers import Program
from multipyro.inference.objectives.stratified import expert_mixture
from multipyro.inference.objectives.terms import (
    Evaluation,
    MultimodalELBO,
    SiteWeights,
    check_sites,
    closed_form,
    common_rows,
    sample_sites,
    schedules_in,
    weight_value,
)

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
        mixture: Of one normal expert a modality, weight 0 where a row lacks it; batch shape `(..., batch)`.
        prior: The prior, an independent normal.
        weights: Modality name, or `"prior"`, -> weight; 1 for all by default. Each row's sum to 1 over what it has.

    Returns:
        The divergence `(..., batch)` in nats, and the weights `(..., batch, M + 1)`, the prior's last.

    Raises:
        TypeError: If an expert or the prior is not normal.
        ValueError: If the weights name something else, or are negative.
    """
    names, weights = (*mixture.names, "prior"), dict(weights or {})
    unknown = [name for name in weights if name not in names]
    if unknown or any(weight < 0 for weight in weights.values()):
        raise ValueError(f"weights must be at least 0 and name some of {list(names)}, got {weights}")
    present = torch.cat([(mixture.weights > 0).to(mixture.weights), torch.ones_like(mixture.weights[..., :1])], -1)
    shares = present * torch.tensor([weights.get(name, 1.0) for name in names]).to(present)
    shares = shares / shares.sum(-1, keepdim=True)
    parts = dict(zip(names, (*mixture.components, prior.expand(mixture.batch_shape)), strict=True))
    powers = {name: shares[..., [number]] for number, name in enumerate(names)}
    dynamic = product_of_experts(parts, powers=powers)
    divergences = torch.stack([closed_form(part, dynamic) for part in parts.values()], -1)
    return torch.where(shares > 0, shares * divergences, 0.0).sum(-1), shares


class JensenShannonELBO(MultimodalELBO):
    r"""Reconstruction under the mixture of experts, minus their Jensen-Shannon divergence to a dynamic prior.

    .. math:: L = E_{q(z|x)} \sum_m \log p(x_m|z) - \beta\, \mathrm{JS}(q_1, \ldots, q_M, p), \qquad
        q = \tfrac1M \sum_m q_m

    It is not a lower bound on `log p(x)`: the divergence to the dynamic prior is smaller than that to the model's
    prior, so the objective may lie above the evidence. Compare methods by `log_likelihood`.

    The samples come from the mixture, one expert a row, as in `StratifiedMixture`. The original code leaves the prior
    out of what is sampled, MoPoE's code counts it as one expert more, so that a share of the rows is decoded from
    prior samples; that is `prior_samples=True`.

    References:
        Multimodal Generative Learning Utilizing Jensen-Shannon-Divergence (Sutter et al., 2020), section 3; baseline in
        Generalized Multimodal ELBO (Sutter et al., 2021).

    Args:
        weights: As in `jensen_shannon`.
        prior_samples: Whether the prior has its share, as in the divergence, of the samples.
        sites: Site name -> weight; that of `z` weighs the divergence.
        num_particles: Number of samples of the latents a row.

    Raises:
        TypeError: When called with experts or a prior that are not normal.
        ValueError: When called with a guide whose `z` is not a mixture of one expert a modality.

    Example:
        >>> elbo = JensenShannonELBO(sites={"z": 2.5})
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        prior_samples: bool = False,
        sites: SiteWeights | None = None,
        num_particles: int = 1,
    ) -> None:
        sites = dict(sites or {})
        super().__init__(num_particles, schedules_in(sites))
        self.weights, self.prior_samples, self.sites = weights, prior_samples, sites

    def evaluate(
        self, model: Program, guide: Program, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> Evaluation:
        guide_trace = self._guide_trace(guide, x, observed)
        q_sites = sample_sites(guide_trace)
        mixture = expert_mixture(q_sites)
        model_trace = self._model_trace(model, guide_trace, x, observed)
        prior = sample_sites(model_trace)["z"]["fn"]
        divergence, shares = jensen_shannon(mixture, prior, self.weights)
        if self.prior_samples:
            from_prior = torch.rand_like(shares[..., -1]) < shares[..., -1]
            z = q_sites["z"]["value"]
            q_sites["z"]["value"] = torch.where(from_prior.unsqueeze(-1), prior.expand(z.shape[:-1]).rsample(), z)
            model_trace = self._model_trace(model, guide_trace, x, observed)
        for trace in (guide_trace, model_trace):
            trace.compute_log_prob()
        p_sites, latents = sample_sites(model_trace), list(q_sites)
        check_sites(p_sites, latents)
        result = Evaluation(torch.zeros((), dtype=divergence.dtype, device=divergence.device))
        for name, site in p_sites.items():
            if name == "z":
                value = -divergence
            elif name in latents:
                exact = closed_form(q_sites[name]["fn"], site["fn"])
                value = site["log_prob"] - q_sites[name]["log_prob"] if exact is None else -exact
            else:
                value = site["log_prob"]
            rows = common_rows(name, p_sites, q_sites, latents)
            value = value if rows is None else torch.where(rows, value, 0.0)
            value = (value.mean(0) if value.dim() > 1 else value).sum()
            result.bound = result.bound + weight_value(self.sites.get(name, 1.0)) * value
            label = "divergence/z" if name == "z" else f"kl/{name}" if name in latents else f"reconstruction/{name}"
            result.add(label, -value.detach() if name in latents else value.detach())
        return result
