"""Experts of any family: stacked, scattered, chosen by row, reshaped, detached, in a mixture and with missing rows."""

import math

import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import mean_and_se
from pyro.distributions.transforms import AffineTransform, conditional_affine_coupling
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from multipyro._distributions import (
    RowwiseDistribution,
    choose_rows,
    detached,
    expected_value,
    is_rebuilt,
    representative_tensor,
    scattered,
    stacked,
    unflattened,
)
from multipyro.guides import (
    AggregateGuide,
    ConditionalFlow,
    FlowExperts,
    HamiltonianSampler,
    JointGuide,
    MixtureOfExperts,
    NormalEncoder,
    StratifiedMixture,
)
from multipyro.inference.objectives import LinearMixtureELBO, StratifiedELBO
from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood

DTYPE, DIM = torch.float64, 2


class Head(nn.Module):
    """An encoder of any family from the outputs of one network with batch norm.

    Args:
        family: From outputs `(batch, 8)` to a distribution of event shape `(2,)`.
        normalized: Whether the network normalizes over the batch.
    """

    def __init__(self, family, normalized=False):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8) if normalized else nn.Tanh(), nn.Linear(8, 8))
        self.family = family
        if isinstance(family, nn.Module):
            self.flow = family

    def forward(self, values):
        return self.family(self.network(values))


def student(outputs):
    return dist.StudentT(outputs[..., :2].exp() + 3, outputs[..., 2:4], outputs[..., 4:6].exp()).to_event(1)


def low_rank(outputs):
    return dist.LowRankMultivariateNormal(outputs[..., :2], outputs[..., 2:4].unsqueeze(-1), outputs[..., 4:6].exp())


def full_covariance(outputs):
    factor = torch.diag_embed(outputs[..., 2:4].exp()) + torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=DTYPE) * 0.3
    return dist.MultivariateNormal(outputs[..., :2], scale_tril=factor)


def transformed(outputs):
    base = dist.Normal(torch.zeros_like(outputs[..., :2]), 1.0).to_event(1)
    return dist.TransformedDistribution(base, [AffineTransform(outputs[..., :2], outputs[..., 2:4].exp(), event_dim=1)])


class Coupling(nn.Module):
    """A conditional flow of Pyro's own transforms."""

    def __init__(self):
        super().__init__()
        self.transform = conditional_affine_coupling(DIM, 8, [8])

    def forward(self, outputs):
        base = dist.Normal(outputs.new_zeros(len(outputs), DIM), 1.0).to_event(1)
        return dist.ConditionalTransformedDistribution(base, [self.transform]).condition(outputs)


class Zuko(nn.Module):
    """A conditional flow of zuko, wrapped by Pyro."""

    def __init__(self):
        super().__init__()
        zuko = pytest.importorskip("zuko")
        self.flow = zuko.flows.MAF(DIM, 8, transforms=1, hidden_features=(8,))

    def forward(self, outputs):
        from pyro.contrib.zuko import ZukoToPyro

        return ZukoToPyro(self.flow(outputs))


REBUILT = {"student": student, "low rank": low_rank, "full covariance": full_covariance}
FAMILIES = {**REBUILT, "transformed": transformed, "coupling": Coupling, "zuko": Zuko}
EVERY = pytest.mark.parametrize("family", FAMILIES)


def head(family, seed=0, normalized=False):
    torch.manual_seed(seed)
    made = FAMILIES[family]
    return Head(made() if isinstance(made, type) else made, normalized).double()


def inputs(number=5, seed=3):
    return torch.randn(number, 3, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


def scores(distribution, shape=(5,), seed=4):
    value = torch.randn(*shape, DIM, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))
    return distribution.log_prob(value)


