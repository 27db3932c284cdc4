"""A small data set and small programs that train in milliseconds, for the tests of training."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

from multipyro.data import Modality, MultimodalData
from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.inference.recipes import Networks
from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood, OneHotMLP

MODALITIES = {
    "signal": Modality("signal", (4,), "vector", "normal"),
    "label": Modality("label", (), "label", "categorical", 3),
}


def toy_data(rows=40, seed=0, split="train", observed=None):
    """Rows whose signal depends on their label."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (rows,), generator=generator)
    signal = label[:, None] - 1.0 + 0.3 * torch.randn(rows, 4, generator=generator)
    return MultimodalData("toy", MODALITIES, {"signal": signal, "label": label}, observed, label, split)


def toy_programs(seed=0):
    """A model and a guide, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MultimodalModel(
            2, {"signal": NormalLikelihood(MLP(2, 4, (8,))), "label": CategoricalLikelihood(MLP(2, 3, (8,)))}
        )
        encoders = {
            "signal": NormalEncoder(MLP(4, 8, (8,)), 2),
            "label": NormalEncoder(OneHotMLP(3, 8, (8,)), 2),
        }
        return model, ProductOfExperts(2, encoders)


def toy_networks():
    """What a recipe for the toy data is built from."""
    return Networks(MODALITIES, (8,))


def parameters(*programs):
    """All parameters and buffers of some programs, copied, by name."""
    return {
        f"{number}.{name}": value.clone()
        for number, program in enumerate(programs)
        for name, value in program.state_dict().items()
    }


def assert_same(left, right, atol=0.0):
    """Two dicts of tensors are the same, bit for bit unless `atol` says otherwise."""
    assert left.keys() == right.keys()
    for name in left:
        if atol:
            torch.testing.assert_close(left[name], right[name], atol=atol, rtol=0.0)
        else:
            assert torch.equal(left[name], right[name]), name


NET = nn.Linear(4, 2)


def encode(x, observed=None):
    """A guide as a plain function, with a parameter, a constrained one, and a module."""
    net = pyro.module("net", NET)
    loc = pyro.param("loc", torch.zeros(2))
    scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
    with pyro.plate("data", len(x["label"]), dim=-1):
        pyro.sample("z", dist.Normal(net(x["signal"]) + loc, scale).to_event(1))


class Killed(BaseException):
    """Stands for the end of the process."""


class KillAt:
    """A callback that ends the run after the first step of an epoch, or after so many steps of all stages."""

    def __init__(self, epoch=None, steps=None):
        self.epoch, self.left = epoch, steps

    def on_step_end(self, state):
        if self.left is not None:
            self.left -= 1
        if self.left == 0 or state.epoch == self.epoch:
            raise Killed


def without_time(history):
    """A history without what differs from run to run."""
    return [{name: v for name, v in row.items() if name not in ("examples_per_second", "seconds")} for row in history]


def optimizer_states(checkpoint):
    """The states of all parameters in the optimizers of a checkpoint, in order."""
    optimizers = [optimizer for update in checkpoint["updates"] for optimizer in update["optimizers"].values()]
    return [state for optimizer in optimizers for state in optimizer["optimizer"]["state"].values()]
