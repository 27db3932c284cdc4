"""Aggregate posteriors and priors by flows, against the closed forms of the linear-Gaussian model."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from multipyro.guides import AggregateGuide, ConditionalFlow, RealNVP
from multipyro.inference import frozen, joint_samples, log_likelihood
from multipyro.inference.recipes._aggregate import aggregate_prior_elbo, q_agg_elbo, q_true_elbo
from multipyro.ppl_models import MLP, FlowPrior
from multipyro.testing import FixedGuide, LinearEncoder, LinearGaussian

DTYPE, DIM = torch.float64, 2
NATS = 0.02
PROBLEM = LinearGaussian(2, DIM)
# a blurred image and a sharp label: then the image-only guide of a model of both is far narrower than p(z | image)
PROBLEM.scales.update(image=0.9, label=0.6)


class Exact:
    """A Gaussian teacher `N(A x + a, S)` of some modalities, and its aggregates in closed form.

    Args:
        names: The modalities it looks at.
        stretch: Factor of its scale.
        shift: What is added to its mean.
        scale_of: The subset whose posterior's scale it has; `names` by default.
    """

    def __init__(self, names, stretch=1.0, shift=0.0, scale_of=None):
        self.names = names
        loading = torch.cat([PROBLEM.loadings[m] for m in names])
        self.offset = torch.cat([PROBLEM.offsets[m] for m in names])
        noise = torch.cat([torch.full((len(PROBLEM.offsets[m]),), PROBLEM.scales[m] ** 2, dtype=DTYPE) for m in names])
        self.matrix = self.covariance(names) @ loading.T / noise
        self.shift = torch.full((DIM,), shift, dtype=DTYPE)
        self.scale = self.covariance(scale_of or names).diagonal().sqrt() * stretch
        self.loading, self.noise = loading, noise

    @staticmethod
    def covariance(names):
        """Covariance of the model's posterior given a subset."""
        return PROBLEM.posterior(PROBLEM.sample(1), names).covariance_matrix[0]

    def guide(self):
        encoder = LinearEncoder(self.matrix, self.shift - self.matrix @ self.offset, self.scale)

        def posterior(x, observed=None):
            return encoder(torch.cat([x[m] for m in self.names], -1))

        guide = FixedGuide(PROBLEM, posterior)
        guide.encoder = encoder
        return guide.double()

    def aggregate(self, x=None, given=()):
        """The mean over `p(x_names | x_given)` of its posteriors, one per row; the aggregate prior without `x`."""
        rows = {"none": torch.zeros(1, 0)} if x is None else x
        posterior = PROBLEM.posterior(rows, given)
        mean = self.shift + posterior.mean @ (self.matrix @ self.loading).T
        given_entries = [torch.full((len(PROBLEM.offsets[m]),), m in given) for m in self.names]
        assert not torch.cat(given_entries).any(), "the closed form is for teachers of other modalities"
        inner = self.loading @ posterior.covariance_matrix @ self.loading.T + self.noise.diag()
        return MultivariateNormal(mean, self.scale.square().diag() + self.matrix @ inner @ self.matrix.T)


def flow_guide(teacher):
    flow = ConditionalFlow(MLP(len(PROBLEM.offsets["label"]), 16, (16,), activate_output=True), DIM, 1, (16,))
    return AggregateGuide(teacher, {"label": flow}).double()


def train(elbo, guide, modules, model=None, steps=160, rows=100):
    """Adam on batches sampled from the model, with a learning rate that goes to zero."""
    model = PROBLEM.model() if model is None else model
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        elbo.loss_and_grads(frozen(model, modules), frozen(guide, modules), PROBLEM.sample(rows, seed=100 + step))
        for parameter in parameters:
            parameter.grad /= rows
        optimizer.step()
        decay.step()


@torch.no_grad()
def divergence(left, right, num_samples=200):
    """`KL(left || right)`, the mean over rows, from samples of `left`; and its standard error."""
    z = left.sample((num_samples,))
    values = (left.log_prob(z) - right.log_prob(z)).flatten()
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


TEACHERS = {
    # the best image-only guide of a model trained on both, and a guide that is wrong in both moments
    "vlvae": Exact(("image",), scale_of=("image", "label")),
    "halved and shifted": Exact(("image",), stretch=0.5, shift=0.4),
}


