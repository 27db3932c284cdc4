"""Likelihoods of values in [0, 1]: normalization, samples, and finite gradients at the edges."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from multipyro.data import Modality
from multipyro.inference import networks_for
from multipyro.ppl_models import (
    MLP,
    BetaLikelihood,
    DiscretizedLogistic,
    DiscretizedLogisticLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
)
from multipyro.ppl_models.likelihoods import ClampedBeta

LEVELS = torch.arange(256, dtype=torch.float64) / 255
LOCS = torch.tensor([-0.5, 0.0, 0.003, 0.37, 0.99, 1.0, 1.7], dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-4, 0.003, 0.05, 0.8, 30.0])
def test_the_probabilities_of_levels_are_differences_of_sigmoids_that_sum_to_one(scale):
    pixels = DiscretizedLogistic(LOCS, torch.tensor(scale, dtype=torch.float64))
    log_probs = pixels.log_prob(LEVELS[:, None])
    assert torch.allclose(log_probs.logsumexp(0), torch.zeros(7, dtype=torch.float64), atol=1e-9)
    if scale > 0.001:
        edges = (torch.arange(257, dtype=torch.float64) - 0.5) / 255
        cumulative = torch.sigmoid((edges[:, None] - LOCS) / scale)
        cumulative[0], cumulative[-1] = 0.0, 1.0
        assert torch.allclose(log_probs.exp(), cumulative.diff(dim=0), atol=1e-12)


def test_tail_probabilities_keep_their_digits():
    pixels = DiscretizedLogistic(torch.tensor(0.0), torch.tensor(0.002))
    tail = pixels.log_prob(torch.tensor(200 / 255))
    half = 0.5 / 255
    # log of sigma(a) - sigma(b) with both next to 1: exp(-b) - exp(-a)
    expected = -(200 / 255 - half) / 0.002 + math.log1p(-math.exp(-2 * half / 0.002))
    assert tail.isfinite() and abs(tail.item() - expected) < 1e-3 * abs(expected)


@pytest.mark.parametrize("loc, scale", [(0.37, 0.05), (0.02, 0.1), (0.9, 0.003)])
def test_samples_of_levels_fit_their_probabilities(loc, scale):
    pixels = DiscretizedLogistic(torch.tensor(loc), torch.tensor(scale))
    samples, number = pixels.sample((20_000,)), 20_000
    counts = torch.bincount((samples * 255).round().long(), minlength=256).double()
    expected = number * pixels.log_prob(LEVELS.float()).double().exp()
    # levels with few samples are merged
    order = expected.argsort(descending=True)
    kept = order[expected[order] > 10]
    counts = torch.cat([counts[kept], counts.sum()[None] - counts[kept].sum()])
    expected = torch.cat([expected[kept], expected.sum()[None] - expected[kept].sum()]).clamp(min=1e-3)
    statistic = ((counts - expected).square() / expected)[expected > 5].sum()
    cells = int((expected > 5).sum())
    assert statistic < cells + 4 * math.sqrt(2 * cells)
    exact = (LEVELS * pixels.log_prob(LEVELS.float()).double().exp()).sum()
    assert abs(pixels.mean - exact) < 0.5 / 255 + 1e-6


@pytest.mark.parametrize("scale", [0.02, 0.1, 0.5])
def test_the_mean_is_exact_if_the_scale_exceeds_a_bin(scale):
    pixels = DiscretizedLogistic(LOCS, torch.tensor(scale, dtype=torch.float64))
    exact = (LEVELS[:, None] * pixels.log_prob(LEVELS[:, None]).exp()).sum(0)
    assert (pixels.mean - exact).abs().max() < 2e-4


@pytest.mark.parametrize("mean", [0.02, 0.3, 0.5, 0.98])
def test_beta_integrates_to_one_and_has_its_moments(mean):
    logit = torch.tensor([mean], dtype=torch.float64).logit()
    pixel = BetaLikelihood(nn.Identity())(logit[None])
    grid = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = pixel.log_prob(grid[:, None, None]).exp()[:, 0]
    assert abs(density.mean() - 1) < 2e-3
    samples = pixel.sample((50_000,)).flatten()
    variance = mean * (1 - mean) / 101
    assert abs(samples.mean() - mean) < 4.5 * math.sqrt(variance / 50_000)
    assert abs(samples.var() / variance - 1) < 0.1
    assert abs(pixel.mean.item() - mean) < 1e-4


@pytest.mark.parametrize("make", [BetaLikelihood, DiscretizedLogisticLikelihood], ids=["beta", "discretized logistic"])
@pytest.mark.parametrize("output", [-200.0, -3.0, 0.0, 3.0, 200.0])
def test_values_and_gradients_are_finite_at_black_and_white(make, output):
    likelihood = make(nn.Identity())
    outputs = torch.full((1, 4), output, requires_grad=True)
    values = torch.tensor([[0.0, 1.0, 1 / 255, 254 / 255]])
    likelihood.check(values, "image")
    log_prob = likelihood(outputs).log_prob(values)
    log_prob.backward()
    assert log_prob.isfinite() and outputs.grad.isfinite().all()


def test_values_near_an_edge_have_the_density_at_the_margin():
    pixel = ClampedBeta(torch.tensor(0.5), torch.tensor(2.0), margin=1e-3)
    assert torch.equal(pixel.log_prob(torch.tensor(0.0)), dist.Beta(0.5, 2.0).log_prob(torch.tensor(1e-3)))
    assert pixel.expand((3,)).log_prob(torch.zeros(3)).shape == (3,)


@pytest.mark.parametrize("make", [NormalLikelihood, LaplaceLikelihood, DiscretizedLogisticLikelihood])
def test_each_channel_can_have_a_scale(make):
    scales = torch.tensor([0.1, 0.2, 0.4]).reshape(3, 1, 1)
    likelihood = make(MLP(2, (3, 4, 4), (8,)), scales, learn_scale=True)
    entries = likelihood(torch.zeros(5, 2)).base_dist
    assert torch.allclose(entries.scale, scales.expand(5, 3, 4, 4))
    likelihood(torch.zeros(5, 2)).log_prob(torch.zeros(5, 3, 4, 4)).sum().backward()
    assert likelihood.log_scale.grad.shape == (3, 1, 1) and (likelihood.log_scale.grad != 0).all()


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda: DiscretizedLogisticLikelihood(nn.Identity()).check(torch.tensor([[0.3]]), "image"), "levels k / 255"),
        (
            lambda: DiscretizedLogisticLikelihood(nn.Identity()).check(torch.tensor([[1.2]]), "image"),
            r"must lie in \[0, 1\]",
        ),
        (lambda: DiscretizedLogisticLikelihood(nn.Identity(), scale=0.0), "scale must be positive, got 0.0"),
        (lambda: DiscretizedLogistic(torch.zeros(1), torch.ones(1), 1), "bins must be at least 2"),
        (lambda: BetaLikelihood(nn.Identity(), strength=0.0), "strength must be a finite positive number"),
        (lambda: BetaLikelihood(nn.Identity(), margin=0.5), "margin must lie between"),
        (lambda: BetaLikelihood(nn.Identity()).check(torch.tensor([[-0.1]]), "image"), r"must lie in \[0, 1\]"),
        (
            lambda: NormalLikelihood(nn.Identity(), torch.tensor([1.0, -1.0])),
            r"scale must be positive, got \[1.0, -1.0\]",
        ),
    ],
)
def test_invalid_arguments_are_named(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize("likelihood", ["beta", "discretized_logistic"])
def test_a_modality_can_request_them(likelihood):
    modality = Modality("image", (3, 8, 8), "image", likelihood)
    assert (
        type(networks_for({"image": modality}).likelihoods(2)["image"])
        is {
            "beta": BetaLikelihood,
            "discretized_logistic": DiscretizedLogisticLikelihood,
        }[likelihood]
    )
