"""The figure of a guide's check."""

from typing import TYPE_CHECKING

import torch

from multipyro.inference.evaluation.checks.uniformity import UniformityTest
from multipyro.inference.evaluation.figures._drawing import COLORS, literal, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from multipyro.inference.evaluation.checks.guide_check import GuideCheck, SubsetCheck

__all__ = ["guide_check_figure"]

_LATENT, _JOINT = COLORS[:2]
_BAND = "#BBBBBB"


@styled
def guide_check_figure(check: "GuideCheck") -> "Figure":
    """One row for each subset: ranks against their band, coverage, and k-hat of the data points.

    The first panel shows the distribution functions of the ranks minus that of uniform ranks, one line for each latent
    dimension and a thick one for the joint density. If the guide is the exact posterior, a line lies in the gray band
    as a whole with probability 95 %. Lines that rise at the left and fall at the right mean that the guide is too
    narrow.

    Args:
        check: The result of `check_guide`.

    Returns:
        The figure.
    """
    figure = new_figure(9.5, 2.6 * len(check.subsets))
    axes = figure.subplots(len(check.subsets), 3, squeeze=False)
    test = UniformityTest(check.settings["num_simulated"], check.settings["num_ranked"])
    for row, subset in zip(axes, check.subsets.values(), strict=True):
        _draw_ranks(row[0], subset, test)
        _draw_coverage(row[1], subset)
        _draw_khat(row[2], subset)
        row[0].set_ylabel(literal("given " + ", ".join(subset.given)))
    for ax, title in zip(axes[0], ("ranks, minus uniform", "coverage", "Pareto k-hat"), strict=True):
        ax.set_title(title)
    for ax, label in zip(axes[-1], ("rank", "level of the region", "k-hat"), strict=True):
        ax.set_xlabel(label)
    return figure


def _draw_ranks(ax: "Axes", subset: "SubsetCheck", test: UniformityTest) -> None:
    expected, low, high = (values.numpy() for values in test.band())
    ax.fill_between(expected, low - expected, high - expected, color=_BAND, linewidth=0)
    for line in test.distribution(subset.calibration.ranks).numpy():
        ax.plot(expected, line - expected, color=_LATENT, linewidth=0.7, alpha=0.6)
    if subset.calibration.joint_ranks is not None:
        (line,) = test.distribution(subset.calibration.joint_ranks[:, None]).numpy()
        ax.plot(expected, line - expected, color=_JOINT, linewidth=2)
    ax.axhline(0, color="black", linewidth=0.5)


def _draw_coverage(ax: "Axes", subset: "SubsetCheck") -> None:
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.5)
    coverage = subset.calibration.coverage
    if not coverage:
        ax.text(0.5, 0.5, "no density", ha="center")
        return
    errors = [
        [each.value - each.low for each in coverage.values()],
        [each.high - each.value for each in coverage.values()],
    ]
    ax.errorbar(list(coverage), [each.value for each in coverage.values()], errors, fmt="o", color=_LATENT)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02))


def _draw_khat(ax: "Axes", subset: "SubsetCheck") -> None:
    if subset.gap is None or not subset.gap.khat.isfinite().any():
        ax.text(0.5, 0.5, "none", ha="center")
        return
    khat = subset.gap.khat[subset.gap.khat.isfinite()].clamp(-1, 3)
    ax.hist(khat.numpy(), bins=torch.linspace(-1, 3, 41).tolist(), color=_LATENT)
    ax.axvline(0.7, color=_JOINT, linewidth=1)
    ax.set_yticks([])
