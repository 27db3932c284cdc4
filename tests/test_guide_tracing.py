"""Forward passes of guides are fixed graphs without validation: none reads a value or builds a tensor from a list."""

import pytest
import torch
from test_tracing import trace

from multipyro.guides import (
    AggregateGuide,
    AttributeExperts,
    BridgedGuide,
    ConditionalFlow,
    FlowExperts,
    HamiltonianSampler,
    HierarchicalGuide,
    IterativeSampling,
    JointEncoder,
    JointGuide,
    LaplaceEncoder,
    MixtureOfExperts,
    MixtureOfProducts,
    NormalEncoder,
    ProductOfExperts,
)
from multipyro.ppl_models import MLP, FlowPrior, MultimodalModel, NormalLikelihood

SIZES = {"a": 3, "b": 4}


def branches():
    return {name: MLP(size, 8) for name, size in SIZES.items()}


def encoders(encoder=NormalEncoder):
    return {name: encoder(branch, 2) for name, branch in branches().items()}


def flows():
    return {name: ConditionalFlow(branch, 2, 1, (8,)) for name, branch in branches().items()}


def active(guide):
    guide.activate()
    return guide


def joint():
    return JointGuide(2, branches(), encoders=encoders())


GUIDES = {
    "product": lambda: ProductOfExperts(2, encoders()),
    "mixture": lambda: MixtureOfExperts(2, encoders()),
    "laplace mixture": lambda: MixtureOfExperts(2, encoders(LaplaceEncoder)),
    "mixture of flows": lambda: MixtureOfExperts(2, flows()),
    "mixture of products": lambda: MixtureOfProducts(2, encoders()),
    "private": lambda: MixtureOfProducts(2, encoders(), prior_expert="all", private=encoders()),
    "joint": joint,
    "bridged": lambda: BridgedGuide(2, branches(), (8,)),
    "hierarchical": lambda: HierarchicalGuide((3, 2), branches(), (8,)),
    "aggregate": lambda: active(AggregateGuide(joint(), {"a": flows()["a"]})),
    "attributes": lambda: ProductOfExperts(2, {**encoders(), "a": AttributeExperts(3, 2)}),
}
MODEL = MultimodalModel(2, {name: NormalLikelihood(MLP(2, size)) for name, size in SIZES.items()})
SAMPLERS = {
    "flows": lambda: FlowExperts(2, branches(), flows(), sampler=HamiltonianSampler(2, 1)),
    "iterative": lambda: IterativeSampling(MODEL, joint(), rounds=2, chains=3),
}
OBSERVED = {"a": torch.tensor([True, False, True, False]), "b": torch.tensor([True, True, False, False])}


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(4, size, generator=generator).round() for name, size in SIZES.items()}


def sites_of(distribution):
    return distribution if isinstance(distribution, dict) else {"z": distribution}


# complete rows take another path through these
COMPLETE = ("product", "mixture", "hierarchical")


@pytest.mark.parametrize(
    ("kind", "observed"), [(kind, OBSERVED) for kind in GUIDES] + [(kind, None) for kind in COMPLETE]
)
def test_samples_densities_and_gradients(kind, observed):
    guide = GUIDES[kind]()
    if kind == "hierarchical" and observed:  # it supports all modalities or none
        observed = dict.fromkeys(SIZES, OBSERVED["a"])

    def loss(x, observed):
        posterior = sites_of(guide.posterior(x, observed))
        total = sum(site.log_prob(site.rsample((2,))).sum() for site in posterior.values())
        return total, *torch.autograd.grad(total, list(guide.parameters()), allow_unused=True)

    trace(loss, batch(), observed)

    def conditional(x, observed, z):
        return [site.log_prob(z[name]) for name, site in sites_of(guide.conditional(x, observed)).items()]

    sizes = {name: site.event_shape for name, site in sites_of(guide.conditional(batch(), observed)).items()}
    z = {name: torch.randn(4, *size) for name, size in sizes.items()}
    graph = trace(conditional, batch(), observed, z)
    for seed in (0, 1):
        torch.testing.assert_close(graph(batch(seed), observed, z), conditional(batch(seed), observed, z))


@pytest.mark.parametrize("observed", (None, OBSERVED))
@pytest.mark.parametrize("kind", SAMPLERS)
def test_guides_that_sample_for_missing_modalities(kind, observed):
    guide = SAMPLERS[kind]()
    # Pyro makes two constants for each plate
    trace(lambda x, observed: guide(x, observed)["z"], batch(), observed, constants=True)
    trace(lambda x: guide.proposal(x).log_prob(torch.zeros(4, 2)), {"a": batch()["a"]}, constants=True)


def test_a_flow_prior():
    prior = FlowPrior(3)
    prior.activate()
    graph = trace(lambda z: (prior().log_prob(z), prior().rsample()), torch.randn(4, 3))
    z = torch.randn(4, 3)
    torch.testing.assert_close(graph(z)[0], prior().log_prob(z))


def test_a_joint_encoder():
    encoder = JointEncoder(branches(), 2)
    graph = trace(lambda x: encoder(x).mean, batch())
    torch.testing.assert_close(graph(batch(1)), encoder(batch(1)).mean)
