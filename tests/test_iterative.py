"""Iterative sampling against the exact conditionals of the linear-Gaussian model, and as JMVAE predicts with it."""

import math

import pytest
import torch
from linear_gaussian import repeated
from pyro.infer import Predictive
from toy import toy_data, toy_networks

from multipyro.data import Splits
from multipyro.guides import IterativeSampling, JointGuide, MixtureOfExperts
from multipyro.inference import build, cross_generate, embed, evaluate, fit_recipe, load, log_likelihood, predictive
from multipyro.inference.evaluation import ImportanceSampling, guide_conditional_log_likelihood, log_likelihoods
from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
from multipyro.testing import DTYPE, LinearGaussian, kl_normal

PROBLEM = LinearGaussian(2)
NUM_SAMPLES = 20_000


class Started:
    """The model, whose first completion is given in place of noise."""

    def __init__(self, model, start):
        self.model, self.start = model, start

    def __call__(self, x, observed=None, num_rows=None):
        sites = self.model(x, observed, num_rows)
        if self.start is not None:
            sites, self.start = {**sites, **self.start}, None
        return sites


def gains(missing="image"):
    """Per dimension (orthogonal loadings): precision of `p(z | rest)`, and what the missing modality adds to it."""

    def added(name):
        return (PROBLEM.loadings[name] ** 2).sum(0) / PROBLEM.scales[name] ** 2

    rest = [name for name in PROBLEM.modalities if name != missing]
    return 1 + sum(added(name) for name in rest), added(missing)


def recursion(mean, variance, target_mean, rounds, completion="sample"):
    """Mean and variance of `z` after `rounds` rounds from completions decoded from `z ~ N(mean, variance)`."""
    precision, gain = gains()
    joint = 1 / (precision + gain)
    weight = joint * gain  # weight of the completion in the posterior mean
    for _ in range(rounds):
        mean = target_mean + weight * (mean - target_mean)
        variance = joint + weight**2 * variance + (weight * joint if completion == "sample" else 0.0)
    return mean, variance


def latents(guide, x, num_samples=NUM_SAMPLES):
    """Samples of `z` for the first row of `x`, each with its own completions."""
    return guide(repeated(x, num_samples))["z"]


def agrees(samples, mean, variance):
    number = len(samples)
    means = (samples.mean(0) - mean).abs() < 4.5 * (variance / number).sqrt()
    variances = (samples.var(0) / variance - 1).abs() < 4.5 * math.sqrt(2 / number)
    return bool(means.all() and variances.all())


@pytest.fixture
def given():
    return {"label": PROBLEM.sample(1)["label"]}


@pytest.mark.parametrize("rounds", (1, 2, 5))
def test_the_exact_conditional_is_invariant(given, rounds):
    exact = PROBLEM.posterior(given, ["label"])
    variance = exact.covariance_matrix[0].diagonal()
    z = exact.mean + variance.sqrt() * torch.randn(NUM_SAMPLES, 3, dtype=DTYPE)
    loading, scale = PROBLEM.loadings["image"], PROBLEM.scales["image"]
    image = z @ loading.T + PROBLEM.offsets["image"]
    start = {"image": image + scale * torch.randn(image.shape, dtype=DTYPE)}

    def after(guide, **options):
        return latents(IterativeSampling(Started(PROBLEM.model(), dict(start)), guide, rounds, **options), given)

    assert agrees(after(PROBLEM.product_guide()), exact.mean[0], variance)
    # an inexact joint guide, and mean completions, move it
    assert not agrees(after(PROBLEM.product_guide(0.3)), exact.mean[0], variance)
    assert not agrees(after(PROBLEM.product_guide(0.0, 1.2)), exact.mean[0], variance)
    if rounds > 1:
        assert not agrees(after(PROBLEM.product_guide(), completion="mean"), exact.mean[0], variance)


