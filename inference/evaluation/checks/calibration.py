"""Simulation-based calibration: whether a guide contains the latents that data was simulated with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from pyro import poutine
from torch import Tensor

from multipyro.inference.evaluation._inputs import as_names, conditions_of
from multipyro.inference.evaluation._memory import row_chunks
from multipyro.inference.evaluation.estimates import Estimate, estimate_share
from multipyro.inference.evaluation.likelihoods.densities import (
    GuideLatents,
    LatentDensity,
    ProgramLatents,
    ScoredData,
    latents_of,
)
from multipyro.inference.evaluation.prediction import Simulation, evaluating
from multipyro.inference.handlers import conditional, restrict
from multipyro.inference.programs import Program

__all__ = ["Calibration", "calibrate"]

# of credible regions whose coverage is reported
_LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the true latents of simulated data points among samples of a guide.

    Attributes:
        names: Name of each dimension, `"z[3]"`.
        ranks: How many of the samples are below the true value in each dimension, int64 `(num, dims)`.
        joint_ranks: How many of the samples have a smaller joint density with the data point than the true latents,
            int64 `(num,)`; None if the guide leaves latents to the model.
        density_ranks: How many of the samples have a larger density under the guide than the true latents, int64
            `(num,)`; None if it has no density. Divided by `num_samples` it is the smallest level whose credible region
            contains the truth.
        errors: Distance of the true values from the guide's mean, in its standard deviations, `(num, dims)`.
        num_samples: Number of samples of each data point.
    """

    names: tuple[str, ...]
    ranks: Tensor
    joint_ranks: Tensor | None
    density_ranks: Tensor | None
    errors: Tensor
    num_samples: int

    @cached_property
    def coverage(self) -> dict[float, Estimate]:
        """Level of a credible region -> share of the true latents inside, with Wilson's interval; empty without one."""
        if self.density_ranks is None:
            return {}
        # a region of level a contains the truth if fewer than this share of the samples have a larger density
        levels = (self.density_ranks + 0.5) / (self.num_samples + 1)
        return {level: estimate_share(levels < level) for level in _LEVELS}

    @property
    def spread(self) -> float:
        """Factor that the guide's standard deviations would need: above 1 it is too narrow, below 1 too wide."""
        return self.errors.var(0).mean().sqrt().item()

    @property
    def offset(self) -> float:
        """Largest mean distance of a dimension from the truth, in standard deviations of the guide."""
        return self.errors.mean(0).abs().max().item()


def calibrate(
    model: Program, guide: Program, simulation: Simulation, given: Sequence[str], num_samples: int = 99
) -> Calibration:
    r"""Ranks of the simulated latents among samples of the guide's `conditional` distribution.

    If the guide is the exact posterior, the true latents and its samples are exchangeable, so every rank is uniform. A
    guide that is too narrow has too many small and large ranks, one that is too wide too few.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018); Simulation-
        Based Calibration Checking for Bayesian Computation: The Choice of Test Quantities Shapes Sensitivity (Modrák
        et al., 2023), for the joint density as a test quantity; A Trust Crisis in Simulation-Based Inference (Hermans
        et al., 2022), for expected coverage.

    Args:
        model: The generative program.
        guide: The guide.
        simulation: Simulated data points.
        given: The modalities that the guide is given.
        num_samples: Number of samples of each data point.

    Returns:
        The ranks.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.inference.evaluation import simulate
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> calibrate(model, guide, simulate(model, 5), ["image"], 9).ranks.shape
        torch.Size([5, 2])
    """
    given, conditions = as_names(given), conditions_of(model)
    program = conditional(guide)
    scored = [name for name in given if name not in conditions]
    data = ScoredData(model, simulation.x, None, ()).scored_by(scored)
    parts = []
    with evaluating(model, guide), poutine.block():
        elements = data.elements(restrict(program, list(data.x)))
        for rows in row_chunks(len(data), elements, num_samples, "calibration"):
            part, truth = data.rows(rows), {name: value[rows] for name, value in simulation.latents.items()}
            parts.append(_ranks(part, latents_of(program, given, part.x, None), truth, num_samples))
    names, *columns = zip(*parts, strict=True)
    joined = [None if column[0] is None else torch.cat(column) for column in columns]
    return Calibration(names[0], *joined, num_samples)


def _ranks(
    data: ScoredData, source: GuideLatents | ProgramLatents, truth: Mapping[str, Tensor], num_samples: int
) -> tuple[tuple[str, ...], Tensor, Tensor | None, Tensor | None, Tensor]:
    """The fields of a `Calibration` for one batch."""
    sites = [name for name in source.names if name in truth]
    samples = {name: value for name, value in source.sample(num_samples, "guide", 1.0).items() if name in sites}
    flat = torch.cat([samples[name].flatten(2) for name in sites], -1)
    true = torch.cat([truth[name].flatten(1) for name in sites], -1)
    names = tuple(f"{name}[{d}]" for name in sites for d in range(truth[name].flatten(1).shape[1]))
    # a sample that does not differ from the truth, as one cut to a range, counts as below it by chance
    below = (flat < true) | ((flat == true) & (torch.rand_like(flat) < 0.5))
    ranks, errors = below.sum(0), (true - flat.mean(0)) / flat.std(0)
    density = LatentDensity(data)
    joint = None
    if set(density.shapes) <= set(sites):
        z = torch.cat([density.join({n: truth[n][None] for n in density.shapes}), density.join(samples)])
        log_prior, log_likelihood = density(z)
        log_joint = log_prior + log_likelihood
        joint = (log_joint[1:] < log_joint[0]).sum(0)
    return names, ranks, joint, _density_ranks(source, samples, truth), errors


def _density_ranks(source, samples: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> Tensor | None:
    values = {name: torch.cat([truth[name][None], value]) for name, value in samples.items()}
    try:
        log_prob = sum(source.log_probs(values, "guide", 1.0).values())
    except NotImplementedError:  # a product of densities without a normalizing constant
        return None
    return (log_prob[1:] > log_prob[0]).sum(0)
