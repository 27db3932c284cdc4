"""The stratified mixture: density, samples, numbers of samples per component, gradients."""

import math

import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import mean_and_se

from multipyro.guides import LaplaceEncoder, MixtureOfExperts, MixtureOfProducts, NormalEncoder, StratifiedMixture
from multipyro.ppl_models import MLP
from multipyro.testing import LinearGaussian

DTYPE = torch.float64


def parts(number, rows, size=2, families=(dist.Normal,), seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (number, rows, size)
    loc = 2 * torch.randn(shape, generator=generator, dtype=DTYPE)
    scale = (0.5 * torch.randn(shape, generator=generator, dtype=DTYPE)).exp()
    return [families[j % len(families)](loc[j], scale[j]).to_event(1) for j in range(number)]


def labeled(number, rows, weights=None):
    """Components so narrow and far apart that a sample, rounded, names its component."""
    loc = torch.arange(number, dtype=DTYPE).reshape(-1, 1, 1).expand(number, rows, 1)
    return StratifiedMixture(dist.Normal(loc, 1e-3).to_event(1), weights)


def row_weights(rows, number, seed=3):
    weights = torch.rand(rows, number, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)
    weights[0, 0] = 0.0
    return weights / weights.sum(-1, keepdim=True)


MIXED = (dist.Normal, dist.Laplace)


@pytest.mark.parametrize("number", (1, 2, 7))
def test_log_prob_is_that_of_torchs_mixture(number):
    components = parts(number, 4)
    weights = row_weights(4, number, seed=1) if number > 1 else torch.ones(4, 1, dtype=DTYPE)
    stacked = dist.Normal(
        torch.stack([c.mean for c in components], 1), torch.stack([c.stddev for c in components], 1)
    ).to_event(1)
    value = torch.randn(6, 4, 2, dtype=DTYPE)
    for given in (weights, None):
        probs = torch.full((4, number), 1 / number, dtype=DTYPE) if given is None else given
        reference = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(probs), stacked)
        for mixture in (
            StratifiedMixture(components, given),
            StratifiedMixture(
                dist.Normal(
                    torch.stack([c.mean for c in components]), torch.stack([c.stddev for c in components])
                ).to_event(1),
                given,
            ),
        ):
            assert mixture.batch_shape == (4,) and mixture.event_shape == (2,)
            torch.testing.assert_close(mixture.log_prob(value), reference.log_prob(value))
            torch.testing.assert_close(mixture.mean, reference.mean)
            torch.testing.assert_close(mixture.variance, reference.variance)


def test_log_prob_of_mixed_families():
    components = parts(3, 4, families=MIXED)
    weights = row_weights(4, 3)
    value = torch.randn(5, 4, 2, dtype=DTYPE)
    by_hand = sum(weights[:, j] * components[j].log_prob(value).exp() for j in range(3)).log()
    torch.testing.assert_close(StratifiedMixture(components, weights).log_prob(value), by_hand)


