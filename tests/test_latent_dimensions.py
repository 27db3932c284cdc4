"""KL per dimension and active units, in closed form and by Monte Carlo."""

import math

import pyro.distributions as dist
import pytest
import torch

from multipyro.guides import StratifiedMixture
from multipyro.inference.evaluation import latent_dimensions, symmetric_kl
from multipyro.ppl_models import FlowPrior
from multipyro.testing import DTYPE, FixedGuide, LinearGaussian

PROBLEM = LinearGaussian(2)


def fixed(function):
    return FixedGuide(PROBLEM, function)


def normal(mean, scale):
    """The same posterior for every data point: `mean` and `scale` per dimension."""

    def posterior(x, observed):
        rows = len(next(iter(x.values())))
        mean_, scale_ = (torch.tensor(values, dtype=DTYPE).expand(rows, 3) for values in (mean, scale))
        return dist.Normal(mean_, scale_).to_event(1)

    return posterior


def kl(mean, scale):
    return 0.5 * (mean**2 + scale**2 - 1) - math.log(scale)


def test_the_kl_of_each_dimension_is_that_of_normals():
    guide = fixed(normal([0.0, 2.0, -1.0], [1.0, 0.5, 2.0]))
    dimensions = latent_dimensions(PROBLEM.model(), guide, PROBLEM.sample(4))
    expected = torch.tensor([kl(0.0, 1.0), kl(2.0, 0.5), kl(-1.0, 2.0)], dtype=DTYPE)
    torch.testing.assert_close(dimensions.kl, expected.expand(4, 3))
    assert not dimensions.active.any() and dimensions.to_dict()["active_units"] == 0


def test_active_units_are_the_dimensions_whose_mean_varies():
    x = PROBLEM.sample(4000)

    def posterior(x, observed):
        size = len(x["image"])
        means = torch.stack([x["image"][:, 0], 0.09 * torch.ones(size).cumsum(0) % 0.1, torch.zeros(size)], -1)
        return dist.Normal(means, 0.1).to_event(1)

    dimensions = latent_dimensions(PROBLEM.model(), fixed(posterior), x, ["image"])
    assert dimensions.active.tolist() == [True, False, False]
    torch.testing.assert_close(dimensions.mean_variance[0], x["image"][:, 0].var())


def test_an_exact_posterior_says_about_each_dimension_what_the_closed_form_says():
    x = PROBLEM.sample(5)
    dimensions = latent_dimensions(PROBLEM.model(), PROBLEM.product_guide(), x, ["label"])
    posterior = PROBLEM.posterior(x, ["label"])
    variance = posterior.covariance_matrix.diagonal(dim1=-2, dim2=-1)
    expected = 0.5 * (posterior.mean**2 + variance - 1 - variance.log())
    torch.testing.assert_close(dimensions.kl, expected)


def test_the_kl_of_a_mixture_is_estimated_from_its_marginals():
    """Far apart components: the entropy of the mixture is larger by log 2 in the dimension that tells them apart."""

    def posterior(x, observed):
        left, right = normal([-40.0, 0.0, 0.0], [1.0] * 3), normal([40.0, 0.0, 0.0], [1.0] * 3)
        return StratifiedMixture([left(x, observed), right(x, observed)])

    dimensions = latent_dimensions(PROBLEM.model(), fixed(posterior), PROBLEM.sample(200), num_samples=500)
    expected = [kl(40.0, 1.0) - math.log(2), 0.0, 0.0]
    mean, error = dimensions.kl.mean(0), dimensions.kl.std(0) / 200**0.5
    assert ((mean - torch.tensor(expected)).abs() < 4 * error + 1e-6).all()


def test_posteriors_of_two_modalities_disagree_symmetrically():
    def posterior(x, observed):
        return normal([1.0, 0.0, 0.0], [2.0, 1.0, 1.0] if "image" in x else [1.0] * 3)(x, observed)

    x = PROBLEM.sample(3)
    found = symmetric_kl(fixed(posterior), x, ["image"], ["label"])
    forward, backward = kl(0.0, 2.0), kl(0.0, 0.5)
    expected = torch.tensor([(forward + backward) / 2, 0.0, 0.0], dtype=DTYPE)
    torch.testing.assert_close(found, expected.expand(3, 3))
    with pytest.raises(ValueError, match="a subset must be some of"):
        symmetric_kl(fixed(posterior), x, ["image"], [])


def test_a_flow_has_no_marginals():
    model = PROBLEM.model()
    model.prior = FlowPrior(3).double()
    model.prior.activate()
    with pytest.raises(TypeError, match="no marginals"):
        latent_dimensions(model, PROBLEM.product_guide(), PROBLEM.sample(3))
