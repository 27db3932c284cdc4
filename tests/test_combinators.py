"""`restrict`, `frozen`, `generative`: what a combined program sees, what trains, what stays."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from small_programs import ROWS, batch, programs, seeded, state_of, unchanged
from torch import nn

from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.inference import frozen, generative, restrict
from multipyro.inference.objectives import GUIDE, MODEL, SINGLES, SUBSET, StratifiedELBO, elbo, subset_elbo, sum_over
from multipyro.ppl_models import MLP, LaplacePrior, MultimodalModel, NormalLikelihood
from multipyro.testing import LinearGaussian

# restrict


def test_restrict_sees_and_scores_only_its_modalities():
    model, guide = programs()
    x = batch()
    trace = poutine.trace(restrict(model, ["label"])).get_trace(x)
    assert set(trace.observation_nodes) == {"label"} and "image" not in trace.nodes
    other = {**x, "image": torch.full_like(x["image"], float("nan"))}
    mask = {"image": torch.zeros(ROWS, dtype=torch.bool), "label": torch.ones(ROWS, dtype=torch.bool)}
    torch.manual_seed(0)
    expected = guide({"label": x["label"]})["z"]
    for given, observed in ((x, None), (other, None), (other, mask)):
        torch.manual_seed(0)
        assert torch.equal(restrict(guide, "label")(given, observed)["z"], expected)
    assert restrict(model, ["label"])(batch()).keys() == {"z", "label"}


def test_restrict_nests_and_takes_plain_functions():
    seen = []

    def program(x, observed=None):
        seen.append((set(x), None if observed is None else set(observed)))

    rows = torch.ones(2, dtype=torch.bool)
    x = dict.fromkeys("abc", torch.zeros(2))
    restrict(restrict(program, ["a", "b"]), ["b", "c"])(x, dict.fromkeys("abc", rows))
    restrict(program, ["c"])({"a": torch.zeros(2)})
    assert seen == [({"b"}, {"b"}), (set(), None)]


def test_restrict_keeps_the_parameters_names_and_trains_them():
    model, guide = programs()
    svi = SVI(restrict(model, ["label"]), restrict(guide, ["label"]), Adam({"lr": 0.1}), Trace_ELBO())
    before_model, before_guide = state_of(model), state_of(guide)
    svi.step(batch())
    changed = [name for name, value in before_model.items() if not torch.equal(value, model.state_dict()[name])]
    changed += [name for name, value in before_guide.items() if not torch.equal(value, guide.state_dict()[name])]
    assert changed and all("label" in name for name in changed)


# frozen


@pytest.mark.parametrize(
    "loss", (Trace_ELBO(), elbo(MODEL, GUIDE), StratifiedELBO(3), StratifiedELBO(3, "dreg"), subset_elbo())
)
def test_frozen_is_bit_for_bit_the_same_afterwards(loss):
    x = batch()
    for which in ("model", "guide"):
        model, guide = programs(normalized=True)
        held, moving = (model, guide) if which == "model" else (guide, model)
        before, modes = state_of(held), [part.training for part in held.modules()]
        leaves = {name: parameter for name, parameter in held.named_parameters()}
        ends = (frozen(model), guide) if which == "model" else (model, frozen(guide))
        moved = state_of(moving)
        svi = SVI(*ends, Adam({"lr": 0.1}), loss)
        for _ in range(3):
            svi.step(x)
        assert unchanged(held, before) and not unchanged(moving, moved)
        assert [part.training for part in held.modules()] == modes
        assert all(parameter is leaves[name] for name, parameter in held.named_parameters())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in held.parameters())
    svi = SVI(model, guide, Adam({"lr": 0.1}), loss)
    before = state_of(model), state_of(guide)
    svi.step(x)
    assert not unchanged(model, before[0]) and not unchanged(guide, before[1])  # thawed


def test_the_gradient_passes_through_a_frozen_model_to_the_guide():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(4), problem.model(), problem.product_guide(0.3)
    wanted = torch.autograd.grad(seeded(elbo(MODEL, GUIDE), model, guide, x), list(guide.parameters()))
    loss = seeded(elbo(MODEL, GUIDE), frozen(model), guide, x)
    found = torch.autograd.grad(loss, list(guide.parameters()), retain_graph=True)
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right)
    missing = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in missing)


def test_the_gradient_passes_through_a_frozen_guide_on_the_models_side():
    """The teacher scores the student's draws: the student learns, the teacher stays."""
    _, teacher = programs()
    _, student = programs()
    x = batch()
    loss = elbo(frozen(teacher), student).differentiable_loss(None, None, x)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in student.parameters())


def test_named_submodules_of_a_frozen_program_train():
    model, guide = programs(normalized=True)
    kept = guide.encoders["label"]
    before = state_of(guide)
    svi = SVI(frozen(model), frozen(guide, train=[kept]), Adam({"lr": 0.1}), elbo(MODEL, GUIDE))
    for _ in range(2):
        svi.step(batch())
    changed = {name for name, value in before.items() if not torch.equal(value, guide.state_dict()[name])}
    assert changed == {f"encoders.label.{name}" for name, _ in kept.named_parameters()}


def test_a_kept_submodule_stays_in_its_own_mode():
    _, guide = programs(normalized=True)
    guide.train()
    modes = {}
    for name, part in guide.named_modules():
        part.register_forward_pre_hook(lambda module, _, name=name: modes.__setitem__(name, module.training))
    frozen(guide, train=[guide.encoders["label"]])(batch())
    assert modes["encoders.label.network"] and not modes["encoders.image.network"]


