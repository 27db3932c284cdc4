"""Annealed importance sampling against closed forms, and the sandwich around both."""

import math
from dataclasses import replace

import pytest
import torch
from linear_gaussian import scaled_guide
from torch import nn

from multipyro.guides import MixtureOfExperts, NormalEncoder, ProductOfExperts
from multipyro.inference import build, log_likelihood
from multipyro.inference.evaluation import Annealing, bidirectional_sandwich
from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood, Sandwich
from multipyro.inference.recipes.networks import networks_for
from multipyro.ppl_models import (
    MLP,
    BernoulliLikelihood,
    CategoricalLikelihood,
    MultimodalModel,
    OneHotMLP,
    PoissonLikelihood,
)
from multipyro.testing import toy_data
from multipyro.testing.linear_gaussian import LinearGaussian

FAST = Annealing(num_chains=32, num_temperatures=40, leapfrogs=4, num_simulated=10)


def test_annealing_agrees_with_the_truth_whatever_the_guide():
    problem = LinearGaussian(2, 4)
    x, guide = problem.sample(20), scaled_guide(problem, 0.1)
    found = log_likelihood(problem.model(), guide, x, method=FAST)
    exact = problem.log_evidence(x)
    assert abs(found.mean - exact.mean().item()) < 4 * found.mc_se < 0.2
    spread = (found.values - exact).std() / found.standard_errors.square().mean().sqrt()
    assert 0.5 < spread < 2
    assert abs(found.sandwich.gap.value) < 4 * found.sandwich.gap.se + 0.05 and "sandwich" in repr(found)


def test_a_conditional_anneals_what_is_given_first_and_then_the_target():
    problem = LinearGaussian(2, 4)
    x = problem.sample(20)
    found = log_likelihood(problem.model(), problem.product_guide(), x, ["label"], ["image"], method=FAST)
    assert abs(found.mean - problem.log_conditional(x, ["label"], ["image"]).mean().item()) < 4 * found.mc_se < 0.2


def test_an_annealed_conditional_of_a_discrete_target_is_a_probability():
    torch.manual_seed(0)
    likelihoods = {"label": CategoricalLikelihood(MLP(2, 4, (8,))), "image": BernoulliLikelihood(MLP(2, 9, (8,)))}
    model = MultimodalModel(2, likelihoods)
    guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(9, 8), 2)})
    values = model({"label": None, "image": None}, num_rows=15)
    x = {name: values[name].detach() for name in likelihoods}
    short = Annealing(num_chains=4, num_temperatures=5, leapfrogs=2, num_simulated=0)
    found = log_likelihood(model, guide, x, ["label"], ["image"], method=short)
    assert (found.values <= 0).all() and found.sandwich is None


def test_the_sandwich_contains_the_truth_and_closes_with_the_temperatures():
    problem = LinearGaussian(1, 8)
    # far from the prior, so that few temperatures leave a gap
    problem.scales["image"] = 0.05
    model, gaps = problem.model(), []
    for temperatures in (5, 80):
        torch.manual_seed(0)
        sandwich = bidirectional_sandwich(model, 30, settings=Annealing(8, temperatures, 4))
        gaps.append(sandwich.gap.value)
        assert sandwich.gap.value > -4 * sandwich.gap.se
    assert gaps[0] > 5 * abs(gaps[1])


def test_a_wide_gap_is_a_warning():
    problem = LinearGaussian(1, 8)
    problem.scales["image"] = 0.05
    short = Annealing(num_chains=8, num_temperatures=5, leapfrogs=2, num_simulated=20)
    found = log_likelihood(problem.model(), problem.product_guide(), problem.sample(5), method=short)
    assert any("sandwich has a gap" in warning for warning in found.warnings)
    assert found.to_dict()["gap"] == found.sandwich.gap.value > 0.1


