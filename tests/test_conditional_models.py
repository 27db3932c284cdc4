"""CVAE and CMMA: the linear-Gaussian conditional in closed form, and predictions that do not use their target."""

import math

import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import mean_and_se, repeated
from pyro.infer import SVI, Predictive
from pyro.optim import Adam
from torch import nn
from toy import MODALITIES, toy_data, toy_networks

from multipyro.data import Splits
from multipyro.guides import JointGuide
from multipyro.inference import (
    build,
    cross_generate,
    embed,
    evaluate,
    fit,
    fit_recipe,
    frozen,
    joint_samples,
    load,
    log_likelihood,
    predictive,
)
from multipyro.inference.evaluation import ImportanceSampling, guide_conditional_log_likelihood
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.inference.recipes import Networks
from multipyro.ppl_models import ConditionalModel, NormalLikelihood
from multipyro.testing import DTYPE, LinearGaussian, kl_normal

KINDS = ("cvae", "cmma")
PROBLEM = LinearGaussian(2)


class Same(nn.Identity):
    """A feature network that returns its input."""

    def __init__(self, features):
        super().__init__()
        self.out_features = features


def plain(**options):
    return elbo(MODEL, GUIDE, **options)


class Exact:
    """A conditional model of the image given the label, with its exact posterior and its exact likelihood.

    `cmma` splits the linear-Gaussian model into `p(z|label) p(image|z)`; `cvae` adds `C label` to an image whose
    latent does not depend on the label.
    """

    def __init__(self, kind):
        self.kind, p = kind, PROBLEM
        sizes = {name: len(p.offsets[name]) for name in p.modalities}
        generator = torch.Generator().manual_seed(7)
        self.effect = torch.randn(sizes["image"], sizes["label"], dtype=DTYPE, generator=generator)
        shared = kind == "cvae"
        network = nn.Linear(3 + sizes["label"] * shared, sizes["image"], dtype=DTYPE)
        weight = torch.cat([p.loadings["image"], *([self.effect] if shared else [])], 1)
        network.weight.data.copy_(weight)
        network.bias.data.copy_(p.offsets["image"])
        prior = None if shared else p.posterior_encoder("label")
        features = {"label": Same(sizes["label"])} if shared else None
        self.model = ConditionalModel(
            3, {"image": NormalLikelihood(network, p.scales["image"])}, ["label"], prior, features
        ).double()
        self.model.likelihoods["image"].log_scale.fill_(math.log(p.scales["image"]))
        self.sizes = sizes

    def guide(self, exact=True):
        """The joint guide, at the posterior or as it is initialized."""
        guide = JointGuide(3, {m: Same(n) for m, n in self.sizes.items()}, encoders={"label": self.model.prior})
        guide = guide.double()
        if exact:
            encoder = guide.joint.encoder
            precision, shift, offset = torch.eye(3, dtype=DTYPE), [], 0.0
            for name in PROBLEM.modalities:
                loading, scale = PROBLEM.loadings[name], PROBLEM.scales[name]
                if name == "label" and self.kind == "cvae":
                    # the label only moves the image's mean
                    shift.append(-shift[0] @ self.effect)
                else:
                    precision = precision + loading.T @ loading / scale**2
                    shift.append(loading.T / scale**2)
                    offset = offset - shift[-1] @ PROBLEM.offsets[name]
            variance = precision.diagonal().reciprocal()
            encoder.heads.weight.data.zero_()
            encoder.heads.weight.data[:3] = variance[:, None] * torch.cat(shift, 1)
            encoder.heads.bias.data[:3] = variance * offset
            encoder.heads.bias.data[3:] = (variance.sqrt() - 1e-6).expm1().log()  # the inverse of softplus
        return guide

    def data(self, rows, seed=1):
        x = PROBLEM.sample(rows, seed)
        if self.kind == "cvae":
            x["image"] = x["image"] + x["label"] @ self.effect.T
        return x

    def predicted(self, x):
        """`p(image | label)` as mean `(rows, size)` and covariance."""
        loading, noise = PROBLEM.loadings["image"], PROBLEM.scales["image"] ** 2
        if self.kind == "cvae":
            mean = PROBLEM.offsets["image"] + x["label"] @ self.effect.T
            covariance = loading @ loading.T
        else:
            posterior = PROBLEM.posterior(x, ["label"])
            mean = posterior.mean @ loading.T + PROBLEM.offsets["image"]
            covariance = loading @ posterior.covariance_matrix[0] @ loading.T
        return mean, covariance + noise * torch.eye(len(loading), dtype=DTYPE)

    def log_likelihood(self, x):
        """`log p(image | label)` of each data point."""
        return torch.distributions.MultivariateNormal(*self.predicted(x)).log_prob(x["image"])


