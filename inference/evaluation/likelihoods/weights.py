"""Importance weights in float64: log-means and their errors, Pareto k-hat and effective sample size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood

__all__ = ["Strata", "effective_sample_size", "estimate_from", "pareto_k"]

# fewest tail weights from which a shape is estimated, as in the loo and arviz packages
_SMALLEST_TAIL = 5


class Strata:
    """How the samples of a data point are divided among the components of a proposal.

    Args:
        counts: Number of samples of each component, in the order of the samples.

    Example:
        >>> Strata([3, 2]).means(torch.arange(5.0, dtype=torch.float64)[:, None])[0]
        tensor([2.], dtype=torch.float64)
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = torch.tensor([count for count in counts if count])
        component = torch.repeat_interleave(torch.arange(len(self.counts)), self.counts)
        # which sample belongs to which component, `(samples, components)`
        self._members = torch.nn.functional.one_hot(component, len(self.counts)).double()
        position = torch.arange(len(component)) - (self.counts.cumsum(0) - self.counts)[component]
        # each half contains every other sample of each component; a single sample belongs to both
        single = self.counts[component] == 1
        self._halves = torch.stack([(position % 2 == half) | single for half in (0, 1)]).double()

    def means(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over all samples `(batch,)`, and those of the two halves `(2, batch)`, of `(samples, batch)`.

        A half weights each component as the whole does.
        """
        members, halves = self._members.to(values), self._halves.to(values)
        weights = halves * ((members.mean(0) / (halves @ members)) @ members.T)
        return values.mean(0), weights @ values

    def centered(self, values: Tensor) -> Tensor:
        """`values` `(samples, batch)` minus the mean of their component."""
        members = self._members.to(values)
        return values - members @ ((members.T @ values) / members.sum(0)[:, None])

    def variance_of_mean(self, values: Tensor) -> Tensor:
        """The variance of the mean of `(samples, batch)`, from the variance within each component, `(batch,)`.

        A component with one sample counts with the square of its distance from the mean of all; NaN for one sample.
        """
        number, members = len(values), self._members.to(values)
        if number < 2:
            return torch.full_like(values[0], math.nan)
        counts = members.sum(0)[:, None]
        squares = members.T @ self.centered(values).square()
        single = ((members.T @ values) / counts - values.mean(0)).square()
        within = torch.where(counts > 1, squares / (counts - 1).clamp(min=1), single)
        return (counts * within).sum(0) / number**2

    def calibration(self, control: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the samples that give a control variate `(samples, batch)` the mean 1, and the centered control.

        Where a weight would be negative, the weights are 1 and the control is 0.
        """
        centered = self.centered(control)
        variance = centered.square().mean(0)
        slope = torch.where(variance > 0, (1 - control.mean(0)) / variance, 0.0)
        weights = 1 + slope * centered
        valid = (weights >= 0).all(0) & weights.isfinite().all(0)
        return torch.where(valid, weights, 1.0), torch.where(valid, centered, 0.0)


def estimate_from(
    numerator: Tensor, denominator: Tensor | None, strata: Strata, control: Tensor | None = None
) -> LogLikelihood:
    r"""The log-mean of weights, given as logarithms `(samples, batch)`, or of the ratio of two sets of weights.

    Of a ratio, the larger k-hat and the smaller effective sample size of the two sets are reported.

    With `control`, the log of weights whose mean is known to be 1, the samples are calibrated: each
    counts :math:`\omega_k \propto 1 + \lambda (c_k - \bar c)`, with the :math:`\lambda` that gives the control its
    mean. This is the regression estimator with a control variate, whose weights do not depend on what is averaged.
    With `c = p(z) / r(z)`, probabilities of discrete values are therefore at most 1, whatever the samples are. Where a
    sample would count negatively, nothing is calibrated.

    References:
        Safe and Effective Importance Sampling (Owen and Zhou, 2000), section 3, for control variates of mixtures.
    """
    weights, centered = (1.0, None) if control is None else strata.calibration(control.exp())
    top, top_halves, relative = _log_means(numerator, strata, weights)
    khat, ess = pareto_k(numerator), effective_sample_size(numerator)
    growth = numerator.logsumexp(0) - math.log(len(numerator))
    if denominator is not None:
        bottom, bottom_halves, below = _log_means(denominator, strata, weights)
        top, top_halves, relative = top - bottom, top_halves - bottom_halves, relative - below
        khat = torch.maximum(khat, pareto_k(denominator))
        ess = torch.minimum(ess, effective_sample_size(denominator))
        growth = numerator.logsumexp(0) - denominator.logsumexp(0)
    if centered is not None:
        # a calibrated mean varies as the residuals of a regression on the control do
        variance = centered.square().sum(0)
        relative = relative - (centered * relative).sum(0) / torch.where(variance > 0, variance, 1.0) * centered
    # delta method: the relative error of a mean is the absolute error of its log
    return LogLikelihood(top, strata.variance_of_mean(relative).sqrt(), khat, ess, growth - top_halves.mean(0))


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""`(sum w)^2 / sum w^2` of log-weights `(samples, batch)`, `(batch,)`; 0 where all weights are 0.

    Example:
        >>> effective_sample_size(torch.zeros(10, 1)).item()
        10.0
    """
    size = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
    return size.nan_to_num(0.0)


def pareto_k(log_weights: Tensor) -> Tensor:
    r"""The shape of a generalized Pareto distribution fitted to the largest weights, `(batch,)`.

    Above 0.7 the mean of the weights is unreliable at this number of samples, and so is its standard error; above
    0.5 the weights have no variance, above 1 no mean. The tail consists of `min(K / 5, 3 sqrt(K))` weights. The fit is
    the empirical Bayes estimate of Zhang and Stephens, with the weak prior of Vehtari et al. around 0.5.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), section 3 and appendix; A New and Efficient
        Estimation Method for the Generalized Pareto Distribution (Zhang and Stephens, 2009).

    Args:
        log_weights: `(samples, batch)`, unnormalized.

    Returns:
        `(batch,)`: -1 where the weights do not vary, infinity where most of the tail is 0, NaN where there are too few
        samples for a tail of five.

    Example:
        >>> uniform = torch.rand(4000, 1, dtype=torch.float64)
        >>> bool(pareto_k(-0.9 * uniform.log()) > 0.7), bool(pareto_k(-0.2 * uniform.log()) < 0.5)
        (True, True)
    """
    number = len(log_weights)
    size = min(number // 5, math.ceil(3 * math.sqrt(number)))
    if size < _SMALLEST_TAIL:
        return torch.full_like(log_weights[0], math.nan, dtype=torch.float64)
    top = log_weights.double().topk(size + 1, 0).values.flip(0)
    top = (top - top[-1]).nan_to_num(-math.inf).exp()
    excess = top[1:] - top[0]
    quartile, largest = excess[int(size / 4 + 0.5) - 1], excess[-1]
    constant = (largest < 1e-12) & log_weights.amax(0).isfinite()
    empty = (quartile <= 0) & ~constant
    excess = torch.where(constant | empty, torch.linspace(0.1, 1, size, device=excess.device)[:, None], excess)
    quartile, largest = excess[int(size / 4 + 0.5) - 1], excess[-1]
    points = 30 + int(math.sqrt(size))
    grid = torch.arange(1, points + 1, device=excess.device, dtype=torch.float64) - 0.5
    theta = 1 / largest + (1 - (points / grid).sqrt())[:, None] / (3 * quartile)  # (points, batch)
    shape = torch.stack([(-each * excess).log1p().mean(0) for each in theta])
    log_posterior = size * ((-theta / shape).log() - shape - 1)
    best = (log_posterior.softmax(0) * theta).sum(0)
    khat = (-best * excess).log1p().mean(0)
    khat = (khat * size + 0.5 * 10) / (size + 10)
    return torch.where(empty, math.inf, torch.where(constant, -1.0, khat))


def _log_means(log_weights: Tensor, strata: Strata, weights: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """The log-mean of calibrated weights, that of two halves without calibration, and the weights over their mean."""
    largest = log_weights.amax(0)
    largest = torch.where(largest.isfinite(), largest, 0.0)
    scaled = (log_weights - largest).exp()
    mean, (_, halves) = (weights * scaled).mean(0), strata.means(scaled)
    return mean.log() + largest, halves.log() + largest, scaled / mean
