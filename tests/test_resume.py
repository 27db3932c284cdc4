"""Runs that were killed, interrupted or finished, and go on as if nothing had happened."""

import csv
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from toy import (
    NET,
    KillAt,
    Killed,
    assert_same,
    encode,
    optimizer_states,
    parameters,
    toy_data,
    toy_networks,
    toy_programs,
    without_time,
)

from multipyro.inference import build, fit, fit_recipe
from multipyro.inference.handlers import frozen
from multipyro.inference.objectives import GUIDE, MODEL, LinearWarmup, elbo
from multipyro.inference.recipes import Recipe, Stage
from multipyro.inference.runs import checkpoints, folder
from multipyro.inference.runs.checkpoints import read_checkpoint

SETTINGS = {"epochs": 4, "batch_size": 16, "seed": 5, "progress": False}


def train(out, **settings):
    """A run with a warm-up and validation; returns its programs and its result."""
    model, guide = toy_programs()
    beta = LinearWarmup(6, "step")
    loss = elbo(MODEL, GUIDE, {"z": beta})
    held_out = toy_data(16, 1, "validation")
    result = fit(model, guide, loss, toy_data(), validation=held_out, out=out, **{**SETTINGS, **settings})
    return parameters(model, guide), result


def assert_same_runs(left, right):
    """Two run folders hold the same parameters, optimizer states, bests and logs."""
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (read_checkpoint(Path(run, "checkpoints", "stage-1-main", name)) for run in (left, right))
        assert_same(dict(ours["state_dict"]), dict(theirs["state_dict"]))
        for mine, other in zip(optimizer_states(ours), optimizer_states(theirs), strict=True):
            assert_same(mine, other)
        assert without_time(ours["history"]) == without_time(theirs["history"])
    logs = [list(csv.DictReader(Path(run, "log.csv").read_text().splitlines())) for run in (left, right)]
    assert without_time(logs[0]) == without_time(logs[1])
    assert json.loads(Path(left, "run.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("write", [1, 2, 3, 4, 5, 8])
def test_a_kill_at_any_write_leaves_no_trace(tmp_path, monkeypatch, write):
    """The run dies instead of its n-th write: run.json, then best, last and log of each epoch."""
    whole, _ = train(tmp_path / "whole")
    count = iter(range(write, -1, -1))

    def dying(real):
        def write_or_die(*args):
            if next(count, 0) == 0:
                raise Killed
            return real(*args)

        return write_or_die

    with monkeypatch.context() as patched:
        for module in (checkpoints, folder):
            patched.setattr(module, "write_atomically", dying(module.write_atomically))
        with pytest.raises(Killed):
            train(tmp_path / "killed")
    resumed, _ = train(tmp_path / "killed", resume=True)
    assert_same(resumed, whole)
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


def test_resume_starts_where_nothing_is_and_returns_where_all_is_done(tmp_path):
    expected, first = train(tmp_path / "run", resume=True)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    found, second = train(tmp_path / "run", resume=True)
    assert_same(found, expected)
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == files


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(ValueError, match="already contains a run: resume it .--resume. or choose another folder"):
        train(tmp_path)
    with pytest.raises(ValueError, match="other settings: settings.batch_size was 16, now 8"):
        train(tmp_path, resume=True, batch_size=8)
    (tmp_path / "run.json").rename(tmp_path / "away.json")
    with pytest.raises(ValueError, match="has checkpoints, log.csv but no run.json"):
        train(tmp_path, resume=True)
    (tmp_path / "away.json").rename(tmp_path / "run.json")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_run_can_be_moved_before_it_goes_on(tmp_path):
    train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "here", callbacks=[KillAt(epoch=2)])
    ours = [f".run.json.{16 * 'a'}.part", f"checkpoints/stage-1-main/.last.ckpt.{16 * '0'}.part"]
    foreign = [".download.part", f"mine/.film.{16 * 'a'}.part", "checkpoints/.backup.part"]
    for name in (*ours, *foreign):
        (tmp_path / "here" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "here" / name).write_bytes(b"half")
    (tmp_path / "here").rename(tmp_path / "there")
    train(tmp_path / "there", resume=True)
    assert_same_runs(tmp_path / "whole", tmp_path / "there")
    left = {str(path.relative_to(tmp_path / "there")) for path in tmp_path.rglob("*.part")}
    assert left == set(foreign)


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    settings = {"epochs": 20, "lr": 0.0, "early_stopping": 2}
    _, first = train(tmp_path, **settings)
    state = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**state, "state": "running"}))
    _, second = train(tmp_path, resume=True, **settings)
    assert second.history == first.history
    assert len(first.history) == 3


