"""Private latents beside the shared one, against a linear-Gaussian model with private factors."""

import math

import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import mean_and_se, repeated
from pyro import poutine
from torch import nn
from toy import toy_data, toy_networks

from multipyro.guides import (
    Guide,
    JointGuide,
    MixtureOfExperts,
    MixtureOfProducts,
    NormalEncoder,
    ProductOfExperts,
    StratifiedMixture,
    product_of_experts,
)
from multipyro.inference import build, cross_generate, embed, fit_recipe, log_likelihood, predictive, reconstruct
from multipyro.inference.evaluation import guide_conditional_log_likelihood, to_inference_data
from multipyro.inference.handlers import conditional
from multipyro.inference.objectives import GUIDE, MODEL, StratifiedELBO, elbo, schedules_of, subset_elbo
from multipyro.ppl_models import MLP, LaplacePrior, MultimodalModel, NormalLikelihood
from multipyro.testing import DTYPE, LinearEncoder, LinearGaussian, kl_normal

FAMILIES = (ProductOfExperts, MixtureOfExperts, MixtureOfProducts)


class PrivateProblem(LinearGaussian):
    """`x_m = W_m z + V_m s_m + b_m + noise`; with orthogonal columns, `z` and `s_m` are independent given x."""

    def __init__(self, count=2, latent_dim=2, private_dim=1, orthogonal=True, seed=0):
        super().__init__(count, latent_dim, seed=seed)
        generator = torch.Generator().manual_seed(seed + 100)
        self.private_dim, self.own = private_dim, {}
        for name, loading in self.loadings.items():
            extra = torch.randn(len(loading), private_dim, dtype=DTYPE, generator=generator)
            if orthogonal:
                basis = torch.linalg.qr(torch.cat([loading, extra], 1)).Q[:, latent_dim:]
                extra = 1.2 * basis
            self.own[name] = extra

    def sample(self, rows, seed=1):
        x = super().sample(rows, seed)
        generator = torch.Generator().manual_seed(seed + 50)
        for name in x:
            own = torch.randn(rows, self.private_dim, dtype=DTYPE, generator=generator)
            x[name] = x[name] + own @ self.own[name].T
        return x

    def noise(self, name):
        """Covariance of `x_m` given `z`."""
        size = len(self.offsets[name])
        return self.own[name] @ self.own[name].T + self.scales[name] ** 2 * torch.eye(size, dtype=DTYPE)

    def log_evidence(self, x, subset=None):
        subset = [m for m in self.modalities if m in (x if subset is None else subset)]
        loading = torch.cat([self.loadings[m] for m in subset])
        noise = torch.block_diag(*[self.noise(m) for m in subset])
        mean = torch.cat([self.offsets[m] for m in subset])
        marginal = torch.distributions.MultivariateNormal(mean, loading @ loading.T + noise)
        return marginal.log_prob(torch.cat([x[m] for m in subset], -1))

    def model(self):
        likelihoods = {}
        for name in self.modalities:
            network = nn.Linear(self.latent_dim + self.private_dim, len(self.offsets[name]), dtype=DTYPE)
            network.weight.data.copy_(torch.cat([self.loadings[name], self.own[name]], 1))
            network.bias.data.copy_(self.offsets[name])
            likelihoods[name] = NormalLikelihood(network, scale=self.scales[name]).double()
            likelihoods[name].log_scale.fill_(math.log(self.scales[name]))
        private = dict.fromkeys(self.modalities, self.private_dim)
        return MultimodalModel(self.latent_dim, likelihoods, private=private).double()

    def private_encoder(self, name, shift=0.0, stretch=1.0):
        """`p(s_m | x_m)`, moved and widened."""
        own, variance = self.own[name], self.scales[name] ** 2
        precision = 1 + (own.T @ own).diagonal() / variance
        matrix = own.T / variance / precision[:, None]
        return LinearEncoder(matrix, -matrix @ self.offsets[name] + shift, stretch * precision.rsqrt())

    def guide(self, family=ProductOfExperts, shift=0.0, stretch=1.0):
        """Exact at the defaults for a product; its encoders fit the family."""
        make = self.posterior_encoder if family is MixtureOfExperts else self.expert_encoder
        private = {name: self.private_encoder(name, shift, stretch) for name in self.modalities}
        options = {"prior_expert": "all"} if family is MixtureOfProducts else {}
        return family(self.latent_dim, {m: make(m) for m in self.modalities}, private=private, **options).double()