def test_frozen_nests():
    model, guide = programs()
    before, x = state_of(guide), batch()
    inner = frozen(restrict(frozen(guide), ["image"]))
    loss = elbo(MODEL, GUIDE).differentiable_loss(model, inner, x)
    loss.backward()
    assert unchanged(guide, before) and all(parameter.grad is None for parameter in guide.parameters())
    outer = frozen(frozen(guide, train=[guide.encoders["image"]]))
    elbo(MODEL, GUIDE).differentiable_loss(model, outer, x).backward()
    assert all(parameter.grad is None for parameter in guide.parameters())  # the outer one freezes all
    assert all(parameter.requires_grad for parameter in guide.parameters())


def test_a_model_frozen_and_free_in_one_objective():
    """TELBO's second part: the decoders learn from the joint term alone."""
    model, guide = programs()
    x = batch()
    alone = seeded(elbo(MODEL, GUIDE), model, guide, x)
    wanted = torch.autograd.grad(alone, list(model.parameters()))
    terms = elbo(MODEL, GUIDE) + sum_over(SINGLES, elbo(frozen(MODEL) | SUBSET, GUIDE | SUBSET))
    found = torch.autograd.grad(seeded(terms, model, guide, x), list(model.parameters()))
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right)


def test_raw_learned_parameters_of_distributions_get_no_gradient():
    """A leaf handed to a distribution as it is: the prior's logits, a learned log-scale, a raw location."""

    class RawPrior(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc, self.scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))

        def forward(self):
            return dist.Normal(self.loc, self.scale).to_event(1)

    for prior in (RawPrior(), LaplacePrior(2)):
        model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4, (8,)), learn_scale=True)}, prior)
        guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 6, (8,)), 2)})
        for loss in (elbo(MODEL, GUIDE), StratifiedELBO(2, "dreg"), Trace_ELBO()):
            loss.loss_and_grads(frozen(model), guide, {"image": torch.randn(ROWS, 4)})
            assert all(parameter.grad is None for parameter in model.parameters())


def test_a_recurrent_network_freezes_and_thaws():
    class Recurrent(nn.Module):
        out_features = 6

        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(1, 6, batch_first=True)

        def forward(self, values):
            return self.gru(values.unsqueeze(-1))[1][0]

    model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4, (8,)))})
    guide = ProductOfExperts(2, {"image": NormalEncoder(Recurrent(), 2)})
    before, x = state_of(guide), {"image": torch.randn(ROWS, 4, requires_grad=True)}
    elbo(MODEL, GUIDE).differentiable_loss(model, frozen(guide), x).backward()
    assert unchanged(guide, before) and all(parameter.grad is None for parameter in guide.parameters())
    assert x["image"].grad.abs().sum() > 0
    elbo(MODEL, GUIDE).differentiable_loss(model, guide, x).backward()
    assert all(parameter.grad is not None for parameter in guide.parameters())
    gru = guide.encoders["image"].network.gru
    assert all(weight is parameter for weight, parameter in zip(gru._flat_weights, gru.parameters(), strict=True))


def test_plain_functions_freeze_with_their_param_statements_and_their_modules():
    model, _ = programs()
    network = nn.Linear(4, 2)

    def guide(x, observed=None):
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x["image"]), dim=-1):
            return pyro.sample("z", dist.Normal(network(x["image"]), scale).to_event(1))

    x = batch()
    guide(x)
    before = pyro.param("scale").detach().clone(), state_of(network)
    model_before = state_of(model)
    for program in (frozen(guide), frozen(functools.partial(guide))):
        trace = poutine.trace(program).get_trace(x)
        assert "scale" not in trace.nodes
        svi = SVI(model, program, Adam({"lr": 0.1}), Trace_ELBO())
        svi.step(x)
        assert torch.equal(pyro.param("scale"), before[0]) and unchanged(network, before[1])
        assert network.weight.grad is None and pyro.get_param_store()._params["scale"].grad is None
    assert not unchanged(model, model_before)
    SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    assert not torch.equal(pyro.param("scale"), before[0])


def test_a_frozen_program_is_restored_after_an_error():
    model, _ = programs()
    modes = [part.training for part in model.modules()]
    with pytest.raises(ValueError, match="unknown modality"):
        frozen(model)({"sound": torch.zeros(3)})
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())
    assert [part.training for part in model.modules()] == modes and len(list(model.parameters())) == 9


def test_combinators_can_be_copied_and_carry_their_parameters():
    model, _ = programs()
    for program in (restrict(model, ["image"]), frozen(model), generative(model, ["image"])):
        assert not isinstance(program, pyro.nn.PyroModule)
        assert len(list(program.parameters())) == len(list(model.parameters()))
        copy.deepcopy(program)({"label": torch.zeros(3).long()} if program.settings != (("image",),) else batch())


# generative


def test_generative_ignores_whatever_x_holds_of_its_targets():
    model, _ = programs()
    x = {**batch(), "image": torch.full((ROWS, 4), float("nan"))}
    torch.manual_seed(0)
    first = generative(model, ["image"])(x, {"image": torch.zeros(ROWS, dtype=torch.bool)})
    torch.manual_seed(0)
    second = generative(model, ["image"])({"label": x["label"]})
    assert torch.isfinite(first["image"]).all() and torch.equal(first["image"], second["image"])
    everything = generative(model, ["image", "label"])({}, num_rows=9)
    assert everything["image"].shape == (9, 4) and everything["label"].shape == (9,)
    assert everything["z"].shape == (9, 2)