def scaled(weight, peak=1.0):
    """A weighted objective with a warm-up."""
    return weight * elbo(MODEL, GUIDE, {"z": LinearWarmup(6, "step", peak)})


BATCHES = list(toy_data().batches(16))
OTHER = [BATCHES[0], *toy_data(seed=1).batches(16)]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def adam_with_other_betas(parameters):
    return torch.optim.Adam(parameters, lr=1e-3, betas=(0.5, 0.9))


# what a run is started with, what it is resumed with, and what the error names
CHANGES = {
    "optimizer": ({}, {"optimizer": "sgd"}, "settings.optimizer was adam, now sgd"),
    "learning rate": ({}, {"lr": 0.5}, "settings.lr was 0.001, now 0.5"),
    "schedule": ({}, {"lr_schedule": "cosine"}, "settings.lr_schedule was constant, now cosine"),
    "function": ({"optimizer": adam}, {"optimizer": adam_with_other_betas}, "optimizer was .*adam, now .*betas"),
    "Pyro's": ({}, {"optimizer": pyro.optim.Adam({"lr": 0.1})}, r"optimizer was adam, now \[.*Adam.*'lr': 0.1"),
    "clipping": ({}, {"gradient_clip": 1.0}, "settings.gradient_clip was None, now 1.0"),
    "the last batch": ({}, {"drop_last": True}, "settings.drop_last was False, now True"),
    "loss": ({}, {"loss": scaled(1.0)}, "equation was Trace_ELBO, now"),
    "particles": ({}, {"loss": Trace_ELBO(num_particles=3)}, "objective.num_particles was 1, now 3"),
    "weight": ({"loss": scaled(1.0)}, {"loss": scaled(100.0)}, "objective.weight.number was 1, now 100"),
    "warm-up": ({"loss": scaled(1.0)}, {"loss": scaled(1.0, peak=2.0)}, "objective.body.sites.z.peak was 1, now 2"),
    "modalities": (
        {"loss": elbo(MODEL | "signal", GUIDE)},
        {"loss": elbo(MODEL | "label", GUIDE)},
        r"objective.p.arguments\[1\]\[1\]\[0\] was signal, now label",
    ),
    "frozen": (
        {"loss": elbo(frozen(MODEL), GUIDE)},
        {"loss": elbo(MODEL, GUIDE)},
        r"equation was ELBO\(frozen\(m\) \|\| g\), now ELBO\(m \|\| g\)",
    ),
    "batches": ({"data": BATCHES}, {"data": list(toy_data(seed=1).batches(16))}, "data.content_hash.train was"),
    "a later batch": ({"data": BATCHES}, {"data": [*BATCHES[:2], OTHER[3]]}, "data.content_hash.train was"),
    "number of batches": ({"data": BATCHES}, {"data": BATCHES[:2]}, "data.size.train was 3, now 2"),
    "rows": ({}, {"data": toy_data(seed=1)}, "data.content_hash.train was"),
    "validation": ({}, {"validation": toy_data(16, 2, "validation")}, "data.content_hash.validation was"),
    "no validation": ({}, {"validation": None}, "data.size.validation was 16, now None"),
    "fewer epochs": ({"epochs": 3}, {"epochs": 2}, "main has fewer epochs"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_goes_on_with_the_settings_it_was_started_with_alone(tmp_path, name):
    first, then, message = CHANGES[name]

    def run(changed, **settings):
        settings |= {"loss": Trace_ELBO(), "data": toy_data(), "validation": toy_data(16, 1, "validation"), **changed}
        loss, data = settings.pop("loss"), settings.pop("data")
        return fit(*toy_programs(), loss, data, out=tmp_path, **{**SETTINGS, "epochs": 1, **settings})

    epochs = run(first).epochs
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(ValueError, match=f"started with other settings: .*{message}"):
        run(then, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    assert run(first, resume=True).epochs == epochs


def test_functions_of_one_name_are_told_apart_by_the_optimizers_that_they_return(tmp_path):
    train(tmp_path, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3))
    with pytest.raises(ValueError, match="optimizer was Adam with .*'lr': '0.001'.*, now SGD with .*'lr': '0.5'"):
        train(tmp_path, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5), resume=True)


def test_a_function_in_an_objective_is_refused_by_name(tmp_path):
    class Odd(Trace_ELBO):
        def __init__(self):
            super().__init__()
            self.weight = lambda step: 0.5

    fit(*toy_programs(), Odd(), toy_data(), **SETTINGS)
    with pytest.raises(TypeError, match="a function at weight"):
        fit(*toy_programs(), Odd(), toy_data(), out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_loaders_whose_batches_never_repeat_can_still_be_resumed(tmp_path):
    class Noisy(torch.utils.data.Dataset):
        """Augments by a generator that no seed of ours reaches."""

        def __len__(self):
            return 4

        def __getitem__(self, number):
            if number >= 4:
                raise IndexError
            noise = torch.frombuffer(bytearray(os.urandom(32)), dtype=torch.uint8).float().view(8, 4) / 255
            return {"label": torch.arange(8) % 3, "signal": noise}, None

    def run(**settings):
        loader = torch.utils.data.DataLoader(Noisy(), batch_size=None)
        return fit(*toy_programs(), Trace_ELBO(), loader, out=tmp_path, **SETTINGS, **settings)

    with pytest.raises(Killed):
        run(callbacks=[KillAt(epoch=2)])
    assert run(resume=True).epochs == 4


@pytest.mark.parametrize("own", ["none", "loader", "sampler", "batch sampler"])
def test_loaders_that_shuffle_repeat_their_order(tmp_path, own):
    rows = [({"label": torch.tensor([n % 3]), "signal": torch.randn(1, 4)}, None) for n in range(6)]

    def loader():
        data, generator = torch.utils.data, torch.Generator()
        generator.seed()
        sampler = data.RandomSampler(rows, generator=generator)
        if own == "batch sampler":
            batches = data.BatchSampler(sampler, 1, drop_last=False)
            return data.DataLoader(rows, batch_sampler=batches, collate_fn=lambda batch: batch[0])
        chosen = {"none": {"shuffle": True}, "loader": {"shuffle": True, "generator": generator}}
        return data.DataLoader(rows, batch_size=None, **chosen.get(own, {"sampler": sampler}))

    def run(out, **settings):
        model, guide = toy_programs()
        fit(model, guide, Trace_ELBO(), loader(), out=tmp_path / out, **SETTINGS, **settings)
        return parameters(model, guide)

    with pytest.raises(Killed):
        run("killed", callbacks=[KillAt(epoch=2)])
    assert_same(run("killed", resume=True), run("whole"))


def test_a_plain_function_goes_on_too(tmp_path):
    def run(out, **settings):
        pyro.clear_param_store()
        with torch.no_grad():
            NET.weight.fill_(0.1), NET.bias.fill_(0.0)
        model = toy_programs()[0]
        fit(model, encode, Trace_ELBO(), toy_data(), out=tmp_path / out, **SETTINGS, **settings)
        store = {name: pyro.param(name).detach().clone() for name in ("loc", "scale")}
        return {**parameters(model, NET), **store}

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", callbacks=[KillAt(epoch=2)])
    assert_same(run("killed", resume=True), whole)
    assert_same(run("killed", resume=True), whole)


def two_stages():
    torch.manual_seed(0)
    recipe = build("mvae", toy_networks(), 2, warmup=2)
    stages = (
        Stage(recipe.stages[0].objective, 2, name="first"),
        Stage(Trace_ELBO(), 3, train=(recipe.guide,), name="guide"),
    )
    return Recipe(recipe.model, recipe.guide, stages, name="own")


@pytest.mark.parametrize("steps", [1, 4, 8, 13])
def test_a_recipe_goes_on_in_any_stage(tmp_path, steps):
    settings = {**SETTINGS, "out": tmp_path}
    recipe = two_stages()
    with pytest.raises(Killed):
        fit_recipe(recipe, toy_data(), callbacks=[KillAt(steps=steps)], **settings)
    recipe = two_stages()
    history = fit_recipe(recipe, toy_data(), resume=True, **settings).history
    whole = two_stages()
    expected = fit_recipe(whole, toy_data(), **SETTINGS).history
    assert_same(parameters(recipe.model, recipe.guide), parameters(whole.model, whole.guide))
    assert without_time(history) == without_time(expected)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["stage-1-first", "stage-2-guide"]


def test_a_finished_run_can_have_more_epochs(tmp_path):
    train(tmp_path / "more", epochs=2)
    _, result = train(tmp_path / "more", epochs=4, resume=True)
    train(tmp_path / "whole")
    assert result.epochs == 4
    assert_same_runs(tmp_path / "whole", tmp_path / "more")
    assert json.loads((tmp_path / "more" / "run.json").read_text())["stages"][0]["epochs"] == 4


def test_more_epochs_are_refused_where_they_would_change_what_was_done(tmp_path):
    train(tmp_path / "cosine", lr_schedule="cosine")
    with pytest.raises(ValueError, match="stage 'main' cannot have more epochs: lr_schedule 'cosine' depends on"):
        train(tmp_path / "cosine", lr_schedule="cosine", epochs=5, resume=True)
    recipe = two_stages()
    fit_recipe(recipe, toy_data(), out=tmp_path / "stages", **SETTINGS)
    grown = replace(recipe, stages=(replace(recipe.stages[0], epochs=3), recipe.stages[1]))
    with pytest.raises(ValueError, match="stage 'first' cannot have more epochs: a later stage has been trained"):
        fit_recipe(grown, toy_data(), out=tmp_path / "stages", resume=True, **SETTINGS)


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


def on_plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr_schedule": "one-cycle"},
        {"lr_schedule": "cosine", "lr_warmup": 1.5},
        {"lr_schedule": halving},
        {"lr_schedule": on_plateau},
    ],
    ids=["one-cycle", "cosine", "a step per epoch", "on a plateau"],
)
def test_schedules_go_on_too(tmp_path, settings):
    with pytest.raises(Killed):
        train(tmp_path / "killed", callbacks=[KillAt(epoch=2)], **settings)
    train(tmp_path / "killed", resume=True, **settings)
    train(tmp_path / "whole", **settings)
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


