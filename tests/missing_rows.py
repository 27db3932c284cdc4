"""A batch of three modalities, and programs, objectives and fill values for the tests of missing rows."""

import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from multipyro.guides import (
    BridgedGuide,
    JointEncoder,
    JointGuide,
    LaplaceEncoder,
    MixtureOfExperts,
    MixtureOfProducts,
    NormalEncoder,
    ProductOfExperts,
    StratifiedMixture,
)
from multipyro.inference.objectives import GUIDE, MODEL, StratifiedELBO, elbo, subset_elbo
from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood, OneHotMLP

ROWS, SIZE, CLASSES, LENGTH = 6, 4, 5, 3
FILLS = (0.0, 1e30, float("nan"), -float("inf"))


def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(ROWS, SIZE, generator=generator),
        "label": torch.randint(CLASSES, (ROWS,), generator=generator),
        "word": torch.randint(CLASSES, (ROWS, LENGTH), generator=generator),
    }


def model(prior=None, likelihoods=("image", "label", "word")):
    torch.manual_seed(1)
    made = {
        "image": NormalLikelihood(MLP(2, SIZE, (8,))),
        "label": CategoricalLikelihood(MLP(2, CLASSES, (8,))),
        "word": CategoricalLikelihood(MLP(2, (LENGTH, CLASSES), (8,))),
    }
    return MultimodalModel(2, {name: made[name] for name in likelihoods}, prior)


class Normalized(nn.Module):
    """A feature network with batch norm."""

    def __init__(self, network):
        super().__init__()
        self.network, self.norm = network, nn.BatchNorm1d(network.out_features)
        self.out_features = network.out_features

    def forward(self, values):
        return self.norm(self.network(values))


def networks(normalized=False):
    made = {
        "image": MLP(SIZE, 6, (8,)),
        "label": OneHotMLP(CLASSES, 6, (8,)),
        "word": OneHotMLP(CLASSES, 6, (8,), LENGTH),
    }
    return {name: Normalized(network) if normalized else network for name, network in made.items()}


def guide(family, normalized=False):
    torch.manual_seed(2)
    encoders = {name: NormalEncoder(net, 2) for name, net in networks(normalized).items()}
    if family == "product":
        return ProductOfExperts(2, encoders)
    if family == "product without prior":
        return ProductOfExperts(2, encoders, prior_expert=False)
    if family == "mixture":
        return MixtureOfExperts(2, encoders)
    if family == "laplace mixture":
        return MixtureOfExperts(2, {name: LaplaceEncoder(net, 2) for name, net in networks(normalized).items()})
    if family == "mixture of products":
        return MixtureOfProducts(2, encoders)
    if family == "bridged":
        return BridgedGuide(2, networks(normalized), (8,))
    subsets = [("image", "label"), ("image", "word"), ("label", "word")]
    joint = {pair: JointEncoder({m: networks()[m] for m in pair}, 2) for pair in subsets}
    return JointGuide(2, networks(), encoders={**{(m,): encoder for m, encoder in encoders.items()}, **joint})


FAMILIES = ("product", "product without prior", "mixture", "laplace mixture", "mixture of products", "joint")
MIXTURES = ("mixture", "laplace mixture", "mixture of products")

LOSSES = {
    "elbo": lambda: elbo(MODEL, GUIDE),
    "sampled": lambda: elbo(MODEL, GUIDE, num_particles=3, kl="sampled"),
    "components": lambda: elbo(MODEL, GUIDE, {"z": 0.5}, kl="components"),
    "subsets": lambda: subset_elbo(),
    "stratified": lambda: StratifiedELBO(3),
    "tight": lambda: StratifiedELBO(3, bound="tight"),
    "dreg": lambda: StratifiedELBO(3, "dreg"),
    "tight stl": lambda: StratifiedELBO(3, "stl", "tight"),
    "pyro": Trace_ELBO,
    "pyro mean field": TraceMeanField_ELBO,
    "pyro renyi": lambda: RenyiELBO(num_particles=2),
}

# Pyro's own RenyiELBO is not for mixtures (design, section 5)
CASES = [(f, loss) for f in FAMILIES for loss in LOSSES if loss != "pyro renyi" or f not in MIXTURES]


def filled(x, name, rows, value):
    """`x` with `value` in the missing rows of a modality; class ids out of range for integers."""
    values = x[name].clone()
    if values.dtype == torch.int64:
        value = {0.0: 0, 1e30: 10**9}.get(value, -7)
    values[~rows] = value
    return {**x, name: values}


def value_and_gradients(loss, programs, x, observed):
    m, g = programs
    for program in programs:
        program.zero_grad()
    torch.manual_seed(0)
    value = loss.loss_and_grads(m, g, x, observed)
    named = [*m.named_parameters(prefix="model"), *g.named_parameters(prefix="guide")]
    return value, {name: p.grad.clone() for name, p in named if p.grad is not None}


def parameters_of(posterior):
    """The tensors that make a distribution, in one order."""
    if isinstance(posterior, StratifiedMixture):
        return [posterior.weights, *[p for part in posterior.components for p in parameters_of(part)]]
    return [posterior.mean, posterior.variance]


def held(distribution, row):
    """Weights and parameters of the components a row really has."""
    if not isinstance(distribution, StratifiedMixture):
        return [(None, distribution.mean[row], distribution.variance[row])]
    return [
        (distribution.weights[row, j], part.mean[row], part.variance[row])
        for j, part in enumerate(distribution.components)
        if distribution.weights[row, j] > 0
    ]
