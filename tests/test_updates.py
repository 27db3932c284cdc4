"""Stages of several updates a batch: who trains, who is frozen, what is logged, kept, resumed and refused."""

import json

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from toy import (
    KillAt,
    Killed,
    assert_same,
    optimizer_states,
    parameters,
    toy_data,
    toy_networks,
    toy_programs,
    without_time,
)

from multipyro.inference import build, fit_recipe, load
from multipyro.inference.objectives import GUIDE, MODEL, LinearWarmup, elbo, schedules_of
from multipyro.inference.recipes import Recipe, Stage, Update
from multipyro.inference.runs import load_state, save_state
from multipyro.inference.runs.checkpoints import read_checkpoint

SETTINGS = {"epochs": 4, "batch_size": 16, "seed": 5, "progress": False}
SGD = torch.optim.SGD


class Away(nn.Module):
    """A module beside the programs, with batch norm, and an objective that it alone can lower."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


class Distance:
    """The squared output of a module for the observed signals, as an objective; both programs are its to call."""

    def __init__(self, module):
        self.module = module

    def loss(self, model, guide, x, observed=None):
        with torch.no_grad():
            return self._value(x).item()

    def loss_and_grads(self, model, guide, x, observed=None):
        value = self._value(x)
        if value.requires_grad:
            value.backward()
        return value.item()

    def _value(self, x):
        return self.module.layers(x["signal"]).square().sum()


def recipe_of(optimizer=None, peak=1.0, others=True):
    """Two updates of the programs, in two halves, and one of a module beside them."""
    model, guide = toy_programs()
    beta = LinearWarmup(7, "step", peak)
    loss = elbo(MODEL, GUIDE, {"z": beta})
    judge = Away()
    updates = (
        Update(loss, (guide,), name="guide"),
        Update(loss, (model,), optimizer, "model"),
        *((Update(Distance(judge), (judge,), lambda p: SGD(p, lr=1e-3), "judge"),) if others else ()),
    )
    return Recipe(model, guide, (Stage(loss, updates=updates),), name="own", others=(judge,))


def state(recipe):
    return parameters(recipe.model, recipe.guide, *recipe.others)


def train(recipe, **settings):
    return fit_recipe(recipe, toy_data(), validation=toy_data(16, 1, "validation"), **{**SETTINGS, **settings})


def test_the_updates_are_those_of_a_plain_loop():
    from multipyro.inference import frozen
    from multipyro.inference.training import step_seed

    recipe, plain = recipe_of(), recipe_of()
    train(recipe, epochs=2, optimizer=lambda p: SGD(p, lr=1e-3))
    updates = plain.stages[0].updates
    optimizers = [SGD([p for m in update.train for p in m.parameters()], lr=1e-3) for update in updates]
    (beta,), steps = schedules_of(plain.stages[0].objective), 0
    for epoch in range(2):
        batches = toy_data().batches(16, shuffle=True, seed=5, epoch=epoch)
        for number, (x, observed) in enumerate(batches):
            beta.set(epoch, steps)
            torch.manual_seed(step_seed(5, epoch, number))
            for update, optimizer in zip(updates, optimizers, strict=True):
                optimizer.zero_grad()
                programs = (frozen(program, update.train) for program in (plain.model, plain.guide))
                update.objective.loss_and_grads(*programs, x, observed)
                optimizer.step()
            steps += 1
    assert_same(state(recipe), state(plain), atol=1e-6)


@pytest.mark.parametrize("kept", ["model", "guide", "judge"])
def test_what_no_update_trains_stays_bit_for_bit(kept):
    recipe = recipe_of()
    (stage,) = recipe.stages
    updates = tuple(update for update in stage.updates if update.name != kept)
    before = state(recipe)
    recipe = Recipe(
        recipe.model, recipe.guide, (Stage(stage.objective, updates=updates),), name="own", others=recipe.others
    )
    train(recipe)
    after, prefix = state(recipe), {"model": "0.", "guide": "1.", "judge": "2."}[kept]
    moved = {name[:2] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"0.", "1.", "2."} - {prefix}
    everything = [p for program in (recipe.model, recipe.guide, *recipe.others) for p in program.parameters()]
    assert all(p.requires_grad and p.grad is None for p in everything)


def test_a_stage_of_one_update_is_the_stage_without():
    model, guide = toy_programs()
    update = Update(Trace_ELBO(), (model, guide))
    several = Recipe(model, guide, (Stage(Trace_ELBO(), updates=(update,)),), name="own")
    plain = Recipe(*toy_programs(), (Stage(Trace_ELBO()),), name="own")
    histories = [train(recipe).history for recipe in (several, plain)]
    assert_same(state(several), state(plain))
    assert without_time(histories[0]) == without_time(histories[1])


def test_each_update_is_logged_and_has_an_optimizer_of_its_own(tmp_path):
    result = train(recipe_of(), out=tmp_path, gradient_clip=10.0)
    row = result.history[-1]
    assert [name for name in row if name.startswith("train/loss/")] == [
        f"train/loss/{name}" for name in ("guide", "model", "judge")
    ]
    assert row["train/bound"] == -row["train/loss/guide"] and row["validation/bound"] < 0
    groups = [
        update["optimizers"][""]["optimizer"]["param_groups"][0] for update in read_checkpoint(result.last)["updates"]
    ]
    assert [len(group["params"]) for group in groups] == [
        len(list(module.parameters())) for module in (*reversed(toy_programs()), Away())
    ]
    assert "momentum" in groups[2] and "betas" in groups[0]


def plain_values(state):
    return {name: None if value is None else torch.as_tensor(value).tolist() for name, value in state.items()}


@pytest.mark.parametrize("batch", [1, 3, 8, 11])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, batch):
    whole = recipe_of()
    expected = train(whole, out=tmp_path / "whole").history
    with pytest.raises(Killed):
        train(recipe_of(), out=tmp_path / "killed", callbacks=[KillAt(steps=batch)])
    resumed = recipe_of()
    history = train(resumed, out=tmp_path / "killed", resume=True).history
    assert_same(state(resumed), state(whole))
    assert without_time(history) == without_time(expected)
    last = [tmp_path / run / "checkpoints" / "stage-1-main" / "last.ckpt" for run in ("whole", "killed")]
    ours, theirs = (read_checkpoint(path) for path in last)
    assert any(name.startswith("programs.2.layers.1.running_mean") for name in ours["state_dict"])
    for mine, other in zip(optimizer_states(ours), optimizer_states(theirs), strict=True):
        assert plain_values(mine) == plain_values(other)


def test_jmvae_gan_goes_on_bit_for_bit_and_is_loaded_whole(tmp_path):
    def recipe():
        torch.manual_seed(1)
        return build("jmvae-gan", toy_networks(), 2, warmup=2)

    whole = recipe()
    train(whole, out=tmp_path / "whole")
    with pytest.raises(Killed):
        train(recipe(), out=tmp_path / "killed", callbacks=[KillAt(steps=7)])
    train(recipe(), out=tmp_path / "killed", resume=True)
    loaded = load(tmp_path / "killed", which="last").recipe
    assert_same(state(loaded), state(whole))
    assert len(loaded.others) == 1 and not loaded.others[0].training


CHANGES = {
    "optimizer": ({"optimizer": lambda p: SGD(p, lr=1.0)}, r"stages\[0\].updates\[1\].optimizer was None, now"),
    "loss": ({"peak": 2.0}, r"peak was 1, now 2"),
    "number": ({"others": False}, r"stages\[0\].updates was"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_goes_on_with_its_updates_alone(tmp_path, name):
    train(recipe_of(), out=tmp_path, epochs=1)
    changed, message = CHANGES[name]
    with pytest.raises(ValueError, match=f"started with other settings: .*{message}"):
        train(recipe_of(**changed), out=tmp_path, epochs=1, resume=True)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "finished"


def test_checkpoints_of_programs_and_others(tmp_path):
    recipe, other = recipe_of(), recipe_of()
    train(recipe)
    programs = (recipe.model, recipe.guide)
    save_state(tmp_path / "all.ckpt", *programs, recipe.others)
    load_state(tmp_path / "all.ckpt", other.model, other.guide, other.others)
    assert_same(state(other), state(recipe))
    with pytest.raises(ValueError, match="checkpoint of other programs"):
        load_state(tmp_path / "all.ckpt", *programs)


def test_parameters_of_a_recipe_are_counted_with_its_others():
    recipe = recipe_of()
    counts = [sum(p.numel() for p in part.parameters()) for part in (recipe.model, recipe.guide, *recipe.others)]
    assert recipe.num_parameters == sum(counts) and counts[-1] == 4 * 4 + 4 + 8 + 5
    twice = Recipe(recipe.model, recipe.model, recipe.stages, name="own", others=(recipe.model.likelihoods,))
    assert twice.num_parameters == counts[0]


def test_what_cannot_train_is_refused():
    model, guide = toy_programs()
    stage = Stage(Trace_ELBO(), updates=(Update(Trace_ELBO(), (model,)), Update(Trace_ELBO(), (), name="none")))
    with pytest.raises(ValueError, match="'none' has nothing to train"):
        train(Recipe(model, guide, (stage,), name="own"))
