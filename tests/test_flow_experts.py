"""JNF: its flows against exact aggregates, and the sampler of their products against exact products."""

import math

import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import repeated
from test_joint_guides import LinearJoint
from torch import nn
from torch.distributions import MultivariateNormal
from toy import toy_networks

from multipyro.data import Modality
from multipyro.guides import ConditionalFlow, FlowExperts, HamiltonianSampler, ProductOfDensities
from multipyro.inference import build, cross_generate, embed, frozen, log_likelihood
from multipyro.inference.recipes import Networks
from multipyro.ppl_models import MLP
from multipyro.testing import DTYPE, LinearEncoder, LinearGaussian

NUM_SAMPLES = 4000


def agrees(samples, mean, covariance):
    """Whether samples `(number, dim)` have these moments, within 4.5 standard errors in every whitened direction."""
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (samples - mean).T, upper=False).T
    number, moments = len(samples), white.T @ white / len(samples)
    errors = torch.full_like(moments, 1 / math.sqrt(number)).fill_diagonal_(math.sqrt(2 / number))
    close = (moments - torch.eye(len(mean), dtype=DTYPE)).abs() < 4.5 * errors
    return bool(close.all() and (white.mean(0).abs() < 4.5 / math.sqrt(number)).all())


def standard(size):
    return dist.Normal(torch.zeros(size, dtype=DTYPE), 1.0).to_event(1)


def posteriors(problem, x, names):
    exact = [problem.posterior(x, [name]) for name in names]
    return [dist.MultivariateNormal(q.mean, q.covariance_matrix) for q in exact]


@pytest.mark.parametrize("count", (2, 3))
def test_the_product_of_exact_posteriors_is_the_exact_posterior_of_all(count):
    problem = LinearGaussian(3, orthogonal=False)
    names = problem.modalities[:count]
    x = {m: v[:1] for m, v in problem.sample(1).items()}
    exact, experts = problem.posterior(x, names), posteriors(problem, x, names)
    product = ProductOfDensities(experts, standard(3))
    moments = exact.mean[0], exact.covariance_matrix[0]
    assert agrees(product.sample((NUM_SAMPLES,))[:, 0], *moments)
    # up to a constant its density is that posterior's
    z = torch.randn(6, 1, 3, dtype=DTYPE)
    apart = product.unnormalized_log_prob(z) - exact.log_prob(z)
    torch.testing.assert_close(apart, apart[:1].expand_as(apart))
    # neither where the chains start, nor the prior divided by once for three
    assert not agrees(product.mixture().sample((NUM_SAMPLES,))[:, 0], *moments)
    once = ProductOfDensities(experts, standard(3), divide_prior_once=True)
    assert agrees(once.sample((NUM_SAMPLES,))[:, 0], *moments) == (count == 2)


@pytest.mark.parametrize("step_size", (None, 0.2, 0.5))
def test_chains_reach_a_density_that_is_not_normal(step_size):
    """`exp(-z^4)` a dimension, of variance `Gamma(3/4) / Gamma(1/4)`; a large step is refused more often, not wrong."""
    start = torch.full((NUM_SAMPLES, 2), 0.7, dtype=DTYPE)
    last, mean = HamiltonianSampler(60, 5, step_size).sample(lambda z: -z.pow(4).sum(-1), start)
    second, fourth = math.gamma(0.75) / math.gamma(0.25), 0.25  # E z^2 and E z^4
    assert (last.square().mean(0) - second).abs().max() < 4.5 * math.sqrt((fourth - second**2) / NUM_SAMPLES)
    assert last.mean(0).abs().max() < 4.5 * math.sqrt(second / NUM_SAMPLES)
    assert (mean.std(0) < last.std(0)).all() and start.eq(0.7).all()


