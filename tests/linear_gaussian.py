"""Monte Carlo helpers for tests against the linear-Gaussian model of `multipyro.testing`."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from multipyro.guides import Guide
from multipyro.ppl_models import MultimodalModel
from multipyro.testing.linear_gaussian import DTYPE, FixedGuide, LinearGaussian

__all__ = ["exact_bound", "gradient_samples", "mean_and_se", "repeated", "scaled_guide"]


def repeated(x: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The first row of `x`, `rows` times: one call of a loss is then `rows` independent draws."""
    return {name: values[:1].repeat(rows, *[1] * (values.dim() - 1)) for name, values in x.items()}


def scaled_guide(problem: LinearGaussian, scale: float) -> FixedGuide:
    """The exact posterior of each subset (orthogonal loadings) with its standard deviations multiplied."""

    def posterior(x, observed):
        exact = problem.best_diagonal(x)
        return dist.Normal(exact.mean, scale * exact.stddev).to_event(1)

    return FixedGuide(problem, posterior)


def mean_and_se(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first dimension and its standard error."""
    return samples.mean(0), samples.std(0) / math.sqrt(len(samples))


def gradient_samples(loss, model, guide, x, parameters, calls: int) -> Tensor:
    """Gradient of the bound per row of `x`, one independent estimate a call, `(calls, number of entries)`."""
    rows = len(next(iter(x.values())))
    estimates = []
    for seed in range(calls):
        torch.manual_seed(seed)
        gradients = torch.autograd.grad(-loss.differentiable_loss(model, guide, x) / rows, parameters)
        estimates.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(estimates)


def exact_bound(
    model: MultimodalModel, guide: Guide, x: dict[str, Tensor], num_particles: int, bound: str, nodes: int = 24
) -> Tensor:
    """The expectation of a K-sample bound at the first row of `x`, by Gauss-Hermite quadrature (`latent_dim` 1).

    Differentiable in every parameter of model and guide. The experts must be normal, equally weighted.

    Args:
        model: The generative program.
        guide: `MixtureOfExperts` or a guide of one expert.
        x: Modality name -> values.
        num_particles: `K`, samples of each expert.
        bound: `"stratified"` (mean over experts of the log of a mean) or `"tight"` (one log of one mean).
        nodes: Quadrature nodes a dimension.
    """
    x = {name: values[:1] for name, values in x.items()}
    experts = list(guide.experts(x).values())
    loc = torch.stack([expert.mean[0, 0] for expert in experts])
    scale = torch.stack([expert.base_dist.scale[0, 0] for expert in experts])
    abscissae, weights = _hermite(nodes)
    z = loc[:, None] + scale[:, None] * abscissae  # (experts, nodes)
    log_joint = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    for name, values in x.items():
        log_joint = log_joint + model.likelihoods[name](z.unsqueeze(-1)).log_prob(values)
    log_mixture = dist.Normal(loc, scale).log_prob(z.unsqueeze(-1)).logsumexp(-1) - math.log(len(experts))
    log_w = log_joint - log_mixture
    if bound == "stratified":
        return torch.stack([_expected_log_mean([row] * num_particles, weights) for row in log_w]).mean()
    return _expected_log_mean([row for row in log_w for _ in range(num_particles)], weights)


def _hermite(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the expectation under `N(0, 1)`, from the eigenvalues of the Jacobi matrix."""
    off = torch.arange(1, nodes, dtype=DTYPE).sqrt()
    values, vectors = torch.linalg.eigh(off.diag(1) + off.diag(-1))
    return values, vectors[0] ** 2


def _expected_log_mean(log_ws: list[Tensor], weights: Tensor) -> Tensor:
    """`E log mean_i w_i` over independent samples, each with its own values at the quadrature nodes."""
    count = len(log_ws)
    grids = [w.reshape([-1 if i == j else 1 for j in range(count)]) for i, w in enumerate(log_ws)]
    total, weight = grids[0], torch.ones((), dtype=DTYPE)
    for i, grid in enumerate(grids):
        total = total if i == 0 else torch.logaddexp(total, grid)
        weight = weight * weights.reshape([-1 if i == j else 1 for j in range(count)])
    return ((total - math.log(count)) * weight).sum()
