"""Estimated likelihoods against the exact ones of linear-Gaussian models."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import repeated
from torch import nn

from multipyro.guides import JointGuide, MixtureOfProducts, NormalEncoder, ProductOfExperts
from multipyro.inference import log_likelihood
from multipyro.inference.evaluation import (
    ImportanceSampling,
    _memory,
    guide_conditional_log_likelihood,
    importance_weighted_bound,
    log_likelihoods,
)
from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood
from multipyro.testing import DTYPE, FixedGuide, LinearGaussian

# the guide as the only component of the proposal
ALONE = {"scales": [1], "related": 0, "prior": 0}


def guides(problem):
    """Inexact proposals of every kind."""
    moved = problem.product_guide(shift=0.2, stretch=1.3)
    return {
        "product": moved,
        "mixture": problem.mixture_guide(shift=0.1, stretch=1.5),
        "mixture of products": MixtureOfProducts(problem.latent_dim, moved.encoders, prior_expert="all").double(),
    }


def conditionals(modalities):
    """Every (target, given) of two disjoint non-empty subsets."""
    subsets = LinearGaussian(len(modalities)).subsets()
    return [(target, given) for target in subsets for given in subsets if not set(target) & set(given)]


def assert_estimates(found, exact):
    """Values within 4 standard errors plus the bias of the log, and their mean likewise.

    Data points with a k-hat above 0.5, whose weights have no variance and so no standard error, are left out.
    """
    bias = found.standard_errors**2 / 2
    within = (found.values - exact).abs() < 4 * found.standard_errors + bias + 1e-9
    assert (within | (found.khat > 0.5)).all()
    assert (found.khat > 0.5).any() or abs(
        found.mean - exact.mean().item()
    ) < 4 * found.mc_se + bias.mean().item() + 1e-9


@pytest.mark.parametrize("kind", ["product", "mixture", "mixture of products"])
@pytest.mark.parametrize("num_modalities", [2, 3])
def test_every_subset_and_every_conditional_agree_with_the_exact_value(kind, num_modalities):
    problem = LinearGaussian(num_modalities)
    model, guide, x = problem.model(), guides(problem)[kind], problem.sample(12)
    for subset in problem.subsets():
        assert_estimates(log_likelihood(model, guide, x, subset, num_samples=2000), problem.log_evidence(x, subset))
    for target, given in conditionals(problem.modalities):
        found = log_likelihood(model, guide, x, target, given, num_samples=2000)
        assert_estimates(found, problem.log_conditional(x, target, given))


@pytest.mark.parametrize("num_modalities", [2, 3, 5])
def test_generic_loadings(num_modalities):
    problem = LinearGaussian(num_modalities, orthogonal=False)
    x = problem.sample(10)

    def widened(x, observed):
        best = problem.best_diagonal(x)
        return dist.Normal(best.mean, 2.5 * best.stddev).to_event(1)

    guide = FixedGuide(problem, widened)
    assert problem.diagonal_gap(x) > 0.05
    for subset in problem.subsets()[-3:]:
        found = log_likelihood(problem.model(), guide, x, subset, num_samples=4000)
        assert_estimates(found, problem.log_evidence(x, subset))


def test_an_exact_proposal_has_no_error():
    problem = LinearGaussian(3)
    x = problem.sample(5)
    for subset in problem.subsets():
        found = log_likelihood(
            problem.model(), problem.product_guide(), x, subset, num_samples=3, method=ImportanceSampling(**ALONE)
        )
        assert torch.allclose(found.values, problem.log_evidence(x, subset), atol=1e-9)
        assert found.standard_errors.max() < 1e-5
        assert found.se == pytest.approx(found.values.std().item() / math.sqrt(5))


@pytest.mark.parametrize("kind", ["product", "mixture"])
def test_standard_errors_are_those_of_repeated_estimates(kind):
    problem = LinearGaussian(2)
    x = repeated(problem.sample(1), 400)
    found = log_likelihood(
        problem.model(), guides(problem)[kind], x, num_samples=300, method=ImportanceSampling(**ALONE)
    )
    spread = found.values.std()
    # a mixture's samples are stratified, which the formula leaves out: it may only be too large
    assert (
        (0.85 if kind == "product" else 0.4) * found.standard_errors.mean()
        < spread
        < 1.15 * found.standard_errors.mean()
    )
    sampling, bias = found.standard_errors.square().sum().sqrt().item() / 400, found.growth.mean().item()
    assert found.mc_se == pytest.approx(math.hypot(sampling, bias))


@pytest.mark.parametrize("kind", ["product", "mixture"])
def test_a_bound_may_have_a_proposal_given_other_modalities(kind):
    problem = LinearGaussian(3)
    model, x = problem.model(), problem.sample(10)
    # wide enough that the weights have a variance even where the guide is given more than is scored
    guide = guides(problem)[kind] if kind == "mixture" else problem.product_guide(shift=0.2, stretch=2.5)
    for target in problem.subsets():
        for given in problem.subsets():
            found = importance_weighted_bound(model, guide, x, given, target, num_samples=4000)
            assert_estimates(found, problem.log_evidence(x, target))


def test_one_sample_of_another_proposal_is_its_own_bound():
    problem = LinearGaussian(2)
    x = repeated(problem.sample(1), 20_000)
    for target, given in ((("image",), ("image", "label")), (("image", "label"), ("label",))):
        bound = importance_weighted_bound(problem.model(), problem.product_guide(), x, given, target, 1).values
        one = {name: v[:1] for name, v in x.items()}
        proposed, exact = (problem.posterior(one, part) for part in (given, target))
        gap = torch.distributions.kl_divergence(proposed, exact)
        expected = problem.log_evidence(x, target)[0] - gap[0]
        assert gap > 0.05 and abs(bound.mean() - expected) < 4 * bound.std() / math.sqrt(20_000)


def test_a_proposal_without_evidence_in_a_data_point_is_refused():
    problem = LinearGaussian(2)
    model, guide, x = problem.model(), problem.product_guide(), problem.sample(4)
    masks = {"label": torch.tensor([True, False, True, True])}
    with pytest.raises(ValueError, match=r"1 of the 4 data points contain none of \['label'\]"):
        importance_weighted_bound(model, guide, x, ["label"], ["image"], observed=masks)


def test_defensive_samples_save_a_guide_that_is_too_narrow():
    problem = LinearGaussian(2)
    x = repeated(problem.sample(1), 300)
    exact = problem.log_evidence(x)
    guide = problem.product_guide(shift=0.5, stretch=0.1)
    alone = log_likelihood(
        problem.model(), guide, x, num_samples=500, method=ImportanceSampling(**ALONE, max_samples=500)
    )
    saved = log_likelihood(problem.model(), guide, x, num_samples=500)
    assert (alone.values - exact).mean() < -0.5
    # an unbiased estimate of the evidence itself
    ratio = (saved.values - exact).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(300)
    assert abs((saved.values - exact).mean()) < 0.25


def test_rows_that_hold_less_have_the_likelihood_of_what_they_hold():
    problem = LinearGaussian(3)
    x = problem.sample(8)
    held = {name: torch.arange(8) // 2**position % 2 == 1 for position, name in enumerate(problem.modalities)}
    missing = {name: torch.where(held[name][:, None], values, torch.nan) for name, values in x.items()}
    model, guide = problem.model(), guides(problem)["product"]
    found = log_likelihood(model, guide, missing, num_samples=4000, observed=held)
    subsets = [[name for name in held if held[name][row]] for row in range(8)]
    exact = torch.stack([problem.log_evidence(x, subset)[row] for row, subset in enumerate(subsets)])
    assert_estimates(found, exact)
    assert found.values[0] == 0 and found.standard_errors[0] == 0
    target, given = ("image",), ("label", "word")
    found = log_likelihood(model, guide, missing, target, given, 4000, held)
    exact = torch.stack(
        [
            (problem.log_evidence(x, subset) - problem.log_evidence(x, set(subset) & set(given)))[row]
            for row, subset in enumerate(subsets)
        ]
    )
    assert_estimates(found, exact)
    assert torch.equal(found.values[~held["image"]], torch.zeros(4, dtype=DTYPE))


def test_memory_is_bounded_whatever_the_number_of_particles(monkeypatch):
    monkeypatch.setattr(_memory, "MAX_ELEMENTS", 2000)
    problem = LinearGaussian(2)
    model, guide, x = problem.model(), problem.mixture_guide(), problem.sample(90)
    largest = []
    for likelihood in model.likelihoods.values():
        likelihood.network.register_forward_hook(lambda _, __, out: largest.append(out.numel()))
    found = log_likelihood(model, guide, x, num_samples=150)
    assert_estimates(found, problem.log_evidence(x))
    guide_conditional_log_likelihood(model, guide, x, ["image"], ["label"], 150)
    assert max(largest) <= 2000


def test_a_label_whose_classes_are_equally_likely_by_symmetry():
    class Table(nn.Module):
        def forward(self, z):
            return torch.stack([torch.zeros_like(z[..., 0]), z[..., 0]], -1)

    model = MultimodalModel(1, {"label": CategoricalLikelihood(Table())})
    guide = ProductOfExperts(1, {"label": NormalEncoder(_Embedding(), 1)})
    x = {"label": torch.tensor([0, 1])}
    found = log_likelihood(model, guide, x, num_samples=4000)
    assert ((found.values - math.log(0.5)).abs() < 4 * found.standard_errors + 1e-3).all()


class _Embedding(nn.Embedding):
    def __init__(self):
        super().__init__(2, 4)
        self.out_features = 4


def test_plain_functions_of_pyro_are_programs():
    def model(x, observed=None):
        with pyro.plate("data", len(next(iter(x.values())))):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            for name in x:
                pyro.sample(name, dist.Normal(z[..., 0], 1.0), obs=x[name])

    def guide(x, observed=None):
        total = sum(x.values())
        with pyro.plate("data", len(total)):
            pyro.sample("z", dist.Normal(total[:, None] / 3, 1.0).to_event(1))

    x = {"a": torch.tensor([-1.0, 0.0, 2.0]), "b": torch.tensor([0.5, 0.0, 1.0])}
    both = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2) + 1)
    joint, marginal = both.log_prob(torch.stack([x["a"], x["b"]], -1)), dist.Normal(0.0, 2**0.5).log_prob(x["a"])
    assert_estimates(log_likelihood(model, guide, x, num_samples=4000), joint)
    assert_estimates(log_likelihood(model, guide, x, ["b"], ["a"], 4000), joint - marginal)


def bound_of_the_guide(problem, x, given, target, loc, covariance):
    """The exact values of the two conditional bounds under `N(loc, covariance)`, `(rows,)` each."""
    loading, scale = problem.loadings[target], problem.scales[target]
    mean = loc @ loading.T + problem.offsets[target]
    spread = loading @ covariance @ loading.T
    jensen = dist.Normal(mean, scale).to_event(1).log_prob(x[target]) - spread.diagonal().sum() / (2 * scale**2)
    noise = scale**2 * torch.eye(len(loading), dtype=DTYPE)
    marginal = torch.distributions.MultivariateNormal(mean, spread + noise).log_prob(x[target])
    return jensen, marginal


@pytest.mark.parametrize(
    ("given", "target"), [(("image",), "label"), (("image", "word"), "label"), (("label",), "image")]
)
@pytest.mark.parametrize("exact", [True, False])
def test_the_guides_bounds_are_their_closed_forms(given, target, exact):
    problem = LinearGaussian(3)
    guide = problem.product_guide() if exact else problem.product_guide(shift=0.3, stretch=0.7)
    x = problem.sample(1)
    posterior = guide.posterior({name: x[name] for name in given})
    jensen, marginal = bound_of_the_guide(
        problem, x, given, target, posterior.mean.detach(), posterior.variance[0].detach().diag()
    )
    found = guide_conditional_log_likelihood(problem.model(), guide, repeated(x, 500), given, [target], 200)
    for rows, value in zip(found, (jensen, marginal), strict=True):
        bias = rows.var() / 2
        assert abs(rows.mean() - value) < 4 * rows.std() / math.sqrt(500) + bias
    assert (found.mean < found.logmeanexp).all()
    if exact:
        assert torch.allclose(marginal, problem.log_conditional(x, [target], given))


def test_the_guides_bounds_show_a_collapse_that_importance_sampling_removes():
    problem = LinearGaussian(2)
    x = problem.sample(50)
    guide = problem.product_guide(shift=1.5)
    bounds = guide_conditional_log_likelihood(problem.model(), guide, x, ["image"], ["label"], 100)
    model = log_likelihood(problem.model(), guide, x, ["label"], ["image"], 4000)
    assert bounds.logmeanexp.mean() < model.mean - 1
    assert_estimates(model, problem.log_conditional(x, ["label"], ["image"]))


def test_the_guides_bounds_of_rows_without_evidence_are_those_of_the_prior():
    problem = LinearGaussian(2)
    x = repeated(problem.sample(1), 400)
    guide = problem.product_guide(shift=3.0)
    observed = {"image": torch.zeros(400, dtype=torch.bool)}
    found = guide_conditional_log_likelihood(problem.model(), guide, x, ["image"], ["label"], 100, observed)
    zero, one = torch.zeros(1, 3, dtype=DTYPE), torch.eye(3, dtype=DTYPE)
    jensen, _ = bound_of_the_guide(problem, {n: v[:1] for n, v in x.items()}, ["image"], "label", zero, one)
    assert abs(found.mean.mean() - jensen) < 4 * found.mean.std() / math.sqrt(400)


def test_bad_input():
    problem = LinearGaussian(2)
    model, guide, x = problem.model(), problem.product_guide(), problem.sample(3)
    for arguments, message in (
        ((x, ["sound"]), r"target must be some of \['image', 'label'\], got \['sound'\]"),
        ((x, []), "target must be some of"),
        ((x, ["image"], ["image"]), "nor overlap given"),
        ((x, None, ["image", "label"]), "must not be empty"),
        (({"image": x["image"], "sound": x["label"]},), "unknown modality"),
        (({"image": x["image"] * torch.nan},), "NaN"),
        ((x, None, None, 0), "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            log_likelihood(model, guide, *arguments)
    with pytest.raises(ValueError, match="at least 0 and below 1 together, got 0.1 and 1.0"):
        log_likelihood(model, guide, x, method=ImportanceSampling(prior=1.0))
    with pytest.raises(ValueError, match=r"scales must be positive and at least one, got \[0\]"):
        log_likelihood(model, guide, x, method=ImportanceSampling(scales=[0]))
    with pytest.raises(ValueError, match="max_samples must be at least num_samples, got 5 and 10"):
        log_likelihood(model, guide, x, num_samples=10, method=ImportanceSampling(max_samples=5))
    with pytest.raises(ValueError, match="queries is empty"):
        log_likelihoods(model, guide, x, [])
    with pytest.raises(ValueError, match="target must be some of"):
        guide_conditional_log_likelihood(model, guide, x, ["image"], ["sound"])


def test_a_guide_must_answer_what_it_proposes_for():
    model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 5, (8,))), "label": NormalLikelihood(MLP(2, 3, (8,)))})
    guide = JointGuide(2, {"image": MLP(5, 8, ()), "label": MLP(3, 8, ())})
    x = {"image": torch.randn(4, 5), "label": torch.randn(4, 3)}
    assert log_likelihood(model, guide, x, num_samples=5).values.shape == (4,)
    with pytest.raises(ValueError, match="supports image\\+label, got image"):
        log_likelihood(model, guide, x, ["label"], ["image"], 5)