def test_the_product_of_flows_agrees_with_quadrature():
    flows = [ConditionalFlow(MLP(3, 6), 2, 1, (8,)).double() for _ in range(2)]
    for flow in flows:
        for coupling in flow.couplings.couplings:
            nn.init.normal_(coupling.layers[-1].weight, std=0.7)
            nn.init.normal_(coupling.layers[-1].bias, std=0.5)
            nn.init.constant_(coupling.layers[-1].bias[-1:], -0.5)  # narrower than the prior, or there is no product
    x = torch.randn(1, 3, dtype=DTYPE)
    product = ProductOfDensities([flow(x) for flow in flows], standard(2))
    axis = torch.linspace(-6, 6, 301, dtype=DTYPE)
    grid = torch.cartesian_prod(axis, axis)
    mass = product.unnormalized_log_prob(grid.unsqueeze(1))[:, 0].detach().softmax(0)
    z = product.sample((NUM_SAMPLES,))[:, 0]
    for function in (lambda z: z[:, 0].tanh(), lambda z: z[:, 1].tanh(), lambda z: (z[:, 0] * z[:, 1]).tanh()):
        values = function(z)
        assert abs(values.mean() - (mass * function(grid)).sum()) < 4.5 * values.std() / math.sqrt(NUM_SAMPLES)


def exact_guide(problem):
    """Exact experts in place of flows, and an exact joint encoder (orthogonal loadings)."""
    branches = {m: MLP(len(problem.offsets[m]), 2) for m in problem.modalities}
    guide = FlowExperts(problem.latent_dim, branches, {m: problem.posterior_encoder(m) for m in branches})
    whole = problem.posterior(problem.sample(1))
    loading = torch.cat([problem.loadings[m] / problem.scales[m] ** 2 for m in branches])
    matrix = whole.covariance_matrix[0] @ loading.T
    offset = torch.cat([problem.offsets[m] for m in branches])
    guide.joint = LinearJoint(LinearEncoder(matrix, -matrix @ offset, whole.variance[0].sqrt()))
    return guide.double()


def test_each_row_has_the_posterior_given_its_modalities():
    problem, rows = LinearGaussian(3), 8000
    whole, kinds = problem.sample(1), torch.arange(rows) % 4
    # all; two; the last alone; the first alone
    masks = {"image": kinds != 2, "label": kinds < 2, "word": (kinds == 0) | (kinds == 2)}
    x = {m: torch.where(masks[m][:, None], v, math.nan) for m, v in repeated(whole, rows).items()}
    guide = exact_guide(problem)
    for given in (x, {m: x[m] for m in ("image", "label")}):
        z = guide(given, {m: masks[m] for m in given})["z"]
        for kind in range(4):
            names = [m for m in given if masks[m][kind]]
            exact = problem.posterior(whole, names)
            if names:
                assert agrees(z[kinds == kind], exact.mean[0], exact.covariance_matrix[0])
    assert torch.isfinite(z).all()
    label = whole["label"]
    assert torch.equal(guide.posterior({"label": label}).mean, guide.encoders["label"](label).mean)


def test_embeddings_are_means_of_the_product():
    problem = LinearGaussian(3)
    x = {m: v.repeat(400, 1) for m, v in problem.sample(2).items() if m != "word"}
    exact = problem.posterior(x)
    result = embed(exact_guide(problem), x) - exact.mean
    # each is the mean of the second half of a chain
    assert (result.mean(0).abs() < 4.5 * result.std(0) / math.sqrt(800)).all()
    assert (result.std(0) < 0.7 * exact.variance[0].sqrt()).all()


def test_the_mean_after_a_sample_runs_no_further_chain():
    expert = dist.Normal(torch.ones(3, 2), 0.5).to_event(1)
    prior = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    product = ProductOfDensities([expert, expert], prior, sampler=HamiltonianSampler(4))
    product.sample()
    before = torch.get_rng_state()
    assert torch.equal(product.approximate_mean(), product.approximate_mean())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_proposal_is_the_mixture_of_the_flows():
    problem = LinearGaussian(3)
    x, observed = problem.sample(6), {"word": torch.tensor([True, False] * 3)}
    guide = exact_guide(problem)
    for names in (["image", "word"], ["image", "label", "word"]):
        result = log_likelihood(problem.model(), guide, x, names, None, 4000, observed)
        for row in range(6):
            present = [m for m in names if row % 2 == 0 or m != "word"]
            exact = problem.log_evidence({m: v[row : row + 1] for m, v in x.items()}, present)
            assert abs(result.values[row] - exact) < 4.5 * result.standard_errors[row] + 2e-3
    with pytest.raises(NotImplementedError, match="product of 2 densities is known up to a constant only"):
        guide.posterior({m: x[m] for m in ("image", "word")}).log_prob(torch.zeros(6, 3, dtype=DTYPE))


