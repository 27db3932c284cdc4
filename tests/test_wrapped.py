"""What combinators find inside a program: its modules, its conditional, its subsets, the rows that count."""

import functools
from types import SimpleNamespace

import pytest
import torch
from pyro import poutine
from small_programs import ROWS, batch, programs
from torch import nn

from multipyro.guides import JointGuide, MixtureOfExperts, MixtureOfProducts, NormalEncoder, StratifiedMixture
from multipyro.inference import (
    cross_generate,
    embed,
    frozen,
    restrict,
)
from multipyro.inference._program_modules import modules_of
from multipyro.inference.evaluation import supports
from multipyro.inference.handlers import conditional, where_proper
from multipyro.ppl_models import MLP, OneHotMLP


class Holder:
    """An object of a user's that is called as a program."""

    def __init__(self, net):
        self.parts = {"encoder": [net]}

    def __call__(self, x, observed=None):
        return self.parts["encoder"][0](x)


LISTED, HELPED, BOUND, CALLED, NESTED = (nn.Linear(2, 2) for _ in range(5))
NETS = {"a": [LISTED]}


def helper(x):
    return HELPED(x)


def listed(x, observed=None):
    return NETS["a"][0](x)


def helped(x, observed=None):
    return helper(x)


def nested(x, observed=None):
    return [(lambda v: NESTED(v))(value) for value in (x,)]


def with_default(x, observed=None, net=BOUND):
    return net(x)


@pytest.mark.parametrize(
    "program, module",
    [
        (listed, LISTED),
        (helped, HELPED),
        (nested, NESTED),
        (with_default, BOUND),
        (Holder(CALLED), CALLED),
        (functools.partial(listed, observed=None), LISTED),
        (functools.partial(lambda net, x: net(x), CALLED), CALLED),
    ],
)
def test_a_frozen_plain_function_trains_none_of_its_modules_wherever_it_keeps_them(program, module):
    assert modules_of(program) == (module,)
    assert not torch.as_tensor(frozen(program)(torch.ones(1, 2))[0]).requires_grad
    assert all(p.requires_grad for p in module.parameters())


def test_what_is_around_a_guide_hides_neither_its_conditional_nor_its_subsets():
    model, _ = programs()
    experts = {"image": NormalEncoder(MLP(4, 6, (8,)), 2), "label": NormalEncoder(OneHotMLP(3, 6, (8,)), 2)}
    guide, x = MixtureOfProducts(2, experts), batch()
    for wrapped in (frozen(guide), restrict(guide, ["image", "label"]), frozen(restrict(guide, ["image", "label"]))):
        assert torch.equal(embed(wrapped, x), embed(guide, x))
        assert not isinstance(poutine.trace(conditional(wrapped)).get_trace(x).nodes["z"]["fn"], StratifiedMixture)
        torch.manual_seed(0)
        found = cross_generate(frozen(model), wrapped, {"image": x["image"]}, ["label"])
        torch.manual_seed(0)
        assert torch.equal(found["label"], cross_generate(model, guide, {"image": x["image"]}, ["label"])["label"])
    assert supports(guide, ["label"]) and not supports(restrict(guide, ["image"]), ["label"])
    joint = JointGuide(2, {"image": MLP(4, 6), "label": OneHotMLP(3, 6)})
    assert supports(frozen(joint), ["image", "label"]) and not supports(frozen(joint), ["image"])
    with pytest.raises(ValueError, match="cannot generate them|unknown modality"):
        cross_generate(frozen(model), guide, {"image": x["image"]}, ["sound"])


def test_proper_parts_count_in_rows_that_hold_all_of_them_and_more():
    model, _ = programs()
    x = batch()
    image, label = torch.tensor([1, 1, 0, 0, 1]).bool(), torch.tensor([1, 0, 1, 0, 1]).bool()
    part = where_proper(restrict(model, ["image"]), ["image"])
    trace = poutine.trace(part).get_trace(x, {"image": image, "label": label})
    trace.compute_log_prob()
    counted = [bool(value) for value in trace.nodes["image"]["log_prob"] != 0]
    assert counted == [True, False, False, False, True]
    alone = poutine.trace(part).get_trace(x)
    alone.compute_log_prob()
    assert (alone.nodes["image"]["log_prob"] != 0).all()


class Keeper:
    """A user's object whose method is the program."""

    shared = nn.Linear(2, 2)

    def __init__(self):
        self.own = nn.Linear(2, 2)

    def program(self, x, observed=None):
        return self.inner(x)

    def inner(self, x):
        return HELPED(self.own(self.shared(x)))


def test_a_bound_method_freezes_what_its_object_and_class_hold():
    keeper = Keeper()
    assert set(modules_of(keeper.program)) == {keeper.own, Keeper.shared, HELPED}
    assert not frozen(keeper.program)(torch.ones(1, 2)).requires_grad
    held = SimpleNamespace(parts=SimpleNamespace(net=CALLED))
    assert modules_of(lambda x: held.parts.net(x)) == (CALLED,)


def test_a_restricted_guide_is_told_nothing_by_what_it_does_not_see():
    experts = {"image": NormalEncoder(MLP(4, 6, (8,)), 2), "label": NormalEncoder(OneHotMLP(3, 6, (8,)), 2)}
    guide, x = MixtureOfExperts(2, experts), batch()
    observed = {"image": torch.tensor([1, 0, 1, 0, 1]).bool(), "label": torch.ones(ROWS, dtype=torch.bool)}
    found = embed(restrict(guide, ["image"]), x, observed=observed)
    assert torch.equal(found, embed(guide, x, ["image"], observed))
    assert (found[[1, 3]] == 0).all() and (found[[0, 2, 4]] != 0).all()


def test_a_program_made_conditional_can_be_made_so_again():
    _, guide = programs()
    x = batch()
    assert torch.equal(embed(conditional(conditional(guide)), x), embed(guide, x))


def test_proper_parts_ignore_modalities_that_a_batch_does_not_hold():
    model, _ = programs()
    x, observed = {"label": batch()["label"]}, {"label": torch.tensor([1, 0, 1, 0, 1]).bool()}
    assert set(where_proper(restrict(model, ["image", "label"]), ["image", "label"])(x, observed)) == {"z", "label"}
