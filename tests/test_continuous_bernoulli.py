"""The continuous Bernoulli against quadrature, and against torch's where that is correct; and its samples."""

import math

import pytest
import torch

from multipyro.ppl_models import ContinuousBernoulliLikelihood
from multipyro.ppl_models.likelihoods import ExactContinuousBernoulli

LOGITS = torch.tensor([-100.0, -50.0, -20.0, -15.0, -3.0, -0.2, -0.051, -0.049, 0.0, 1e-6, 0.01, 0.3, 5.0, 17.0, 60.0])


def moments(logit):
    """Integral, mean, variance and entropy by the midpoint rule in float64."""
    number = 2_000_000
    x = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    log_density = ExactContinuousBernoulli(torch.tensor(logit, dtype=torch.float64)).log_prob(x)
    weights = log_density.exp() / number
    mean = (weights * x).sum()
    return weights.sum(), mean, (weights * (x - mean) ** 2).sum(), -(weights * log_density).sum()


@pytest.mark.parametrize("logit", LOGITS.tolist())
def test_the_density_integrates_to_one_and_has_these_moments(logit):
    total, mean, variance, entropy = moments(logit)
    for dtype, rtol in ((torch.float64, 1e-6), (torch.float32, 2e-5)):
        density = ExactContinuousBernoulli(torch.tensor(logit, dtype=dtype))
        assert total == pytest.approx(1.0, abs=1e-6)
        assert density.mean.item() == pytest.approx(mean.item(), rel=rtol)
        assert density.variance.item() == pytest.approx(variance.item(), rel=10 * rtol)
        assert density.entropy().item() == pytest.approx(entropy.item(), abs=20 * rtol)


def test_it_agrees_with_torch_where_torch_is_correct():
    logits = torch.linspace(-8, 8, 41, dtype=torch.float64)
    values = torch.rand(41, dtype=torch.float64)
    correct = torch.distributions.ContinuousBernoulli(logits=logits)
    density = ExactContinuousBernoulli(logits)
    torch.testing.assert_close(density.log_prob(values), correct.log_prob(values), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(density.icdf(values), correct.icdf(values), rtol=1e-5, atol=1e-5)


def test_samples_fit_the_density():
    torch.manual_seed(0)
    density = ExactContinuousBernoulli(LOGITS.double())
    samples = density.sample((40_000,))
    assert ((samples >= 0) & (samples <= 1)).all() and samples.shape == (40_000, len(LOGITS))
    error = 4 * (density.variance / 40_000).sqrt()
    assert ((samples.mean(0) - density.mean).abs() < error).all()
    # the share of samples below the q-quantile is q
    for share in (0.1, 0.5, 0.9):
        below = (samples <= density.icdf(torch.full_like(density.logits, share))).double().mean(0)
        assert ((below - share).abs() < 4 * math.sqrt(share * (1 - share) / 40_000)).all()


@pytest.mark.parametrize("value", (0.0, 0.3, 1.0))
def test_gradients_are_finite_at_the_edges_and_exact_in_the_middle(value):
    logits = LOGITS.clone().requires_grad_()
    density = ExactContinuousBernoulli(logits)
    (gradient,) = torch.autograd.grad(density.log_prob(torch.full_like(LOGITS, value)).sum(), logits)
    torch.testing.assert_close(gradient, value - density.mean.detach(), rtol=1e-4, atol=1e-5)
    for values in (density.mean, density.rsample(), density.icdf(torch.zeros(len(LOGITS)))):
        (gradient,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
        assert torch.isfinite(gradient).all()


def test_shapes_and_impossible_values():
    density = ContinuousBernoulliLikelihood(torch.nn.Linear(2, 5))(torch.zeros(3, 4, 2))
    assert (density.batch_shape, density.event_shape) == ((3, 4), (5,))
    assert density.expand((2, 3, 4)).sample((6,)).shape == (6, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="support"):
        ExactContinuousBernoulli(torch.zeros(2), validate_args=True).log_prob(torch.tensor([0.5, 1.5]))
