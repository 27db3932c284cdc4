"""Real-NVP flows: inverse, log-determinant, densities, shapes, and the prior that a flow replaces."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from multipyro.guides import ConditionalFlow, NormalEncoder, RealNVP
from multipyro.inference import frozen
from multipyro.ppl_models import MLP, FlowPrior, LaplacePrior, StandardNormalPrior
from multipyro.ppl_models.networks.flows import _MAX_LOG_SCALE

DTYPE = torch.float64


def shaken(module, std=0.25):
    """The module in double precision with every parameter drawn at random."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=std)
    return module


def conditional(latent_dim=3, **options):
    return shaken(ConditionalFlow(MLP(4, 6, (8,)), latent_dim, hidden_features=(8,), **options))


def grid_of(distribution):
    """Points of a square and the mass that a distribution of two dimensions has around each."""
    points, width = torch.linspace(-20, 20, 241, dtype=DTYPE), 40 / 240
    grid = torch.cartesian_prod(points, points)
    with torch.no_grad():
        return grid, distribution.log_prob(grid).exp() * width**2


def pushed(distribution, value):
    for transform in distribution.transforms:
        value = transform(value)
    return value


@pytest.mark.parametrize("latent_dim", [2, 3, 5])
def test_the_inverse_undoes_the_flow_and_every_coordinate_moves(latent_dim):
    base = StandardNormalPrior(latent_dim).double()()
    z = torch.randn(7, latent_dim, dtype=DTYPE)
    flow = shaken(RealNVP(latent_dim, hidden_features=(8,)))
    moved = back = pushed(flow(base), z)
    for transform in reversed(flow(base).transforms):  # a new flow: nothing is remembered of the way there
        back = transform.inv(back)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-8)
    assert len(flow.couplings) == 12
    assert ((moved - z).abs() > 1e-4).all()


@pytest.mark.parametrize("latent_dim", [2, 3, 6, 64])
def test_six_steps_move_every_two_coordinates_apart_and_put_them_back(latent_dim):
    now, moved = torch.arange(latent_dim), []
    flow = RealNVP(latent_dim)
    for order, (seen, _) in zip(flow.orders, flow.sizes, strict=False):
        now = now[order]
        moved.append(torch.zeros(latent_dim, dtype=torch.bool).index_fill(0, now[seen:], True))
    assert torch.equal(now[flow.orders[-1]], torch.arange(latent_dim))
    apart = torch.stack([one[:, None] != one for one in moved]).any(0)
    assert torch.equal(apart, ~torch.eye(latent_dim, dtype=torch.bool))


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_log_prob_is_the_base_minus_the_log_determinant_of_autograd_at_values_never_sampled(latent_dim):
    flow, x = conditional(latent_dim), torch.randn(1, 4, dtype=DTYPE)
    for start in torch.randn(4, 1, latent_dim, dtype=DTYPE):
        jacobian = torch.autograd.functional.jacobian(lambda z: pushed(flow(x), z[None])[0], start[0])
        value = pushed(flow(x), start)
        wanted = StandardNormalPrior(latent_dim)().log_prob(start) - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(flow(x).log_prob(value), wanted.to(DTYPE), rtol=1e-7, atol=1e-7)


def test_a_drawn_value_scores_the_same_in_a_distribution_that_did_not_draw_it():
    flow, x = conditional(), torch.randn(5, 4, dtype=DTYPE)
    drawn = flow(x)
    z = drawn.rsample()
    torch.testing.assert_close(drawn.log_prob(z), flow(x).log_prob(z.clone()))


def test_it_integrates_to_one_in_two_dimensions():
    flow, x = conditional(2), torch.randn(1, 4, dtype=DTYPE)
    for distribution in (flow(x), shaken(FlowPrior(2, RealNVP(2, hidden_features=(8,)))).transformed()):
        _, mass = grid_of(distribution)
        assert mass.sum().item() == pytest.approx(1, abs=1e-3)


def test_samples_fit_the_density():
    distribution = conditional(2)(torch.randn(1, 4, dtype=DTYPE))
    z, number = distribution.sample((20_000,))[:, 0], 20_000
    grid, mass = grid_of(distribution)
    for function in (lambda z: (z[:, 0] - 1).tanh(), lambda z: (z[:, 0] - z[:, 1]).tanh()):
        wanted, values = (mass * function(grid)).sum(), function(z)
        assert (values.mean() - wanted).abs() < 4 * values.std() / math.sqrt(number)


