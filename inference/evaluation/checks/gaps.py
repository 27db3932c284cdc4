"""The gap between a guide's bound and the likelihood, divided into approximation and amortization gaps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from multipyro.batch import Values, selected
from multipyro.inference.evaluation._inputs import as_names, conditions_of
from multipyro.inference.evaluation._memory import row_chunks
from multipyro.inference.evaluation.estimates import Estimate, estimate_mean
from multipyro.inference.evaluation.likelihoods.bounds import bound_log_weights
from multipyro.inference.evaluation.likelihoods.densities import LatentDensity, ScoredData, latents_of
from multipyro.inference.evaluation.likelihoods.estimates import UNRELIABLE, LogLikelihood
from multipyro.inference.evaluation.likelihoods.fitting import fit_normals, starting_point
from multipyro.inference.evaluation.likelihoods.importance import log_likelihood
from multipyro.inference.evaluation.likelihoods.weights import pareto_k
from multipyro.inference.evaluation.prediction import evaluating
from multipyro.inference.handlers import conditional, restrict
from multipyro.inference.programs import Program

__all__ = ["InferenceGap", "inference_gap"]

# of one data point, while it is optimized: samples times the tensors that gradients keep
_FITTED_SAMPLES = 64
# of the optimization: what it stops short of counts as approximation
_STEPS = 200


@dataclass(frozen=True, eq=False)
class InferenceGap:
    r"""How far a guide's bound lies below the log-likelihood, in nats.

    .. math:: \log p(x_A) - L[q] = \underbrace{\log p(x_A) - L[q^*]}_{\text{approximation}}
        + \underbrace{L[q^*] - L[q]}_{\text{amortization}}

    `q*` is the best normal with independent components, optimized for each data point.

    Attributes:
        evidence: The log-likelihood.
        bound: The guide's ELBO.
        total: `evidence - bound`, which is the divergence of the guide from the posterior.
        approximation: The gap of the best normal with independent components.
        amortization: The gap between the guide and this normal; negative if the guide's family is richer and fits
            better.
        khat: Pareto k-hat of the importance weights under the guide alone, `(batch,)`.
    """

    evidence: LogLikelihood
    bound: Estimate
    total: Estimate
    approximation: Estimate
    amortization: Estimate
    khat: Tensor

    @property
    def unreliable(self) -> float:
        """The share of data points with a k-hat above 0.7."""
        return (self.khat > UNRELIABLE).double().mean().item()


def inference_gap(
    model: Program, guide: Program, x: Values, given: Sequence[str], num_samples: int = 1000
) -> InferenceGap | None:
    """Measures the gap on data, for one subset of the modalities.

    References:
        Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018), section 3.

    Args:
        model: The generative program.
        guide: The guide; its `conditional` distribution is measured.
        x: Modality name -> values `(batch, *event)`, every data point complete.
        given: The subset, which the guide is given and the model scores.
        num_samples: Samples of each data point for the evidence, the bound and k-hat.

    Returns:
        The gap; None if the guide's distribution has no density.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> inference_gap(model, guide, {"image": torch.zeros(5, 4)}, ["image"], 50).total.value > 0
        True
    """
    conditions = conditions_of(model)
    given = as_names(given)
    scored = tuple(name for name in given if name not in conditions)
    x = selected(x, (*given, *conditions))
    try:
        guided, best, khat = _bounds(ScoredData(model, x, None, scored), guide, given, num_samples)
    except NotImplementedError:
        return None
    evidence = log_likelihood(model, guide, x, scored, conditions or None, num_samples)
    return InferenceGap(
        evidence,
        estimate_mean(guided),
        estimate_mean(evidence.values - guided),
        estimate_mean(evidence.values - best),
        estimate_mean(best - guided),
        khat,
    )


def _bounds(data: ScoredData, guide: Program, given: Sequence[str], num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ELBO of the guide, that of the best normal, and the guide's k-hat, of each data point."""
    program, parts = conditional(guide), []
    with evaluating(data.model, guide), poutine.block():
        elements = data.elements(restrict(program, list(data.x)))
        for rows in row_chunks(len(data), elements, _FITTED_SAMPLES, "inference gaps"):
            part = data.rows(rows)
            log_weights = bound_log_weights(data.model, guide, part.x, given, data.scored, num_samples)
            density = LatentDensity(part)
            start = starting_point(density, latents_of(program, given, part.x, None))
            best = fit_normals(density, *start, steps=_STEPS, full=False).bound
            parts.append((log_weights.mean(0), best, pareto_k(log_weights)))
    guided, best, khat = (torch.cat(column) for column in zip(*parts, strict=True))
    return guided, best, khat
