"""Real-NVP flows: inverse, log-determinant, densities, shapes, and the prior that a flow replaces."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from multipyro.guides import ConditionalFlow, NormalEncoder, RealNVP
from multipyro.inference import frozen
from multipyro.ppl_models import MLP, FlowPrior, LaplacePrior, StandardNormalPrior

DTYPE = torch.float64


def randomized(module, std=0.25):
    """The module in double precision with random values of all parameters."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=std)
    return module


def conditional(latent_dim=3, **options):
    return randomized(ConditionalFlow(MLP(4, 6, (8,)), latent_dim, hidden_features=(8,), **options))


def grid_of(distribution):
    """Points of a square and the probability mass of a distribution of two dimensions around each."""
    points, width = torch.linspace(-20, 20, 241, dtype=DTYPE), 40 / 240
    grid = torch.cartesian_prod(points, points)
    with torch.no_grad():
        return grid, distribution.log_prob(grid).exp() * width**2


def transformed_value(distribution, value):
    for transform in distribution.transforms:
        value = transform(value)
    return value


@pytest.mark.parametrize("latent_dim", [2, 3, 5])
def test_the_inverse_undoes_the_flow_and_every_coordinate_moves(latent_dim):
    base = StandardNormalPrior(latent_dim).double()()
    z = torch.randn(7, latent_dim, dtype=DTYPE)
    flow = randomized(RealNVP(latent_dim, hidden_features=(8,)))
    moved = back = transformed_value(flow(base), z)
    for transform in reversed(flow(base).transforms):  # a new flow, with no cached values of the forward pass
        back = transform.inv(back)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-8)
    assert len(flow.couplings) == 12
    assert ((moved - z).abs() > 1e-4).all()


@pytest.mark.parametrize("latent_dim", [2, 3, 6, 64])
def test_six_steps_separate_any_two_coordinates_and_restore_their_order(latent_dim):
    current, moved = torch.arange(latent_dim), []
    flow = RealNVP(latent_dim)
    for order, (fixed, _) in zip(flow.orders, flow.sizes, strict=False):
        current = current[order]
        moved.append(torch.zeros(latent_dim, dtype=torch.bool).index_fill(0, current[fixed:], True))
    assert torch.equal(current[flow.orders[-1]], torch.arange(latent_dim))
    apart = torch.stack([one[:, None] != one for one in moved]).any(0)
    assert torch.equal(apart, ~torch.eye(latent_dim, dtype=torch.bool))


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_log_prob_is_the_base_minus_the_log_determinant_of_autograd_at_values_never_sampled(latent_dim):
    flow, x = conditional(latent_dim), torch.randn(1, 4, dtype=DTYPE)
    for start in torch.randn(4, 1, latent_dim, dtype=DTYPE):
        jacobian = torch.autograd.functional.jacobian(lambda z: transformed_value(flow(x), z[None])[0], start[0])
        value = transformed_value(flow(x), start)
        expected = StandardNormalPrior(latent_dim)().log_prob(start) - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(flow(x).log_prob(value), expected.to(DTYPE), rtol=1e-7, atol=1e-7)


def test_a_sample_has_the_same_density_in_a_new_distribution():
    flow, x = conditional(), torch.randn(5, 4, dtype=DTYPE)
    first = flow(x)
    z = first.rsample()
    torch.testing.assert_close(first.log_prob(z), flow(x).log_prob(z.clone()))


def test_it_integrates_to_one_in_two_dimensions():
    flow, x = conditional(2), torch.randn(1, 4, dtype=DTYPE)
    for distribution in (flow(x), randomized(FlowPrior(2, RealNVP(2, hidden_features=(8,)))).transformed()):
        _, mass = grid_of(distribution)
        assert mass.sum().item() == pytest.approx(1, abs=1e-3)


def test_samples_fit_the_density():
    distribution = conditional(2)(torch.randn(1, 4, dtype=DTYPE))
    z, number = distribution.sample((20_000,))[:, 0], 20_000
    grid, mass = grid_of(distribution)
    for function in (lambda z: (z[:, 0] - 1).tanh(), lambda z: (z[:, 0] - z[:, 1]).tanh()):
        expected, values = (mass * function(grid)).sum(), function(z)
        assert (values.mean() - expected).abs() < 4 * values.std() / math.sqrt(number)