@pytest.fixture(params=KINDS)
def exact(request):
    return Exact(request.param)


def test_cmma_splits_the_joint_model():
    x = PROBLEM.sample(20)
    torch.testing.assert_close(Exact("cmma").log_likelihood(x), PROBLEM.log_conditional(x, ["image"], ["label"]))


def test_the_elbo_is_the_conditional_likelihood_only_with_the_exact_posterior(exact):
    x = exact.data(50)
    evidence = exact.log_likelihood(x).sum().item()
    assert -plain(kl="sampled").loss(exact.model, exact.guide(), x) == pytest.approx(evidence, rel=1e-9)
    estimates = torch.tensor([-plain().loss(exact.model, exact.guide(False), x) for _ in range(30)])
    bound, error = mean_and_se(estimates)
    assert bound < evidence - 4 * error - 50


def test_the_gap_of_a_wrong_guide_is_its_divergence_from_the_posterior(exact):
    x, guide = repeated(exact.data(1), 4000), exact.guide()
    posterior = guide.posterior(x)
    guide.joint.encoder.heads.bias.data[:3] += 0.4
    divergence = kl_normal(guide.posterior(x), posterior)[0]
    assert divergence > 0.1
    bound, error = mean_and_se(torch.tensor([-plain().loss(exact.model, guide, x) / 4000 for _ in range(8)]))
    assert abs(bound - (exact.log_likelihood(x)[0] - divergence)) < 4 * error


def test_training_reaches_the_conditional_likelihood(exact):
    """The guide from its initial values; for CMMA the prior too, which must become `p(z | label)`."""
    model, guide = exact.model, exact.guide(False)
    trained = [guide]
    if exact.kind == "cmma":
        for parameter in model.prior.parameters():
            parameter.data.zero_()
        trained.append(model.prior)
    svi_model, test = frozen(model, trained), exact.data(400, seed=2)
    optimizer = torch.optim.Adam({id(p): p for part in trained for p in part.parameters()}.values(), lr=0.05)
    gap = []
    for step in range(400):
        if step in (0, 399):
            gap.append(exact.log_likelihood(test).mean() + plain(num_particles=50).loss(model, guide, test) / 400)
        if step == 280:
            optimizer.param_groups[0]["lr"] = 0.003
        optimizer.zero_grad()
        plain().loss_and_grads(svi_model, guide, exact.data(128, seed=100 + step))
        optimizer.step()
    assert gap[0] > 0.5 and abs(gap[1]) < 0.03
    if exact.kind == "cmma":
        assert kl_normal(model.prior(test["label"]), PROBLEM.posterior_encoder("label")(test["label"])).mean() < 0.03


def test_importance_sampling_gives_the_conditional_likelihood(exact):
    x, names = exact.data(30), (["image"], ["label"])
    estimate = log_likelihood(
        exact.model, exact.guide(), x, *names, num_samples=4, method=ImportanceSampling([1], 0, 0)
    )
    torch.testing.assert_close(estimate.values, exact.log_likelihood(x), rtol=0, atol=1e-8)
    guide = exact.guide()
    guide.joint.encoder.heads.bias.data[:3] += 0.2
    guide.joint.encoder.heads.bias.data[3:] += 0.3
    for share in (0.0, 0.1, 0.5):
        estimate = log_likelihood(
            exact.model, guide, x, *names, num_samples=4000, method=ImportanceSampling(prior=share)
        )
        assert (abs(estimate.values - exact.log_likelihood(x)) < 4.5 * estimate.standard_errors + 1e-3).all()
        assert estimate.mc_se < 0.02