@pytest.mark.parametrize("completion", ("sample", "mean"))
@pytest.mark.parametrize("rounds", (1, 2, 4))
def test_every_round_from_noise_has_the_computed_moments(given, rounds, completion):
    """Noise is a sample of the model, so its latent is N(0, I); the first encoding sees a sample in either case."""
    target = PROBLEM.posterior(given, ["label"]).mean[0]
    mean, variance = recursion(torch.zeros(3, dtype=DTYPE), torch.ones(3, dtype=DTYPE), target, 1)
    mean, variance = recursion(mean, variance, target, rounds - 1, completion)
    guide = IterativeSampling(PROBLEM.model(), PROBLEM.product_guide(), rounds, completion=completion)
    assert agrees(latents(guide, given), mean, variance)


def test_the_error_of_mean_completions_is_the_computed_one(given):
    """Sampled completions converge to `p(z | x_S)`; means to a variance too small by the factor 1 / (1 + weight)."""
    exact, (precision, gain) = PROBLEM.posterior(given, ["label"]), gains()
    weight = gain / (precision + gain)
    rounds = math.ceil(math.log(1e-3) / math.log(weight.max())) + 1
    result = {}
    for completion in ("sample", "mean"):
        guide = IterativeSampling(PROBLEM.model(), PROBLEM.product_guide(), rounds, completion=completion)
        result[completion] = latents(guide, given)
    assert agrees(result["sample"], exact.mean[0], 1 / precision)
    assert agrees(result["mean"], exact.mean[0], 1 / precision / (1 + weight))
    assert not agrees(result["mean"], exact.mean[0], 1 / precision)
    spread = torch.distributions.Normal(exact.mean[0], (1 / precision / (1 + weight)).sqrt())
    divergence = kl_normal(spread, torch.distributions.Normal(exact.mean[0], precision.rsqrt()))
    assert (
        divergence == pytest.approx(0.5 * ((1 + weight).log() + 1 / (1 + weight) - 1).sum().item())
        and divergence > 0.05
    )


def test_completions_can_start_from_zeros(given):
    guide = IterativeSampling(PROBLEM.model(), PROBLEM.product_guide(), 1, start="zeros")
    zeros = {"image": torch.zeros(1, 4, dtype=DTYPE), **given}
    expected, result = PROBLEM.product_guide().posterior(zeros), guide.posterior(given)
    torch.testing.assert_close(result.mean, expected.mean)
    torch.testing.assert_close(result.variance, expected.variance)
    assert not torch.equal(
        IterativeSampling(PROBLEM.model(), PROBLEM.product_guide(), 1).posterior(given).mean, result.mean
    )


@pytest.mark.parametrize("way", ("cross_generate", "Predictive", "parallel", "bounds"))
def test_every_sample_of_a_row_has_its_own_completions(given, way):
    target, num_samples = PROBLEM.posterior(given, ["label"]).mean[0], 20_000
    mean, variance = recursion(torch.zeros(3, dtype=DTYPE), torch.ones(3, dtype=DTYPE), target, 1)
    model, guide = PROBLEM.model(), IterativeSampling(PROBLEM.model(), PROBLEM.product_guide(), 1)
    loading, noise = PROBLEM.loadings["image"], PROBLEM.scales["image"] ** 2
    mean, spread = mean @ loading.T + PROBLEM.offsets["image"], (loading**2 @ variance) + noise
    if way == "cross_generate":
        result = cross_generate(model, guide, given, ["image"], num_samples)["image"][:, 0]
    elif way == "bounds":  # E log p(image | z) under the same latents
        x = PROBLEM.sample(1)
        terms = guide_conditional_log_likelihood(model, guide, x, ["label"], ["image"], num_samples).mean
        squares = (x["image"][0] - mean) ** 2 + spread - noise
        expected = -0.5 * (squares / noise + math.log(2 * math.pi * noise)).sum()
        assert abs(terms - expected) < 0.1
        return
    else:
        number = num_samples if way == "parallel" else num_samples // 40  # without plates one call per sample
        program = predictive(model, guide, ["image"])
        result = Predictive(program, num_samples=number, parallel=way == "parallel")(given)["image"][:, 0]
    assert agrees(result, mean, spread)


