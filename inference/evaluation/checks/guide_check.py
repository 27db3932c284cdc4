"""Whether a guide can be trusted: calibration, coverage, gaps and collapse of each subset, with verdicts in words."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from multipyro.batch import Values, batch_rows, covariates_in, is_input, modalities_in, subsets_of
from multipyro.inference.evaluation._inputs import as_names, check_known, check_values, conditions_of, supports
from multipyro.inference.evaluation._memory import show_progress
from multipyro.inference.evaluation.checks.calibration import Calibration, calibrate
from multipyro.inference.evaluation.checks.gaps import InferenceGap, inference_gap
from multipyro.inference.evaluation.checks.two_sample import TwoSampleTest, two_sample_test
from multipyro.inference.evaluation.checks.uniformity import UniformityTest
from multipyro.inference.evaluation.checks.verdicts import Verdict, aggregate_verdicts, subset_verdicts
from multipyro.inference.evaluation.dimensions import LatentDimensions, latent_dimensions
from multipyro.inference.evaluation.estimates import plain
from multipyro.inference.evaluation.prediction import embed, latent_site, simulate
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GuideCheck", "SubsetCheck", "check_guide"]

# beyond these many modalities only single ones, all but one, and all are checked
_MOST_MODALITIES = 3


@dataclass(frozen=True, eq=False)
class SubsetCheck:
    """What was measured for one subset of the modalities.

    Attributes:
        given: The subset.
        calibration: Ranks of simulated latents among samples of the guide.
        p_value: Of all ranks being uniform, in every dimension and of the joint density together (Bonferroni).
        gap: How far the guide's bound lies below the log-likelihood of the data; None if it has no density.
        dimensions: KL and variance of each dimension on the data; None where the guide has no marginals.
    """

    given: tuple[str, ...]
    calibration: Calibration
    p_value: float
    gap: InferenceGap | None
    dimensions: LatentDimensions | None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What all that means."""
        return subset_verdicts(self.given, self.calibration, self.p_value, self.gap, self.dimensions)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        gap, khat = None, None
        if self.gap is not None:
            gap = {name: value for name, value in vars(self.gap).items() if name != "khat"}
            if not self.gap.khat.isnan().any():
                khat = {"median": self.gap.khat.clamp(max=1e6).median(), "unreliable": self.gap.unreliable}
        return plain(
            {
                "p_value": self.p_value,
                "spread": self.calibration.spread,
                "offset": self.calibration.offset,
                "coverage": {str(level): share for level, share in self.calibration.coverage.items()},
                "khat": khat,
                "gap": gap,
                "dimensions": self.dimensions,
                "verdicts": self.verdicts,
            }
        )


