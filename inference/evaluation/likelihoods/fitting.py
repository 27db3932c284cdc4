"""Normal approximations of the posterior of each data point, fitted by optimization: without amortization."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from multipyro.inference.evaluation._inputs import conditions_of
from multipyro.inference.evaluation.likelihoods.densities import GuideLatents, LatentDensity, ProgramLatents, ScoredData

__all__ = ["FittedLatents", "FittedNormal", "fit_normals", "starting_point"]

# sampled in pairs z and -z around the mean
_SAMPLES = 2
_BOUND_SAMPLES = 64
_CANDIDATES = 32
# of freedom of the Student-t distributions
_DEGREES = 5.0
_SMALLEST_SCALE = 1e-4
_FIRST_RATE, _LAST_RATE = 0.5, 0.01
# short averages of gradients, for a few dozen steps
_BETAS = (0.7, 0.9)
# second derivatives of all pairs of latents cost as many gradients as there are latents
_MOST_COVARIANCES = 128
# no direction becomes more than five times as wide or as narrow as the diagonal fit
_PRECISIONS = (0.04, 25.0)


class FittedNormal:
    """A normal for each data point, and wider distributions around it.

    Args:
        loc: Means, `(batch, dim)`.
        std: Standard deviations of the best normal with independent components, `(batch, dim)`.
        bound: The ELBO of that normal, `(batch,)`, float64.
        scale_tril: Lower triangular factors of the covariances, `(batch, dim, dim)`; None for independent components.

    Example:
        >>> fit = FittedNormal(torch.zeros(5, 2), torch.ones(5, 2), torch.zeros(5), None)
        >>> fit.log_prob(fit.sample(7, "heavy-tailed"), "heavy-tailed").shape
        torch.Size([7, 5])
    """

    def __init__(self, loc: Tensor, std: Tensor, bound: Tensor, scale_tril: Tensor | None) -> None:
        self.loc, self.std, self.bound, self.scale_tril = loc, std, bound, scale_tril
        identity = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
        self._inverse = None if scale_tril is None else torch.linalg.solve_triangular(scale_tril, identity, upper=False)
        diagonal = std if scale_tril is None else scale_tril.diagonal(dim1=-2, dim2=-1)
        self._log_volume = diagonal.log().sum(-1, dtype=torch.float64)

    def sample(self, number: int, kind: str = "normal", scale: float = 1.0) -> Tensor:
        """`(number, batch, dim)` from the normals, or heavy-tailed Student-t distributions, `scale` times as wide."""
        noise = scale * torch.randn(number, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        if kind == "heavy-tailed":
            gamma = torch.distributions.Gamma(self.loc.new_tensor(_DEGREES / 2), self.loc.new_tensor(_DEGREES / 2))
            noise = noise / gamma.sample((number, len(self.loc), 1)).sqrt()
        if self.scale_tril is None:
            return self.loc + self.std * noise
        return self.loc + torch.einsum("bij,nbj->nbi", self.scale_tril, noise)

    def log_prob(self, z: Tensor, kind: str = "normal", scale: float = 1.0) -> Tensor:
        """The log-density of `(samples, batch, dim)`, `(samples, batch)`, float64."""
        # one product of matrices for all samples of a data point; torch's density solves a system for each sample
        centered, dim = z - self.loc, self.loc.shape[-1]
        whitened = (
            centered / self.std if self._inverse is None else torch.einsum("bij,nbj->nbi", self._inverse, centered)
        )
        square = whitened.square().sum(-1, dtype=torch.float64) / scale**2
        volume = self._log_volume + dim * math.log(scale)
        if kind == "heavy-tailed":
            constant = math.lgamma((_DEGREES + dim) / 2) - math.lgamma(_DEGREES / 2)
            constant -= dim / 2 * math.log(_DEGREES * math.pi)
            return constant - volume - (_DEGREES + dim) / 2 * (square / _DEGREES).log1p()
        return -0.5 * square - volume - dim / 2 * math.log(2 * math.pi)


def fit_normals(density: LatentDensity, loc: Tensor, scale: Tensor, steps: int = 60, full: bool = True) -> FittedNormal:
    r"""Maximizes the ELBO of each data point over a normal with independent components, then adds the correlations.

    .. math:: \max_{\mu, \sigma} E_{N(z; \mu, \sigma^2)} [\log p(x, z) - \log N(z; \mu, \sigma^2)], \qquad
        \Sigma^{-1} = -E_q \nabla^2 \log p(x, z)

    The second equation holds at the best normal with a full covariance; here the expectation is under the best one with
    a diagonal covariance, one Newton step from it. Where that matrix is not positive definite, the diagonal stays.

    References:
        Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018), for the optimization per data point;
        Sticking the Landing (Roeder et al., 2017), for the gradient;
        The Variational Gaussian Approximation Revisited (Opper and Archambeau, 2009), eq. 17 for the covariance.

    Args:
        density: The joint density.
        loc: Initial means, `(batch, dim)`.
        scale: Initial standard deviations, `(batch, dim)`.
        steps: Number of steps of Adam.
        full: Whether to add correlations; never with more than 128 latents.

    Returns:
        The fitted normals.
    """
    shift = torch.zeros_like(loc, requires_grad=True)
    log_factor = torch.zeros_like(loc, requires_grad=True)
    optimizer = torch.optim.Adam([shift, log_factor], lr=_FIRST_RATE, betas=_BETAS)
    decay = (_LAST_RATE / _FIRST_RATE) ** (1 / steps)

    def log_ratios(samples: int) -> Tensor:
        mean, std = loc + scale * shift, scale * log_factor.exp()
        half = torch.randn(samples // 2, *loc.shape, dtype=loc.dtype, device=loc.device)
        z = mean + std * torch.cat([half, -half])
        # without the score term, whose mean is 0: at the best normal no noise is left
        log_normal = torch.distributions.Normal(mean.detach(), std.detach()).log_prob(z).sum(-1)
        return sum(density(z)) - log_normal

    with torch.enable_grad():
        for _ in range(steps):
            gradients = torch.autograd.grad(-log_ratios(_SAMPLES).mean(0).sum(), [shift, log_factor])
            # skip steps out of the range in which the decoder is finite
            shift.grad, log_factor.grad = (gradient.nan_to_num(0.0, 0.0, 0.0) for gradient in gradients)
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= decay
    shift, log_factor = shift.detach(), log_factor.detach()
    with torch.no_grad():
        value = log_ratios(_BOUND_SAMPLES).mean(0)
    mean, std = loc + scale * shift, scale * log_factor.exp()
    tril = _correlated(density, mean, std) if full and density.dim <= _MOST_COVARIANCES else None
    return FittedNormal(mean, std, value, tril)


def _correlated(density: LatentDensity, mean: Tensor, std: Tensor) -> Tensor:
    """The factor of the inverse of the mean negative Hessian where that is positive definite, else the diagonal."""
    total, offset = mean.new_zeros(*mean.shape, mean.shape[-1]), std * torch.randn_like(mean)
    for z in (mean, mean + offset, mean - offset):
        total = total + _negative_hessian(density, z)
    # in units of the diagonal fit, so that one range serves all latents
    precision = total / 3 * std.unsqueeze(-1) * std.unsqueeze(-2)
    # at the best diagonal normal these are 1, also where a Laplace prior has its curvature in one point
    precision.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    values, vectors = torch.linalg.eigh(0.5 * (precision + precision.mT).nan_to_num(0.0, 0.0, 0.0))
    covariance = (vectors / values.clamp(*_PRECISIONS).unsqueeze(-2)) @ vectors.mT
    factor, failed = torch.linalg.cholesky_ex(covariance)
    factor = std.unsqueeze(-1) * factor
    valid = (failed == 0) & factor.isfinite().flatten(1).all(1)
    return torch.where(valid.reshape(-1, 1, 1), factor, torch.diag_embed(std))


def _negative_hessian(density: LatentDensity, z: Tensor) -> Tensor:
    """Minus the second derivatives of the joint log-density at one point for each data point, `(batch, dim, dim)`."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_prior, log_likelihood = density(z[None])
        (gradient,) = torch.autograd.grad((log_prior + log_likelihood).sum(), z, create_graph=True)
        rows = [
            torch.autograd.grad(gradient[:, d].sum(), z, retain_graph=True, materialize_grads=True)[0]
            for d in range(z.shape[-1])
        ]
    return -torch.stack(rows, -2)


