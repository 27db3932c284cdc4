"""JMVAE-h: the bound of a linear-Gaussian hierarchy in closed form, its collapse to JMVAE, and JM eq. 6."""

import math

import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import mean_and_se, repeated
from pyro.infer import Predictive, Trace_ELBO
from torch import nn
from toy import MODALITIES, toy_data, toy_networks

from multipyro.data import Splits
from multipyro.guides import Guide, HierarchicalGuide, IterativeSampling, JointGuide
from multipyro.inference import (
    build,
    cross_generate,
    embed,
    evaluate,
    fit_recipe,
    frozen,
    joint_samples,
    load,
    log_likelihood,
    predictive,
)
from multipyro.inference.evaluation import ImportanceSampling, guide_conditional_log_likelihood
from multipyro.inference.objectives import GUIDE, MODEL, elbo, schedules_of
from multipyro.inference.recipes import Networks
from multipyro.ppl_models import MLP, HierarchicalModel, MultimodalModel, NormalLikelihood
from multipyro.testing import DTYPE, LinearEncoder, LinearGaussian, kl_normal

LOG_2PI = math.log(2 * math.pi)


def plain(**options):
    return elbo(MODEL, GUIDE, **options)


class Factorized(Guide):
    """Linear-Gaussian layers that are independent given the joined modalities, `encoders[l - 1]` for `zl`."""

    def __init__(self, modalities, layers, bottom_up=False):
        super().__init__(len(layers[-1].bias), modalities=modalities)
        self.layers, self.bottom_up = nn.ModuleList(layers), bottom_up

    def posterior(self, x, observed=None):
        joined = torch.cat([x[name] for name in self.modalities], -1)
        sites = {f"z{number}": layer(joined) for number, layer in enumerate(self.layers, start=1)}
        return sites if self.bottom_up else dict(reversed(sites.items()))

    def conditional(self, x, observed=None):
        top = f"z{len(self.layers)}"
        return {top: self.posterior(x, observed)[top]}


