"""Guides made for a model: sizes, modalities and the prior come from the model, or an error says what differs."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from multipyro.guides import (
    AggregateGuide,
    BridgedGuide,
    ConditionalFlow,
    FlowExperts,
    Guide,
    HamiltonianSampler,
    HierarchicalGuide,
    IterativeSampling,
    JointGuide,
    LaplaceEncoder,
    MixtureOfExperts,
    MixtureOfProducts,
    NormalEncoder,
    ProductOfExperts,
    product_of_experts,
)
from multipyro.ppl_models import (
    MLP,
    ConditionalModel,
    HierarchicalModel,
    LaplacePrior,
    MultimodalModel,
    NormalLikelihood,
)

X = {"a": torch.zeros(5, 3), "b": torch.zeros(5, 4)}
SIZES = {"a": 3, "b": 4}


class LearnedPrior(nn.Module):
    """A normal prior with a learned mean."""

    def __init__(self, latent_dim=2):
        super().__init__()
        self.loc = nn.Parameter(torch.full((latent_dim,), 3.0))

    def forward(self):
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)


def model(prior=None, **options):
    likelihoods = {name: NormalLikelihood(MLP(2, size)) for name, size in SIZES.items()}
    return MultimodalModel(2, likelihoods, prior, **options)


def encoders(latent_dim=2, encoder=NormalEncoder):
    return {name: encoder(MLP(size, 8), latent_dim) for name, size in SIZES.items()}


def branches():
    return {name: MLP(size, 8) for name, size in SIZES.items()}


def flows():
    return {name: ConditionalFlow(branch, 2) for name, branch in branches().items()}


class UserDefined(Guide):
    """A product that a user wrote, with a constructor of two arguments."""

    def __init__(self, latent_dim, encoders):
        super().__init__(latent_dim, encoders)

    def posterior(self, x, observed=None):
        return product_of_experts(self.experts(x, observed), prior=self.prior)


GUIDES = {
    "product": lambda m: ProductOfExperts.for_model(m, encoders()),
    "mixture": lambda m: MixtureOfExperts.for_model(m, encoders()),
    "mixture of products": lambda m: MixtureOfProducts.for_model(m, encoders(), prior_expert="all"),
    "joint": lambda m: JointGuide.for_model(m, branches(), encoders=encoders()),
    "bridged": lambda m: BridgedGuide.for_model(m, branches()),
    "flows": lambda m: FlowExperts.for_model(m, branches(), flows(), sampler=HamiltonianSampler(2)),
    "user-defined": lambda m: UserDefined.for_model(m, encoders()),
    "iterative": lambda m: IterativeSampling.for_model(m, JointGuide.for_model(m, branches())),
    "aggregate": lambda m: AggregateGuide.for_model(m, JointGuide.for_model(m, branches()), flows()),
}


@pytest.mark.parametrize("kind", GUIDES)
def test_latent_size_and_prior_come_from_the_model(kind):
    m = model(LearnedPrior())
    guide = GUIDES[kind](m)
    assert guide.latent_dim == 2 and guide(X)["z"].shape == (5, 2)
    assert torch.equal(guide.prior().mean, m.prior.loc)
    assert not any(parameter is m.prior.loc for parameter in guide.parameters())


@pytest.mark.parametrize("guide", ("product", "mixture of products", "user-defined"))
def test_the_prior_expert_is_the_prior_of_the_model(guide):
    m = model(LearnedPrior())
    guide = GUIDES[guide](m)
    given = {"a": X["a"]}
    expert = guide.encoders["a"](X["a"])
    by_hand = product_of_experts([expert], prior=m.prior)
    posterior = guide.posterior(given)
    torch.testing.assert_close(posterior.mean, by_hand.mean)
    posterior.mean.sum().backward()
    assert m.prior.loc.grad.abs().sum() > 0


def test_layers_of_latents():
    likelihoods = {name: NormalLikelihood(MLP(3, size)) for name, size in SIZES.items()}
    m = HierarchicalModel((3, 2), likelihoods, [NormalEncoder(MLP(2, 8), 3)])
    guide = HierarchicalGuide.for_model(m, branches(), (8,))
    assert guide.latent_dims == (3, 2) and guide(X)["z1"].shape == (5, 3)
    with pytest.raises(ValueError, match=r"same latent size, got 3 and \(3, 2\)"):
        JointGuide.for_model(m, branches())


def test_a_guide_of_some_of_the_modalities():
    guide = MixtureOfExperts.for_model(model(), {"b": NormalEncoder(MLP(4, 8), 2)})
    assert guide({"b": X["b"]})["z"].shape == (5, 2)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: ProductOfExperts.for_model(model(LaplacePrior(2)), encoders()), TypeError, "prior_expert=False"),
        (lambda: MixtureOfProducts.for_model(model(LaplacePrior(2)), encoders()), TypeError, 'prior_expert="none"'),
        (lambda: ProductOfExperts.for_model(model(), encoders(3)), ValueError, "latent size 2 .*'a': 3, 'b': 3"),
        (lambda: MixtureOfExperts(3, encoders(2, LaplaceEncoder)), ValueError, "latent size 3"),
        (lambda: JointGuide(3, branches(), encoders=encoders()), ValueError, "latent size 3"),
        (lambda: FlowExperts.for_model(model(), branches(), encoders(3)), ValueError, "latent size 2"),
        (lambda: AggregateGuide(JointGuide(3, branches()), flows()), ValueError, "latent size 3"),
        (lambda: AggregateGuide.for_model(model(), JointGuide(3, branches()), {}), ValueError, "got 3 and 2"),
        (lambda: IterativeSampling.for_model(model(), JointGuide(3, branches())), ValueError, "got 3 and 2"),
        (lambda: MixtureOfExperts.for_model(model(), {"c": NormalEncoder(MLP(4, 8), 2)}), ValueError, r"\['c'\]"),
        (lambda: MixtureOfExperts.for_model(lambda x: x, encoders()), TypeError, "latent_dim, modalities and prior"),
        (lambda: MixtureOfExperts.for_model(model(private={"a": 3}), encoders()), ValueError, "private latents"),
        (
            lambda: MixtureOfExperts.for_model(
                model(private={"a": 3}), encoders(), private={"a": NormalEncoder(MLP(3, 8), 2)}
            ),
            ValueError,
            "latent size 3 .*'private a': 2",
        ),
    ],
)
def test_a_guide_that_does_not_fit_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_an_encoder_of_an_unknown_size_is_refused_when_it_is_called():
    class Wrong(nn.Module):
        def forward(self, values):
            return dist.Normal(values, 1.0).to_event(1)

    with pytest.raises(ValueError, match=r"encoder of 'a' .* shape \(2,\), got \(3,\)"):
        MixtureOfExperts(2, {"a": Wrong()})({"a": X["a"]})


def test_the_prior_of_a_conditional_model():
    class Given(nn.Module):
        def forward(self, condition):
            return dist.Normal(torch.zeros(len(condition), 2), 1.0).to_event(1)

    likelihoods = {"a": NormalLikelihood(MLP(2, 3))}
    independent = ConditionalModel(2, likelihoods, ["b"])
    assert torch.equal(ProductOfExperts.for_model(independent, encoders()).prior().mean, torch.zeros(2))
    dependent = ConditionalModel(2, likelihoods, ["b"], Given())
    MixtureOfExperts.for_model(dependent, encoders())
    with pytest.raises(ValueError, match=r"depends on \['b'\]"):
        ProductOfExperts.for_model(dependent, encoders())


def test_products_with_a_prior_of_another_family():
    expert = dist.Normal(torch.zeros(4, 2), 1.0).to_event(1)
    with pytest.raises(TypeError, match="prior expert .* independent normal, got Independent"):
        product_of_experts([expert], prior=LaplacePrior(2))


def test_supported_subsets():
    guide = JointGuide(2, branches(), encoders={"b": encoders()["b"]})
    assert guide.supports(["b"]) and guide.supports(("b", "a")) and not guide.supports(("a",))
    assert GUIDES["mixture"](model()).supports("a")
