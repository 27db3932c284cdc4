"""Batch norms normalize over observed rows only, and in a joint guide over the rows of each encoder."""

import copy
import math

import pytest
import torch
from missing_rows import (
    FILLS,
    LOSSES,
    ROWS,
    batch,
    filled,
    guide,
    model,
    value_and_gradients,
)
from torch import nn

from multipyro.inference.objectives import GUIDE, MODEL, elbo


@pytest.mark.parametrize("family", ("product", "mixture", "laplace mixture", "mixture of products"))
@pytest.mark.parametrize("fill", (0.0, float("nan"), 1e30))
def test_batch_norm_normalizes_over_observed_rows_only(family, fill):
    rows = torch.tensor([True, False, True, True, False, True])
    x = filled(batch(), "image", rows, fill)
    g, twin = guide(family, normalized=True), guide(family, normalized=True)
    g.train(), twin.train()
    result = g.experts(x, {"image": rows})["image"]
    expected = twin.encoders["image"](batch()["image"][rows])
    torch.testing.assert_close(result.mean[rows], expected.mean)
    torch.testing.assert_close(result.variance[rows], expected.variance)
    assert torch.isfinite(result.mean).all() and torch.isfinite(result.variance).all()
    norms = [
        next(part for part in made.encoders["image"].modules() if isinstance(part, nn.BatchNorm1d))
        for made in (g, twin)
    ]
    torch.testing.assert_close(norms[0].running_mean, norms[1].running_mean)
    torch.testing.assert_close(norms[0].running_var, norms[1].running_var)


@pytest.mark.parametrize("family", ("product", "mixture", "mixture of products"))
def test_with_batch_norm_no_fill_value_affects_a_loss(family):
    observed = {
        "image": torch.tensor([True, False, True, True, False, True]),
        "word": torch.tensor([False, True, True, True, False, True]),
    }
    results = []
    for fill in FILLS:
        x = batch()
        for name, rows in observed.items():
            x = filled(x, name, rows, fill)
        results.append(value_and_gradients(LOSSES["elbo"](), (model(), guide(family, normalized=True)), x, observed))
    for value, gradients in results[1:]:
        assert value == results[0][0]
        assert all(torch.equal(gradients[name], results[0][1][name]) for name in gradients)


@pytest.mark.parametrize("family", ("product", "mixture", "mixture of products", "joint", "bridged"))
@pytest.mark.parametrize("number", (0, 1))
def test_batch_norm_with_no_row_observed_or_one(family, number):
    """Fewer than two rows have no statistics: the running ones are used, and do not change."""
    rows = torch.arange(ROWS) < number
    m, g = model(), guide(family, normalized=True)
    for _ in range(3):
        g.posterior(batch())
    norms = [part for part in g.modules() if isinstance(part, nn.BatchNorm1d)]
    before = [copy.deepcopy(norm.state_dict()) for norm in norms]
    x = filled(batch(), "image", rows, float("nan"))
    observed = {"image": rows, "label": rows, "word": rows}
    posterior = g.posterior(x, observed)
    assert all(part.training for part in g.modules())
    for norm, state in zip(norms, before, strict=True):
        assert all(torch.equal(norm.state_dict()[name], value) for name, value in state.items())
    if number:
        torch.testing.assert_close(posterior.mean[0], g.eval().posterior(batch()).mean[0])
        g.train()
    value, gradients = value_and_gradients(LOSSES["elbo"](), (m, g), x, observed)
    assert math.isfinite(value) and all(torch.isfinite(v).all() for v in gradients.values())
    assert number or all((gradient == 0).all() for gradient in gradients.values())


@pytest.mark.parametrize("fill", FILLS)
def test_batch_norms_of_a_joint_guide_normalize_over_rows_that_contain_their_inputs(fill):
    rows = torch.tensor([True, False, True, True, False, True])
    g, twin = guide("joint", normalized=True), guide("joint", normalized=True)
    x, complete = filled(batch(), "image", rows, fill), {name: values[rows] for name, values in batch().items()}
    result, expected = g.posterior(x, {"image": rows}), twin.posterior(complete)
    torch.testing.assert_close(result.mean[rows], expected.mean)
    twin.posterior({name: values for name, values in batch().items() if name != "image"})
    norms = [[part for part in made.modules() if isinstance(part, nn.BatchNorm1d)] for made in (g, twin)]
    joint = [part for part in g.joint.modules() if isinstance(part, nn.BatchNorm1d)]
    for norm, other in zip(*norms, strict=True):
        if norm in joint:
            torch.testing.assert_close(norm.running_mean, other.running_mean)
        assert torch.isfinite(norm.running_mean).all()


def test_an_encoder_of_a_joint_guide_runs_once_per_step_with_missing_rows_too():
    m, g, x = model(), guide("joint"), batch()
    calls = []
    for name, network in g.networks.items():
        network.register_forward_hook(lambda *_, name=name: calls.append(name))
    g.joint.register_forward_hook(lambda *_: calls.append("joint"))
    parts = [("image",), ("label",), ("word",), ("image", "label")]
    loss = elbo(MODEL, GUIDE) + sum(elbo(GUIDE | part, GUIDE) for part in parts)
    loss.loss_and_grads(m, g, x, {"image": torch.arange(ROWS) > 2})
    assert len(calls) == len(set(calls)) and {"joint", "image", "label", "word", "image+label"} <= set(calls)