def aggregate(problem, encoder, x, name):
    """`E[q(z | x) | x_m]` of a linear joint encoder, exact: a normal with a full covariance."""
    loading = torch.cat([problem.loadings[m] for m in problem.modalities])
    known = torch.cat([torch.full((len(problem.offsets[m]),), m == name) for m in problem.modalities])
    noise = torch.cat([torch.full((len(problem.offsets[m]),), problem.scales[m] ** 2) for m in problem.modalities])
    posterior = problem.posterior(x, [name])
    offset = torch.cat([problem.offsets[m] for m in problem.modalities])
    values = torch.cat([x[m] for m in problem.modalities], -1)
    mean = torch.where(known, values, posterior.mean @ loading.T + offset)
    hidden = torch.where(known[:, None], 0.0, loading)
    spread = hidden @ posterior.covariance_matrix[0] @ hidden.T + torch.where(known, 0.0, noise).diag()
    covariance = encoder.log_scale.exp().square().diag() + encoder.matrix @ spread.to(DTYPE) @ encoder.matrix.T
    return MultivariateNormal(mean @ encoder.matrix.T + encoder.bias, covariance)


def test_the_flows_reach_the_aggregates_of_the_frozen_joint_encoder():
    problem = LinearGaussian(2, 2, orthogonal=False)
    modalities = {m: Modality(m, (len(problem.offsets[m]),), "vector", "normal") for m in problem.modalities}
    torch.manual_seed(0)
    recipe = build("jnf", Networks(modalities, (32,)), 2, flow_steps=1)
    exact, guide = exact_guide(LinearGaussian(2, 2)).joint.encoder, recipe.guide
    with torch.no_grad():  # no posterior of this problem: a teacher of wrong moments
        exact.bias.add_(0.4), exact.log_scale.sub_(math.log(2))
    guide.joint = LinearJoint(exact)
    guide.double()
    x = problem.sample(300, seed=9)

    @torch.no_grad()
    def divergences():
        result = {}
        for m in problem.modalities:
            target, flow = aggregate(problem, exact, x, m), guide.posterior({m: x[m]})
            z = target.sample((100,))
            result[m] = (target.log_prob(z) - flow.log_prob(z)).mean()
        return result

    assert min(divergences().values()) > 0.2
    before = [p.clone() for p in guide.joint.parameters()]
    (_, stage), steps = recipe.stages, 250
    optimizer = torch.optim.Adam(guide.encoders.parameters(), lr=2e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        torch.manual_seed(step)
        stage.objective.loss_and_grads(frozen(recipe.model), guide, problem.sample(512, seed=1000 + step))
        optimizer.step()
        decay.step()
    assert max(divergences().values()) < 0.02
    assert all(torch.equal(left, right) for left, right in zip(before, guide.joint.parameters(), strict=True))
    assert all(p.grad is None for p in guide.joint.parameters())


def test_the_recipe_passes_its_options_to_the_sampler():
    torch.manual_seed(0)
    recipe = build(
        "jnf", toy_networks(), 2, sampler_steps=4, leapfrogs=3, step_size=0.1, divide_once=True, flow_steps=3
    )
    assert recipe.guide.sampler == HamiltonianSampler(4, 3, 0.1) and recipe.guide.divide_prior_once
    assert len(recipe.guide.encoders["label"].couplings.couplings) == 6
    x = {"signal": torch.zeros(5, 4)}
    assert cross_generate(recipe.model, recipe.guide, x, ["label"], 3)["label"].shape == (3, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler_steps": 1}, "num_steps must be at least 2 and num_leapfrog_steps at least 1, got 1 and 5"),
        ({"leapfrogs": 0}, "leapfrogs must be an integer .at least 1., got 0"),
        ({"step_size": 0.0}, "step_size must be above 0, or None to adapt it, got 0.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        build("jnf", toy_networks(), 2, **options)