class Hierarchy:
    """`zL ~ N(0, I)`, `z_l = A_l z_{l+1} + a_l + s_l noise`, and the modalities of `LinearGaussian` from `z1`."""

    def __init__(self, dims=(3, 2), seed=3):
        self.flat, self.dims = LinearGaussian(2, latent_dim=dims[0]), dims
        self.modalities = self.flat.modalities
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, dtype=DTYPE, generator=generator)

        self.transitions = [
            (normal(below, above), normal(below), 0.5 + torch.rand(below, dtype=DTYPE, generator=generator))
            for below, above in zip(dims[:-1], dims[1:], strict=True)
        ]
        self.loading = torch.cat([self.flat.loadings[name] for name in self.modalities])
        self.offset = torch.cat([self.flat.offsets[name] for name in self.modalities])
        sizes = [len(self.flat.offsets[name]) for name in self.modalities]
        scales = [self.flat.scales[name] for name in self.modalities]
        self.noise = torch.cat([torch.full((n,), s, dtype=DTYPE) for n, s in zip(sizes, scales, strict=True)])

    def model(self):
        transitions = [LinearEncoder(matrix, bias, scale) for matrix, bias, scale in self.transitions]
        return HierarchicalModel(self.dims, dict(self.flat.model().likelihoods), transitions).double()

    def slices(self):
        """Where `z1, ..., zL` stand in the joined latent."""
        ends = torch.tensor(self.dims).cumsum(0).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.dims, strict=True)]

    def prior(self):
        """Mean and precision of the joined latent."""
        places, size = self.slices(), sum(self.dims)
        precision, shift = torch.zeros(size, size, dtype=DTYPE), torch.zeros(size, dtype=DTYPE)
        precision[places[-1], places[-1]] += torch.eye(self.dims[-1], dtype=DTYPE)
        for number, (matrix, bias, scale) in enumerate(self.transitions):
            rows = torch.zeros(self.dims[number], size, dtype=DTYPE)
            rows[:, places[number]] = torch.eye(self.dims[number], dtype=DTYPE)
            rows[:, places[number + 1]] = -matrix
            precision += rows.T @ (rows / scale[:, None] ** 2)
            shift += rows.T @ (bias / scale**2)
        return torch.linalg.solve(precision, shift), precision

    def sample(self, rows, seed=1):
        generator = torch.Generator().manual_seed(seed)
        mean, precision = self.prior()
        latent = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
        noise = torch.randn(rows, sum(self.dims) + len(self.noise), dtype=DTYPE, generator=generator)
        z1 = (mean + noise[:, : sum(self.dims)] @ latent.scale_tril.T)[:, self.slices()[0]]
        joined = z1 @ self.loading.T + self.offset + noise[:, sum(self.dims) :] * self.noise
        parts = joined.split([len(self.flat.offsets[name]) for name in self.modalities], -1)
        return dict(zip(self.modalities, parts, strict=True))

    def joined(self, x):
        return torch.cat([x[name] for name in self.modalities], -1)

    def log_evidence(self, x, subset=None):
        mean, precision = self.prior()
        place = self.slices()[0]
        below, covariance = mean[place], torch.linalg.inv(precision)[place, place]
        names = self.modalities if subset is None else subset
        observed = torch.cat([torch.full((len(self.flat.offsets[m]),), m in names) for m in self.modalities])
        loading, noise = self.loading[observed], self.noise[observed]
        spread = loading @ covariance @ loading.T + (noise**2).diag()
        marginal = torch.distributions.MultivariateNormal(loading @ below + self.offset[observed], spread)
        return marginal.log_prob(torch.cat([x[m] for m in names], -1))

    def posterior(self):
        """Matrix and offset of the posterior mean of the joined latent, and its precision."""
        mean, precision = self.prior()
        lifted = torch.zeros(len(self.noise), sum(self.dims), dtype=DTYPE)
        lifted[:, self.slices()[0]] = self.loading
        weighted = lifted.T / self.noise**2
        total = precision + weighted @ lifted
        solve = torch.linalg.inv(total)
        return solve @ weighted, solve @ (precision @ mean - weighted @ self.offset), total

    def guide(self, shift=0.0, stretch=1.0, bottom_up=False):
        """The best factorized guide at `shift=0, stretch=1`: the posterior's means, its precisions' diagonal."""
        matrix, offset, precision = self.posterior()
        scale = precision.diagonal().rsqrt() * stretch
        layers = [LinearEncoder(matrix[p], offset[p] + shift, scale[p]) for p in self.slices()]
        return Factorized(self.modalities, layers, bottom_up).double()

    def bound(self, x, guide):
        """The bound of each data point for any factorized guide, `(batch,)`, by expectations of quadratic forms."""
        sites = guide.posterior(x)
        layers = [sites[f"z{number}"] for number in range(1, len(self.dims) + 1)]
        means, variances = [q.mean for q in layers], [q.variance for q in layers]
        total = -0.5 * (means[-1] ** 2 + variances[-1] + LOG_2PI).sum(-1)
        for number, (matrix, bias, scale) in enumerate(self.transitions):
            squares = (means[number] - means[number + 1] @ matrix.T - bias) ** 2
            squares = squares + variances[number] + variances[number + 1] @ (matrix**2).T
            total = total - 0.5 * (squares / scale**2 + 2 * scale.log() + LOG_2PI).sum(-1)
        squares = (self.joined(x) - means[0] @ self.loading.T - self.offset) ** 2 + variances[0] @ (self.loading**2).T
        total = total - 0.5 * (squares / self.noise**2 + 2 * self.noise.log() + LOG_2PI).sum(-1)
        return total + sum(0.5 * (variance.log() + LOG_2PI + 1).sum(-1) for variance in variances)


@pytest.fixture(params=[(3, 2), (3, 2, 2), (2, 2, 1, 2)], ids=len)
def problem(request):
    return Hierarchy(request.param)


def estimates(loss, model, guide, x, calls=10):
    rows = len(next(iter(x.values())))
    return torch.tensor([-loss.loss(model, guide, x) / rows for _ in range(calls)], dtype=DTYPE)


@pytest.mark.parametrize("kl", ("analytic", "sampled"))
def test_the_bound_equals_its_closed_form(problem, kl):
    x = repeated(problem.sample(1), 1000)
    for guide in (problem.guide(), problem.guide(0.3, 1.4), problem.guide(0.3, 1.4, bottom_up=True)):
        exact = problem.bound(x, guide)[0]
        estimate, error = mean_and_se(estimates(plain(kl=kl), problem.model(), guide, x))
        assert abs(estimate - exact) < 4 * error
        assert error < 0.2


