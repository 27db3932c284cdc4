"""That a check of a guide says true things: uniform ranks of exact guides, deviations of others, and their causes."""

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import scaled_guide

from multipyro.guides import MixtureOfExperts, NormalEncoder
from multipyro.inference import build
from multipyro.inference.evaluation import (
    TwoSampleTest,
    UniformityTest,
    calibrate,
    check_guide,
    inference_gap,
    simulate,
    two_sample_test,
)
from multipyro.inference.evaluation.checks.verdicts import aggregate_verdicts, subset_verdicts
from multipyro.inference.evaluation.estimates import estimate_share
from multipyro.inference.recipes.networks import networks_for
from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
from multipyro.testing import toy_data
from multipyro.testing.linear_gaussian import FixedGuide, LinearGaussian


def aspects(check, given):
    return {verdict.aspect: verdict for verdict in check.subsets[given].verdicts}


def test_p_values_of_uniform_ranks_are_uniform_and_their_band_holds():
    test = UniformityTest(200, 49, num_simulations=4000)
    ranks = torch.randint(50, (200, 2000), generator=torch.Generator().manual_seed(1))
    p_values = test.p_values(ranks)
    for level in (0.05, 0.2, 0.5):
        assert abs((p_values <= level).double().mean() - level) < 4 * (level * (1 - level) / 2000) ** 0.5 + 0.01
    expected, low, high = test.band(0.9)
    share = test.distribution(ranks)
    inside = ((share >= low - 1e-9) & (share <= high + 1e-9)).all(1).double().mean()
    assert 0.87 < inside < 0.94 and (low <= expected).all() and (expected <= high).all()


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.5])
def test_ranks_tell_guides_of_the_right_width_from_others(scale):
    problem = LinearGaussian(2, 3)
    model, guide = problem.model(), scaled_guide(problem, scale)
    simulation = simulate(model, 500)
    test = UniformityTest(500, 99)
    calibration = calibrate(model, guide, simulation, ["image"])
    assert calibration.names == ("z[0]", "z[1]", "z[2]")
    assert abs(calibration.spread * scale - 1) < 0.1
    smallest = min(3 * test.p_values(calibration.ranks).min(), test.p_values(calibration.joint_ranks[:, None])[0])
    assert (smallest > 0.01) == (scale == 1)
    inside = ((calibration.density_ranks + 0.5) / 100 < 0.9).double().mean()
    assert (inside < 0.85) == (scale < 1) and (inside > 0.95) == (scale > 1)


def test_a_guide_that_is_exact_gets_no_complaint_and_one_of_half_width_gets_several():
    problem = LinearGaussian(2, 3)
    x = problem.sample(60)
    torch.manual_seed(2)
    good = check_guide(problem.model(), scaled_guide(problem, 1.0), x, num_samples=300)
    assert {verdict.level for check in good.subsets.values() for verdict in check.verdicts} == {"good"}
    assert list(good.subsets) == [("image",), ("label",), ("image", "label")] and good.power > 0.9
    bad = check_guide(problem.model(), scaled_guide(problem, 0.5), x, [["image", "label"]], num_samples=300)
    found = aspects(bad, ("image", "label"))
    assert found["calibration"].level == "bad" and "too narrow" in found["calibration"].text
    assert found["importance weights"].level != "good" and "encoder" in found["gap"].advice
    assert "likelihood weights" in found["calibration"].advice and "too narrow" in bad.summary()
    assert json.loads(json.dumps(bad.to_dict(), allow_nan=False))["subsets"]["image+label"]["p_value"] < 0.01


def test_a_shifted_guide_and_a_wide_one_are_named_as_such():
    problem = LinearGaussian(1, 3)
    x = problem.sample(20)

    def shifted(x, observed):
        exact = problem.best_diagonal(x)
        return dist.Normal(exact.mean + 0.5 * exact.stddev, exact.stddev).to_event(1)

    for guide, words in ((FixedGuide(problem, shifted), "shifted"), (scaled_guide(problem, 1.6), "too wide")):
        check = check_guide(problem.model(), guide, x, num_samples=100)
        assert words in aspects(check, ("image",))["calibration"].text


def test_the_gap_is_divided_into_what_the_family_and_what_the_encoder_loses():
    problem = LinearGaussian(2, 8, orthogonal=False)
    x = problem.sample(50)

    def moved(x, observed):
        best = problem.best_diagonal(x)
        return dist.Normal(best.mean + best.stddev, best.stddev).to_event(1)

    gap = inference_gap(problem.model(), FixedGuide(problem, moved), x, ["image", "label"], 500)
    family = problem.diagonal_gap(x).item()
    assert family > 0.1 and abs(gap.approximation.value - family) < 0.05
    total = (problem.log_evidence(x) - gap.bound.values).mean().item()
    assert abs(gap.total.value - total) < 0.02
    assert gap.amortization.value == pytest.approx(gap.total.value - gap.approximation.value)
    assert gap.amortization.value > 1


