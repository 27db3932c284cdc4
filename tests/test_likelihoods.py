"""One contract for all likelihoods: shapes, normalization, samples, finite gradients, missing entries, exposures."""

import math

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from multipyro.batch import mark_missing
from multipyro.data import Modality
from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.inference import (
    build,
    cross_generate,
    fit_recipe,
    log_likelihood,
    networks_for,
    predictive,
    reconstruct,
    restrict,
)
from multipyro.ppl_models import MLP, MultimodalModel, point_estimate
from multipyro.ppl_models.likelihoods import (
    BernoulliLikelihood,
    BetaLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DirichletLikelihood,
    DiscretizedLogisticLikelihood,
    GammaLikelihood,
    LaplaceLikelihood,
    Likelihood,
    LogNormalLikelihood,
    NegativeBinomialLikelihood,
    NormalLikelihood,
    OrdinalLikelihood,
    PoissonLikelihood,
    StableGamma,
    StableNegativeBinomial,
    StableVonMises,
    StudentTLikelihood,
    VonMisesLikelihood,
    ZeroInflatedNegativeBinomialLikelihood,
    ZeroInflatedPoissonLikelihood,
)
from multipyro.ppl_models.networks import TransformedInput

NAN = math.nan
RNA = Modality("rna", (6,), "counts", "negative_binomial")
SAMPLES = 20_000
# critical value of the Kolmogorov-Smirnov statistic at a level of 1e-6
CRITICAL = math.sqrt(math.log(2e6) / 2)

REAL = torch.linspace(-60, 60, 400_001, dtype=torch.float64)
POSITIVE = torch.linspace(-25, 12, 400_001, dtype=torch.float64).exp()
UNIT = torch.linspace(0, 1, 400_001, dtype=torch.float64)
COUNTS = torch.arange(20_000, dtype=torch.float64)

# likelihood, from a network to the module; outputs of the network for one entry; grid of the support
CONTINUOUS = {
    "normal": (lambda net: NormalLikelihood(net, 0.7), [0.4], REAL),
    "laplace": (lambda net: LaplaceLikelihood(net, 0.7), [-0.4], REAL),
    "student t": (lambda net: StudentTLikelihood(net, 0.5, df=6.0), [0.4], REAL),
    "lognormal": (lambda net: LogNormalLikelihood(net, 0.6), [0.4], POSITIVE),
    "gamma": (lambda net: GammaLikelihood(net, 2.5), [0.4], POSITIVE),
    "gamma of shape 0.5": (lambda net: GammaLikelihood(net, 0.5), [0.4], POSITIVE),
    "beta": (lambda net: BetaLikelihood(net, 8.0), [0.4], UNIT),
    "continuous bernoulli": (ContinuousBernoulliLikelihood, [1.5], UNIT),
    "von mises": (lambda net: VonMisesLikelihood(net, 3.0), [0.4, -2.0], math.pi * (2 * UNIT - 1)),
}
DISCRETE = {
    "bernoulli": (BernoulliLikelihood, [0.4], COUNTS[:2]),
    "categorical": (CategoricalLikelihood, [0.4, 1.0, -0.3], torch.arange(3)),
    "ordinal": (lambda net: OrdinalLikelihood(net, 5), [0.4], torch.arange(5)),
    "poisson": (PoissonLikelihood, [1.3], COUNTS),
    "negative binomial": (lambda net: NegativeBinomialLikelihood(net, 0.7), [1.3], COUNTS),
    "zero-inflated poisson": (ZeroInflatedPoissonLikelihood, [1.3, -0.5], COUNTS),
    "zero-inflated negative binomial": (
        lambda net: ZeroInflatedNegativeBinomialLikelihood(net, 2.0),
        [1.3, -0.5],
        COUNTS,
    ),
    "discretized logistic": (DiscretizedLogisticLikelihood, [0.4], torch.arange(256, dtype=torch.float64) / 255),
}
ENTRYWISE = {**CONTINUOUS, **DISCRETE}
COUNT_LIKELIHOODS = ["poisson", "negative binomial", "zero-inflated poisson", "zero-inflated negative binomial"]
NEGATIVE_BINOMIALS = ["negative binomial", "zero-inflated negative binomial"]


