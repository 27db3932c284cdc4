"""Names in Pyro's parameter store: stable between processes, never shared by two programs."""

import copy
import gc
import subprocess
import sys

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroParam
from pyro.optim import Adam

from multipyro.guides import IterativeSampling, JointGuide, MixtureOfExperts, NormalEncoder
from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood

SCRIPT = """
import sys, torch, pyro
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from multipyro.guides import IterativeSampling, JointGuide
from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood

def programs():
    model = MultimodalModel(2, {"a": NormalLikelihood(MLP(2, 4)), "b": NormalLikelihood(MLP(2, 3))})
    return model, IterativeSampling(model, JointGuide(2, {"a": MLP(4, 8), "b": MLP(3, 8)}))

torch.manual_seed(int(sys.argv[2]))
for _ in range(int(sys.argv[2])):
    programs()
model, guide = programs()
x = {"a": torch.ones(5, 4), "b": torch.ones(5, 3)}
if sys.argv[1] == "load":
    pyro.get_param_store().load(sys.argv[3])
    model(x), guide(x)
else:
    svi = SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(x), svi.step(x)
    pyro.get_param_store().save(sys.argv[3])
print(sum(p.double().abs().sum().item() for program in (model, guide) for p in program.parameters()))
"""


def programs():
    model = MultimodalModel(2, {"a": NormalLikelihood(MLP(2, 4)), "b": NormalLikelihood(MLP(2, 3))})
    return model, MixtureOfExperts(2, {"a": NormalEncoder(MLP(4, 8), 2), "b": NormalEncoder(MLP(3, 8), 2)})


X = {"a": torch.ones(5, 4), "b": torch.ones(5, 3)}


def svi(model, guide):
    return SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO())


def values(program):
    return torch.cat([parameter.detach().flatten() for parameter in program.parameters()])


@pytest.mark.skipif(
    pyro.__version__ < "1.9.2" and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6),
    reason="Pyro before 1.9.2 cannot load a store with torch 2.6 or newer",
)
def test_a_store_that_one_script_saved_loads_in_another(tmp_path):
    """The scripts build other programs before, and draw other initial values."""
    sums = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, action, seed, str(tmp_path / "store.pt")],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for action, seed in (("save", "0"), ("load", "3"))
    ]
    assert sums[0] == sums[1]


def test_names_do_not_depend_on_what_was_built_before():
    kept = programs()
    model, guide = programs()
    svi(model, guide).step(X)
    names = set(pyro.get_param_store().keys())
    assert {name.split(".")[0] for name in names} == {"model", "guide"}
    pyro.clear_param_store()
    svi(*kept).step(X)
    assert set(pyro.get_param_store().keys()) == names


@pytest.mark.parametrize("copied", (False, True))
def test_two_programs_of_one_name_both_train_in_one_store(copied):
    first = programs()
    second = copy.deepcopy(first) if copied else programs()
    for _ in range(2):
        for pair in (first, second):
            before = copy.deepcopy([list(program.parameters()) for program in pair])
            svi(*pair).step(X)
            for program, old in zip(pair, before, strict=True):
                assert not any(map(torch.equal, program.parameters(), old))
    prefixes = {name.split(".")[0] for name in pyro.get_param_store().keys()}
    assert prefixes == {"model", "model_1", "guide", "guide_1"}


def test_the_guide_of_another_method_of_sampling_claims_its_name_too():
    model, guide = programs()
    guide(X)
    _, other = programs()
    with torch.no_grad():
        other.sample_from(other.conditional, X)
    assert {name.split(".")[0] for name in pyro.get_param_store().keys()} == {"guide", "guide_1"}


def test_a_new_program_replaces_the_parameters_that_a_deleted_one_left_behind():
    model, guide = programs()
    svi(model, guide).step(X)
    del model, guide
    gc.collect()
    model, guide = programs()
    start = values(model)
    model(X)
    assert torch.equal(values(model), start)
    svi(model, guide).step(X)
    assert {name.split(".")[0] for name in pyro.get_param_store().keys()} == {"model", "guide"}
    assert not torch.equal(values(model), start)


def test_a_scope_is_a_store_with_names_from_the_beginning():
    first, second = programs(), programs()
    svi(*first).step(X)
    second[0](X)
    with pyro.get_param_store().scope():
        second[0](X)
        assert all(name.startswith("model.") for name in pyro.get_param_store().keys())


def test_stored_values_of_another_shape_are_refused():
    model, _ = programs()
    model(X)
    state = copy.deepcopy(pyro.get_param_store().get_state())
    pyro.clear_param_store()
    pyro.get_param_store().set_state(state)
    other = MultimodalModel(3, {"a": NormalLikelihood(MLP(3, 4)), "b": NormalLikelihood(MLP(3, 3))})
    with pytest.raises(ValueError, match="of shape .* another name"):
        other(X)


def test_constrained_parameters_of_a_user_defined_guide():
    class Scaled(MixtureOfExperts):
        def __init__(self, scale):
            super().__init__(2, {"a": NormalEncoder(MLP(4, 8), 2)})
            self.factor = PyroParam(torch.tensor(scale), pyro.distributions.constraints.positive)

        def posterior(self, x, observed=None):
            assert self.factor > 0
            return super().posterior(x, observed)

    first, second = Scaled(1.0), Scaled(2.0)
    x = {"a": X["a"]}
    first(x), second(x)
    assert (first.factor.item(), second.factor.item()) == pytest.approx((1.0, 2.0))
    state = copy.deepcopy(pyro.get_param_store().get_state())
    pyro.clear_param_store()
    pyro.get_param_store().set_state(state)
    third = Scaled(5.0)
    third(x)
    assert third.factor.item() == pytest.approx(1.0)


def test_a_guide_inside_a_guide_keeps_its_place():
    model, _ = programs()
    guide = IterativeSampling(model, JointGuide(2, {"a": MLP(4, 8), "b": MLP(3, 8)}))
    guide({"a": X["a"]}), guide(X)
    assert all(name.startswith(("guide.guide.", "model.")) for name in pyro.get_param_store().keys())