@pytest.mark.parametrize("family", REBUILT)
def test_families_are_rebuilt_from_the_constraints_of_their_arguments(family):
    first, second = head(family, 0)(inputs()), head(family, 1)(inputs())
    both = stacked([first, second])
    assert is_rebuilt(first) and both.batch_shape == (2, 5) and both.event_shape == (DIM,)
    torch.testing.assert_close(scores(both), torch.stack([scores(first), scores(second)]))


def test_a_stack_needs_one_family():
    assert stacked([student(inputs().repeat(1, 3)[:, :8]), low_rank(inputs().repeat(1, 3)[:, :8])]) is None
    assert not is_rebuilt(transformed(inputs().repeat(1, 3)[:, :8]))


@pytest.mark.parametrize("probs", (True, False))
def test_one_of_several_parametrizations_is_kept(probs):
    parameters = torch.rand(4, 2, dtype=DTYPE)
    one = dist.Bernoulli(probs=parameters) if probs else dist.Bernoulli(logits=parameters)
    one.mean, one.logits, one.probs  # noqa: B018 torch stores the other parameter once it has been asked for
    torch.testing.assert_close(detached(one).probs, one.probs)


@EVERY
def test_choosing_rows(family):
    parts = [head(family, 0)(inputs()), head(family, 1)(inputs())]
    index = torch.tensor([0, 1, 1, 0, 1])
    chosen = choose_rows(parts, index)
    by_hand = torch.where(index == 1, scores(parts[1]), scores(parts[0]))
    torch.testing.assert_close(scores(chosen), by_hand)
    assert scores(chosen.expand((3, 5)), (3, 5)).shape == (3, 5)
    assert chosen().shape == (5, DIM)


@EVERY
def test_scattering_rows(family):
    rows = torch.tensor([0, 2, 3])
    part = head(family)(inputs()[rows])
    whole = scattered(part, rows, 5)
    expected = scores(head(family)(inputs()))
    torch.testing.assert_close(scores(whole)[rows], expected[rows])
    for distribution, shape in ((whole, (5,)), (whole.expand((4, 5)), (4, 5))):
        assert distribution.batch_shape == shape and distribution().shape == (*shape, DIM)
        assert torch.isfinite(scores(distribution, shape)).all()


@EVERY
def test_reshaping_the_batch(family):
    flat = head(family)(inputs(6))
    shaped = unflattened(flat, (2, 3))
    value = torch.randn(2, 3, DIM, dtype=DTYPE)
    torch.testing.assert_close(shaped.log_prob(value), flat.log_prob(value.flatten(0, 1)).unflatten(0, (2, 3)))
    assert shaped().shape == (2, 3, DIM) and expected_value(shaped).shape == (2, 3, DIM)


@EVERY
def test_a_detached_density_has_the_gradient_of_the_value_alone(family):
    module = head(family)
    distribution = module(inputs())
    gradients = []
    for one in (distribution, detached(distribution)):
        value = torch.linspace(-1, 1, 10, dtype=DTYPE).reshape(5, DIM).requires_grad_()
        log_prob = one.log_prob(value)
        (gradient,) = torch.autograd.grad(log_prob.sum(), value, retain_graph=True)
        gradients.append((log_prob.detach(), gradient))
    torch.testing.assert_close(*gradients)
    value = torch.zeros(5, DIM, dtype=DTYPE, requires_grad=True)
    detached(distribution).log_prob(value).sum().backward()
    assert all(parameter.grad is None for parameter in module.parameters())