def plain(**options):
    return elbo(MODEL, GUIDE, **options)


@pytest.mark.parametrize("count", (1, 2, 3))
def test_the_exact_guide_gives_the_evidence_of_every_subset(count):
    problem = PrivateProblem(count)
    x, model, guide = problem.sample(6), problem.model(), problem.guide()
    for subset in problem.subsets():
        given = {name: x[name] for name in subset}
        evidence = problem.log_evidence(x, subset).sum().item()
        for loss in (plain(kl="sampled", num_particles=3), StratifiedELBO(2), StratifiedELBO(2, "dreg", "tight")):
            assert -loss.loss(model, guide, given) == pytest.approx(evidence, rel=1e-9)
    total = sum(problem.log_evidence(x, s).sum().item() for s in {problem.modalities, *[(m,) for m in x]})
    assert -subset_elbo(kl="sampled").loss(model, guide, x) == pytest.approx(total, rel=1e-9)


def test_a_wrong_private_posterior_costs_its_divergence():
    problem = PrivateProblem(2)
    x, model = repeated(problem.sample(1), 3000), problem.model()
    wrong, right = problem.guide(shift=0.4, stretch=1.3), problem.guide()
    gap = sum(kl_normal(wrong.private[m](x[m]), right.private[m](x[m]))[0] for m in x)
    assert gap > 0.2
    torch.manual_seed(0)
    found, error = mean_and_se(torch.tensor([-plain().loss(model, wrong, x) / 3000 for _ in range(10)]))
    assert (found - (problem.log_evidence(x)[0] - gap)).abs() < 4 * error


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_sampling_gives_the_exact_evidence(family):
    problem = PrivateProblem(2, orthogonal=False)
    x, model, guide = problem.sample(8), problem.model(), problem.guide(family, stretch=1.2)
    observed = {"image": torch.arange(8) != 2, "label": torch.arange(8) != 5}
    found = log_likelihood(model, guide, x, num_samples=20_000)
    exact = problem.log_evidence(x)
    assert ((found.values - exact).abs() < 5 * found.standard_errors + 0.01).all()
    found = log_likelihood(model, guide, x, num_samples=20_000, observed=observed)
    for row, held in ((2, ["label"]), (5, ["image"])):
        alone = problem.log_evidence(x, held)[row]
        assert (found.values[row] - alone).abs() < 5 * found.standard_errors[row] + 0.01
        assert (alone - exact[row]).abs() > 0.5