def test_the_gap_of_the_best_factorized_guide_is_as_computed(problem):
    x, (_, _, precision) = problem.sample(20), problem.posterior()
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    best = problem.bound(x, problem.guide())
    torch.testing.assert_close(best, problem.log_evidence(x) - gap)
    for worse in (problem.guide(0.1), problem.guide(0, 1.1)):
        assert (problem.bound(x, worse) < best).all()


@pytest.mark.parametrize("dims", [(3, 2), (3, 2, 2)], ids=len)
def test_training_reaches_the_best_factorized_bound(dims):
    problem = Hierarchy(dims)
    guide = problem.guide(0.8, 2.5)
    start, best = (problem.bound(problem.sample(300, 2), g).mean() for g in (guide, problem.guide()))
    model, optimizer = frozen(problem.model()), torch.optim.Adam(guide.parameters(), lr=0.06)
    for step in range(140):
        if step == 80:
            optimizer.param_groups[0]["lr"] = 0.003
        optimizer.zero_grad()
        plain().loss_and_grads(model, guide, problem.sample(64, 100 + step))
        optimizer.step()
    reached = problem.bound(problem.sample(300, 2), guide).mean()
    assert start < best - 2 and best - 0.1 < reached <= best


def test_the_kl_of_a_layer_is_exact_given_the_layer_above():
    problem = Hierarchy()
    x, guide, model = problem.sample(6), problem.guide(0.3, 1.4), problem.model()
    torch.manual_seed(0)
    report = plain().report(model, guide, x)
    torch.manual_seed(0)
    sites = guide.posterior(x)
    above = guide(x)["z2"]
    assert report["kl/z1"].item() == pytest.approx(kl_normal(sites["z1"], model.transitions[0](above)).sum().item())
    standard = dist.Normal(torch.zeros(2, dtype=DTYPE), 1.0).to_event(1)
    assert report["kl/z2"].item() == pytest.approx(kl_normal(sites["z2"], standard).sum().item())


def test_with_an_uninformative_upper_layer_it_is_jmvae():
    problem = Hierarchy((3, 2))
    for matrix, bias, scale in problem.transitions:
        matrix.zero_(), bias.zero_(), scale.fill_(1.0)
    guide = problem.guide(0.2, 1.3)
    top = guide.layers[1]
    for parameter in (top.matrix, top.bias, top.log_scale):
        parameter.data.zero_()
    x, below = problem.sample(8), Factorized(problem.modalities, [guide.layers[0]])

    class Flat(Factorized):
        def posterior(self, x, observed=None):
            return super().posterior(x, observed)["z1"]

    flat = Flat(problem.modalities, [guide.layers[0]])
    hierarchical = plain().report(problem.model(), guide, x)
    jmvae = plain().report(problem.flat.model(), flat, x)
    assert hierarchical["kl/z2"].item() == 0 and below.layers[0] is flat.layers[0]
    assert hierarchical["kl/z1"].item() == pytest.approx(jmvae["kl/z"].item(), rel=1e-12)
    # the same bound: both in closed form
    one = Hierarchy((3,))
    torch.testing.assert_close(problem.bound(x, guide), one.bound(x, below))
    estimate, error = mean_and_se(estimates(plain(), problem.flat.model(), flat, repeated(x, 500)))
    assert abs(estimate - problem.bound(x, guide)[0]) < 4 * error