@pytest.mark.parametrize("lead", [(), (6,)])
def test_shapes_with_leading_dimensions(lead):
    distribution = conditional()(torch.randn(5, 4, dtype=DTYPE))
    if lead:
        distribution = distribution.expand((*lead, 5))
    assert distribution.batch_shape == (*lead, 5) and distribution.event_shape == (3,)
    assert distribution.rsample((2,)).shape == (2, *lead, 5, 3)
    assert distribution.log_prob(torch.randn(2, *lead, 5, 3, dtype=DTYPE)).shape == (2, *lead, 5)
    assert distribution.approximate_mean().shape == (*lead, 5, 3)


def test_a_flow_starts_near_the_identity_and_every_coupling_depends_on_the_condition():
    flow, x = ConditionalFlow(MLP(4, 6, (8,)), 3).double(), torch.randn(5, 4, dtype=DTYPE)
    z = torch.randn(5, 3, dtype=DTYPE)
    torch.testing.assert_close(transformed_value(flow(x), z), z, rtol=0, atol=0.05)
    for coupling in randomized(flow).couplings.couplings:
        inputs = torch.zeros(5, coupling.input_dim, dtype=DTYPE)
        shift, log_scale = coupling(inputs, torch.randn(5, 6, dtype=DTYPE))
        assert shift.std(0).min() > 0 and log_scale.std(0).min() > 0


def test_scales_exceed_one_and_their_gradient_is_right_where_pyro_would_clamp():
    flow = RealNVP(2, hidden_features=(4,)).double()
    base = StandardNormalPrior(2).double()()
    z = torch.randn(3, 2, dtype=DTYPE)
    nn.init.constant_(flow.couplings[0].layers[-1].bias, 50.0)
    assert flow(base).rsample((4000,)).std(0)[0] > 0.9 * math.e
    raw = flow.couplings[0].layers[-1].bias
    nn.init.constant_(raw, 4.0)
    (gradient,) = torch.autograd.grad(flow(base).log_prob(z).sum(), raw)
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            raw[1] += step
            values.append(flow(base).log_prob(z).sum())
            raw[1] -= step
    assert gradient[1].item() == pytest.approx(((values[0] - values[1]) / 2e-5).item(), rel=1e-4)


def test_another_base_and_the_mean():
    flow = randomized(ConditionalFlow(MLP(4, 6, (8,)), 3, 2, (8,), NormalEncoder(MLP(4, 6, (8,)), 3)))
    x = torch.randn(2, 4, dtype=DTYPE)
    samples = flow(x).sample((40_000,))
    assert ((flow(x).approximate_mean() - samples.mean(0)).abs() < 0.1 * samples.std(0)).all()
    assert torch.equal(flow(x).approximate_mean(), flow(x).approximate_mean())
    with pytest.raises(NotImplementedError):  # an estimate is not a property
        flow(x).mean  # noqa: B018
    laplace = randomized(FlowPrior(3, base=LaplacePrior(3))).transformed()
    assert isinstance(laplace.base_dist.base_dist, dist.Laplace)
    assert torch.isfinite(laplace.approximate_mean()).all()


def test_a_prior_is_its_base_until_its_flow_is_activated():
    prior = randomized(FlowPrior(3))
    assert isinstance(prior().base_dist, dist.Normal)
    restored = FlowPrior(3).double()
    prior.activate()
    restored.load_state_dict(prior.state_dict())
    z = torch.randn(4, 3, dtype=DTYPE)
    for one in (prior, restored):
        assert one.active and torch.equal(one().log_prob(z), prior.transformed().log_prob(z))
    assert not torch.allclose(prior().log_prob(z), StandardNormalPrior(3).double()().log_prob(z))


def test_a_prior_of_any_flow():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(3))

        def forward(self, base):
            return dist.TransformedDistribution(base, [dist.transforms.AffineTransform(self.shift, 1.0, event_dim=1)])

    prior, z = FlowPrior(3, Shift()), torch.randn(4, 3)
    prior.activate()
    torch.testing.assert_close(prior().log_prob(z), prior.base().log_prob(z - 1))


def test_a_flow_from_a_frozen_call_stays_frozen_when_it_is_evaluated_later():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = conditional()

        def forward(self, x):
            return self.flow(x)

    holder = Holder()
    frozen_flow = frozen(holder)(torch.randn(5, 4, dtype=DTYPE))
    z = torch.randn(5, 3, dtype=DTYPE, requires_grad=True)
    frozen_flow.log_prob(z).sum().backward()
    assert z.grad.any() and all(parameter.grad is None for parameter in holder.parameters())


def test_invalid_arguments():
    with pytest.raises(ValueError, match="size 2 or more, got 1"):
        FlowPrior(1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        RealNVP(2, steps=0)
    with pytest.raises(TypeError, match="out_features"):
        ConditionalFlow(nn.ReLU(), 2)