@pytest.mark.parametrize("families", ((dist.Normal,), MIXED))
def test_density_integrates_to_one(families):
    mixture = StratifiedMixture(parts(3, 2, families=families), row_weights(2, 3))
    axis = torch.linspace(-15, 15, 401, dtype=DTYPE)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    cell = (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(
        (mixture.log_prob(grid).exp() * cell).sum(0), torch.ones(2, dtype=DTYPE), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("families", ((dist.Normal,), (dist.Laplace,), MIXED))
@pytest.mark.parametrize("through", ("sample shape", "expand", "rows"))
def test_samples_fit_the_density(families, through):
    num_samples = 10_000
    components, weights = parts(3, 2, families=families), row_weights(2, 3)
    mixture = StratifiedMixture(components, weights)
    if through == "sample shape":
        samples = mixture.sample((num_samples,))
    elif through == "expand":
        samples = mixture.expand((num_samples, 2)).sample()
    else:
        samples = mixture.expand((num_samples, 2)).expand((1, num_samples, 2)).sample()[0]
    assert samples.shape == (num_samples, 2, 2)
    for power in (1, 2):
        moment, error = mean_and_se(samples**power)
        exact = mixture.mean if power == 1 else mixture.variance + mixture.mean**2
        assert ((moment - exact).abs() < 4 * error).all()
    for threshold in (-2.0, 0.0, 1.5):
        exact = sum(
            weights[:, j, None] * components[j].base_dist.cdf(torch.tensor(threshold).double()) for j in range(3)
        )
        error = (exact * (1 - exact) / num_samples).sqrt()
        assert (((samples < threshold).double().mean(0) - exact).abs() < 4 * error + 1e-9).all()


@pytest.mark.parametrize("rows", (128, 31, 100, 5, 1))
def test_every_component_gets_its_share_at_any_batch_size(rows):
    number, num_samples = 31, 1000
    mixture = labeled(number, rows)
    counts, by_row = torch.zeros(num_samples, number), torch.zeros(rows, number)
    for trial in range(num_samples):
        index = mixture.sample().round().long()[:, 0]
        counts[trial] = torch.bincount(index, minlength=number)
        by_row[torch.arange(rows), index] += 1
    assert counts.min() >= rows // number and counts.max() <= -(-rows // number)
    share = rows / number % 1  # of the calls in which a component gets one row more than the others
    error = math.sqrt(share * (1 - share) / num_samples)
    assert ((counts.mean(0) - rows / number).abs() <= 4 * error + 1e-6).all()
    # the position in the batch does not determine the component: thousands of cells, hence 5.5 standard errors
    error = math.sqrt(1 / number * (1 - 1 / number) / num_samples)
    assert ((by_row / num_samples - 1 / number).abs() < 5.5 * error).all()


def test_components_of_neighboring_rows_are_independent():
    """The permutation is random: two rows share a component as often as by chance."""
    mixture = labeled(4, 8)
    same = torch.zeros(1500, 7)
    for trial in range(1500):
        index = mixture.sample().round()[:, 0]
        same[trial] = (index[1:] == index[:-1]).float()
    share, error = mean_and_se(same)
    assert ((share - 1 / 7).abs() < 4 * error).all()  # 8 rows, 2 per component: the other one is at any of 7 places


def test_every_component_gets_its_share_with_missing_rows():
    rows, number, num_samples = 50, 3, 1500
    present = torch.rand(rows, number, generator=torch.Generator().manual_seed(0)) > 0.4
    present[:, 1] |= ~present.any(-1)
    weights = present.double() / present.sum(-1, keepdim=True)
    mixture = labeled(number, rows, weights)
    assigned = torch.zeros(rows, number)
    for _ in range(num_samples):
        assigned[torch.arange(rows), mixture.sample().round().long()[:, 0]] += 1
    assert (assigned[~present] == 0).all()
    error = (weights * (1 - weights) / num_samples).sqrt()
    assert ((assigned / num_samples - weights).abs() <= 4.5 * error + 1e-9).all()


def test_every_component_gets_its_share_of_the_samples_of_a_row():
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]], dtype=DTYPE)
    index = labeled(3, 2, weights).sample((100,)).round().long()[..., 0]
    counts = torch.stack([torch.bincount(index[:, row], minlength=3) for row in range(2)])
    assert ((counts - 100 * weights).abs() <= 1).all()


def test_one_sample_alone_follows_the_weights():
    """The order of the samples is random too: the first of many is distributed like any other."""
    weights = torch.tensor([[0.1, 0.2, 0.7]], dtype=DTYPE)
    mixture = labeled(3, 1, weights)
    first = torch.stack([mixture.sample((5,))[0, 0, 0].round() for _ in range(1500)]).long()
    error = (weights[0] * (1 - weights[0]) / 1500).sqrt()
    assert ((torch.bincount(first, minlength=3) / 1500 - weights[0]).abs() < 4 * error).all()