def test_predictions_have_the_moments_of_the_exact_conditional(exact):
    x, guide = exact.data(3), exact.guide()
    guide.joint.encoder.heads.bias.data.fill_(math.nan)  # whatever asks the posterior fails
    given, num_samples = {"label": x["label"]}, 20_000
    samples = {
        "cross_generate": cross_generate(exact.model, guide, given, ["image"], num_samples)["image"],
        "Predictive": Predictive(predictive(exact.model, guide, ["image"]), num_samples=num_samples, parallel=True)(
            given
        )["image"],
        "once": predictive(exact.model, guide, ["image"])(repeated(given, num_samples))["image"].unsqueeze(1),
    }
    mean, covariance = exact.predicted(x)
    for images in samples.values():
        rows = images.shape[1]
        error = (covariance.diagonal() / num_samples).sqrt()
        assert ((images.mean(0) - mean[:rows]).abs() < 4.5 * error).all()
        centered = images - images.mean(0)
        spread = torch.einsum("sri,srj->rij", centered, centered) / num_samples
        scale = (covariance.diagonal()[:, None] * covariance.diagonal() * 2 / num_samples).sqrt()
        assert ((spread - covariance).abs() < 4.5 * scale).all()


def test_a_posterior_given_the_target_would_predict_differently(exact):
    """The trap of the released evaluation: with the target in x it is a reconstruction, far closer to the target."""
    x, guide = exact.data(200), exact.guide()
    again = cross_generate(exact.model, guide, x, ["image"], 20, output="mean")["image"]
    ahead = cross_generate(exact.model, guide, {"label": x["label"]}, ["image"], 20, output="mean")["image"]
    assert ((again - x["image"]) ** 2).mean() < 0.5 * ((ahead - x["image"]) ** 2).mean()


def test_the_guides_bound_is_that_of_the_prior(exact):
    x = repeated(exact.data(1), 4000)
    mean, covariance = exact.predicted(x)
    noise = PROBLEM.scales["image"] ** 2
    signal = covariance.diagonal().sum() - noise * len(covariance)
    squares = ((x["image"][0] - mean[0]) ** 2).sum() + signal
    expected = -0.5 * (squares / noise + len(covariance) * math.log(2 * math.pi * noise))
    guide = exact.guide()
    guide.joint.encoder.heads.bias.data.fill_(math.nan)
    bounds = guide_conditional_log_likelihood(exact.model, guide, x, ["label"], ["image"], 10)
    estimate, error = mean_and_se(bounds.mean)
    assert abs(estimate - expected) < 4 * error


def test_the_embedding_of_the_condition_is_the_mean_of_the_prior(exact):
    x = exact.data(5)
    torch.testing.assert_close(embed(exact.guide(), x, ["label"]), exact.model.prior(x["label"]).mean)
    torch.testing.assert_close(embed(exact.guide(), x), exact.guide().posterior(x).mean)


def test_a_row_without_its_target_contributes_nothing(exact):
    x, guide = exact.data(6), exact.guide(False)
    observed = {"image": torch.tensor([True, False, True, False, True, True])}
    complete = {name: values[observed["image"]] for name, values in x.items()}
    for kl in ("sampled", "analytic"):
        losses = []
        for batch in ((x, observed), (dict(x, image=x["image"].where(observed["image"][:, None], math.nan)), observed)):
            torch.manual_seed(0)
            losses.append(plain(kl=kl).report(exact.model, guide, *batch))
        assert losses[0] == losses[1]
    estimate = log_likelihood(
        exact.model, exact.guide(), x, ["image"], ["label"], 10, observed, ImportanceSampling([1], 0, 0)
    )
    torch.testing.assert_close(estimate.values[observed["image"]], exact.log_likelihood(complete))
    assert (estimate.values[~observed["image"]] == 0).all()