@dataclass(frozen=True, eq=False, repr=False)
class GuideCheck:
    """The result of `check_guide`.

    Attributes:
        subsets: Subset -> its check.
        aggregate: Whether the aggregate posterior given all modalities, or the largest subset that the guide supports,
            can be distinguished from the prior; None for a conditional model.
        power: Probability that the test of uniform ranks catches a guide half as wide as the posterior in one
            dimension.
        settings: Numbers of data points and samples.
    """

    subsets: dict[tuple[str, ...], SubsetCheck]
    aggregate: TwoSampleTest | None
    power: float
    settings: dict[str, int]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the comparison of aggregate posterior and prior means."""
        return aggregate_verdicts(self.aggregate)

    def summary(self) -> str:
        """The verdicts in words."""
        lines = []
        for given, check in self.subsets.items():
            lines.append(f"q(z | {', '.join(given)})")
            lines += [f"  {verdict}" for verdict in check.verdicts]
        lines += ["aggregate posterior and prior", *(f"  {verdict}" for verdict in self.verdicts)]
        simulated, samples = self.settings["num_simulated"], self.settings["num_samples"]
        lines.append(
            f"({simulated} simulated data points: a guide half as wide as the posterior in one dimension would be "
            f"detected with probability {self.power:.2f}; {samples} importance samples)"
        )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        subsets = {"+".join(given): check for given, check in self.subsets.items()}
        return plain({**vars(self), "subsets": subsets, "verdicts": self.verdicts})

    def figure(self) -> "Figure":
        """The distribution functions of the ranks with their band, the coverage, and k-hat, one row for each subset."""
        from multipyro.inference.evaluation.figures.guide_checks import guide_check_figure

        return guide_check_figure(self)

    def __repr__(self) -> str:
        return self.summary()


def check_guide(
    model: Program,
    guide: Program,
    x: Values,
    subsets: Sequence[Sequence[str]] | None = None,
    num_simulated: int = 500,
    num_ranked: int = 99,
    num_samples: int = 1000,
    progress: bool = False,
) -> GuideCheck:
    """Checks a guide given every subset of the modalities, and says what the numbers mean and what to do.

    On data points that the model simulates, whose true latents are known: the ranks of the latents among samples of the
    guide (simulation-based calibration), how often credible regions contain them, and how much wider or narrower the
    guide would have to be. On the data: Pareto k-hat of the guide's importance weights, the gap between its bound and
    the log-likelihood divided into approximation and amortization, and the KL of each dimension. And whether the
    aggregate posterior can be distinguished from the prior, without which samples of the prior look unlike data.

    A guide is trained on data, and simulated data points can be unlike it where aggregate posterior and prior differ:
    then the calibration describes simulated data, and k-hat and the gaps describe real data.

    References:
        See `calibrate`, `UniformityTest`, `inference_gap`, `two_sample_test` and `latent_dimensions`.

    Args:
        model: The generative program.
        guide: The guide; its `conditional` distribution is checked.
        x: Data, modality name -> values `(batch, *event)`, every data point complete; test data, a few hundred.
        subsets: The subsets to check; by default all that the guide supports, beyond three modalities the single ones,
            all but one, and all.
        num_simulated: Number of simulated data points.
        num_ranked: Samples of the guide among which each of them is ranked.
        num_samples: Importance samples of each data point for evidence and k-hat.
        progress: Whether to show how far it is, and the time left.

    Returns:
        The check, with `summary()`, `to_dict()` and `figure()`.

    Raises:
        ValueError: If a modality is unknown or its values are invalid, or the guide supports no subset.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> check = check_guide(model, guide, {"image": torch.randn(20, 4)}, num_simulated=50, num_samples=50)
        >>> list(check.subsets)
        [('image',)]
    """
    check_known(model, modalities_in(x))
    check_values(model, x, None)
    conditions = conditions_of(model)
    chosen = _subsets(guide, modalities_in(x), conditions) if subsets is None else [as_names(part) for part in subsets]
    if not chosen:
        raise ValueError(f"the guide supports no subset of {list(modalities_in(x))}")
    inputs = {name: values for name, values in x.items() if is_input(name) or name in conditions}
    if inputs:  # repeated up to the number of simulations
        rows = torch.arange(num_simulated) % batch_rows(x)
        inputs = {name: values[rows] for name, values in inputs.items()}
    with show_progress(progress):
        simulation = simulate(model, num_simulated, modalities_in(x), inputs)
        test = UniformityTest(num_simulated, num_ranked)
        checks = {}
        for given in chosen:
            calibration = calibrate(model, guide, simulation, given, num_ranked)
            gap, dimensions = inference_gap(model, guide, x, given, num_samples), None
            with suppress(TypeError):  # a flow has no marginals
                dimensions = latent_dimensions(model, guide, x, given)
            checks[given] = SubsetCheck(given, calibration, _p_value(test, calibration), gap, dimensions)
        aggregate = None if conditions else _aggregate(model, guide, x, max(chosen, key=len))
    settings = {"num_simulated": num_simulated, "num_ranked": num_ranked, "num_samples": num_samples}
    return GuideCheck(checks, aggregate, _power(test, len(calibration.names)), {**settings, "num_data": batch_rows(x)})


def _subsets(guide: Program, names: Sequence[str], conditions: Sequence[str]) -> list[tuple[str, ...]]:
    every = subsets_of(names)
    if len(names) > _MOST_MODALITIES:
        every = [subset for subset in every if len(subset) in (1, len(names) - 1, len(names))]
    directed = [subset for subset in every if set(conditions) < set(subset) or not conditions]
    return [subset for subset in directed if supports(guide, subset)]


def _p_value(test: UniformityTest, calibration: Calibration) -> float:
    """Half of the error for the dimensions, half for the joint density, if there is one."""
    dims = calibration.ranks.shape[1]
    smallest = dims * test.p_values(calibration.ranks).min().item()
    if calibration.joint_ranks is None:
        return min(1.0, smallest)
    return min(1.0, 2 * smallest, 2 * test.p_values(calibration.joint_ranks[:, None]).item())


def _aggregate(model: Program, guide: Program, x: Values, given: Sequence[str]) -> TwoSampleTest | None:
    """One sample of the posterior of each data point against as many of the prior."""
    posterior = embed(guide, x, given, output="sample")
    simulation = simulate(model, len(posterior), modalities_in(x), covariates_in(x))
    return two_sample_test(posterior, simulation.latents[latent_site(guide)])


def _power(test: UniformityTest, dims: int, simulations: int = 200) -> float:
    """Share of simulated rank sets of a normal guide half as wide as its posterior that the test rejects."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(test.num_ranks, simulations, generator=generator)
    # the rank of a value is binomial, with the probability that a sample is below it
    below = torch.special.ndtr(2 * truth.double())
    uniform = torch.rand(test.num_samples, test.num_ranks, simulations, generator=generator)
    ranks = (uniform < below).sum(0)
    return (test.p_values(ranks) < 0.05 / (2 * dims)).double().mean().item()