def test_the_missing_modalities_of_each_row_are_completed():
    problem, rows = LinearGaussian(3), 6000
    x = repeated(problem.sample(1), rows)
    kinds = torch.arange(rows) % 4
    observed = {name: (kinds == number) | (kinds == 3) for number, name in enumerate(problem.modalities)}
    x = {name: values.where(observed[name][:, None], math.nan) for name, values in x.items()}
    guide = IterativeSampling(problem.model(), problem.product_guide(), rounds=40)
    z = guide(x, observed)["z"]
    whole = problem.sample(1)
    for number, name in enumerate(problem.modalities):
        exact = problem.posterior(whole, [name])
        assert agrees(z[kinds == number], exact.mean[0], exact.covariance_matrix[0].diagonal())
    exact = problem.posterior(whole)
    posterior = guide.posterior(x, observed)
    torch.testing.assert_close(posterior.mean[kinds == 3][0], exact.mean[0])
    assert agrees(z[kinds == 3], exact.mean[0], exact.covariance_matrix[0].diagonal())


def test_fill_values_do_not_matter():
    x, guide = PROBLEM.sample(5), IterativeSampling(PROBLEM.model(), PROBLEM.product_guide(), 3)
    observed = {"image": torch.tensor([True, False, True, False, False]), "label": torch.ones(5, dtype=torch.bool)}
    observed["label"][4] = False
    samples = []
    for fill in (0.0, math.nan, 1e30):
        torch.manual_seed(0)
        filled = {name: values.where(observed[name][:, None], fill) for name, values in x.items()}
        samples.append(guide(filled, observed)["z"])
    assert torch.equal(samples[0], samples[1]) and torch.equal(samples[0], samples[2])


@pytest.mark.parametrize("share", (0.1, 0.5))
@pytest.mark.parametrize("rounds, chains", [(1, 1), (3, 1), (3, 20)])
def test_importance_sampling_is_unbiased(rounds, chains, share):
    """Completions are auxiliary variables: the weights are valid whatever they are, and whatever the joint guide."""
    x, base = PROBLEM.sample(8), PROBLEM.product_guide(0.2, 1.3)
    guide = IterativeSampling(PROBLEM.model(), base, rounds, chains=chains)
    for subset in (["label"], ["image"]):
        result = log_likelihood(PROBLEM.model(), guide, x, subset, None, 2_500, method=ImportanceSampling(prior=share))
        assert (abs(result.values - PROBLEM.log_evidence(x, subset)) < 5 * result.standard_errors + 2e-3).all()
        assert result.mc_se < 0.06
    conditional = log_likelihood(
        PROBLEM.model(), guide, x, ["image"], ["label"], 2_500, method=ImportanceSampling(prior=share)
    )
    exact = PROBLEM.log_conditional(x, ["image"], ["label"])
    assert (abs(conditional.values - exact) < 5 * conditional.standard_errors + 4e-3).all()


def test_completions_grow_with_the_number_of_samples():
    x = {"label": PROBLEM.sample(50)["label"]}
    guide = IterativeSampling(PROBLEM.model(), PROBLEM.product_guide(), 5, chains=8)
    assert [guide.proposal(x, None, number).num_components for number in (1, 100, 10_000)] == [8, 10, 100]


def test_completions_far_narrower_than_the_posterior_leave_no_bias():
    problem = LinearGaussian(2, latent_dim=8)
    problem.scales["label"] = problem.scales["image"] / 4  # as informative as sixteen copies of the image
    x = problem.sample(20)
    guide = IterativeSampling(problem.model(), problem.product_guide(), 5)
    one, both = log_likelihoods(problem.model(), guide, x, [(["image"], None), (["label"], ["image"])], 300)
    for result, exact in (
        (one, problem.log_evidence(x, ["image"])),
        (both, problem.log_conditional(x, ["label"], ["image"])),
    ):
        assert not result.unreliable and result.mc_se < 0.02
        assert abs(result.mean - exact.mean().item()) < 4 * result.mc_se