@EVERY
def test_a_mixture_of_any_family(family):
    parts = [head(family, seed)(inputs()) for seed in (0, 1)]
    weights = torch.tensor([[0.3, 0.7]], dtype=DTYPE).expand(5, 2)
    mixture = StratifiedMixture(parts, weights)
    by_hand = (0.3 * scores(parts[0]).exp() + 0.7 * scores(parts[1]).exp()).log()
    torch.testing.assert_close(scores(mixture), by_hand)
    for one, shape in ((mixture, (5,)), (mixture.expand((4, 5)), (4, 5)), (mixture.detach(), (5,))):
        assert one().shape == (*shape, DIM) and one.rsample((3,)).shape == (3, *shape, DIM)
        assert one.log_prob(torch.zeros(5, DIM, dtype=DTYPE)).shape == shape
    assert mixture.rsample_strata((6,)).shape == (6, 2, 5, DIM) and mixture.rsample().requires_grad
    samples = mixture.sample((8000,)).detach().tanh()
    strata = sum(w * part((8000,)).detach().tanh() for w, part in zip((0.3, 0.7), parts, strict=True))
    (mean, error), (expected, other) = mean_and_se(samples), mean_and_se(strata)
    assert ((mean - expected).abs() < 5 * (error.square() + other.square()).sqrt()).all()


@EVERY
def test_a_mixture_of_experts_with_missing_rows(family):
    guide = MixtureOfExperts(DIM, {"a": head(family, 0), "b": head(family, 1)})
    x, rows = {"a": inputs(), "b": inputs(seed=5)}, torch.tensor([True, False, True, True, False])
    gradients = []
    for fill in (0.0, float("nan")):
        guide.zero_grad()
        filled = {**x, "a": torch.where(rows[:, None], x["a"], fill)}
        mixture = guide.posterior(filled, {"a": rows})
        torch.manual_seed(1)
        value = mixture.rsample((3,))
        loss = mixture.log_prob(value).sum() + value.square().sum()
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in guide.parameters()])
        alone = guide.encoders["b"](x["b"])
        torch.testing.assert_close(scores(mixture)[~rows], scores(alone)[~rows])
    assert all(map(torch.equal, *gradients)) and all(torch.isfinite(gradient).all() for gradient in gradients[0])


@EVERY
@pytest.mark.parametrize(
    "objective", (StratifiedELBO(2), StratifiedELBO(2, bound="tight"), LinearMixtureELBO(2)), ids=str
)
def test_the_bounds_of_mixtures_take_any_family_with_missing_rows(objective, family):
    torch.manual_seed(0)
    likelihoods = {name: NormalLikelihood(MLP(DIM, 3)) for name in "ab"}
    model, x = MultimodalModel(DIM, likelihoods).double(), {"a": inputs(), "b": inputs(seed=5)}
    guide = MixtureOfExperts(DIM, {"a": head(family, 0), "b": head("student", 1)})
    rows, losses = torch.tensor([True, False, True, True, False]), []
    for fill in (0.0, float("nan")):
        guide.zero_grad()
        torch.manual_seed(1)
        losses.append(
            objective.loss_and_grads(model, guide, {**x, "a": torch.where(rows[:, None], x["a"], fill)}, {"a": rows})
        )
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in guide.parameters())
    assert losses[0] == losses[1]


@EVERY
def test_batch_norm_before_any_family_normalizes_over_observed_rows(family):
    guide = MixtureOfExperts(DIM, {"a": head(family, 0, normalized=True)}).train()
    twin = head(family, 0, normalized=True).train()
    rows = torch.tensor([True, False, True, True, False])
    x = {"a": torch.where(rows[:, None], inputs(), float("nan"))}
    expert = guide.experts(x, {"a": rows})["a"]
    value = torch.randn(5, DIM, dtype=DTYPE)
    torch.testing.assert_close(expert.log_prob(value)[rows], twin(inputs()[rows]).log_prob(value[rows]))
    assert torch.isfinite(expert.log_prob(value)).all() and torch.isfinite(guide({**x}, {"a": rows})["z"]).all()


@EVERY
def test_a_joint_guide_whose_networks_have_different_families(family):
    branches = {name: MLP(3, 8) for name in "ab"}
    guide = JointGuide(DIM, branches, encoders={"a": head(family), "b": NormalEncoder(MLP(3, 8), DIM)}).double()
    x = {"a": inputs(), "b": inputs(seed=5)}
    observed = {"a": torch.tensor([True, False, True, True, False]), "b": torch.tensor([True, True, False, True, True])}
    found = scores(guide.posterior(x, observed))
    for given, rows in ((("a", "b"), [0, 3]), (("a",), [2]), (("b",), [1, 4])):
        alone = scores(guide.posterior({name: x[name] for name in given}))
        torch.testing.assert_close(found[rows], alone[rows])


