"""Products of Gaussian experts against the exact posterior of the linear-Gaussian model."""

import pyro.distributions as dist
import pytest
import torch

from multipyro.guides import (
    LaplaceEncoder,
    MixtureOfProducts,
    ProductOfExperts,
    product_of_experts,
    subset_products,
)
from multipyro.ppl_models import MLP, StandardNormalPrior
from multipyro.testing import LinearGaussian

COUNTS = (2, 3, 5)


def normal(rows, scale=1.0, size=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(rows, size, generator=generator, dtype=dtype)
    spread = torch.randn(rows, size, generator=generator, dtype=dtype).exp()
    return dist.Normal(loc, scale * spread).to_event(1)


def same(left, right):
    return torch.equal(left.mean, right.mean) and torch.equal(left.variance, right.variance)


def close_to_posterior(result, exact):
    covariance = result.variance.diag_embed()
    torch.testing.assert_close(result.mean, exact.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(covariance, exact.covariance_matrix.expand_as(covariance), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", COUNTS)
def test_product_of_exact_experts_is_the_exact_posterior_for_every_subset(count):
    problem = LinearGaussian(count)
    x = problem.sample(20)
    experts = {name: problem.expert(name, x[name]) for name in problem.modalities}
    prior = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    guide = problem.product_guide()
    for subset in problem.subsets():
        exact = problem.posterior(x, subset)
        given = {name: experts[name] for name in subset}
        close_to_posterior(product_of_experts(given, prior=prior), exact)
        close_to_posterior(product_of_experts(list(given.values()), prior=StandardNormalPrior(3).double()), exact)
        close_to_posterior(guide.posterior({name: x[name] for name in subset}), exact)


@pytest.mark.parametrize("count", COUNTS)
def test_mixture_of_products_contains_the_exact_posterior_of_every_subset(count):
    problem = LinearGaussian(count)
    x = problem.sample(8)
    encoders = {name: problem.expert_encoder(name) for name in problem.modalities}
    guide = MixtureOfProducts(3, encoders, prior_expert="all").double()
    components = guide.posterior(x).components
    assert len(components) == 2**count - 1
    for subset, component in zip(guide.mixture_subsets, components, strict=True):
        close_to_posterior(component, problem.posterior(x, subset))
    for subset in problem.subsets():
        given = {name: x[name] for name in subset}
        close_to_posterior(guide.conditional(given), problem.posterior(x, subset))


def test_product_of_posteriors_overcounts_the_prior():
    problem = LinearGaussian(3)
    x = problem.sample(5)
    posteriors = [problem.posterior_encoder(name)(x[name]) for name in problem.modalities]
    prior = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    exact = problem.posterior(x)
    overcounted = product_of_experts(posteriors, prior=prior)
    assert (overcounted.variance < 0.9 * exact.variance).all()


def test_prior_expert_other_than_the_standard_normal():
    expert = normal(4)
    prior = dist.Normal(torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.3, 2.0, 5.0]).double()).to_event(1)
    result = product_of_experts([expert], prior=prior)
    precision = 1 / expert.variance + 1 / prior.variance
    torch.testing.assert_close(result.variance, 1 / precision)
    torch.testing.assert_close(result.mean, (expert.mean / expert.variance + prior.mean / prior.variance) / precision)


@pytest.mark.parametrize("scale", (1e-6, 1e-3, 1e3, 1e6))
def test_product_is_stable_at_any_scale_in_single_precision(scale):
    wide, narrow = normal(6, dtype=torch.float32), normal(6, scale, seed=1, dtype=torch.float32)
    result = product_of_experts([wide, narrow], prior=dist.Normal(torch.zeros(3), 1.0).to_event(1))
    precisions = [1 / e.variance.double() for e in (wide, narrow)] + [torch.ones(6, 3).double()]
    means = [wide.mean.double(), narrow.mean.double(), torch.zeros(6, 3).double()]
    total = sum(precisions)
    mean = sum(p * m for p, m in zip(precisions, means, strict=True)) / total
    torch.testing.assert_close(result.base_dist.scale.double(), total.rsqrt(), rtol=1e-5, atol=0)
    torch.testing.assert_close(result.mean.double(), mean, rtol=1e-4, atol=1e-6)


def test_powers_multiply_precisions():
    first, second = normal(5), normal(5, seed=1)
    rows = torch.rand(5, 3, dtype=torch.float64)
    result = product_of_experts({"a": first, "b": second}, powers={"a": 0.3, "b": rows})
    precision = 0.3 / first.variance + rows / second.variance
    torch.testing.assert_close(result.variance, 1 / precision)
    torch.testing.assert_close(
        result.mean, (0.3 * first.mean / first.variance + rows * second.mean / second.variance) / precision
    )
    whole = product_of_experts({"a": first, "b": second})
    assert same(product_of_experts({"a": first, "b": second}, powers={"a": 1.0}), whole)
    assert same(product_of_experts({"a": first, "b": second}, powers={"b": 0.0}), product_of_experts([first]))
    both = product_of_experts({"a": first, "b": second}, powers={"a": 2.0})
    thrice = product_of_experts([first, first, second])
    torch.testing.assert_close(both.variance, thrice.variance)


@pytest.mark.parametrize("with_prior", (False, True))
@pytest.mark.parametrize("count", (2, 3, 5))
def test_missing_experts_equal_the_product_without_them_bit_for_bit(count, with_prior):
    names = [f"m{i}" for i in range(count)]
    rows = 2**count
    experts = {name: normal(rows, 10.0 ** (i - 2), seed=i) for i, name in enumerate(names)}
    observed = {name: torch.arange(rows) // 2**i % 2 == 1 for i, name in enumerate(names)}
    prior = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1) if with_prior else None
    masked = product_of_experts(experts, prior=prior, observed=observed)
    for row in range(1, rows):
        present = [name for name in names if observed[name][row]]
        alone = product_of_experts({name: experts[name] for name in present}, prior=prior)
        assert torch.equal(masked.mean[row], alone.mean[row])
        assert torch.equal(masked.variance[row], alone.variance[row])
    assert torch.equal(masked.mean[0], torch.zeros(3, dtype=torch.float64))
    assert torch.equal(masked.variance[0], torch.ones(3, dtype=torch.float64))


def test_a_missing_expert_gets_no_gradient_and_affects_no_other():
    loc = torch.tensor([[1.0], [1e30]], requires_grad=True)
    complete = torch.zeros(2, 1, requires_grad=True)
    experts = {"a": dist.Normal(complete, 1.0).to_event(1), "b": dist.Normal(loc, 1e-8).to_event(1)}
    result = product_of_experts(experts, observed={"b": torch.tensor([True, False])})
    (result.mean.sum() + result.variance.sum()).backward()
    assert loc.grad[1] == 0 and loc.grad[0] > 0.9
    assert torch.equal(complete.grad[1], torch.ones(1))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("prior", (False, True, "full"))
def test_all_subset_products_at_once_equal_one_by_one(count, prior):
    problem = LinearGaussian(count)
    subsets = problem.subsets()[::-1]
    x = problem.sample(6)
    experts = {name: problem.expert(name, x[name]) for name in problem.modalities}
    observed = {problem.modalities[0]: torch.tensor([True, False, True, True, False, True])}
    flags = [len(s) == count for s in subsets] if prior == "full" else [prior] * len(subsets)
    expert = normal(1, scale=2.0, seed=9).base_dist
    standard = dist.Normal(expert.loc[0], expert.scale[0]).to_event(1)
    result = subset_products(experts, subsets, standard, flags, observed=observed)
    assert result.batch_shape == (len(subsets), 6) and result.event_shape == (3,)
    for position, subset in enumerate(subsets):
        given = {name: experts[name] for name in subset}
        masks = {name: rows for name, rows in observed.items() if name in subset}
        alone = product_of_experts(given, prior=standard if flags[position] else None, observed=masks)
        torch.testing.assert_close(result.mean[position], alone.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(result.variance[position], alone.variance, rtol=1e-12, atol=1e-12)


def test_only_some_subsets_in_any_order_and_with_repeats():
    experts = {name: normal(4, seed=i) for i, name in enumerate("abcd")}
    subsets = [("d", "b"), ("a",), ("c", "a", "d"), ("a",)]
    result = subset_products(experts, subsets)
    for position, subset in enumerate(subsets):
        alone = product_of_experts({name: experts[name] for name in subset})
        torch.testing.assert_close(result.mean[position], alone.mean)
        torch.testing.assert_close(result.variance[position], alone.variance)


def test_experts_that_cannot_be_multiplied_are_refused():
    laplace = LaplaceEncoder(MLP(2, 4), 3)(torch.zeros(1, 2))
    with pytest.raises(TypeError, match="normal"):
        product_of_experts({"image": laplace})
    with pytest.raises(ValueError, match="at least one expert"):
        product_of_experts({})
    with pytest.raises(ValueError, match="non-empty"):
        subset_products({"image": normal(2)}, [()])
    with pytest.raises(ValueError, match="word"):
        subset_products({"image": normal(2)}, [("word",)])


def test_product_guide_without_a_prior_expert():
    problem = LinearGaussian(2)
    x = problem.sample(4)
    encoders = {name: problem.expert_encoder(name) for name in problem.modalities}
    guide = ProductOfExperts(3, encoders, prior_expert=False).double()
    result, exact = guide.posterior(x), problem.posterior(x)
    torch.testing.assert_close(1 / result.variance, exact.precision_matrix.diagonal(dim1=-2, dim2=-1) - 1)
