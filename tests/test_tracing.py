"""Forward passes are fixed graphs without validation: nothing reads a value or builds a tensor from a list."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from multipyro.ppl_models import (
    ConditionalModel,
    HierarchicalModel,
    LaplacePrior,
    MultimodalModel,
    NormalLikelihood,
    PoissonLikelihood,
)
from multipyro.ppl_models import likelihoods as lk
from multipyro.ppl_models import networks as nets
from multipyro.ppl_models.networks.heads import NormalEncoder

IMAGE, TEXT = (3, 16, 16), (8,)
NETWORKS = {
    "MLP": (lambda: nets.MLP(4, (2, 3), (8,)), (4,)),
    "OneHotMLP": (lambda: nets.OneHotMLP(7, 5, (8,), 8), TEXT),
    "MLP with batch norm": (lambda: nets.MLP(4, (2, 3), (8,), nn.LeakyReLU, True, True), (4,)),
    "BatchNormMLP": (lambda: nets.BatchNormMLP(4, 5), (4,)),
    "ResidualMLP": (lambda: nets.ResidualMLP(4, 5, 6, 2), (4,)),
    "TransformedInput": (lambda: nets.TransformedInput(8, lambda s: nets.MLP(s, 5, (8,)), "log1p", True), TEXT),
    "ConvEncoder": (lambda: nets.ConvEncoder(IMAGE, 5, (2, 3)), IMAGE),
    "ConvDecoder": (lambda: nets.ConvDecoder(4, IMAGE, (3, 2)), (4,)),
    "BatchNormConvEncoder": (lambda: nets.BatchNormConvEncoder(IMAGE, 2), IMAGE),
    "BatchNormConvDecoder": (lambda: nets.BatchNormConvDecoder(4, IMAGE, 2), (4,)),
    "InstanceNormConvEncoder": (lambda: nets.InstanceNormConvEncoder(IMAGE, 5, 2), IMAGE),
    "InstanceNormConvDecoder": (lambda: nets.InstanceNormConvDecoder(4, IMAGE, 2), (4,)),
    "ResidualConvEncoder": (lambda: nets.ResidualConvEncoder((3, 64, 64), 2), (3, 64, 64)),
    "ResidualConvDecoder": (lambda: nets.ResidualConvDecoder(4, (3, 64, 64), 2), (4,)),
    "ResidualTextEncoder": (lambda: nets.ResidualTextEncoder(7, base_channels=2), (256,)),
    "ResidualTextDecoder": (lambda: nets.ResidualTextDecoder(4, 7, base_channels=2), (4,)),
    "CharacterEncoder": (lambda: nets.CharacterEncoder(7, 8, 6), TEXT),
    "CharacterDecoder": (lambda: nets.CharacterDecoder(4, 7, 8, 6), (4,)),
    "SentenceEncoder": (lambda: nets.SentenceEncoder(7, 8, 32), TEXT),
    "SentenceDecoder": (lambda: nets.SentenceDecoder(4, 7, 8, 32), (4,)),
    "GRUTextEncoder": (lambda: nets.GRUTextEncoder(7, 8, 5, 4), TEXT),
    "Discriminator": (lambda: nets.Discriminator(nets.MLP(4, 5, (8,))), (4,)),
}

LINEAR, PAIRS = lambda: nn.Linear(2, 5), lambda: nets.MLP(2, (5, 2), (8,))
LIKELIHOODS = {
    "AutoregressiveTextLikelihood": lambda: lk.AutoregressiveTextLikelihood(LINEAR(), 3, 4, 4, 6, token_dropout=0.5),
    "BernoulliLikelihood": lambda: lk.BernoulliLikelihood(LINEAR()),
    "BetaLikelihood": lambda: lk.BetaLikelihood(LINEAR()),
    "CategoricalLikelihood": lambda: lk.CategoricalLikelihood(PAIRS()),
    "ContinuousBernoulliLikelihood": lambda: lk.ContinuousBernoulliLikelihood(LINEAR()),
    "DirichletLikelihood": lambda: lk.DirichletLikelihood(LINEAR()),
    "DiscretizedLogisticLikelihood": lambda: lk.DiscretizedLogisticLikelihood(LINEAR()),
    "GammaLikelihood": lambda: lk.GammaLikelihood(LINEAR()),
    "LaplaceLikelihood": lambda: lk.LaplaceLikelihood(LINEAR()),
    "LogNormalLikelihood": lambda: lk.LogNormalLikelihood(LINEAR()),
    "NegativeBinomialLikelihood": lambda: lk.NegativeBinomialLikelihood(LINEAR()),
    "NormalLikelihood": lambda: lk.NormalLikelihood(LINEAR()),
    "OrdinalLikelihood": lambda: lk.OrdinalLikelihood(LINEAR(), 4),
    "PoissonLikelihood": lambda: lk.PoissonLikelihood(LINEAR()),
    "StudentTLikelihood": lambda: lk.StudentTLikelihood(LINEAR()),
    "VonMisesLikelihood": lambda: lk.VonMisesLikelihood(PAIRS()),
    "ZeroInflatedNegativeBinomialLikelihood": lambda: lk.ZeroInflatedNegativeBinomialLikelihood(PAIRS()),
    "ZeroInflatedPoissonLikelihood": lambda: lk.ZeroInflatedPoissonLikelihood(PAIRS()),
}
# its samples come from a rejection sampler, which loops until the last one is accepted
REJECTION_SAMPLED = ["VonMisesLikelihood"]
# torch makes a constant for the chi-squared distribution inside
CONSTANTS = ["StudentTLikelihood"]


class ConditionalPrior(nn.Module):
    """A prior that depends on its condition."""

    def forward(self, condition):
        loc = condition[:, :2]
        return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def normal(size, latent_dim=2):
    return NormalLikelihood(nets.MLP(latent_dim, size, (8,)), learn_scale=True)


MODELS = {
    "multimodal": lambda: MultimodalModel(2, {"a": normal(3), "b": normal(4)}, LaplacePrior(2)),
    "private": lambda: MultimodalModel(2, {"a": normal(3, 4), "b": normal(4)}, private={"a": 2}),
    "counts": lambda: MultimodalModel(2, {"a": PoissonLikelihood(nets.MLP(2, 3, (8,))), "b": normal(4)}),
    "missing entries": lambda: MultimodalModel(
        2, {"a": NormalLikelihood(nets.MLP(2, 3, (8,)), missing_entries=True), "b": normal(4)}
    ),
    "conditional": lambda: ConditionalModel(2, {"a": normal(3, 6)}, ["b"], features={"b": nn.Identity()}),
    "conditional prior": lambda: ConditionalModel(2, {"a": normal(3)}, ["b"], ConditionalPrior()),
    "hierarchical": lambda: HierarchicalModel(
        (2, 3), {"a": normal(3), "b": normal(4)}, [NormalEncoder(nets.MLP(3, 4, (8,)), 2)]
    ),
}


def trace(function, *inputs, constants=False):
    """Traces a function without validation: reading a value is an error, and so is a tensor made of Python numbers."""
    with pyro.validation_enabled(False):
        graph = make_fx(function)(*inputs)
    assert constants or not any("lift_fresh" in str(node.target) for node in graph.graph.nodes)
    return graph


def values_of(shape, batch):
    integers = shape == TEXT or shape == (256,)
    return torch.randint(7, (batch, *shape)) if integers else torch.rand(batch, *shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    make, shape = NETWORKS[name]
    network = make()
    values, others = values_of(shape, 3), values_of(shape, 3)
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules()):
        trace(network, values)
    graph = trace(network.eval(), values)
    torch.testing.assert_close(graph(others), network(others))


def test_every_network_is_traced():
    networks = {name for name in nets.__all__ if hasattr(getattr(nets, name), "forward")}
    assert {name.partition(" with ")[0] for name in NETWORKS} == networks - {*HEADS, *TAKE_DICTS}


TAKE_DICTS = ("Covariates", "WithCovariates")
HEADS = ("ConditionalFlow", "JointEncoder", "LaplaceEncoder", "NormalEncoder", "RealNVP")


@pytest.mark.parametrize("missing", (False, True))
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods(name, missing):
    likelihood = LIKELIHOODS[name]()
    likelihood.missing_entries = missing
    latents = torch.randn(3, 2)
    values = likelihood(latents).sample()
    constants = name in CONSTANTS

    def gradient(z, x):
        return torch.autograd.grad(likelihood(z).log_prob(x).sum(), likelihood.parameters())

    trace(gradient, latents, values, constants=constants)
    if missing:
        return
    if name not in REJECTION_SAMPLED:
        trace(lambda z: likelihood(z).sample(), latents, constants=constants)
    graph, others = trace(lambda z: likelihood.eval()(z).log_prob(values), latents, constants=constants), 2 * latents
    torch.testing.assert_close(graph(others), likelihood(others).log_prob(values))


def test_every_likelihood_is_traced():
    classes = {name: getattr(lk, name) for name in lk.__all__ if name.endswith("Likelihood")}
    bases = {base for kind in classes.values() for base in kind.__mro__[1:]}
    assert set(LIKELIHOODS) == {name for name, kind in classes.items() if kind not in bases}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    model = MODELS[name]()
    x = {"a": torch.arange(12.0).reshape(4, 3), "b": torch.randn(4, 4)}
    if name == "counts":
        x["a.exposure"] = torch.tensor([1.0, 2.0, 0.5, 3.0])
    observed = {"a": torch.tensor([True, False, True, True])}

    def log_density(x, observed):
        sites = poutine.trace(model).get_trace(x, observed)
        total = sites.log_prob_sum()
        return total, *torch.autograd.grad(total, list(model.parameters()))

    # Pyro makes two constants for each plate
    trace(log_density, x, observed, constants=True)
    x.pop("a")
    trace(lambda x: model({**x, "a": None})["a"], x, constants=True)