LOCKED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_resume import train
train(sys.argv[2], resume=True)
"""


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    class Join:
        """Another process that joins in the middle, with the settings of this one."""

        def on_step_end(self, state):
            if state.step == 5:
                command = [sys.executable, "-c", LOCKED, str(Path(__file__).parent), str(tmp_path / "run")]
                self.message = subprocess.run(command, capture_output=True, text=True, timeout=120).stderr

    join = Join()
    train(tmp_path / "run", callbacks=[join])
    assert "another process is training in" in join.message
    train(tmp_path / "whole")
    assert_same_runs(tmp_path / "whole", tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints", "log.csv", "run.json"]


def test_batch_norm_statistics_and_dropout_go_on_too(tmp_path):
    def run(out, **settings):
        model, guide = toy_programs()
        head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 8))
        head.out_features = 8
        with torch.random.fork_rng():
            torch.manual_seed(3)
            for layer in (head[0], head[3]):
                layer.reset_parameters()
        guide.encoders["signal"].network = head
        fit(model, guide, Trace_ELBO(), toy_data(), out=tmp_path / out, **SETTINGS, **settings)
        return parameters(model, guide)

    with pytest.raises(Killed):
        run("killed", callbacks=[KillAt(epoch=2)])
    resumed = run("killed", resume=True)
    assert any("running_mean" in name for name in resumed)
    assert_same(resumed, run("whole"))


def test_a_lock_whose_file_was_removed_by_its_last_owner_is_taken_again(tmp_path, monkeypatch):
    lockf, calls = fcntl.lockf, []

    def late(file, how):
        if not calls:  # between opening and locking the file
            (tmp_path / ".lock").unlink()
        calls.append(how)
        lockf(file, how)

    monkeypatch.setattr(fcntl, "lockf", late)
    with folder._locked(tmp_path):
        assert (tmp_path / ".lock").exists() and len(calls) == 2
    assert not (tmp_path / ".lock").exists()