def starting_point(density: LatentDensity, latents: GuideLatents | ProgramLatents) -> tuple[Tensor, Tensor]:
    """Initial means and standard deviations of a fit, `(batch, dim)` each.

    The mean is the most likely of the guide's mean and some of its samples: the mean of a mixture may lie between its
    modes.
    """
    values = latents.sample(_CANDIDATES, "guide", 1.0)
    prior = density.split(density.prior_sample(_CANDIDATES))
    z = density.join({name: values.get(name, prior[name]) for name in density.shapes})
    candidates = torch.cat([z.mean(0, keepdim=True), z])
    log_prior, log_likelihood = density(candidates)
    best = (log_prior + log_likelihood).nan_to_num(-math.inf).argmax(0)
    loc = candidates.gather(0, best.reshape(1, -1, 1).expand(1, *candidates.shape[1:]))[0]
    return loc, z.std(0).clamp(min=_SMALLEST_SCALE)


class FittedLatents:
    """The latents of normals fitted to the posterior of each data point given one subset.

    They are fitted in standardized coordinates (see `LatentDensity`): under a Laplace prior, the tails of a latent that
    the data say nothing of are above those of any normal.

    Data points in which a latent has no evidence take theirs from the model's prior.
    """

    def __init__(self, data: ScoredData, subset: Sequence[str], latents: GuideLatents | ProgramLatents) -> None:
        conditions = conditions_of(data.model)
        scored = data.scored_by([name for name in subset if name not in conditions])
        self._density = LatentDensity(scored, standardized=True)
        self._fit = fit_normals(self._density, *starting_point(self._density, latents))
        self.names = tuple(self._density.shapes)
        self.rows = dict.fromkeys(self.names, self._density.informed)

    def sample(self, number: int, kind: str, scale: float) -> dict[str, Tensor]:
        """Site -> `(number, batch, latent_dim)`."""
        return self._density.split(self._fit.sample(number, kind, scale))

    def log_probs(self, values: Mapping[str, Tensor], kind: str, scale: float) -> dict[str, Tensor]:
        """Site -> log-density `(samples, batch)`, float64: that of all sites at the first, and 0 at the others."""
        z = self._density.join(values)
        log_prob = self._fit.log_prob(z, kind, scale) - self._density.log_volume(z)
        first, *others = self.names
        return {first: log_prob, **dict.fromkeys(others, torch.zeros_like(log_prob))}
