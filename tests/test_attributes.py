"""Attribute vectors with missing entries: their experts and their likelihood."""

import itertools

import pytest
import torch
from torch import nn

from multipyro.guides import AttributeExperts, JointGuide, NormalEncoder
from multipyro.inference import cross_generate, log_likelihood
from multipyro.ppl_models import MLP, BernoulliLikelihood, MultimodalModel, NormalLikelihood

NAN = float("nan")


@pytest.fixture
def experts():
    module = AttributeExperts(3, 2)
    with torch.no_grad():
        module.loc.normal_()
        module.log_scale.normal_(std=0.3)
    return module


def test_present_entries_multiply_with_the_universal_expert(experts):
    values = torch.tensor(list(itertools.product((0.0, 1.0, NAN), repeat=3)))
    product = experts(values)
    for row, mean, variance in zip(values, product.mean, product.variance, strict=True):
        precision, weighted = torch.ones(2), torch.zeros(2)
        for attribute, value in enumerate(row.tolist()):
            if value == value:
                share = experts.log_scale[attribute, int(value)].mul(-2).exp()
                precision, weighted = precision + share, weighted + share * experts.loc[attribute, int(value)]
        torch.testing.assert_close(variance, 1 / precision)
        torch.testing.assert_close(mean, weighted / precision)


def test_only_observed_values_get_a_gradient(experts):
    product = experts(torch.tensor([[1.0, NAN, 0.0]]))
    (product.mean.sum() + product.variance.sum()).backward()
    for gradient in (experts.loc.grad, experts.log_scale.grad):
        assert torch.isfinite(gradient).all()
        trained = gradient.abs().sum(-1) > 0
        assert trained.tolist() == [[False, True], [False, False], [True, False]]


@pytest.mark.parametrize("values", (torch.zeros(4, 2), torch.zeros(3), torch.full((1, 3), 0.5)))
def test_other_values_are_refused(experts, values):
    with pytest.raises(ValueError, match="attributes must"):
        experts(values)


def test_a_missing_entry_of_a_likelihood_contributes_nothing():
    likelihood = BernoulliLikelihood(nn.Linear(2, 3), missing_entries=True)
    z = torch.randn(4, 2, requires_grad=True)
    whole, part = torch.tensor([[1.0, 0.0, 1.0]]).expand(4, 3), torch.tensor([[1.0, NAN, 1.0]]).expand(4, 3)
    likelihood.check(part, "attributes")
    with pytest.raises(ValueError, match="NaN"):
        BernoulliLikelihood(nn.Linear(2, 3)).check(part, "attributes")
    each = likelihood(z).base_dist.log_prob(whole)
    torch.testing.assert_close(likelihood(z).log_prob(part), each[:, 0] + each[:, 2])
    (gradient,) = torch.autograd.grad(likelihood(z).log_prob(part).sum(), likelihood.network.weight)
    assert torch.isfinite(gradient).all() and (gradient[1] == 0).all() and (gradient[0] != 0).all()
    assert set(likelihood(z).sample().unique().tolist()) <= {0.0, 1.0}


def test_a_query_of_some_attributes_generates():
    model = MultimodalModel(
        2, {"face": NormalLikelihood(MLP(2, 5)), "attributes": BernoulliLikelihood(MLP(2, 3), missing_entries=True)}
    )
    encoders = {"face": NormalEncoder(MLP(5, 8), 2), "attributes": AttributeExperts(3, 2)}
    guide = JointGuide(2, {"face": MLP(5, 8), "attributes": MLP(3, 8)}, encoders=encoders)
    query = {"attributes": torch.tensor([[1.0, NAN, NAN], [NAN, NAN, NAN]])}
    assert cross_generate(model, guide, query, ["face"], num_samples=3)["face"].shape == (3, 2, 5)
    rows = log_likelihood(model, guide, query, num_samples=200).values
    assert rows[1] == pytest.approx(0.0, abs=1e-5) and -3 < rows[0] < 0