@pytest.mark.parametrize("lead", [(), (6,)])
def test_shapes_with_leading_dimensions(lead):
    distribution = conditional()(torch.randn(5, 4, dtype=DTYPE))
    if lead:
        distribution = distribution.expand((*lead, 5))
    assert distribution.batch_shape == (*lead, 5) and distribution.event_shape == (3,)
    assert distribution.rsample((2,)).shape == (2, *lead, 5, 3)
    assert distribution.log_prob(torch.randn(2, *lead, 5, 3, dtype=DTYPE)).shape == (2, *lead, 5)
    assert distribution.approximate_mean().shape == (*lead, 5, 3)


def test_it_starts_near_the_identity_and_its_condition_reaches_every_coupling():
    flow, x = ConditionalFlow(MLP(4, 6, (8,)), 3).double(), torch.randn(5, 4, dtype=DTYPE)
    z = torch.randn(5, 3, dtype=DTYPE)
    torch.testing.assert_close(pushed(flow(x), z), z, rtol=0, atol=0.05)
    for coupling in shaken(flow).couplings.couplings:
        seen = torch.zeros(5, coupling.input_dim, dtype=DTYPE)
        shift, log_scale = coupling(seen, torch.randn(5, 6, dtype=DTYPE))
        assert shift.std(0).min() > 0 and log_scale.std(0).min() > 0


def test_scales_exceed_one_and_their_gradient_is_right_where_pyro_would_clamp():
    flow = RealNVP(2, hidden_features=(4,)).double()
    base = StandardNormalPrior(2).double()()
    z = torch.randn(3, 2, dtype=DTYPE)
    nn.init.constant_(flow.couplings[0].layers[-1].bias, 50.0)
    assert flow(base).rsample((4000,)).std(0)[0] > 0.9 * math.exp(_MAX_LOG_SCALE)
    raw = flow.couplings[0].layers[-1].bias
    nn.init.constant_(raw, 4.0)
    (gradient,) = torch.autograd.grad(flow(base).log_prob(z).sum(), raw)
    found = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            raw[1] += step
            found.append(flow(base).log_prob(z).sum())
            raw[1] -= step
    assert gradient[1].item() == pytest.approx(((found[0] - found[1]) / 2e-5).item(), rel=1e-4)


def test_a_base_of_its_own_and_the_mean():
    flow = shaken(ConditionalFlow(MLP(4, 6, (8,)), 3, 2, (8,), NormalEncoder(MLP(4, 6, (8,)), 3)))
    x = torch.randn(2, 4, dtype=DTYPE)
    draws = flow(x).sample((40_000,))
    assert ((flow(x).approximate_mean() - draws.mean(0)).abs() < 0.1 * draws.std(0)).all()
    assert torch.equal(flow(x).approximate_mean(), flow(x).approximate_mean())
    with pytest.raises(NotImplementedError):  # an estimate is no attribute to look at by chance
        flow(x).mean  # noqa: B018
    laplace = shaken(FlowPrior(3, base=LaplacePrior(3))).transformed()
    assert isinstance(laplace.base_dist.base_dist, dist.Laplace)
    assert torch.isfinite(laplace.approximate_mean()).all()


def test_a_prior_is_its_base_until_its_flow_is_activated():
    prior = shaken(FlowPrior(3))
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


def test_a_flow_made_in_a_frozen_call_stays_frozen_when_it_is_scored_later():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = conditional()

        def forward(self, x):
            return self.flow(x)

    holder = Holder()
    made = frozen(holder)(torch.randn(5, 4, dtype=DTYPE))
    z = torch.randn(5, 3, dtype=DTYPE, requires_grad=True)
    made.log_prob(z).sum().backward()
    assert z.grad.any() and all(parameter.grad is None for parameter in holder.parameters())


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="size 2 or more, got 1"):
        FlowPrior(1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        RealNVP(2, steps=0)
    with pytest.raises(TypeError, match="out_features"):
        ConditionalFlow(nn.ReLU(), 2)