@pytest.mark.parametrize("families", ((dist.Normal,), MIXED))
def test_expand_and_mask(families):
    mixture = StratifiedMixture(parts(3, 4, families=families), row_weights(4, 3))
    value = torch.randn(6, 5, 4, 2, dtype=DTYPE)
    for shape in ((4,), (5, 4), (6, 5, 4)):
        wide = mixture.expand(shape)
        assert wide.batch_shape == shape and wide.event_shape == (2,) and wide.has_rsample
        assert wide.rsample().shape == (*shape, 2) and wide.rsample((3,)).shape == (3, *shape, 2)
        torch.testing.assert_close(wide.log_prob(value), mixture.log_prob(value))
        assert wide.rsample_strata((7,)).shape == (7, 3, *shape, 2)
    mask = torch.tensor([True, False, True, False])
    masked = mixture.expand((5, 4)).mask(mask)
    log_prob = masked.log_prob(value)
    assert log_prob.shape == (6, 5, 4) and (log_prob[..., ~mask] == 0).all()
    torch.testing.assert_close(log_prob[..., mask], mixture.log_prob(value)[..., mask])


@pytest.mark.parametrize("families", ((dist.Normal,), (dist.Laplace,), MIXED))
@pytest.mark.parametrize("shape", ((), (6,)))
def test_pathwise_gradient_matches_finite_differences(families, shape):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(2, 3, 5, 2, generator=generator, dtype=DTYPE)  # loc and log-scale, components, rows, size
    weights = row_weights(5, 3)

    def value(parameters):
        loc, scale = parameters[0], parameters[1].exp()
        components = [families[j % len(families)](loc[j], scale[j]).to_event(1) for j in range(3)]
        torch.manual_seed(7)
        return StratifiedMixture(components, weights).rsample(shape).sin().sum()

    parameters = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(parameters), parameters)
    step = 1e-6
    numeric = torch.zeros_like(start).flatten()
    for entry in range(start.numel()):
        moved = torch.zeros_like(numeric)
        moved[entry] = step
        moved = moved.reshape(start.shape)
        numeric[entry] = (value(start + moved) - value(start - moved)) / (2 * step)
    torch.testing.assert_close(gradient.flatten(), numeric, rtol=1e-6, atol=1e-7)
    assert (gradient != 0).sum() >= 20  # several components were sampled


@pytest.mark.parametrize("families", ((dist.Normal,), MIXED))
def test_expected_pathwise_gradient_is_that_of_the_expectation(families):
    loc = torch.tensor([[-1.0], [0.5], [2.0]], dtype=DTYPE, requires_grad=True)
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=DTYPE)
    rows = 500
    gradients = []
    for _ in range(60):
        components = [families[j % len(families)](loc[j].expand(rows, 1), 0.7).to_event(1) for j in range(3)]
        value = StratifiedMixture(components, weights).rsample().square().sum() / rows
        gradients.append(torch.autograd.grad(value, loc)[0].flatten())
    gradient, error = mean_and_se(torch.stack(gradients))
    assert ((gradient - 2 * weights * loc.detach().flatten()).abs() < 4 * error).all()


@pytest.mark.parametrize("families", ((dist.Normal,), MIXED))
def test_strata_are_samples_of_their_components(families):
    components = parts(3, 2, families=families)
    samples = StratifiedMixture(components).rsample_strata((20_000,))
    assert samples.shape == (20_000, 3, 2, 2)
    for j, component in enumerate(components):
        for power, exact in ((1, component.mean), (2, component.variance + component.mean**2)):
            moment, error = mean_and_se(samples[:, j] ** power)
            assert ((moment - exact).abs() < 4 * error).all()


def test_a_mixture_prints_its_components():
    one, other = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1), dist.Laplace(torch.zeros(3, 2), 1.0).to_event(1)
    mixture = StratifiedMixture([one, other], names=("image", "label"))
    assert repr(mixture) == f"StratifiedMixture(image, label: {one!r}, {other!r})"
    assert repr(StratifiedMixture([one, one])).startswith("StratifiedMixture(2 components: Independent(Normal(loc: ")


