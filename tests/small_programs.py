"""A small model and guide, and what their state is, for the tests of combinators."""

import torch
from torch import nn

from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood, OneHotMLP

ROWS = 5


def batch():
    return {"image": torch.randn(ROWS, 4), "label": torch.randint(3, (ROWS,))}


def programs(normalized=False):
    network = MLP(4, 6, (8,))
    if normalized:
        network = nn.Sequential(network, nn.BatchNorm1d(6))
        network.out_features = 6
    model = MultimodalModel(
        2,
        {"image": NormalLikelihood(MLP(2, 4, (8,)), learn_scale=True), "label": CategoricalLikelihood(MLP(2, 3, (8,)))},
    )
    guide = ProductOfExperts(2, {"image": NormalEncoder(network, 2), "label": NormalEncoder(OneHotMLP(3, 6, (8,)), 2)})
    return model, guide


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module, before):
    after = module.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def seeded(loss, *args):
    torch.manual_seed(0)
    return loss.differentiable_loss(*args)