@pytest.mark.parametrize("fill", (0.0, 1e30, float("nan")))
def test_masked_rows_contribute_exactly_nothing(fill):
    problem = PrivateProblem(2)
    x, model, guide = problem.sample(5), problem.model(), problem.guide()
    observed = {"image": torch.tensor([1, 0, 1, 0, 1]).bool(), "label": torch.tensor([1, 1, 0, 0, 1]).bool()}
    both, image, label = ([0, 4], [2], [1])
    evidence = problem.log_evidence(x)[both].sum() + problem.log_evidence(x, ["image"])[image].sum()
    evidence = (evidence + problem.log_evidence(x, ["label"])[label].sum()).item()
    broken = {m: torch.where(observed[m][:, None], x[m], fill) for m in x}
    losses = (plain(kl="sampled"), plain(kl="sampled", num_particles=2), StratifiedELBO(3))
    for loss in losses:
        assert -loss.loss(model, guide, broken, observed) == pytest.approx(evidence, rel=1e-9)
    kls = plain().report(model, guide, broken, observed)
    prior = dist.Normal(torch.zeros(1, dtype=DTYPE), 1.0).to_event(1)
    for m in x:
        expected = kl_normal(guide.private[m](x[m]), prior)[observed[m]].sum().item()
        assert kls[f"kl/z_{m}"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_do_not_depend_on_what_fills_a_gap(family):
    problem = PrivateProblem(2)
    x, model, guide = problem.sample(5), problem.model(), problem.guide(family, shift=0.3)
    observed = {"image": torch.tensor([1, 0, 1, 0, 1]).bool(), "label": torch.tensor([1, 1, 0, 0, 1]).bool()}
    found = []
    for fill in (0.0, float("nan")):
        broken = {m: torch.where(observed[m][:, None], x[m], fill) for m in x}
        torch.manual_seed(3)
        for module in (model, guide):
            module.zero_grad()
        plain(kl="sampled").loss_and_grads(model, guide, broken, observed)
        found.append([p.grad.clone() for module in (model, guide) for p in module.parameters()])
    assert all(torch.isfinite(g).all() for g in found[0]) and any(g.abs().sum() > 0 for g in found[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("family", (MixtureOfExperts, MixtureOfProducts))
def test_the_bounds_of_a_mixture_with_private_latents(family):
    problem = PrivateProblem(2)
    x, model, guide = repeated(problem.sample(1), 60), problem.model(), problem.guide(family)
    evidence = problem.log_evidence(x)[0]
    levels = []
    for loss in (StratifiedELBO(1), StratifiedELBO(20), StratifiedELBO(300, bound="tight")):
        torch.manual_seed(0)
        levels.append(mean_and_se(torch.tensor([-loss.loss(model, guide, x) / 60 for _ in range(8)])))
    for (low, low_se), (high, high_se) in zip(levels[:-1], levels[1:], strict=True):
        assert high > low + 4 * (low_se + high_se)
    assert (levels[-1][0] - evidence).abs() < 4 * levels[-1][1] + 5e-3


def test_only_one_latent_may_be_a_mixture():
    problem = PrivateProblem(1)

    class Both(Guide):
        def posterior(self, x, observed=None):
            rows = len(x["image"])
            wide = dist.Normal(torch.zeros(rows, 1, dtype=DTYPE), 1.0).to_event(1)
            z = dist.Normal(torch.zeros(rows, 2, dtype=DTYPE), 1.0).to_event(1)
            return {"z": StratifiedMixture([z, z]), "z_image": StratifiedMixture([wide, wide])}

    guide = Both(2, modalities=("image",))
    with pytest.raises(ValueError, match=r"at most one latent.*z_image"):
        StratifiedELBO(2).loss(problem.model(), guide, problem.sample(3))


def test_private_divergences_have_weights_of_their_own():
    problem = PrivateProblem(2)
    x, model, guide = problem.sample(4), problem.model(), problem.guide(shift=0.2)
    kls = plain().report(model, guide, x)
    losses = []
    for sites in ({"z_image": 3.0, "z": 0.5}, {}):
        torch.manual_seed(0)
        losses.append(elbo(MODEL, GUIDE, sites).loss(model, guide, x))
    expected = (2 * kls["kl/z_image"] - 0.5 * kls["kl/z"]).item()
    assert losses[0] - losses[1] == pytest.approx(expected, rel=1e-9)


def moments(values):
    """Mean and variance over samples, and their standard errors, `(size,)`, all rows of a batch being one."""
    flat = values.flatten(0, 1)
    error = flat.std(0) / math.sqrt(len(flat))
    return flat.mean(0), flat.var(0), error, flat.var(0) * math.sqrt(2 / len(flat))


@pytest.mark.parametrize("given", (("image",), ("image", "label")))
def test_a_prediction_takes_the_private_latent_of_what_is_not_given_from_the_prior(given):
    problem = PrivateProblem(2)
    x, model, guide = repeated(problem.sample(1), 40), problem.model(), problem.guide()
    torch.manual_seed(0)
    values = cross_generate(model, guide, {m: x[m] for m in given}, ["label"], 300, output="mean")["label"]
    loading, own = problem.loadings["label"], problem.own["label"]
    experts = problem.model(), guide.experts({m: x[m] for m in given})
    precision = 1 + sum(e.base_dist.scale[0] ** -2 for e in experts[1].values())
    shared_mean = sum(e.mean[0] * e.base_dist.scale[0] ** -2 for e in experts[1].values()) / precision
    private = guide.private["label"](x["label"])
    seen = "label" in given
    mean = problem.offsets["label"] + loading @ shared_mean + (own @ private.mean[0] if seen else 0)
    spread = private.variance[0] if seen else torch.ones(1, dtype=DTYPE)
    variance = (loading**2 / precision).sum(1) + (own**2 * spread).sum(1)
    found = moments(values)
    assert ((found[0] - mean).abs() < 4 * found[2]).all()
    assert ((found[1] - variance).abs() < 4 * found[3]).all()


@pytest.mark.parametrize("via", ("cross_generate", "predictive"))
def test_a_row_that_lacks_a_modality_draws_its_private_latent_from_the_prior(via):
    problem = PrivateProblem(2)
    x, model, guide = repeated(problem.sample(1), 40), problem.model(), problem.guide()
    observed = {"image": torch.zeros(40).bool(), "label": torch.ones(40).bool()}
    seen = {**x, "image": torch.full_like(x["image"], 1e6)}
    torch.manual_seed(0)
    if via == "cross_generate":
        values = reconstruct(model, guide, seen, 300, observed)["image"]
    else:
        program = predictive(model, guide, ("image",))
        draws = [program(seen, observed) for _ in range(300)]
        values = torch.stack([model.likelihoods["image"](torch.cat([d["z"], d["z_image"]], -1)).mean for d in draws])
    precision = 1 + guide.experts({"label": x["label"]})["label"].base_dist.scale[0] ** -2
    variance = (problem.loadings["image"] ** 2 / precision).sum(1) + (problem.own["image"] ** 2).sum(1)
    found = moments(values)
    assert ((found[1] - variance).abs() < 4 * found[3]).all()


def test_the_guides_conditional_likelihood_is_the_models_with_an_exact_guide():
    problem = PrivateProblem(2)
    x, model, guide = problem.sample(6), problem.model(), problem.guide()
    found = guide_conditional_log_likelihood(model, guide, x, ["image"], ["label"], num_samples=40_000)
    exact = problem.log_conditional(x, ["label"], ["image"])
    assert (found.logmeanexp - exact).abs().max() < 0.08
    assert (exact - found.mean).min() > 0.5
    assert not torch.allclose(problem.log_evidence(x, ["label"]), exact, atol=0.1)


def test_embeddings_are_of_the_shared_latent():
    problem = PrivateProblem(2)
    x, guide = problem.sample(4), problem.guide()
    torch.testing.assert_close(embed(guide, x), guide.posterior(x).mean)
    assert embed(guide, x, ["image"]).shape == (4, 2)
    data = to_inference_data(problem.model(), guide, x, 3)
    assert data.posterior["z_label"].shape == (1, 3, 4, 1)


def random_guide(problem, family=ProductOfExperts):
    sizes = {m: len(problem.offsets[m]) for m in problem.modalities}

    def encoders(dim):
        made = {}
        for m, size in sizes.items():
            matrix = 0.1 * torch.randn(dim, size, dtype=DTYPE)
            made[m] = LinearEncoder(matrix, torch.zeros(dim, dtype=DTYPE), torch.ones(dim, dtype=DTYPE))
        return made

    return family(problem.latent_dim, encoders(problem.latent_dim), private=encoders(problem.private_dim)).double()


def test_training_the_guide_reaches_the_evidence_and_the_untrained_guide_does_not():
    torch.manual_seed(0)
    problem = PrivateProblem(2)
    x, model, guide = problem.sample(200), problem.model(), random_guide(problem)
    evidence = problem.log_evidence(x).mean().item()

    def bound():
        torch.manual_seed(9)
        return -plain(num_particles=50).loss(model, guide, x) / 200

    assert bound() < evidence - 0.5
    loss, optimizer = plain(num_particles=2), torch.optim.Adam(guide.parameters(), lr=0.05)
    for _ in range(250):
        optimizer.zero_grad()
        loss.loss_and_grads(model, guide, x)
        optimizer.step()
    assert abs(bound() - evidence) < 0.03


def test_sites_and_order():
    problem = PrivateProblem(3)
    x, model, guide = problem.sample(2), problem.model(), problem.guide()
    part = {"word": x["word"], "image": x["image"]}
    names = [n for n, s in poutine.trace(model).get_trace(part).nodes.items() if s["type"] == "sample"]
    assert names == ["data", "z", "z_image", "z_word", "word", "image"]
    assert list(guide(part)) == ["z", "z_image", "z_word"]
    assert list(model({"label": None}, num_rows=2)) == ["z", "z_label", "label"]
    learned = MultimodalModel(2, {"a": NormalLikelihood(nn.Linear(5, 3))}, private={"a": LaplacePrior(3)})
    assert isinstance(
        poutine.trace(learned).get_trace({"a": None}, num_rows=2).nodes["z_a"]["fn"].base_dist, dist.Laplace
    )


class Normalized(nn.Module):
    """A feature network that is batch norm alone."""

    def __init__(self):
        super().__init__()
        self.norm, self.out_features = nn.BatchNorm1d(4), 4

    def forward(self, values):
        return self.norm(values)


class UserDefined(Guide):
    """A guide that knows of its shared latent alone."""

    def posterior(self, x, observed=None):
        return product_of_experts(self.experts(x, observed), prior=self.prior)


@pytest.mark.parametrize("kind", ("user-defined", "joint"))
def test_the_base_adds_private_latents_to_any_guide(kind):
    private = {"a": NormalEncoder(MLP(4, 4, ()), 1)}
    if kind == "joint":
        guide = JointGuide(2, {m: MLP(4, 4, ()) for m in ("a", "b")}, private=private)
    else:
        guide = UserDefined(2, {m: NormalEncoder(MLP(4, 4, ()), 2) for m in ("a", "b")}, private=private)
    sizes = {"a": 3, "b": 2}
    likelihoods = {m: NormalLikelihood(MLP(size, 4, ())) for m, size in sizes.items()}
    model = MultimodalModel(2, likelihoods, private={"a": 1})
    x = {"a": torch.randn(4, 4), "b": torch.randn(4, 4)}
    plain().loss_and_grads(model, guide, x)
    assert all(parameter.grad.abs().sum() > 0 for parameter in private["a"].parameters())
    assert set(guide(x)) == set(conditional(guide)(x)) == {"z", "z_a"}
    if kind == "user-defined":
        assert set(guide({"b": x["b"]})) == {"z"}


def test_a_private_encoder_with_batch_norm_takes_a_batch_without_its_modality():
    private = {m: NormalEncoder(Normalized(), 1) for m in ("a", "b")}
    guide = ProductOfExperts(2, {m: NormalEncoder(MLP(4, 4, ()), 2) for m in ("a", "b")}, private=private)
    model = MultimodalModel(2, {m: NormalLikelihood(MLP(3, 4, ())) for m in ("a", "b")}, private={"a": 1, "b": 1})
    x = {"a": torch.randn(4, 4), "b": torch.full((4, 4), float("nan"))}
    observed = {"b": torch.zeros(4).bool()}
    before = private["b"].network.norm.running_mean.clone()
    torch.manual_seed(0)
    loss = plain().loss_and_grads(model, guide, x, observed)
    torch.manual_seed(0)
    assert loss == pytest.approx(plain().loss(model, guide, {"a": x["a"]}), rel=1e-5)
    assert torch.equal(private["b"].network.norm.running_mean, before) and private["b"].training


@pytest.mark.parametrize("method", ("mopoe", "mvae", "mmvae"))
@pytest.mark.parametrize("private", (2, {"signal": 1}))
def test_recipes_take_private_latents(method, private):
    torch.manual_seed(0)
    recipe = build(method, toy_networks(), 2, private=private, private_beta=0.5, beta=2.0)
    result = fit_recipe(recipe, toy_data(), epochs=2, batch_size=20, progress=False)
    names = ("signal", "label") if isinstance(private, int) else ("signal",)
    latents = {name for name in result.history[0] if "/kl/" in name and name.count("/") == 2}
    assert latents == {f"train/kl/{site}" for site in ("z", *[f"z_{m}" for m in names])}
    before = [p.clone() for p in recipe.guide.private.parameters()]
    fit_recipe(recipe, toy_data(), epochs=1, batch_size=20, progress=False)
    after = list(recipe.guide.private.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) and before
    x = toy_data().x
    values = cross_generate(recipe.model, recipe.guide, {"label": x["label"]}, ["signal"], 2)["signal"]
    assert values.shape == (2, 40, 4)


def test_the_weight_of_private_divergences_is_beta_times_its_own():
    recipe = build("mopoe", toy_networks(), 2, private=1, private_beta={"label": 5.0}, beta=2.0)
    schedules = schedules_of(recipe.stages[0].objective)
    assert sorted(s.current.item() for s in schedules) == [2.0, 2.0, 10.0]


@pytest.mark.parametrize(
    "options, message",
    (
        ({"private": {"sound": 2}}, "unknown modalities.*sound"),
        ({"private": 0}, "at least 1"),
        ({"private": {"label": 2}, "private_beta": {"signal": 2.0}}, "private_beta names.*signal"),
    ),
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build("mopoe", toy_networks(), 2, **options)
    with pytest.raises(ValueError, match=r"private names unknown"):
        ProductOfExperts(2, {"a": NormalEncoder(MLP(4, 4), 2)}, private={"b": NormalEncoder(MLP(4, 4), 2)})