def test_every_row_needs_every_condition(exact):
    x, guide, model = exact.data(4), exact.guide(), exact.model
    observed = {"label": torch.tensor([True, True, False, True])}
    with pytest.raises(ValueError, match="row 2 contains image, but this guide supports"):
        plain().loss(model, guide, x, observed)
    calls = [
        lambda: model(x, observed),
        lambda: cross_generate(model, guide, {"label": x["label"]}, ["image"], observed=observed),
        lambda: log_likelihood(model, guide, x, ["image"], ["label"], 5, observed),
        lambda: guide_conditional_log_likelihood(model, guide, x, ["label"], ["image"], 5, observed),
        lambda: Predictive(predictive(model, guide, ["image"]), num_samples=2)({"label": x["label"]}, observed),
        lambda: fit(model, guide, plain(), [(x, observed)], epochs=1, progress=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"conditions on \['label'\].*'label' is missing in row 2"):
            call()
    for call in (
        lambda: model({"image": x["image"]}),
        lambda: model({"image": None}, num_rows=3),
        lambda: cross_generate(model, guide, {"image": x["image"]}, ["image"]),
    ):
        with pytest.raises(ValueError, match=r"\['label'\] is missing in x"):
            call()


def test_a_condition_can_be_neither_scored_nor_generated(exact):
    x, guide, model = exact.data(4), exact.guide(), exact.model
    with pytest.raises(ValueError, match=r"no likelihood of \['label'\]"):
        log_likelihood(model, guide, x, ["label"], ["image"], 5)
    with pytest.raises(ValueError, match=r"no likelihood of \['label'\]"):
        log_likelihood(model, guide, x, num_samples=5)
    with pytest.raises(ValueError, match=r"given does not contain \['label'\]"):
        log_likelihood(model, guide, x, ["image"], num_samples=5)
    with pytest.raises(ValueError, match=r"no likelihood of \['label'\]"):
        guide_conditional_log_likelihood(model, guide, x, ["image"], ["label"])
    with pytest.raises(ValueError, match=r"given \['label'\] and cannot generate"):
        cross_generate(model, guide, x, ["label"])
    with pytest.raises(ValueError, match=r"given \['label'\] and has no joint distribution"):
        joint_samples(model, 3)
    with pytest.raises(ValueError, match="supports .*, got image$"):
        guide({"image": x["image"]})


@pytest.mark.parametrize(
    "likelihoods, conditions, features",
    [((), ["label"], ()), (("image",), [], ()), (("image",), ["image"], ()), (("image",), ["label"], ("word",))],
)
def test_inconsistent_modalities_are_named(likelihoods, conditions, features):
    parts = {name: NormalLikelihood(nn.Linear(2, 2)) for name in likelihoods}
    with pytest.raises(ValueError, match="conditions"):
        ConditionalModel(2, parts, conditions, features={name: Same(2) for name in features})


@pytest.mark.parametrize("method", KINDS)
def test_the_recipe_accepts_names_of_modalities_and_names_unknown_ones(method):
    networks = Networks({**MODALITIES, "other": MODALITIES["signal"]}, (8,))
    for options, expected in (
        ({}, ("signal", "label")),
        ({"given": "signal"}, ("label", "signal")),
        ({"target": "label"}, ("label", "signal")),
        ({"target": "other", "given": "label"}, ("other", "label")),
        ({"given": ["signal", "label"], "target": ["other"]}, ("other", "signal", "label")),
    ):
        recipe = build(method, networks, 2, **options)
        assert recipe.model.modalities == expected
        assert recipe.guide.networks["+".join(recipe.model.conditions)] is recipe.model.prior
        conditions = {"signal": torch.zeros(5, 4), "other": torch.zeros(5, 4), "label": torch.zeros(5).long()}
        given = {name: conditions[name] for name in recipe.model.conditions}
        assert len(cross_generate(recipe.model, recipe.guide, given, expected[:1], 2)[expected[0]][0]) == 5
    for options in ({"given": "nothing"}, {"given": "label", "target": "label"}):
        with pytest.raises(ValueError, match="nothing|label"):
            build(method, networks, 2, **options)
    with pytest.raises(ValueError, match="needs at least 2 modalities"):
        build(method, toy_networks().select(["label"]), 2)


@pytest.mark.parametrize("method, options", [("cvae", {"prior_network": True}), ("cmma", {})])
def test_the_shared_prior_trains_once_and_stays_shared(method, options, tmp_path):
    splits = Splits(toy_data(60), toy_data(30, 1, "validation"), toy_data(30, 2, "test"))
    recipe = build(method, toy_networks(), 2, **options)
    prior = recipe.model.prior
    before = [parameter.detach().clone() for parameter in prior.parameters()]
    fit_recipe(recipe, splits, epochs=2, batch_size=20, out=tmp_path / "run", progress=False)
    assert all((new != old).any() for new, old in zip(prior.parameters(), before, strict=True))
    loaded = load(tmp_path / "run")
    assert loaded.guide.networks["label"] is loaded.model.prior
    x = {"label": torch.tensor([0, 1, 2])}
    torch.testing.assert_close(loaded.model.prior(x["label"]).mean, prior(x["label"]).mean)
    # a step of SVI updates the prior as a step of Adam that has each parameter once
    moved = {}
    for way in ("svi", "torch"):
        torch.manual_seed(0)
        fresh = build(method, toy_networks(), 2, **options)
        batch, loss = splits.train.rows(torch.arange(20)), fresh.stages[0].objective
        torch.manual_seed(1)
        if way == "svi":
            SVI(fresh.model, fresh.guide, Adam({"lr": 0.1}), loss).step(*batch)
        else:
            parameters = {id(p): p for part in (fresh.model, fresh.guide) for p in part.parameters()}
            optimizer = torch.optim.Adam(parameters.values(), lr=0.1)
            loss.loss_and_grads(fresh.model, fresh.guide, *batch)
            optimizer.step()
        moved[way] = [parameter.detach() for parameter in fresh.model.prior.parameters()]
    for left, right in zip(moved["svi"], moved["torch"], strict=True):
        torch.testing.assert_close(left, right)


def test_the_report_has_what_exists_and_null_elsewhere():
    splits = Splits(toy_data(60), toy_data(20, 1, "validation"), toy_data(20, 2, "test"))
    recipe = build("cvae", toy_networks(), 2)
    fit_recipe(recipe, splits, epochs=1, progress=False)
    result = evaluate(recipe.model, recipe.guide, splits, num_samples=5, guide_samples=2, coherence_samples=20)
    report = result.to_dict()
    assert report["coherence"]["joint"] is None
    assert set(report["log_likelihood"].values()) == {None}
    assert report["conditional_log_likelihood"]["signal->label"] is None
    assert report["guide_conditional_log_likelihood"]["signal->label"] is None
    estimate = log_likelihood(recipe.model, recipe.guide, splits.test.rows(torch.arange(20))[0], ["signal"], ["label"])
    value = report["conditional_log_likelihood"]["label->signal"]
    assert abs(value["value"] - estimate.mean) < 4 * (value["mc_se"] + estimate.mc_se) + 0.05
    assert report["guide_conditional_log_likelihood"]["label->signal"]["mean"]["value"] < estimate.mean + 0.1
    assert report["latent_accuracy"]["signal"] is None and report["latent_accuracy"]["signal+label"] is not None


def test_the_prior_of_a_cvae_does_not_depend_on_the_condition():
    model = build("cvae", toy_networks(), 2).model
    prior = model.prior(torch.tensor([0, 1, 2]))
    standard = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
    assert kl_normal(prior, standard).abs().max() == 0
    torch.manual_seed(0)
    learned = build("cvae", toy_networks(), 2, prior_network=True).model.prior(torch.tensor([0, 1]))
    assert (learned.mean[0] != learned.mean[1]).any()
