"""K-sample bounds with one stratum per expert of a mixture guide."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from multipyro._distributions import detached, representative_tensor, sample_from
from multipyro.batch import Masks, Values, modalities_in, private_modality
from multipyro.guides import StratifiedMixture
from multipyro.inference.objectives._base import Evaluation, Objective
from multipyro.inference.objectives.sites import (
    TracePair,
    check_plates,
    check_reparametrized,
    log_prob_of,
    sample_sites,
)
from multipyro.inference.objectives.weights import SiteWeights, Weight, check_choice
from multipyro.inference.programs import Program, ProgramExpression

__all__ = ["StratifiedELBO", "expert_mixture", "unsampled_sites"]

Gradient = Literal["reparam", "stl", "dreg"]
Bound = Literal["stratified", "tight"]


@dataclass(eq=False, repr=False)
class StratifiedELBO(Objective):
    r"""The importance-weighted bound of MMVAE, stratified over the experts of the guide.

    With :math:`w(z) = p(z) \prod_m p(x_m|z) / q(z|x)` and `q` the full mixture, whichever expert `z` came from,

    .. math::
        L_{stratified} = \sum_j \pi_j \, E_{z^{1:K} \sim q_j} \log \tfrac1K \sum_k w(z^k), \qquad
        L_{tight} = E \log \sum_j \pi_j \tfrac1K \sum_k w(z_j^k)

    `ELBO <= stratified <= tight <= log p(x)`. As `K` grows the tight bound reaches `log p(x)`; the stratified one does
    not. A guide without a mixture has one stratum, and both are the importance-weighted bound of that guide.

    Gradients of the guide: `"reparam"` is the plain reparametrized gradient of the bound, unbiased for it.
    `"stl"` drops the path through the density's parameters, which biases it for K > 1, and for several experts under
    the tight bound; it is what MMVAE's released code computes, because its hook for `"dreg"` never fires. `"dreg"`
    also squares the weights; it is always exact for the decoders, and for the encoders with one expert or the
    stratified bound at K = 1. The stratified bound at K > 1 stays biased under it, the tight one has a bias that
    shrinks with K: a sample comes from its expert while its weight has the density of the mixture.

    The latents of the guide must be independent given `x`; at most one of them may be a mixture.

    With `auxiliary` this is the estimator of MMVAE+: in the stratum of expert `m` the private latent of another
    modality `n` is drawn from an auxiliary prior `r_n` instead of its posterior, and only that of `m` has a density
    ratio, so that a private latent cannot carry what the others must learn from `z`:

    .. math::
        \log w(z, z_m) = \log p(x_m | z, z_m) + \sum_{n \ne m} \log p(x_n | z, \tilde z_n)
            + \log \frac{p(z)\, p(z_m)}{q(z|x)\, q_m(z_m|x_m)}, \qquad \tilde z_n \sim r_n

    It bounds `log p(x)` where each `r_n` is the model's prior of `z_n`; with learned ones it bounds the evidence of the
    model in which `r_n` takes its place.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), eq. 3
        and 5; Doubly Reparameterized Gradient Estimators (Tucker et al., 2019), eq. 8; MMVAE+: Enhancing the
        Generative Quality of Multimodal VAEs without Compromises (Palumbo et al., 2023), for `auxiliary`.

    Args:
        num_particles: Number `K` of samples of each expert.
        gradient: `"reparam"`, `"stl"` or `"dreg"`.
        bound: `"stratified"` or `"tight"`.
        sites: Site name -> weight on both sides; a weighted objective is no bound on `log p(x)`.
        auxiliary: Modality name -> module that returns the auxiliary prior of its private latent when called, or the
            expression of such a dict, as `GUIDE.part("auxiliary")`. The guide must then be a mixture of one expert per
            modality, and `gradient` not `"dreg"`, whose squared weights would be wrong for samples of `r_n`.
        chunk_size: Number of particles that pass through the decoders at once, each of them a second time for the
            gradient: memory then grows with `chunk_size` instead of `num_particles`. All at once by default.

    Example:
        >>> StratifiedELBO(num_particles=10, gradient="dreg")
        stratified 10-sample bound of (m || g), dreg gradient
    """

    num_particles: int = 1
    gradient: Gradient = "reparam"
    bound: Bound = "stratified"
    sites: Mapping[str, float | Tensor | Weight] = field(default_factory=dict)
    auxiliary: Mapping[str, nn.Module] | ProgramExpression | None = None
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        super().__init__(self.num_particles)
        check_choice("gradient", self.gradient, Gradient)
        check_choice("bound", self.bound, Bound)
        if self.auxiliary and self.gradient == "dreg":
            raise ValueError("gradient must be 'reparam' or 'stl' with auxiliary priors, got 'dreg'")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {self.chunk_size}")
        self.sites = SiteWeights(self.sites)

    def equation(self) -> str:
        auxiliary = ", private latents of other modalities from auxiliary priors" if self.auxiliary else ""
        gradient = "" if self.gradient == "reparam" else f", {self.gradient} gradient"
        return f"{self.bound} {self.num_particles}-sample bound of (m || g{self.sites}){auxiliary}{gradient}"

    def evaluate(self, model: Program, guide: Program, x: Values, observed: Masks = None) -> Evaluation:
        guide_sites = unsampled_sites(guide, x, observed)
        strata, shares = self._strata(guide_sites)
        values = {}
        for name, site in guide_sites.items():
            # samples are (particles, strata, batch, event)
            if isinstance(site["fn"], StratifiedMixture):
                values[name] = site["fn"].rsample_strata((self.num_particles,))
            else:
                values[name] = sample_from(site["fn"], (self.num_particles, strata))
        auxiliary = self._binding(model, guide).resolved(self.auxiliary) or {}
        own_strata = self._own_strata(guide_sites, auxiliary)
        for name, stratum in own_strata.items():
            prior = auxiliary[private_modality(name)]()
            sample = prior.expand(values[name].shape[:-1]).rsample()
            values[name] = torch.where(stratum.unsqueeze(-1), values[name], sample)

        log_ratios = functools.partial(self._log_ratios, model, guide_sites, own_strata, x, observed)
        if self.chunk_size is None or self.chunk_size >= self.num_particles:
            parts, scale = log_ratios(values)
        else:
            sections = zip(*(value.split(self.chunk_size) for value in values.values()), strict=True)
            chunks = [
                checkpoint(log_ratios, dict(zip(values, section, strict=True)), use_reentrant=False)
                for section in sections
            ]
            parts = {name: torch.cat([chunk[name] for chunk, _ in chunks]) for name in chunks[0][0]}
            scale = chunks[0][1]
        num_modalities = len(modalities_in(x))
        log_weights = sum(self.sites.of(name, num_modalities) * part for name, part in parts.items())
        result = Evaluation(scale * self._bound(log_weights, shares, values))
        for name, part in parts.items():
            mean = scale * (shares * part.detach().mean(0)).sum()
            result.record(
                f"kl/{name}" if name in values else f"reconstruction/{name}", -mean if name in values else mean
            )
        return result

    def _log_ratios(
        self,
        model: Program,
        guide_sites: Mapping[str, dict],
        own_strata: Mapping[str, Tensor],
        x: Values,
        observed: Masks,
        values: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], float]:
        """Site name -> log ratio of model and guide `(particles, strata, batch)`, and the scale of the whole bound."""
        # the model's sites broadcast over the two new dimensions to the left of the plate
        model_trace = poutine.trace(poutine.condition(model, data=values)).get_trace(x, observed)
        pair = TracePair(sample_sites(model_trace), guide_sites)
        parts, shape = {}, next(iter(values.values())).shape[:2]
        scale = pair.subsample_scale  # of the whole bound: inside the logarithm it would be an exponent
        for name, site in pair.p_sites.items():
            part = log_prob_of(site, site["scale"] / scale)
            if name in values:
                fn = guide_sites[name]["fn"]
                part = part - (fn if self.gradient == "reparam" else detached(fn)).log_prob(values[name])
                part = torch.where(own_strata[name], part, 0.0) if name in own_strata else part
            part = pair.masked(name, part)
            parts[name] = part.expand(*shape, part.shape[-1])
        return parts, scale

    def _own_strata(self, guide_sites: Mapping[str, dict], auxiliary: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Private site with an auxiliary prior -> which stratum is its modality's, bool `(strata, 1)`."""
        private = [name for name in guide_sites if private_modality(name) in auxiliary]
        if not private:
            return {}
        mixture = expert_mixture(guide_sites)
        strata = torch.arange(mixture.num_components, device=mixture.weights.device).unsqueeze(-1)
        return {name: strata == mixture.names.index(private_modality(name)) for name in private}

    def _strata(self, guide_sites: Mapping[str, dict]) -> tuple[int, Tensor]:
        """Number of strata, and their shares `(strata, batch)`."""
        mixtures = {n: site["fn"] for n, site in guide_sites.items() if isinstance(site["fn"], StratifiedMixture)}
        if len(mixtures) > 1:
            raise ValueError(f"at most one latent of the guide may be a mixture, got {list(mixtures)}")
        for mixture in mixtures.values():
            return mixture.num_components, mixture.weights.movedim(-1, 0)
        value = next(iter(guide_sites.values()))["value"]
        return 1, torch.ones((1, 1), dtype=value.dtype, device=value.device)

    def _bound(self, log_weights: Tensor, shares: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The bound summed over the batch, with the gradient that `gradient` names."""
        log_k = math.log(self.num_particles)
        if self.bound == "stratified":
            per_stratum = log_weights.logsumexp(0) - log_k
            total = (shares * per_stratum).sum()
            normalized, outer = log_weights.softmax(0), shares
        else:
            joint = log_weights + shares.log()  # an absent expert has share 0 and drops out at -inf
            total = (joint.logsumexp((0, 1)) - log_k).sum()
            normalized = joint.flatten(0, 1).softmax(0).reshape(joint.shape)
            outer = torch.ones_like(shares)
        if self.gradient != "dreg":
            return total
        normalized = normalized.detach()
        for value in values.values():
            if value.requires_grad:
                value.register_hook(lambda gradient: gradient * normalized.unsqueeze(-1))
        surrogate = (outer * (normalized * log_weights)).sum()
        return total.detach() + surrogate - surrogate.detach()


def expert_mixture(guide_sites: Mapping[str, dict]) -> StratifiedMixture:
    """The mixture of one expert per modality at the site `z` of a guide.

    Raises:
        ValueError: If it has none.
    """
    mixture = guide_sites["z"]["fn"] if "z" in guide_sites else None
    if not isinstance(mixture, StratifiedMixture) or mixture.names is None:
        raise ValueError(
            f"this objective needs a mixture of one expert per modality at the site 'z', such as MixtureOfExperts, got "
            f"{'no such site' if mixture is None else type(mixture).__name__}"
        )
    return mixture


def unsampled_sites(guide: Program, x: Values, observed: Masks = None) -> dict[str, dict]:
    """The sites of a guide, whose latents have no samples yet: an objective samples each stratum itself.

    Raises:
        ValueError: As `TracePair`.
    """
    sites = sample_sites(poutine.trace(_WithoutSampling()(guide)).get_trace(x, observed))
    check_plates(sites, list(sites), "guide")
    check_reparametrized(sites)
    return sites


class _WithoutSampling(Messenger):
    """Visits the sites of a guide without sampling them: the objective samples each stratum itself."""

    def _pyro_sample(self, msg: dict) -> None:
        if not msg["is_observed"] and not poutine.util.site_is_subsample(msg):
            msg["value"] = representative_tensor(msg["fn"]).new_zeros(msg["fn"].shape())
            msg["done"] = True