@pytest.fixture(scope="module")
def q_true():
    """A guide whose flow was fitted to the posterior of the model."""
    torch.manual_seed(0)
    guide = flow_guide(TEACHERS["halved and shifted"].guide())
    train(q_true_elbo(guide.flow_subsets), guide, (guide.flows,), rows=300)
    guide.activate()
    return guide


def test_q_true_reaches_the_exact_posterior_whatever_the_teacher(q_true):
    x = PROBLEM.sample(400, seed=9)
    posterior, given = PROBLEM.posterior(x, ("label",)), {"label": x["label"]}
    untrained, error = divergence(flow_guide(q_true.teacher).aggregate(given), posterior)
    assert untrained > NATS + 4 * error
    result, error = divergence(q_true.posterior(given), posterior)
    assert result < NATS and error < NATS / 4


@pytest.mark.parametrize("teacher", TEACHERS)
def test_q_agg_reaches_the_exact_aggregate_and_differs_from_q_true_by_the_computed_divergence(teacher, q_true):
    exact = TEACHERS[teacher]
    guide, x = flow_guide(exact.guide()), PROBLEM.sample(400, seed=9)
    aggregate, given = exact.aggregate(x, ("label",)), {"label": x["label"]}
    untrained, error = divergence(aggregate, guide.aggregate(given))
    assert untrained > NATS + 4 * error
    before = guide.teacher.encoder.matrix.clone()
    train(q_agg_elbo(guide.flow_subsets, ("image",)), guide, (guide.flows,))
    guide.activate()
    assert torch.equal(before, guide.teacher.encoder.matrix)
    result, error = divergence(aggregate, guide.posterior(given))
    assert result < NATS and error < NATS / 4
    gap = kl_divergence(PROBLEM.posterior(x, ("label",)), aggregate).mean().item()
    assert gap > 5 * NATS
    apart, error = divergence(q_true.posterior(given), guide.posterior(given))
    assert abs(apart - gap) < 2 * NATS + 4 * error


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_learned_prior_reaches_the_exact_aggregate(teacher):
    exact, model = TEACHERS[teacher], PROBLEM.model()
    model.prior = prior = FlowPrior(DIM, RealNVP(DIM, 0, 1, (16,))).double()
    aggregate = exact.aggregate().expand((1,))
    if teacher == "vlvae":
        expected = Exact.covariance(("image", "label")) + torch.eye(DIM, dtype=DTYPE) - Exact.covariance(("image",))
        torch.testing.assert_close(aggregate.covariance_matrix[0], expected)
    assert prior().log_prob(torch.zeros(DIM, dtype=DTYPE)) == prior.base().log_prob(torch.zeros(DIM, dtype=DTYPE))
    untrained, error = divergence(aggregate, prior.transformed(), 50_000)
    assert untrained > NATS + 4 * error
    train(aggregate_prior_elbo(("image",)), exact.guide(), (prior.flow,), model)
    prior.activate()
    result, error = divergence(aggregate, prior(), 50_000)
    assert result < NATS and error < NATS / 4
    # in generation and in likelihoods it is the prior
    x = PROBLEM.sample(50, seed=9)
    loading, noise = PROBLEM.loadings["label"], PROBLEM.scales["label"] ** 2 * torch.eye(4, dtype=DTYPE)
    covariance = loading @ aggregate.covariance_matrix[0] @ loading.T + noise
    marginal = MultivariateNormal(aggregate.mean[0] @ loading.T + PROBLEM.offsets["label"], covariance)
    samples = joint_samples(model, 4000, ["label"])["label"]
    assert abs((marginal.log_prob(samples).mean() + marginal.entropy()).item()) < NATS + 4 * (2 / 4000) ** 0.5
    result = log_likelihood(model, PROBLEM.product_guide(), x, ["label"], num_samples=3000)
    expected, plain = marginal.log_prob(x["label"]), PROBLEM.log_evidence(x, ("label",))
    assert (result.values - expected).abs().mean() < 2 * NATS + result.standard_errors.mean()
    assert (plain - expected).abs().mean() > 5 * NATS