class Outputs(nn.Module):
    """A network whose outputs are parameters, the same for all latents."""

    def __init__(self, *outputs):
        super().__init__()
        outputs = torch.tensor(outputs, dtype=torch.float64)
        self.outputs = nn.Parameter(outputs[0] if len(outputs) == 1 else outputs)

    def forward(self, latents):
        return self.outputs.expand(latents.shape[:-1] + self.outputs.shape)


def entry(name):
    """The distribution of a single number, in double precision."""
    make, outputs, grid = ENTRYWISE[name]
    return make(Outputs(*outputs)).double()(torch.zeros(1, dtype=torch.float64)), grid


def network_for(name, event=(5,)):
    outputs = len(ENTRYWISE[name][1])
    return MLP(2, (*event, outputs) if outputs > 1 else event, (8,))


@pytest.mark.parametrize("event", [(), (5,), (2, 3, 3)], ids=str)
@pytest.mark.parametrize("name", ENTRYWISE)
def test_any_leading_and_event_dimensions(name, event):
    likelihood = ENTRYWISE[name][0](network_for(name, event))
    assert likelihood.event_shape == event
    z = torch.randn(2, 3, 4, 2)
    distribution = likelihood(z)
    assert distribution.batch_shape == (2, 3, 4) and distribution.event_shape == event
    values = distribution.sample()
    assert values.shape == (2, 3, 4, *event) and point_estimate(distribution).shape == values.shape
    likelihood.check(values[0, 0], name)
    flat = likelihood(z.reshape(-1, 2)).log_prob(values.reshape(-1, *event))
    torch.testing.assert_close(distribution.log_prob(values).reshape(-1), flat, rtol=1e-4, atol=1e-4)
    wide = distribution.expand((7, 2, 3, 4))
    assert wide.sample().shape == (7, 2, 3, 4, *event)
    torch.testing.assert_close(wide.log_prob(values)[3], distribution.log_prob(values))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_densities_integrate_to_one_and_samples_fit_them(name):
    distribution, grid = entry(name)
    density = distribution.log_prob(grid).exp().nan_to_num(posinf=0.0)
    masses = 0.5 * (density[1:] + density[:-1]) * grid.diff()
    cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), masses.cumsum(0)])
    assert cumulative[-1].item() == pytest.approx(1.0, abs=2e-4)
    samples = distribution.sample((SAMPLES,)).double().sort().values
    positions = torch.searchsorted(grid, samples).clamp(max=len(grid) - 1)
    empirical = torch.arange(1, SAMPLES + 1, dtype=torch.float64) / SAMPLES
    assert (cumulative[positions] - empirical).abs().max() * math.sqrt(SAMPLES) < CRITICAL
    if name != "von mises":  # its mean is circular
        mean = (0.5 * (grid[1:] + grid[:-1]) * masses).sum().item()
        assert point_estimate(distribution).item() == pytest.approx(mean, abs=2e-3)


@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_sum_to_one_and_samples_fit_them(name):
    distribution, support = entry(name)
    probabilities = distribution.log_prob(support).exp()
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-6)
    samples = distribution.sample((SAMPLES,)).double()
    for value, probability in zip(support.double()[:6].tolist(), probabilities[:6].tolist(), strict=False):
        error = 5 * math.sqrt(probability * (1 - probability) / SAMPLES)
        assert (samples == value).double().mean().item() == pytest.approx(probability, abs=error + 1e-9)
    if name not in ("categorical", "ordinal"):
        mean = (support * probabilities).sum().item()
        assert point_estimate(distribution).item() == pytest.approx(mean, abs=2e-3)
        spread = math.sqrt((support**2 * probabilities).sum().item() - mean**2)
        assert samples.mean().item() == pytest.approx(mean, abs=5 * spread / math.sqrt(SAMPLES))


