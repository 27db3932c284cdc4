"""What the measurements of a guide mean, in words, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from multipyro.inference.evaluation.checks.calibration import Calibration
from multipyro.inference.evaluation.checks.gaps import InferenceGap
from multipyro.inference.evaluation.checks.two_sample import TwoSampleTest
from multipyro.inference.evaluation.dimensions import LatentDimensions

__all__ = ["Verdict", "aggregate_verdicts", "subset_verdicts"]

Level = Literal["good", "note", "bad"]

# level of the tests
_ALPHA = 0.05
# a spread within these factors is close enough for use, whatever a test with many data points says
_CLOSE = (0.9, 1.1)
_OFFSET = 0.25
# share of data points with an unreliable k-hat that is worth a word
_MANY = 0.1
_GAP, _LARGE_GAP = 0.5, 5.0
# accuracies of a classifier above which a difference is detected, and above which it matters
_APART, _FAR_APART = 0.55, 0.7
# upper limit of that accuracy above which a test without a result had too few points
_NOT_EXCLUDED = 0.6
_COLLAPSED = 0.5
# advice on a posterior that is too narrow, given one modality and several
_NARROW = (
    "Lower this modality's likelihood weight, since weights above 1 narrow the posterior, or train the guide given "
    "this modality with a separate term (jmvae-kl, telbo).",
    "Experts that count the same evidence twice, or one that is overconfident, do this. Use a mixture of experts in "
    "place of a product (mmvae), train this product itself with a term for each subset (mvae), or lower the likelihood "
    "weights: weights above 1 narrow every posterior.",
)
_WIDE = (
    "A mixture of experts is as wide as its widest expert, and a bound on a mean of divergences spreads out: train "
    "longer, use a product of experts, or give this subset a separate encoder or a flow."
)


@dataclass(frozen=True)
class Verdict:
    """One finding.

    Attributes:
        level: `"good"`, `"note"` (imperfect, or good to know) or `"bad"`.
        aspect: What it is about: calibration, importance weights, gap, collapse, or the aggregate posterior.
        text: The finding.
        advice: What to do; empty for a good one.
    """

    level: Level
    aspect: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        mark = {"good": "+", "note": "!", "bad": "-"}[self.level]
        return f"{mark} {self.aspect}: {self.text}" + (f" {self.advice}" if self.advice else "")


def subset_verdicts(
    given: Sequence[str],
    calibration: Calibration,
    p_value: float,
    gap: InferenceGap | None,
    dimensions: LatentDimensions | None,
) -> tuple[Verdict, ...]:
    """The verdicts about one subset."""
    verdicts = [_calibration(given, calibration, p_value)]
    if gap is None:
        text = "the guide has no density, so neither weights nor a gap exist."
        verdicts.append(Verdict("note", "importance weights", text))
    else:
        verdicts += [_weights(gap), _gap(given, gap)]
    return (*verdicts, *([] if dimensions is None else [_collapse(dimensions)]))


def aggregate_verdicts(aggregate: TwoSampleTest | None) -> tuple[Verdict, ...]:
    """The verdict about the aggregate posterior and the prior."""
    aspect = "aggregate posterior"
    if aggregate is None:
        return (Verdict("note", aspect, "not compared: the prior of a conditional model depends on its conditions."),)
    accuracy = aggregate.accuracy.value
    text = (
        f"a classifier distinguishes its samples from the prior's with accuracy {accuracy:.2f} (chance is 0.5, "
        f"{aggregate.accuracy.num} points); the p-value of the maximum mean discrepancy is "
        f"{aggregate.mmd_p_value:.3f}."
    )
    # each of the two tests may err half as often (Bonferroni): 0.5 below a two-sided 95 % interval is a test at 2.5 %
    differ = aggregate.accuracy.low > 0.5 or aggregate.mmd_p_value < _ALPHA / 2
    if (not differ or accuracy < _APART) and aggregate.accuracy.high > _NOT_EXCLUDED:
        extent = " They differ, by an unknown amount." if differ else ""
        text += f"{extent} An accuracy of {aggregate.accuracy.high:.2f} is not excluded."
        return (Verdict("note", aspect, text, "Check more data points."),)
    if not differ:
        return (Verdict("good", aspect, text),)
    if accuracy < _APART:
        return (Verdict("note", aspect, f"{text} They differ, but little."),)
    advice = (
        "So samples of the prior lie where there is no data. Fit a prior to the aggregate posterior (vlvae "
        "with a learned prior), or raise beta."
    )
    return (Verdict("bad" if accuracy > _FAR_APART else "note", aspect, text, advice),)


def _calibration(given: Sequence[str], calibration: Calibration, p_value: float) -> Verdict:
    spread, aspect, coverage = calibration.spread, "calibration", calibration.coverage
    covered = f"; {coverage[0.9].value:.0%} of the true latents lie in 90 % regions" if coverage else ""
    if p_value >= _ALPHA:
        return Verdict("good", aspect, f"no deviation from the posterior detected (p = {p_value:.2g}{covered}).")
    low, high = _CLOSE
    factor = f"its standard deviations would have to be {spread:.2f} times as large"
    if spread > high:
        text, advice = f"too narrow: {factor}", _NARROW[len(given) > 1]
    elif spread < low:
        text, advice = f"too wide: {factor}", _WIDE
    elif calibration.offset > _OFFSET:
        text = f"shifted by up to {calibration.offset:.2f} of its standard deviations in a dimension"
        advice = "Train longer, with a larger encoder, or with more data."
    else:
        text = f"of about the width of the posterior, but of another shape (p = {p_value:.2g}{covered})."
        return Verdict("note", aspect, text, "Use a flow, which can take more shapes.")
    return Verdict("bad", aspect, f"{text} (p = {p_value:.2g}{covered}).", advice)


def _weights(gap: InferenceGap) -> Verdict:
    aspect = "importance weights"
    if gap.khat.isnan().any():
        return Verdict("note", aspect, "too few samples for k-hat.", "Take more than 25.")
    text = (
        f"k-hat is above 0.7 for {gap.unreliable:.0%} of the data points, its median is {gap.khat.median().item():.2f}."
    )
    if gap.unreliable <= _MANY:
        return Verdict("good", aspect, text)
    advice = "Bounds under this guide alone are loose; log_likelihood widens its proposals for this reason."
    return Verdict("note" if gap.unreliable < 0.5 else "bad", aspect, text, advice)


def _gap(given: Sequence[str], gap: InferenceGap) -> Verdict:
    total, approximation, amortization = gap.total.value, gap.approximation.value, gap.amortization.value
    encoders = "the encoder" if len(given) == 1 else "the encoders and how they are combined"
    text = (
        f"the bound lies {total:.2f} nats below log p = {gap.evidence.mean:.2f}: {approximation:.2f} by approximation "
        f"(the best normal with independent components), {amortization:.2f} by amortization ({encoders})."
    )
    if gap.evidence.unreliable > _MANY:
        text += " The log-likelihood itself is unreliable, and likely higher."
    elif total < _GAP:
        return Verdict("good", "gap", text)
    if amortization <= approximation:
        advice = "A richer posterior family would close most of it: a flow, or a mixture."
    elif len(given) == 1:
        advice = "A larger encoder, longer training or more data would close most of it."
    else:
        advice = (
            "What exceeds the gaps given single modalities comes from combining the experts, which a larger encoder "
            "cannot fix: a mixture keeps its vaguest expert, a product counts common evidence twice."
        )
    return Verdict("bad" if total > _LARGE_GAP else "note", "gap", text, advice)


def _collapse(dimensions: LatentDimensions) -> Verdict:
    active, number = int(dimensions.active.sum()), len(dimensions.active)
    text = f"{active} of {number} dimensions are active, with {dimensions.kl.mean(0).sum().item():.1f} nats in all."
    if active == 0:
        advice = "The latent is not used: warm up the KL, lower beta, or weaken the decoder."
        return Verdict("bad", "collapse", text, advice)
    if active < _COLLAPSED * number:
        advice = "Warm up the KL or lower beta to use more, or make the latent smaller."
        return Verdict("note", "collapse", text, advice)
    return Verdict("good", "collapse", text)