@pytest.mark.parametrize("kl", ("analytic", "sampled"))
def test_with_one_layer_every_value_is_that_of_jmvae(kl):
    branches = {"image": MLP(4, 8, (8,)), "label": MLP(5, 8, (8,))}
    likelihoods = {"image": NormalLikelihood(MLP(3, 4, (8,))), "label": NormalLikelihood(MLP(3, 5, (8,)))}
    hierarchical, flat = HierarchicalGuide((3,), branches, (8,)), JointGuide(3, branches)
    flat.joint.encoder.heads = hierarchical.heads[0].heads
    x = {"image": torch.randn(7, 4), "label": torch.randn(7, 5)}
    losses = []
    models = HierarchicalModel((3,), likelihoods, []), MultimodalModel(3, likelihoods)
    for model, guide in zip(models, (hierarchical, flat), strict=True):
        torch.manual_seed(0)
        losses.append(plain(kl=kl).loss(model, guide, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_importance_sampling_gives_the_evidence(problem):
    x = problem.sample(10)
    for share in (0.0, 0.2):
        estimate = log_likelihood(
            problem.model(),
            problem.guide(0, 1.2),
            x,
            num_samples=5000,
            method=ImportanceSampling(related=0, prior=share),
        )
        assert (
            abs(estimate.values - problem.log_evidence(x)) < 4.5 * estimate.standard_errors + 5e-3
        ).all() and estimate.mc_se < 0.1


def test_joint_samples_have_the_moments_of_the_hierarchy():
    problem = Hierarchy((3, 2, 2))
    samples, (mean, precision) = joint_samples(problem.model(), 40_000), problem.prior()
    joined, place = problem.joined(samples), problem.slices()[0]
    covariance = problem.loading @ torch.linalg.inv(precision)[place, place] @ problem.loading.T
    variance = covariance.diagonal() + problem.noise**2
    expected = problem.loading @ mean[place] + problem.offset
    assert ((joined.mean(0) - expected).abs() < 4.5 * (variance / 40_000).sqrt()).all()
    assert ((joined.var(0) / variance - 1).abs() < 4.5 * math.sqrt(2 / 40_000)).all()


def test_the_guides_bound_is_that_of_eq_6():
    """`z2` from the guide, `z1` from the model: N latents above, N below for each."""
    problem = Hierarchy((3, 2))
    x, guide = repeated(problem.sample(1), 3000), problem.guide(0.3, 1.4)
    top, (matrix, bias, scale) = guide.conditional(x)["z2"], problem.transitions[0]
    mean, variance = top.mean[0] @ matrix.T + bias, scale**2 + top.variance[0] @ (matrix**2).T
    loading, noise = problem.flat.loadings["image"], problem.flat.scales["image"]
    # the covariance of z1 given x matters only through its trace against the loadings
    full = matrix @ top.variance[0].diag() @ matrix.T + (scale**2).diag()
    squares = (x["image"][0] - mean @ loading.T - problem.flat.offsets["image"]) ** 2
    squares = squares + (loading @ full @ loading.T).diagonal()
    expected = -0.5 * (squares / noise**2 + 2 * math.log(noise) + LOG_2PI).sum()
    assert (full.diagonal() - variance).abs().max() < 1e-12
    model, both = problem.model(), list(problem.modalities)
    bounds = guide_conditional_log_likelihood(model, guide, x, both, ["image"], 3)
    estimate, error = mean_and_se(bounds.mean)
    assert abs(estimate - expected) < 4 * error
    # with the layer above fixed there are N^2 samples below: the variance falls by N^2
    guide.layers[1].log_scale.data.fill_(-20.0)
    one = guide_conditional_log_likelihood(model, guide, x, both, ["image"], 1).mean.var()
    five = guide_conditional_log_likelihood(model, guide, x, both, ["image"], 5).mean.var()
    assert 25 / 1.3 < one / five < 25 * 1.3


def test_the_guide_computes_every_layer_along_one_deterministic_path():
    guide = HierarchicalGuide((4, 3, 2), {"image": MLP(4, 8, (8,)), "label": MLP(5, 8, (8,))}, (16, 8))
    x = {"image": torch.randn(6, 4), "label": torch.randn(6, 5)}
    first, second = guide.posterior(x), guide.posterior(x)
    assert list(first) == ["z3", "z2", "z1"]
    assert [tuple(first[f"z{n}"].event_shape) for n in (1, 2, 3)] == [(4,), (3,), (2,)]
    for name in first:  # no layer depends on a sample of another
        assert torch.equal(first[name].mean, second[name].mean)
    x["label"].requires_grad_()
    for name in first:
        site = guide.posterior(x)[name]
        assert torch.autograd.grad(site.mean.sum(), x["label"])[0].abs().sum() > 0
    assert torch.equal(embed(guide, x), first["z3"].mean)
    with pytest.raises(ValueError, match="supports image\\+label, got image"):
        guide({"image": x["image"]})
    with pytest.raises(ValueError, match=r"row 2 contains.*IterativeSampling"):
        guide(x, {"label": torch.tensor([True, True, False, True, True, True])})
    none = torch.tensor([True, True, False, True, True, True])
    assert guide(x, {"label": none, "image": none})["z1"].isfinite().all()


@pytest.mark.parametrize("dims, transitions", [((), 0), ((2,), 1), ((2, 2), 0), ((2, 2, 2), 1)])
def test_sizes_and_transitions_must_agree(dims, transitions):
    with pytest.raises(ValueError, match="L - 1 transitions"):
        HierarchicalModel(dims, {"image": NormalLikelihood(nn.Linear(2, 2))}, [nn.Identity()] * transitions)


@pytest.mark.parametrize("names", [(), ("z1",), ("data",)])
def test_modalities_cannot_have_the_names_of_latents(names):
    with pytest.raises(ValueError, match="latent|at least one"):
        HierarchicalModel((2,), {name: NormalLikelihood(nn.Linear(2, 2)) for name in names}, [])


@pytest.mark.parametrize("options, dims", [({}, (3, 3)), ({"layers": 3, "dims": [5, 4, 2]}, (5, 4, 2))])
def test_the_recipe_trains_loads_and_supports_every_subset(options, dims, tmp_path):
    splits = Splits(toy_data(60), toy_data(20, 1, "validation"), toy_data(20, 2, "test"))
    recipe = build("jmvae-h", toy_networks(), 3, rounds=3, beta=0.5, warmup=2, **options)
    assert recipe.model.latent_dims == dims
    before = {name: p.detach().clone() for part in (recipe.model, recipe.guide) for name, p in part.named_parameters()}
    fit_recipe(recipe, splits, epochs=2, batch_size=20, out=tmp_path / "run", progress=False)
    after = {name: p for part in (recipe.model, recipe.guide) for name, p in part.named_parameters()}
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    loaded = load(tmp_path / "run")
    for name, p in (pair for part in (loaded.model, loaded.guide) for pair in part.named_parameters()):
        assert torch.equal(p, after[name])
    x, _ = splits.test.rows(torch.arange(5))
    for given in (["label"], ["signal"], ["signal", "label"]):
        inputs = {name: x[name] for name in given}
        assert cross_generate(loaded.model, loaded.guide, inputs, ["signal"], 2)["signal"].shape == (2, 5, 4)
        assert embed(loaded.guide, inputs).shape == (5, dims[-1])
        samples = Predictive(predictive(loaded.model, loaded.guide, ["label"]), num_samples=2)(inputs)
        assert samples["label"].shape[-1] == 5
    result = evaluate(loaded.model, loaded.guide, splits, num_samples=5, guide_samples=2, coherence_samples=20)
    report = result.to_dict()
    assert report["guide_conditional_log_likelihood"]["label->signal"] and report["latent_accuracy"]["label"]


def test_the_weight_of_the_kl_is_that_of_every_layer():
    networks = Networks(MODALITIES, (8,))
    x, _ = toy_data(10).rows(torch.arange(10))
    values = []
    for beta in (0.0, 1.0, 3.0):
        torch.manual_seed(0)
        recipe = build("jmvae-h", networks, 2, beta=beta)
        schedules_of(recipe.stages[0].objective)[0].set(epoch=99, step=0)
        torch.manual_seed(1)
        values.append(recipe.stages[0].objective.loss(recipe.model, recipe.guide, x))
    torch.manual_seed(1)
    report = recipe.stages[0].objective.report(recipe.model, recipe.guide, x)
    divergence = (report["kl/z1"] + report["kl/z2"]).item()
    assert values[1] - values[0] == pytest.approx(divergence, rel=1e-4)
    assert values[2] - values[0] == pytest.approx(3 * divergence, rel=1e-4)


def test_it_agrees_with_the_elbo_of_pyro():
    problem = Hierarchy()
    x, guide, model = problem.sample(6), problem.guide(0.2), problem.model()
    torch.manual_seed(0)
    ours = plain(kl="sampled").loss(model, guide, x)
    torch.manual_seed(0)
    assert ours == pytest.approx(Trace_ELBO().loss(model, guide, x), rel=1e-12)


@pytest.mark.parametrize("options", [{"layers": 1}, {"layers": 3, "dims": (2, 2)}])
def test_invalid_options_are_named(options):
    with pytest.raises(ValueError, match="layers must be at least 2 and dims"):
        build("jmvae-h", toy_networks(), 2, **options)
    assert isinstance(build("jmvae-h", toy_networks(), 2).guide, IterativeSampling)