def test_two_samples_of_one_distribution_are_alike_and_of_others_are_not():
    torch.manual_seed(0)
    alike = two_sample_test(torch.randn(200, 5), torch.randn(200, 5))
    assert alike.accuracy.low < 0.5 < alike.accuracy.high and alike.mmd_p_value > 0.05
    wider = two_sample_test(torch.randn(200, 5), 2 * torch.randn(200, 5))
    assert wider.accuracy.value > 0.65 and wider.mmd_p_value < 0.01


def test_an_aggregate_posterior_away_from_the_prior_is_reported():
    torch.manual_seed(0)
    model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
    shifted = FixedGuide(
        LinearGaussian(1, 2), lambda x, _: dist.Normal(torch.full((len(x["image"]), 2), 3.0), 1.0).to_event(1)
    )
    check = check_guide(model, shifted, {"image": torch.randn(100, 4)}, num_simulated=100, num_samples=50)
    (verdict,) = check.verdicts
    assert verdict.level == "bad" and "learned prior" in verdict.advice


def test_too_few_points_to_see_a_difference_are_no_good_verdict():
    def verdict(wrong, number, p_value=0.5):
        accuracy = estimate_share(torch.arange(number) >= wrong)
        return aggregate_verdicts(TwoSampleTest(accuracy, 0.0, p_value))[0]

    few, many = verdict(9, 20), verdict(490, 1000)
    assert few.level == "note" and "not excluded" in few.text and "more data points" in few.advice
    assert many.level == "good" and "1000 points" in many.text
    # of two tests, each has half of the error
    assert verdict(490, 1000, 0.03).level == "good" and "differ, but little" in verdict(490, 1000, 0.02).text


@pytest.mark.parametrize(
    ("given", "blamed"), [(("image",), "larger encoder, longer"), (("image", "label"), "combining")]
)
def test_a_large_gap_given_several_modalities_is_not_blamed_on_the_encoders_alone(given, blamed):
    problem = LinearGaussian(2, 2)
    guide = scaled_guide(problem, 0.2)
    x = problem.sample(20)
    gap = inference_gap(problem.model(), guide, x, given, 100)
    calibration = calibrate(problem.model(), guide, simulate(problem.model(), 20), given, 20)
    found = {verdict.aspect: verdict for verdict in subset_verdicts(given, calibration, 0.5, gap, None)}
    assert found["gap"].level != "good" and blamed in found["gap"].advice


@pytest.mark.parametrize("method", ["jmvae", "jmvae-h", "jnf", "vlvae", "cmma", "mmvae+", "mopoe"])
def test_every_kind_of_guide_can_be_checked(method):
    data = toy_data(["signal", "label", "sound"] if method == "jnf" else ["signal", "label"], num_rows=10)
    recipe = build(method, networks_for(data.modalities, (8,)), 2)
    x, _ = data.rows(torch.arange(10))
    # between single modalities and all, jnf has a product of flows without a density
    subsets = [["signal", "label"]] if method == "jnf" else None
    check = check_guide(recipe.model, recipe.guide, x, subsets, num_simulated=20, num_ranked=9, num_samples=30)
    assert (next(iter(check.subsets.values())).gap is None) == (method == "jnf")
    assert check.subsets and json.dumps(check.to_dict(), allow_nan=False)
    assert check.figure().axes


def test_a_mixture_of_experts_is_better_than_any_normal_where_the_posterior_has_two_modes():
    class Square(torch.nn.Module):
        def forward(self, z):
            return z.square()

    model = MultimodalModel(1, {"image": NormalLikelihood(Square(), scale=0.1)})

    class Branch(torch.nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.sign = sign

        def forward(self, values):
            root = values.clamp(min=0.01).sqrt()
            return dist.Normal(self.sign * root, 0.1 / (2 * root)).to_event(1)

    class TwoModes(MixtureOfExperts):
        def posterior(self, x, observed=None):
            both = {name: x["image"] for name in ("left", "right")}
            return super().posterior(both)

    guide = TwoModes(1, {"left": Branch(-1.0), "right": Branch(1.0)})
    guide.modalities = ("image",)
    x = {"image": torch.linspace(0.5, 3, 20)[:, None]}
    gap = inference_gap(model, guide, x, ["image"], 500)
    assert gap.amortization.value < -0.4 and gap.total.value < 0.1


def test_a_difference_that_too_few_points_cannot_size_is_not_called_little():
    torch.manual_seed(0)
    (verdict,) = aggregate_verdicts(two_sample_test(torch.randn(6, 2) + 10, torch.randn(6, 2)))
    assert "by an unknown amount" in verdict.text and "but little" not in verdict.text and verdict.level == "note"


def test_a_plain_function_is_checked():
    def model(x, observed=None, num_rows=None):
        number = num_rows or len(next(iter(x.values())))
        with pyro.plate("data", number):
            z = pyro.sample("z", dist.Normal(torch.zeros(number, 2), 1.0).to_event(1))
            if "a" in x:
                pyro.sample("a", dist.Normal(z, 1.0).to_event(1), obs=x["a"])

    guide = MixtureOfExperts(2, {"a": NormalEncoder(MLP(2, 4), 2)})
    check = check_guide(model, guide, {"a": torch.randn(10, 2)}, num_simulated=10, num_ranked=9, num_samples=30)
    assert list(check.subsets) == [("a",)] and check.aggregate is not None