@EVERY
def test_the_type_of_a_distribution_is_found_without_sampling(family):
    distribution, state = head(family)(inputs()), torch.get_rng_state()
    assert representative_tensor(distribution).dtype == DTYPE
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gradient_of_a_detached_density_whose_value_is_one_for_all_rows():
    distribution = transformed(inputs().repeat(1, 3)[:, :8])
    value = torch.zeros(DIM, dtype=DTYPE, requires_grad=True)
    gradients = [torch.autograd.grad(d.log_prob(value).sum(), value)[0] for d in (distribution, detached(distribution))]
    torch.testing.assert_close(*gradients)


def test_an_expected_value_without_a_closed_form_is_estimated():
    module = head("coupling")
    samples = module(inputs())((4000,)).detach()
    estimate = expected_value(module(inputs())).detach()
    assert ((estimate - samples.mean(0)).abs() < 5 * samples.std(0) / 8).all()
    flow = ConditionalFlow(MLP(3, 8), DIM).double()(inputs())
    rowwise = RowwiseDistribution([flow, low_rank(inputs().repeat(1, 3)[:, :8])], torch.arange(5) % 2)
    assert expected_value(rowwise).shape == (5, DIM)


FLOWS = pytest.mark.parametrize("family", ("transformed", "coupling", "zuko"))


@FLOWS
def test_any_flow_in_an_aggregate_guide(family):
    branches = {name: MLP(3, 8) for name in "ab"}
    guide = AggregateGuide(JointGuide(DIM, branches), {"a": head(family)}).double()
    x = {"a": inputs(), "b": inputs(seed=5)}
    observed = {"b": torch.tensor([True, False, True, True, False])}
    guide.activate()
    posterior = guide.posterior(x, observed)
    joint, flow = guide.posterior(x), guide.posterior({"a": x["a"]})
    torch.testing.assert_close(scores(posterior), torch.where(observed["b"], scores(joint), scores(flow)))
    z = guide(x, observed)["z"]
    z.sum().backward()
    assert all(parameter.grad is not None for parameter in guide.flows.parameters())


@FLOWS
def test_any_flow_in_a_product_of_densities(family):
    branches = {name: MLP(3, 8) for name in "abc"}
    flows = {name: head(family, seed) for seed, name in enumerate("abc")}
    guide = FlowExperts(DIM, branches, flows, sampler=HamiltonianSampler(4)).double()
    x = {"a": inputs(), "b": inputs(seed=5)}
    observed = {"b": torch.tensor([True, False, True, True, False])}
    assert torch.isfinite(guide(x, observed)["z"]).all()
    assert torch.isfinite(expected_value(guide.posterior(x, observed))).all()
    assert torch.isfinite(scores(guide.proposal(x, observed))).all()


@FLOWS
def test_any_flow_trains_with_pyros_elbo(family):
    guide = MixtureOfExperts(DIM, {name: head(family, seed) for seed, name in enumerate("ab")})
    likelihoods = {name: NormalLikelihood(MLP(DIM, 3)) for name in "ab"}
    model = MultimodalModel(DIM, likelihoods).double()
    x, observed = {"a": inputs(), "b": inputs(seed=5)}, {"a": torch.tensor([True, False, True, True, False])}
    svi = SVI(model, guide, Adam({"lr": 1e-3}), Trace_ELBO(num_particles=3, vectorize_particles=True))
    before = [parameter.clone() for parameter in guide.parameters()]
    assert math.isfinite(svi.step(x, observed))
    moved = [not torch.equal(old, new) for old, new in zip(before, guide.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