@pytest.mark.parametrize("output", [-1e4, -200.0, 0.0, 200.0, 1e4])
@pytest.mark.parametrize("name", ENTRYWISE)
def test_gradients_are_finite_at_extreme_outputs_and_values(name, output):
    make, outputs, grid = ENTRYWISE[name]
    likelihood = make(Outputs(*[sign * output for sign in (1, -1, 1)[: len(outputs)]])).float()
    values = torch.cat([grid[:3], grid[len(grid) // 2 :][:1], grid[-1:]])
    if name in ("gamma", "lognormal", "gamma of shape 0.5"):
        values = torch.tensor([1e-6, 1.0, 1e6])
    values = values.float() if values.is_floating_point() else values
    log_prob = likelihood(torch.zeros(len(values), 1)).log_prob(values)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in likelihood.parameters())


@pytest.mark.parametrize("name", COUNT_LIKELIHOODS + ["gamma"])
def test_a_mean_far_too_small_still_gets_a_gradient(name):
    likelihood = ENTRYWISE[name][0](Outputs(*[-1e4, 0.0][: len(ENTRYWISE[name][1])])).float()
    likelihood(torch.zeros(1)).log_prob(torch.tensor(7.0)).backward()
    assert likelihood.network.outputs.grad.flatten()[0] > 0


# a known quantity: likelihood that has to learn it, and one that samples from it
LEARNED = {
    "scale of a student t": (
        lambda: StudentTLikelihood(Outputs(0.0), 1.0),
        lambda: StudentTLikelihood(Outputs(0.0), 0.3, learn_scale=False),
        lambda likelihood: (likelihood.log_scale.exp(), 0.3),
    ),
    "scale of a log-normal": (
        lambda: LogNormalLikelihood(Outputs(1.0), 1.0),
        lambda: LogNormalLikelihood(Outputs(1.0), 0.3, learn_scale=False),
        lambda likelihood: (likelihood.log_scale.exp(), 0.3),
    ),
    "concentration of a gamma": (
        lambda: GammaLikelihood(Outputs(1.0)),
        lambda: GammaLikelihood(Outputs(1.0), 5.0, learn_concentration=False),
        lambda likelihood: (likelihood.log_concentration.exp(), 5.0),
    ),
    "concentration of a negative binomial": (
        lambda: NegativeBinomialLikelihood(Outputs(2.0)),
        lambda: NegativeBinomialLikelihood(Outputs(2.0), 3.0, learn_concentration=False),
        lambda likelihood: (likelihood.log_concentration.exp(), 3.0),
    ),
    "probability of an extra zero": (
        lambda: ZeroInflatedPoissonLikelihood(Outputs(1.0, 0.0)),
        lambda: ZeroInflatedPoissonLikelihood(Outputs(1.0, -1.0)),
        lambda likelihood: (likelihood.network.outputs[1].sigmoid(), 1 / (1 + math.e)),
    ),
    "concentration of a von mises": (
        lambda: VonMisesLikelihood(Outputs(1.0, 1.0)),
        lambda: VonMisesLikelihood(Outputs(1.0, 1.0), 8.0, learn_concentration=False),
        lambda likelihood: (likelihood.log_concentration.exp(), 8.0),
    ),
    "strength of a dirichlet": (
        lambda: DirichletLikelihood(Outputs(0.0, 0.5, 1.0)),
        lambda: DirichletLikelihood(Outputs(0.0, 0.5, 1.0), 25.0, learn_strength=False),
        lambda likelihood: (likelihood.log_strength.exp(), 25.0),
    ),
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_known_parameter_is_learned(name):
    make, truth, quantity = LEARNED[name]
    likelihood, z = make().double(), torch.zeros(10_000, 1, dtype=torch.float64)
    values = truth().double()(z).sample()
    optimizer = torch.optim.LBFGS(likelihood.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        loss = -likelihood(z).log_prob(values).mean()
        loss.backward()
        return loss

    optimizer.step(loss)
    learned, expected = quantity(likelihood)
    assert learned.item() == pytest.approx(expected, rel=0.06)


def test_cutpoints_are_learned_from_the_shares_of_the_classes():
    likelihood = OrdinalLikelihood(Outputs(0.0), 4).double()
    shares = torch.tensor([0.5, 0.1, 0.3, 0.1], dtype=torch.float64)
    values = torch.repeat_interleave(torch.arange(4), (1000 * shares).long())
    optimizer = torch.optim.LBFGS(likelihood.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        loss = -likelihood(torch.zeros(1000, 1)).log_prob(values).mean()
        loss.backward()
        return loss

    optimizer.step(loss)
    torch.testing.assert_close(likelihood(torch.zeros(1)).probs.squeeze(), shares, atol=1e-3, rtol=0)


def test_each_entry_has_its_own_learned_parameter():
    assert NegativeBinomialLikelihood(MLP(2, 7)).log_concentration.shape == (7,)
    assert ZeroInflatedNegativeBinomialLikelihood(MLP(2, (7, 2))).log_concentration.shape == (7,)
    assert NegativeBinomialLikelihood(MLP(2, 7)).log_concentration.exp().allclose(torch.tensor(10.0))
    assert VonMisesLikelihood(MLP(2, (7, 2))).log_concentration.exp().allclose(torch.tensor(1.0))
    assert VonMisesLikelihood(MLP(2, (7, 2)), learn_concentration=False).log_concentration.requires_grad is False
    assert OrdinalLikelihood(MLP(2, 7), 4).log_gaps.shape == (7, 2)
    assert OrdinalLikelihood(nn.Linear(2, 7), 2)(torch.zeros(3, 2)).sample().max() <= 1


@pytest.mark.parametrize("concentration", [0.3, 5.0, 99.0, 101.0, 1e4, 1e7])
def test_stable_densities_agree_with_those_of_torch_in_double_precision(concentration):
    a = torch.tensor(concentration)
    counts, positive = torch.tensor([0.0, 1.0, 7.0, 400.0]), torch.tensor([0.9, 1.0, 1.3])
    angles = torch.tensor([-3.0, 0.1, 2.0])
    logits = 2.0 - a.log()
    exact = dist.NegativeBinomial(a.double(), logits=2.0 - a.double().log()).log_prob(counts.double())
    if concentration < 1e6:
        torch.testing.assert_close(
            StableNegativeBinomial(a, logits=logits).log_prob(counts).double(), exact, rtol=1e-4, atol=2e-4
        )
        exact = dist.VonMises(torch.tensor(0.5).double(), a.double()).log_prob(angles.double())
        torch.testing.assert_close(
            StableVonMises(torch.tensor(0.5), a).log_prob(angles).double(), exact, rtol=1e-4, atol=2e-4
        )
    else:  # there, even double precision loses digits, but the limit is known
        limit = dist.Poisson(torch.tensor(2.0).exp()).log_prob(counts)
        torch.testing.assert_close(
            StableNegativeBinomial(a, logits=logits).log_prob(counts), limit, rtol=1e-3, atol=1e-3
        )
    exact = dist.Gamma(a.double(), a.double()).log_prob(positive.double())
    torch.testing.assert_close(StableGamma(a, a).log_prob(positive).double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("concentration", [1e-3, 1.0, 1e5, 1e9])
def test_an_angle_has_a_finite_gradient_at_any_concentration(concentration):
    kappa = torch.tensor(concentration, requires_grad=True)
    StableVonMises(torch.tensor(0.5), kappa).log_prob(torch.tensor([0.5, 0.5001])).sum().backward()
    assert kappa.grad.isfinite()


def test_an_angle_is_periodic():
    distribution, _ = entry("von mises")
    angles = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(distribution.log_prob(angles), distribution.log_prob(angles + 2 * math.pi))


@pytest.mark.parametrize("name", ENTRYWISE)
def test_missing_entries_contribute_nothing(name):
    likelihood = ENTRYWISE[name][0](network_for(name))
    z = torch.randn(4, 2)
    values = likelihood(z).sample()
    present = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]]).bool()
    expected = (likelihood(z).base_dist.log_prob(values) * present).sum(-1)
    missing = mark_missing(values, present)
    with pytest.raises(ValueError, match="NaN|class ids|whole numbers"):
        likelihood.check(missing, name)
    likelihood.missing_entries = True
    likelihood.check(missing, name)
    outputs = likelihood.network(z).detach().requires_grad_()
    likelihood.network = Constant(outputs)
    log_prob = likelihood(z).log_prob(missing)
    torch.testing.assert_close(log_prob, expected)
    log_prob.sum().backward()
    gradient = outputs.grad.reshape(4, 5, -1)
    assert gradient.isfinite().all() and not gradient[~present].any() and gradient[present].any()
    assert likelihood(z).sample().isfinite().all() and point_estimate(likelihood(z)).isfinite().all()


class Constant(nn.Module):
    """A network with fixed outputs."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs, self.out_shape = outputs, outputs.shape[1:]

    def forward(self, latents):
        return self.outputs


def test_a_dirichlet_integrates_to_one_and_merges_missing_shares():
    likelihood = DirichletLikelihood(Outputs(0.3, 0.0, 0.6), 9.0, missing_entries=True).double()
    distribution = likelihood(torch.zeros(1, dtype=torch.float64))
    steps = (torch.arange(1500, dtype=torch.float64) + 0.5) / 1500
    first, second = torch.meshgrid(steps, steps, indexing="ij")
    inside = first + second < 1
    shares = torch.stack([first, second, 1 - first - second], -1)[inside]
    assert distribution.log_prob(shares).exp().sum().item() / 1500**2 == pytest.approx(1.0, abs=1e-3)
    # the density of the first share alone, with the others integrated out
    share = torch.tensor([0.2, NAN, NAN], dtype=torch.float64)
    others = steps * 0.8
    rows = torch.stack([torch.full_like(others, 0.2), others, 0.8 - others], -1)
    marginal = distribution.log_prob(rows).exp().mean() * 0.8
    assert distribution.log_prob(share).exp().item() == pytest.approx(marginal.item(), rel=1e-4)
    whole = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    one_missing = mark_missing(whole, torch.tensor([True, False, True]))
    torch.testing.assert_close(distribution.log_prob(one_missing), distribution.log_prob(whole))
    assert distribution.log_prob(torch.full((3,), NAN, dtype=torch.float64)) == 0
    likelihood.check(torch.stack([share, one_missing, whole]), "diet")
    samples = distribution.sample((SAMPLES,))
    error = 5 * (distribution.variance / SAMPLES).sqrt()
    assert ((samples.mean(0) - distribution.mean).abs() < error).all()


@pytest.mark.parametrize("output", [-1e4, 0.0, 1e4])
def test_a_dirichlet_has_finite_gradients_at_zero_shares(output):
    likelihood = DirichletLikelihood(Outputs(output, 0.0, -output), missing_entries=True).float()
    for row in ([1.0, 0.0, 0.0], [0.0, NAN, 1.0], [NAN, NAN, NAN], [0.3, 0.3, 0.4]):
        log_prob = likelihood(torch.zeros(1)).log_prob(torch.tensor(row))
        log_prob.backward()
        assert log_prob.isfinite() and all(p.grad.isfinite().all() for p in likelihood.parameters())


@pytest.mark.parametrize("name", COUNT_LIKELIHOODS)
def test_an_exposure_multiplies_the_mean(name):
    likelihood = ENTRYWISE[name][0](network_for(name))
    z, exposure = torch.randn(6, 4, 2), torch.tensor([0.5, 1.0, 2.0, 100.0])
    base, scaled = likelihood(z), likelihood(z, exposure)
    torch.testing.assert_close(scaled.mean, exposure[:, None] * base.mean, rtol=1e-4, atol=1e-4)
    per_entry = likelihood(z, exposure[:, None].expand(4, 5))
    values = scaled.sample()
    torch.testing.assert_close(per_entry.log_prob(values), scaled.log_prob(values))
    torch.testing.assert_close(likelihood(z, torch.ones(4)).log_prob(values), base.log_prob(values))


@pytest.mark.parametrize("name", sorted(ENTRYWISE.keys() - COUNT_LIKELIHOODS))
def test_other_likelihoods_accept_no_exposure(name):
    with pytest.raises(TypeError, match="does not accept an exposure"):
        ENTRYWISE[name][0](network_for(name))(torch.zeros(3, 2), torch.ones(3))


def mlp(shape):
    return MLP(shape, 8, (8,))


def counts_and_proteins():
    likelihoods = {
        "rna": NegativeBinomialLikelihood(MLP(2, 6, (8,))),
        "protein": NormalLikelihood(MLP(2, 3, (8,)), missing_entries=True),
    }
    encoders = {
        "rna": NormalEncoder(TransformedInput(6, mlp, "log1p"), 2),
        "protein": NormalEncoder(TransformedInput(3, mlp, missing_entries=True), 2),
    }
    return MultimodalModel(2, likelihoods), ProductOfExperts(2, encoders)


def test_an_exposure_travels_with_the_batch():
    model, guide = counts_and_proteins()
    x = {"rna": torch.poisson(torch.full((5, 6), 3.0)), "protein": torch.randn(5, 3)}
    exposure = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
    trace = poutine.trace(model).get_trace({**x, "rna.exposure": exposure})
    assert {name for name, site in trace.nodes.items() if site["type"] == "sample"} == {"data", "z", "rna", "protein"}
    z = trace.nodes["z"]["value"]
    expected = model.likelihoods["rna"](z, exposure).log_prob(x["rna"])
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["rna"]["log_prob"], expected)
    assert math.isfinite(SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO()).step({**x, "rna.exposure": exposure}))
    generated = poutine.condition(model, {"z": z})({"rna": None, "rna.exposure": 1e4 * exposure})["rna"]
    assert (generated.sum(-1) / exposure).min() > 1e4
    # that of a row without counts is not read
    expected = model.likelihoods["rna"](z, exposure).log_prob(x["rna"])
    observed = {"rna": torch.tensor([True, True, False, True, True])}
    unknown = torch.where(observed["rna"], exposure, NAN)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace({**x, "rna.exposure": unknown}, observed)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["rna"]["log_prob"], expected * observed["rna"])


def test_handlers_and_training_keep_the_exposure_of_a_modality():
    model, guide = counts_and_proteins()
    x = {"rna": torch.poisson(torch.full((5, 6), 3.0)), "protein": torch.randn(5, 3)}
    exposure = {"rna.exposure": torch.full((5,), 1e4)}
    z = torch.randn(5, 2)
    program = poutine.condition(restrict(model, ["rna"]), {"z": z})
    trace = poutine.trace(program).get_trace({**x, **exposure})
    trace.compute_log_prob()
    expected = model.likelihoods["rna"](z, exposure["rna.exposure"]).log_prob(x["rna"])
    torch.testing.assert_close(trace.nodes["rna"]["log_prob"], expected)
    assert "rna" not in restrict(model, ["protein"])({**x, **exposure})
    generated = Predictive(predictive(model, guide, ["rna"]), num_samples=3)({"protein": x["protein"], **exposure})
    assert generated["rna"].mean() > 1e3
    generated = cross_generate(model, guide, {"protein": x["protein"], **exposure}, ["rna"], 2)
    assert generated["rna"].mean() > 1e3
    with_exposure = log_likelihood(model, guide, {**x, **exposure}, num_samples=200)
    assert (with_exposure.values < log_likelihood(model, guide, x, num_samples=200).values - 20).all()
    assert reconstruct(model, guide, {**x, **exposure}, 2)["rna"].mean() > 1e3
    recipe = build("mvae", networks_for({"rna": RNA}, (8,)), 2)
    history = fit_recipe(recipe, [({"rna": x["rna"], **exposure}, None)], epochs=2, progress=False).history
    assert all(math.isfinite(value) for epoch in history for value in epoch.values())


@pytest.mark.parametrize(
    "entry, error, message",
    [
        ({"rna.exposure": torch.tensor([1.0, 0.0])}, ValueError, r"x\['rna.exposure'\] must be positive, got 0"),
        ({"protein.exposure": torch.ones(2)}, TypeError, "NormalLikelihood does not accept an exposure"),
        ({"dna.exposure": torch.ones(2)}, ValueError, r"unknown modality \['dna.exposure'\]"),
        ({"rna.exposure": torch.ones(3)}, ValueError, "same number of rows"),
    ],
)
def test_wrong_exposures_are_named(entry, error, message):
    model, _ = counts_and_proteins()
    with pytest.raises(error, match=message):
        model({"rna": torch.ones(2, 6), "protein": torch.zeros(2, 3), **entry})


def test_programs_train_with_missing_entries_whatever_else_is_missing():
    model, guide = counts_and_proteins()
    x = {"rna": torch.poisson(torch.full((4, 6), 3.0)), "protein": torch.randn(4, 3)}
    x["protein"][0, 1] = x["protein"][2] = NAN
    observed = {"protein": torch.tensor([True, False, True, True])}
    loss = Trace_ELBO().differentiable_loss(model, guide, x, observed)
    loss.backward()
    parameters = [*model.parameters(), *guide.parameters()]
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in parameters if p.grad is not None)


@pytest.mark.parametrize("shape", [(), (1, 50), (2, 4, 5, 6)], ids=["number", "spectrum", "volume"])
def test_a_normal_likelihood_takes_numbers_spectra_and_volumes(shape):
    model = MultimodalModel(2, {"a": NormalLikelihood(MLP(2, shape, (8,)), learn_scale=True)})
    guide = ProductOfExperts(2, {"a": NormalEncoder(TransformedInput(shape, mlp, missing_entries=True), 2)})
    loss = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO()).step({"a": torch.randn(5, *shape)})
    assert math.isfinite(loss)


BAD_VALUES = {
    "negative counts": (PoissonLikelihood, torch.tensor([[-1.0]]), ValueError, "whole numbers from 0"),
    "fractional counts": (PoissonLikelihood, torch.tensor([[0.5]]), ValueError, r"whole numbers.*\[0.5, 0.5\]"),
    "infinite counts": (NegativeBinomialLikelihood, torch.tensor([[math.inf]]), ValueError, "infinite"),
    "zero in a gamma": (GammaLikelihood, torch.zeros(1, 1), ValueError, r"be above 0, got \[0, 0\]"),
    "zero in a log-normal": (LogNormalLikelihood, torch.zeros(1, 1), ValueError, "be above 0"),
    "integers in a student t": (StudentTLikelihood, torch.zeros(1, 1).long(), TypeError, "floating point"),
    "degrees": (VonMisesLikelihood, torch.tensor([[90.0]]), ValueError, "radians.*90"),
    "shares that do not sum to 1": (DirichletLikelihood, torch.full((1, 3), 0.5), ValueError, "sum of 1.5"),
    "a negative share": (DirichletLikelihood, torch.tensor([[1.5, -0.5]]), ValueError, r"lie in \[0, 1\]"),
    "a class too high": (lambda net: OrdinalLikelihood(net, 3), torch.tensor([[3]]), ValueError, "0 to 2, got 3 to 3"),
    "a class as a float": (lambda net: OrdinalLikelihood(net, 3), torch.zeros(1, 1), TypeError, "int64"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_impossible_values_are_named(case):
    make, values, error, message = BAD_VALUES[case]
    with pytest.raises(error, match=f"modality 'a'.*{message}"):
        make(nn.Identity()).check(values, "a")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda net: OrdinalLikelihood(net, 1), "num_classes must be at least 2, got 1"),
        (lambda net: StudentTLikelihood(net, df=1.0), "df must be a finite number above 1, got 1"),
        (lambda net: GammaLikelihood(net, 0.0), "concentration must be positive, got 0"),
        (lambda net: NegativeBinomialLikelihood(net, torch.tensor([1.0, -1.0])), "concentration must be positive"),
        (lambda net: DirichletLikelihood(net, margin=0.5), "margin must lie between 0 and 0.01"),
        (lambda net: DirichletLikelihood(net, strength=-1.0), "strength must be positive"),
        (lambda net: VonMisesLikelihood(net, math.inf), "concentration must be positive"),
    ],
)
def test_invalid_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(nn.Identity())


@pytest.mark.parametrize("transform", ["identity", "log1p", "log", "circle"])
@pytest.mark.parametrize("integers", (False, True))
def test_a_mask_distinguishes_missing_entries_from_zeros(integers, transform):
    network = TransformedInput(3, mlp, transform, missing_entries=True)
    values = torch.tensor([[1, 1, 2], [1, 1, 2]])
    values = values if integers else values.float()
    known, unknown = network(mark_missing(values, torch.tensor([[True, True, True], [True, False, True]])))
    assert not torch.allclose(known, unknown) and known.isfinite().all() and unknown.isfinite().all()
    for shape in ((), (4, 4), (1, 9)):
        assert TransformedInput(shape, mlp, transform)(torch.rand(2, 5, *shape)).shape == (2, 5, 8)


def test_the_input_of_an_angle_is_periodic():
    network, angles = TransformedInput(3, mlp, "circle"), torch.randn(5, 3)
    torch.testing.assert_close(network(angles), network(angles + 2 * math.pi))
    with pytest.raises(ValueError, match="transform must be one of .* got 'sqrt'"):
        TransformedInput(3, mlp, "sqrt")


@pytest.mark.parametrize(
    ("interval", "is_open", "value", "message"),
    [
        ((0, math.inf), False, -1.0, "must be at least 0, got"),
        ((0, math.inf), True, 0.0, "must be above 0, got"),
        ((0, 1), False, 2.0, r"must lie in \[0, 1\], got"),
        ((0, 1), True, 0.0, r"must lie in \(0, 1\], got"),
    ],
)
def test_the_interval_of_a_user_defined_likelihood(interval, is_open, value, message):
    class UserLikelihood(Likelihood):
        def distribution(self, outputs):
            return dist.Normal(outputs, 1.0)

    UserLikelihood.interval, UserLikelihood.is_open = interval, is_open
    likelihood = UserLikelihood(MLP(2, 3))
    likelihood.check_values(torch.full((4, 3), 0.5), "signal")
    with pytest.raises(ValueError, match=f"'signal' has a UserLikelihood and {message}"):
        likelihood.check_values(torch.full((4, 3), value), "signal")