def test_components_and_detach():
    loc = torch.zeros(3, 4, 2, dtype=DTYPE, requires_grad=True)
    mixture = StratifiedMixture([dist.Normal(loc[j], 1.0).to_event(1) for j in range(3)])
    assert len(mixture.components) == mixture.num_components == 3
    assert all(component.batch_shape == (4,) for component in mixture.components)
    value = torch.randn(4, 2, dtype=DTYPE)
    assert mixture.log_prob(value).requires_grad and not mixture.detach().log_prob(value).requires_grad
    torch.testing.assert_close(mixture.detach().log_prob(value), mixture.log_prob(value))


def test_an_absent_component_has_a_zero_gradient():
    loc = torch.zeros(2, 1, 1, dtype=DTYPE, requires_grad=True)
    mixture = StratifiedMixture(dist.Normal(loc, 1.0).to_event(1), torch.tensor([[1.0, 0.0]], dtype=DTYPE))
    value = mixture.rsample((50,))
    (mixture.log_prob(value.detach()).sum() + value.sum()).backward()
    assert loc.grad[1] == 0 and torch.isfinite(loc.grad).all()


def test_bad_mixtures():
    with pytest.raises(ValueError, match="at least one component"):
        StratifiedMixture([])
    with pytest.raises(ValueError, match="3 entries"):
        StratifiedMixture(parts(3, 2), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="one event dimension"):
        StratifiedMixture([dist.Normal(torch.zeros(3), 1.0)])


def test_mixture_of_experts_is_the_mean_of_the_experts_of_each_row():
    problem = LinearGaussian(3)
    x = problem.sample(6)
    guide = problem.mixture_guide()
    observed = {"label": torch.tensor([True, False, True, False, True, True])}
    value = torch.randn(6, 3, dtype=DTYPE)
    density = guide.posterior(x, observed).log_prob(value).exp()
    densities = {name: problem.posterior_encoder(name)(x[name]).log_prob(value).exp() for name in problem.modalities}
    rows = observed["label"]
    whole = sum(densities.values()) / 3
    without = (densities["image"] + densities["word"]) / 2
    torch.testing.assert_close(density, torch.where(rows, whole, without))


def test_mixture_of_products_with_singletons_or_only_the_full_set():
    problem = LinearGaussian(3)
    x, value = problem.sample(6), torch.randn(6, 3, dtype=DTYPE)
    encoders = {name: problem.expert_encoder(name) for name in problem.modalities}
    singletons = MixtureOfProducts(3, encoders, mixture_subsets=[(m,) for m in encoders], prior_expert="none")
    expected = MixtureOfExperts(3, encoders).posterior(x).log_prob(value)
    torch.testing.assert_close(singletons.posterior(x).log_prob(value), expected)
    full = MixtureOfProducts(3, encoders, mixture_subsets=[tuple(encoders)])
    torch.testing.assert_close(full.posterior(x).log_prob(value), problem.posterior(x).log_prob(value))


def test_mixture_of_products_gives_the_prior_expert_to_the_full_set_alone():
    problem = LinearGaussian(2)
    x = problem.sample(4)
    guide = MixtureOfProducts(3, {name: problem.expert_encoder(name) for name in problem.modalities}).double()
    image, label, both = guide.posterior(x).components
    torch.testing.assert_close(image.variance, problem.expert("image", x["image"]).variance)
    torch.testing.assert_close(label.variance, problem.expert("label", x["label"]).variance)
    exact = problem.posterior(x).covariance_matrix.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(both.variance, exact.expand(4, 3))


def test_a_guide_of_mixed_families():
    guide = MixtureOfExperts(2, {"a": NormalEncoder(MLP(3, 8), 2), "b": LaplaceEncoder(MLP(3, 8), 2)})
    x = {"a": torch.randn(5, 3), "b": torch.randn(5, 3)}
    mixture = guide.posterior(x)
    families = [type(component.base_dist) for component in mixture.components]
    assert families == [dist.Normal, dist.Laplace]
    value = mixture.rsample((100,))
    mixture.log_prob(value).sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in guide.parameters())