def test_a_joint_guide_of_any_family_can_be_completed(given):
    """A mixture, which cannot be rebuilt from its parameters."""
    encoders = {name: PROBLEM.posterior_encoder(name) for name in PROBLEM.modalities}
    mixture = MixtureOfExperts(3, encoders).double()
    x, guide = PROBLEM.sample(8), IterativeSampling(PROBLEM.model(), mixture, 2, chains=4)
    result = log_likelihood(PROBLEM.model(), guide, x, ["label"], None, 4000)
    assert (abs(result.values - PROBLEM.log_evidence(x, ["label"])) < 4.5 * result.standard_errors + 2e-3).all()
    assert cross_generate(PROBLEM.model(), guide, given, ["image"], 7)["image"].shape == (7, 1, 4)


@pytest.mark.parametrize("rounds", (1, 3))
def test_t_rounds_encode_t_times(given, rounds):
    base = PROBLEM.product_guide()
    IterativeSampling(PROBLEM.model(), base, rounds)(given)
    assert base.encoders["image"].calls == rounds


def parts():
    model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4, (8,))), "label": NormalLikelihood(MLP(2, 3, (8,)))})
    return model, JointGuide(2, {"image": MLP(4, 8, (8,)), "label": MLP(3, 8, (8,))})


def test_parameters_modes_and_traces_stay_the_same():
    model, base = parts()
    base.joint.encoder.trunk = None
    base = JointGuide(2, {"image": MLP(4, 8, (8,)), "label": MLP(3, 8, (8,))})
    parameters = {id(parameter) for parameter in base.parameters()}
    guide = IterativeSampling(model, base, 3)
    assert {id(parameter) for parameter in guide.parameters()} == parameters
    model.train(), guide.train()
    x = {"image": torch.randn(5, 4)}
    assert list(guide(x)) == ["z"]
    assert all(part.training for program in (model, guide) for part in program.modules())
    whole = {**x, "label": torch.randn(5, 3)}
    assert torch.equal(guide.posterior(whole).mean, base.posterior(whole).mean)
    assert embed(guide, x).shape == (5, 2)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"rounds": 0}, ValueError, "rounds and chains must be at least 1, got 0 and 32"),
        ({"chains": 0}, ValueError, "got 10 and 0"),
        ({"start": "ones"}, ValueError, "'ones'"),
        ({"completion": "mode"}, ValueError, "'mode'"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        IterativeSampling(*parts(), **options)
    with pytest.raises(TypeError, match="must be a Guide, got function"):
        IterativeSampling(parts()[0], lambda x, observed=None: None)


def test_jmvae_supports_every_subset_and_trains_its_joint_encoder_alone(tmp_path):
    splits = Splits(toy_data(60), toy_data(20, 1, "validation"), toy_data(20, 2, "test"))
    recipe = build("jmvae", toy_networks(), 2, rounds=3, start="zeros", completion="mean")
    assert (recipe.guide.rounds, recipe.guide.start, recipe.guide.completion) == (3, "zeros", "mean")
    loss, (x, _) = recipe.stages[0].objective, splits.train.rows(torch.arange(6))
    with pytest.raises(ValueError, match="row 1 contains label"):
        loss.loss(recipe.model, recipe.guide, x, {"signal": torch.tensor([True, False] * 3)})
    before = {name: parameter.detach().clone() for name, parameter in recipe.guide.named_parameters()}
    fit_recipe(recipe, splits, epochs=2, batch_size=20, out=tmp_path / "run", progress=False)
    after = dict(recipe.guide.named_parameters())
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    loaded = load(tmp_path / "run")
    assert loaded.guide.rounds == 3 and loaded.guide._model[0] is loaded.model
    for name, parameter in loaded.guide.named_parameters():
        assert torch.equal(parameter, after[name])
    result = evaluate(loaded.model, loaded.guide, splits, num_samples=5, guide_samples=2, coherence_samples=20)
    report = result.to_dict()
    assert report["coherence"]["conditional"]["signal->label"]["value"] >= 0
    assert all(report["log_likelihood"].values()) and all(report["guide_conditional_log_likelihood"].values())