def test_data_points_with_missing_modalities_have_the_likelihood_of_the_others():
    problem = LinearGaussian(2, 3)
    x = problem.sample(12)
    observed = {"image": torch.arange(12) < 8, "label": torch.arange(12) >= 4}
    observed["image"][11] = observed["label"][11] = False
    found = log_likelihood(problem.model(), problem.product_guide(), x, observed=observed, method=FAST)
    expected = torch.cat(
        [problem.log_evidence(x, names)[rows] for names, rows in ((["image"], slice(0, 4)), (None, slice(4, 8)))]
        + [problem.log_evidence(x, ["label"])[8:11], torch.zeros(1, dtype=found.values.dtype)]
    )
    assert ((found.values - expected).abs() < 5 * found.standard_errors + 1e-9).all()


@pytest.mark.parametrize("method", ["mopoe", "jmvae-h", "cvae"])
def test_models_with_private_several_or_conditional_latents_agree_with_importance_sampling(method):
    options = {"mopoe": {"private": 1}, "cvae": {"target": "signal"}}.get(method, {})
    data = toy_data(num_rows=6)
    recipe = build(method, networks_for(data.modalities, (8,)), 2, **options)
    x, _ = data.rows(torch.arange(6))
    names = (["signal"], ["label"]) if method == "cvae" else (None, None)
    found = log_likelihood(recipe.model, recipe.guide, x, *names, method=FAST)
    other = log_likelihood(recipe.model, recipe.guide, x, *names, num_samples=2000)
    assert abs(found.difference(other).value) < 4 * found.difference(other).mc_se + 0.01
    assert abs(found.sandwich.gap.value) < 0.1


def test_bad_settings():
    problem = LinearGaussian(1)
    with pytest.raises(ValueError, match="num_temperatures must be at least 2, got 1"):
        Annealing(num_temperatures=1)
    with pytest.raises(TypeError, match="method must be an ImportanceSampling or an Annealing, got 'hmc'"):
        log_likelihood(problem.model(), problem.product_guide(), problem.sample(2), method="hmc")


def test_a_decoder_that_leaves_the_range_of_numbers_moves_nothing_there():
    class Steep(nn.Module):
        def forward(self, z):
            return (20 * z).exp()

    model = MultimodalModel(1, {"image": BernoulliLikelihood(Steep())})
    x = {"image": torch.ones(4, 1)}
    guide = ProductOfExperts(1, {"image": NormalEncoder(MLP(1, 4), 1)})
    found = log_likelihood(model, guide, x, method=Annealing(32, 20, 4, num_simulated=0))
    assert torch.isfinite(found.values).all() and (found.values > math.log(0.5)).all()


def test_a_sandwich_of_one_data_point_warns_of_its_gap():
    lower, upper = (LogLikelihood(torch.tensor([value]), torch.zeros(1), None) for value in (-10.0, -1.0))
    sandwich = Sandwich(lower, upper)
    assert math.isnan(sandwich.gap.se)
    assert "gap of 9 nats" in replace(lower, sandwich=sandwich).warnings[0]


def test_exposures_of_missing_counts_are_not_simulated_from():
    model = MultimodalModel(2, {"counts": PoissonLikelihood(MLP(2, 3)), "label": CategoricalLikelihood(MLP(2, 3))})
    guide = MixtureOfExperts(2, {"label": NormalEncoder(OneHotMLP(3, 8), 2), "counts": NormalEncoder(MLP(3, 8), 2)})
    present = torch.tensor([False, True, True, False])
    x = {"counts": torch.ones(4, 3), "label": torch.tensor([0, 1, 2, 0])}
    x["counts.exposure"] = torch.where(present, 2.0, torch.nan)
    short = Annealing(num_chains=4, num_temperatures=5, leapfrogs=2, num_simulated=4)
    found = log_likelihood(model, guide, x, observed={"counts": present}, method=short)
    assert found.values.isfinite().all() and math.isfinite(found.sandwich.gap.value)
