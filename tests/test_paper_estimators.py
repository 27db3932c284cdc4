"""The papers' own estimators: their proposals, their quirks, and what they bound."""

import math

import pytest
import torch
from linear_gaussian import repeated
from torch.distributions import kl_divergence

from multipyro.guides import MixtureOfProducts
from multipyro.inference import build
from multipyro.inference.evaluation import (
    bridged_log_likelihoods,
    guide_conditional_log_likelihood,
    importance_weighted_bound,
    jmvae_log_likelihood,
    mmvae_log_likelihoods,
    mopoe_log_likelihood,
    vlvae_log_likelihood,
)
from multipyro.inference.recipes.networks import networks_for
from multipyro.testing import toy_data
from multipyro.testing.linear_gaussian import LinearGaussian


def test_mopoe_draws_from_the_product_and_not_from_the_mixture():
    problem = LinearGaussian(2)
    experts = problem.product_guide().encoders
    guide = MixtureOfProducts(problem.latent_dim, experts, prior_expert="all").double()
    x = repeated(problem.sample(1), 5000)
    # the product of all experts is the exact posterior: no weight varies, where those of the mixture do
    assert mopoe_log_likelihood(problem.model(), guide, x, ["image", "label"], num_samples=2).values.std() < 1e-6
    one = mopoe_log_likelihood(problem.model(), guide, x, ["label"], num_samples=1)
    first = {name: values[:1] for name, values in x.items()}
    gap = kl_divergence(problem.posterior(first, ["label"]), problem.posterior(first))
    assert abs(one.mean - (problem.log_evidence(first) - gap)[0]) < 4 * one.se


def test_the_released_code_of_mopoe_averages_over_different_data_points():
    problem = LinearGaussian(2)
    model, guide, x = problem.model(), problem.product_guide(), problem.sample(130)
    exact = problem.log_evidence(x)
    found = mopoe_log_likelihood(model, guide, x, ["image", "label"], num_samples=4, mix_data_points=True)
    # with the exact posterior each weight is the evidence, so each value averages four evidences of one batch
    batches = exact[:128].reshape(2, 64)
    mixed = batches.repeat(1, 4).reshape(2, 64, 4).logsumexp(-1).flatten() - math.log(4)
    torch.testing.assert_close(found.values, mixed)
    assert found.mean > exact.mean() + 0.5 and "not a likelihood" in repr(found)
    with pytest.raises(ValueError, match="full batches of 64, got 10"):
        mopoe_log_likelihood(model, guide, problem.sample(10), ["image"], mix_data_points=True)


@pytest.mark.parametrize("method", ["mopoe", "mmvae", "mvae", "mmvae+"])
def test_bounds_with_other_modalities_given_exist_with_private_latents(method):
    data = toy_data(num_rows=8)
    options = {} if method == "mmvae+" else {"private": 1}
    recipe = build(method, networks_for(data.modalities, (8,)), 2, **options)
    x, _ = data.rows(torch.arange(8))
    names = list(x)
    for given, target in (([names[0]], names), (names, [names[0]]), ([names[1]], [names[0]])):
        bound = importance_weighted_bound(recipe.model, recipe.guide, x, given, target, num_samples=50)
        assert torch.isfinite(bound.values).all()


def test_the_columns_of_mmvae_have_the_proposals_that_they_are_named_after():
    problem = LinearGaussian(2)
    model, guide, x = problem.model(), problem.mixture_guide(), problem.sample(20)
    table = mmvae_log_likelihoods(model, guide, x, "image", num_samples=500)
    exact = problem.log_evidence(x, ["image"])
    assert (table.joint.num_samples == 1000).all() and (table.cross.num_samples == 500).all()
    assert torch.allclose(table.alone.values, exact, atol=1e-6)  # its expert is the exact posterior of the image
    assert abs(table.both.mean - exact.mean()) < 4 * table.both.mc_se
    assert abs(table.joint.mean - problem.log_evidence(x).mean()) < 4 * table.joint.mc_se
    weighted = mmvae_log_likelihoods(model, guide, x, "image", 500, weights={"image": 2.0})
    assert weighted.joint.mean < table.joint.mean - 1 and abs(weighted.both.mean - table.both.mean) < 0.1
    with pytest.raises(ValueError, match="two modalities"):
        mmvae_log_likelihoods(model, guide, {"image": x["image"]}, "image")


def test_the_difference_of_bridged_vae_is_paired():
    problem = LinearGaussian(2)
    table = bridged_log_likelihoods(problem.model(), problem.product_guide(), problem.sample(40), "image", 20)
    assert table.difference.value == pytest.approx(table.joint.mean - table.alone.mean)
    # given the image alone this guide is exact for it
    assert table.difference.value < 0 and table.difference.se < table.joint.se


def test_channels_divide_the_mean_of_jmvae():
    problem = LinearGaussian(2)
    model, guide, x = problem.model(), problem.product_guide(), problem.sample(30)
    torch.manual_seed(0)
    found = jmvae_log_likelihood(model, guide, x, ["label"], ["image"], channels=3)
    torch.manual_seed(0)
    mean = guide_conditional_log_likelihood(model, guide, x, ["label"], ["image"]).mean
    torch.testing.assert_close(found.values, mean / 3)
    assert found.khat is None and found.warnings == () and found.standard_errors.min() > 0
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        jmvae_log_likelihood(model, guide, x, ["label"], ["image"], channels=0)


def test_one_sample_of_vlvae_is_a_bound():
    problem = LinearGaussian(2)
    x = repeated(problem.sample(1), 4000)
    found = vlvae_log_likelihood(problem.model(), problem.product_guide(), x, ["label"], ["image"])
    exact = problem.log_conditional({name: values[:1] for name, values in x.items()}, ["image"], ["label"])
    assert found.mean < exact[0] - 4 * found.se
