"""The log-likelihood of what a guide predicts against the exact one of linear-Gaussian models."""

import math

import pytest
import torch
from linear_gaussian import repeated
from test_evidence import assert_estimates
from torch.distributions import MultivariateNormal, kl_divergence
from toy import MODALITIES, toy_data

from multipyro.guides import IterativeSampling
from multipyro.inference import build
from multipyro.inference.evaluation import (
    ImportanceSampling,
    guide_conditional_log_likelihood,
    guide_predictive_log_likelihood,
)
from multipyro.inference.recipes.networks import networks_for
from multipyro.testing import DTYPE, LinearGaussian


def predictive(problem, guide, x, given, target):
    """`log int q(z | x_G) p(x_T | z) dz` of each row, for a normal guide."""
    q = guide.posterior({name: x[name] for name in given})
    loading = torch.cat([problem.loadings[m] for m in target])
    noise = torch.cat([torch.full((len(problem.loadings[m]),), problem.scales[m] ** 2, dtype=DTYPE) for m in target])
    mean = q.mean @ loading.T + torch.cat([problem.offsets[m] for m in target])
    covariance = loading @ torch.diag_embed(q.variance) @ loading.T + noise.diag()
    return MultivariateNormal(mean, covariance).log_prob(torch.cat([x[m] for m in target], -1))


@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_an_inexact_guide_has_the_predictive_of_its_own(prior):
    problem = LinearGaussian(3)
    x, guide = problem.sample(10), problem.product_guide(shift=0.3, stretch=1.4)
    for given, target in ((["label"], ["image"]), (["image"], ["label", "word"]), (["image", "word"], ["label"])):
        exact = predictive(problem, guide, x, given, target)
        found = guide_predictive_log_likelihood(
            problem.model(), guide, x, given, target, num_samples=4000, method=ImportanceSampling(prior=prior)
        )
        assert_estimates(found, exact)
        assert (exact - problem.log_conditional(x, target, given)).abs().max() > 0.05


def test_an_exact_guide_has_the_conditional_of_the_model():
    problem = LinearGaussian(2)
    x = problem.sample(6)
    found = guide_predictive_log_likelihood(problem.model(), problem.product_guide(), x, ["label"], ["image"], 4000)
    assert_estimates(found, problem.log_conditional(x, ["image"], ["label"]))


def test_one_draw_is_the_bound_of_the_paper():
    problem = LinearGaussian(2)
    guide, x = problem.product_guide(shift=0.2, stretch=1.2), repeated(problem.sample(1), 20_000)
    found = guide_predictive_log_likelihood(
        problem.model(), guide, x, ["label"], ["image"], num_samples=1, method=ImportanceSampling(scales=[1], prior=0)
    ).values
    one = {name: values[:1] for name, values in x.items()}
    prior, drawn = (guide.posterior({name: one[name]}) for name in ("label", "image"))
    loading, noise = problem.loadings["image"], problem.scales["image"] ** 2
    precision = (1 / prior.variance[0]).diag() + loading.T @ loading / noise
    shift = prior.mean[0] / prior.variance[0] + (one["image"][0] - problem.offsets["image"]) @ loading / noise
    posterior = MultivariateNormal(torch.linalg.solve(precision, shift), precision_matrix=precision)
    gap = kl_divergence(MultivariateNormal(drawn.mean[0], drawn.variance[0].diag()), posterior)
    bound = predictive(problem, guide, one, ["label"], ["image"])[0] - gap
    assert gap > 0.05 and abs(found.mean() - bound) < 4 * found.std() / math.sqrt(20_000)


def test_the_mean_of_draws_from_the_guide_estimates_the_same():
    problem = LinearGaussian(2)
    guide, x = problem.product_guide(shift=0.2, stretch=1.2), problem.sample(5)
    exact = predictive(problem, guide, x, ["label"], ["image"])
    naive = guide_conditional_log_likelihood(problem.model(), guide, x, ["label"], ["image"], num_samples=20_000)
    assert (naive.logmeanexp - exact).abs().max() < 0.1


def test_private_latents_of_the_target_come_from_the_model():
    torch.manual_seed(1)
    recipe = build("mopoe", networks_for(MODALITIES, (8,)), 2, private=1)
    x, _ = toy_data(4).rows(torch.arange(4))
    found = guide_predictive_log_likelihood(recipe.model, recipe.guide, x, ["label"], ["signal"], 4000)
    naive = guide_conditional_log_likelihood(recipe.model, recipe.guide, x, ["label"], ["signal"], 20_000)
    assert found.standard_errors.max() < 0.05 and (found.values - naive.logmeanexp).abs().max() < 0.15


def test_what_has_no_density_over_latents_is_refused():
    problem = LinearGaussian(2)
    model, guide, x = problem.model(), problem.product_guide(), problem.sample(4)
    with pytest.raises(TypeError, match="completes what is missing"):
        guide_predictive_log_likelihood(model, IterativeSampling(model, guide), x, ["label"], ["image"])
    with pytest.raises(ValueError, match="must not overlap"):
        guide_predictive_log_likelihood(model, guide, x, ["label"], ["label", "image"])
    masks = {"label": torch.tensor([True, False, True, True])}
    with pytest.raises(ValueError, match=r"some do not: \{'label': 1\}"):
        guide_predictive_log_likelihood(model, guide, x, ["label"], ["image"], observed=masks)
