"""Checkpoints and run folders: read back whole, refused when damaged or foreign, never written in part."""

import errno
import functools
import json
import os
import pickle
import zipfile

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.distributions import constraints
from toy import assert_same, parameters, toy_data, toy_networks, toy_programs

from multipyro.guides import ProductOfExperts
from multipyro.inference import build, fit, fit_recipe, load
from multipyro.inference.recipes import Recipe, Stage
from multipyro.inference.runs import load_state, save_state
from multipyro.inference.runs.checkpoints import read_checkpoint

SETTINGS = {"epochs": 2, "batch_size": 16, "progress": False}


class MyGuide(ProductOfExperts):
    """A guide class of a user's own."""


@pytest.fixture
def run(tmp_path):
    """The folder of a run of two epochs whose end was not recorded, and its last checkpoint."""
    folder = tmp_path / "run"
    fit(*toy_programs(), Trace_ELBO(), toy_data(), out=folder, **SETTINGS)
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**state, "state": "running"}))
    return folder, folder / "checkpoints" / "stage-1-main" / "last.ckpt"


class Evil:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def cut(share):
    return lambda path, trap: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flipped(path, trap):
    """One byte of the pickled index is another one."""
    with zipfile.ZipFile(path) as archive:
        index = next(item for item in archive.infolist() if item.filename.endswith("data.pkl"))
    content = bytearray(path.read_bytes())
    content[index.header_offset + 100 + index.file_size // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def compressed(path, trap):
    """The same members, deflated: a small file that may be huge in memory."""
    with zipfile.ZipFile(path) as archive:
        members = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def repeated(path, trap):
    """A param statement of two billion elements that share one."""
    value = {"unconstrained": torch.zeros(1).expand(2**31), "constraint": ["real", {}]}
    torch.save({**read_checkpoint(path), "param_store": {"scale": value}}, path)


def another_model(path, trap):
    with torch.random.fork_rng():
        recipe = build("mvae", toy_networks(), 3)
    save_state(path, recipe.model, recipe.guide)


DAMAGE = {
    "empty": cut(0.0),
    "a quarter": cut(0.25),
    "all but the end": cut(0.999),
    "flipped": flipped,
    "text": lambda path, trap: path.write_text("epoch,loss\n0,1.5\n"),
    "a pickle": lambda path, trap: path.write_bytes(pickle.dumps(Evil(trap))),
    "torch's old format": lambda path, trap: torch.save(Evil(trap), path, _use_new_zipfile_serialization=False),
    "code": lambda path, trap: torch.save({"state_dict": {}, "more": Evil(trap)}, path),
    "a tensor": lambda path, trap: torch.save(torch.ones(3), path),
    "a state_dict": lambda path, trap: torch.save(toy_programs()[0].state_dict(), path),
    "another model": another_model,
    "compressed": compressed,
    "a value that repeats": repeated,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_checkpoint_that_is_damaged_or_foreign_is_refused(run, tmp_path, name):
    folder, path = run
    DAMAGE[name](path, tmp_path / "trap")
    before = {file: file.read_bytes() for file in folder.rglob("*.*")}
    model, guide = toy_programs(1)
    expected = parameters(model, guide)
    for attempt in (
        lambda: load_state(path, model, guide),
        lambda: fit(model, guide, Trace_ELBO(), toy_data(), out=folder, resume=True, **SETTINGS),
    ):
        with pytest.raises(ValueError) as caught:
            attempt()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "trap").exists()
    assert {file: file.read_bytes() for file in folder.rglob("*.*")} == before
    assert_same(parameters(model, guide), expected)


def test_state_goes_round(tmp_path):
    model, guide = toy_programs(0)
    path = save_state(tmp_path / "deep" / "mine.ckpt", model, guide)
    other = toy_programs(1)
    load_state(path, *other)
    assert_same(parameters(*other), parameters(model, guide))
    with pytest.raises(FileNotFoundError, match=r"nothing\.ckpt"):
        load_state(tmp_path / "nothing.ckpt", *other)


@pytest.mark.parametrize(
    "constraint",
    [constraints.real, constraints.positive, constraints.simplex, constraints.interval(-1.0, 1.0)],
    ids=str,
)
def test_param_statements_of_functions_go_round(tmp_path, constraint):
    value = torch.tensor([0.25, 0.25, 0.5])

    def guide(x, observed=None):
        return pyro.param("value", value, constraint=constraint)

    expected = guide({}).detach()
    path = save_state(tmp_path / "mine.ckpt", toy_programs()[0], guide)
    pyro.clear_param_store()
    load_state(path, toy_programs()[0], guide)
    assert torch.equal(pyro.param("value"), expected)
    assert str(pyro.get_param_store().get_state()["constraints"]["value"]) == str(constraint)


def test_a_constraint_that_cannot_be_written_is_refused(tmp_path):
    def guide(x, observed=None):
        return pyro.param("value", torch.ones(3), constraint=constraints.independent(constraints.positive, 1))

    guide({})
    with pytest.raises(ValueError, match=r"constraint .* of the param statement 'value'"):
        save_state(tmp_path / "mine.ckpt", toy_programs()[0], guide)


def test_a_full_disk_leaves_the_last_checkpoint(run, monkeypatch):
    folder, path = run
    state = json.loads((folder / "run.json").read_text())
    state["stages"][0]["epochs"] = 4
    (folder / "run.json").write_text(json.dumps(state))
    before = {file: file.read_bytes() for file in folder.rglob("*.*")}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*last\.ckpt: no space is left on the device") as caught:
        fit(*toy_programs(), Trace_ELBO(), toy_data(), out=folder, resume=True, **{**SETTINGS, "epochs": 4})
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert {file: file.read_bytes() for file in folder.rglob("*.*")} == before
    assert len(read_checkpoint(path)["history"]) == 2


def test_an_optimizer_that_cannot_be_read_back_shows_at_once(tmp_path):
    class Odd(torch.optim.SGD):
        def state_dict(self):
            return {**super().state_dict(), "odd": MyGuide}

    with pytest.raises(ValueError, match="more than tensors and plain values"):
        fit(
            *toy_programs(),
            Trace_ELBO(),
            toy_data(),
            out=tmp_path,
            optimizer=lambda trained: Odd(trained, lr=1e-3),
            **SETTINGS,
        )


def trained_recipe(out, guide=None, **settings):
    recipe = build("mvae", toy_networks(), 2, guide, beta=0.5)
    held_out = toy_data(16, 1, "validation")
    fit_recipe(recipe, toy_data(), validation=held_out, out=out, **{**SETTINGS, **settings})
    return recipe


def test_a_run_is_rebuilt_from_its_folder(tmp_path):
    recipe = trained_recipe(tmp_path, config={"dataset": "toy"})
    model, guide, loaded = load(tmp_path)
    assert (loaded.name, loaded.options["beta"]) == ("mvae", 0.5)
    best = tmp_path / "checkpoints" / "stage-1-main" / "best.ckpt"
    load_state(best, recipe.model, recipe.guide)
    assert_same(parameters(model, guide), parameters(recipe.model, recipe.guide))
    assert not model.training and not guide.training
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["config"] == {"dataset": "toy"}
    assert described["data"]["content_hash"]["train"] == toy_data().content_hash
    best.unlink()
    load(tmp_path)


def test_the_last_parameters_are_loaded_on_demand(tmp_path):
    recipe = trained_recipe(tmp_path, epochs=3)
    assert_same(parameters(*load(tmp_path, which="last")[:2]), parameters(recipe.model, recipe.guide))
    folder = tmp_path / "checkpoints" / "stage-1-main"
    load_state(folder / "best.ckpt", recipe.model, recipe.guide)
    with torch.no_grad():
        next(iter(recipe.model.parameters())).add_(1.0)
    save_state(folder / "best.ckpt", recipe.model, recipe.guide)
    assert_same(parameters(*load(tmp_path)[:2]), parameters(recipe.model, recipe.guide))
    with pytest.raises(ValueError, match="which must be 'best' or 'last', got 'first'"):
        load(tmp_path, which="first")
    (folder / "last.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        load(tmp_path, which="last")


def test_a_run_with_batches_of_ones_own_is_rebuilt_too(tmp_path):
    recipe = build("mvae", toy_networks(), 2)
    fit_recipe(recipe, list(toy_data().batches(16)), out=tmp_path, **SETTINGS)
    assert_same(parameters(*load(tmp_path)[:2]), parameters(recipe.model, recipe.guide))


def test_a_guide_class_of_ones_own_is_asked_for(tmp_path):
    trained_recipe(tmp_path, MyGuide)
    assert json.loads((tmp_path / "run.json").read_text())["guide_class"] == "MyGuide"
    for wrong in (None, ProductOfExperts):
        with pytest.raises(ValueError, match="guide class MyGuide"):
            load(tmp_path, guide=wrong)
    assert isinstance(load(tmp_path, guide=MyGuide).guide, MyGuide)


def test_runs_that_cannot_be_loaded_say_why(run, tmp_path):
    folder, path = run
    with pytest.raises(ValueError, match="load_state"):
        load(folder)
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        load(tmp_path / "nothing")
    trained_recipe(tmp_path / "recipe")
    for file in (tmp_path / "recipe").rglob("*.ckpt"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"best\.ckpt is truncated"):
        load(tmp_path / "recipe")
    for file in (tmp_path / "recipe").rglob("*.ckpt"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        load(tmp_path / "recipe")
    for content in (b"", b"{", b"[]", b"\xff", b'{"state": "finished"}'):
        (tmp_path / "recipe" / "run.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"run\.json is damaged"):
            load(tmp_path / "recipe")


def test_a_recipe_of_ones_own_is_not_rebuilt_and_says_so(tmp_path):
    model, guide = toy_programs()
    recipe = Recipe(model, guide, (Stage(Trace_ELBO()),), name="mine")
    fit_recipe(recipe, toy_data(), out=tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match="user-defined programs: build them and call .*load_state"):
        load(tmp_path)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the run.json of a run holds."""
    folder = tmp_path_factory.mktemp("runs")
    trained_recipe(folder, epochs=1)
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    "key", ["method", "options", "modalities", "settings", "stages", "config", "guide_class", "data"]
)
def test_a_run_file_that_lacks_something_is_damaged(told, tmp_path, key):
    (tmp_path / "run.json").write_text(json.dumps({name: value for name, value in told.items() if name != key}))
    with pytest.raises(ValueError, match=f"run.json is damaged .*'{key}' is missing"):
        load(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**told, key: 1}))
    with pytest.raises(ValueError, match=f"run.json is damaged .*{key} is 1"):
        load(tmp_path)


@pytest.mark.parametrize("change", [{"size": None}, {"options": 3}, {"modalities": "label"}], ids=str)
def test_a_damaged_description_of_the_data(told, tmp_path, change):
    (tmp_path / "run.json").write_text(json.dumps({**told, "data": {**told["data"], **change}}))
    with pytest.raises(ValueError, match=f"run.json is damaged .*data.{next(iter(change))} is"):
        load(tmp_path)
    missing = {name: value for name, value in told["data"].items() if name not in change}
    (tmp_path / "run.json").write_text(json.dumps({**told, "data": missing}))
    with pytest.raises(ValueError, match="run.json is damaged .* is missing"):
        load(tmp_path)


@pytest.mark.parametrize("modality", [{"label": {"name": "label", "size": 3}}, {"label": 3}, {"label": {}}], ids=str)
def test_modalities_that_are_damaged(told, tmp_path, modality):
    (tmp_path / "run.json").write_text(json.dumps({**told, "modalities": modality}))
    with pytest.raises(ValueError, match="run.json is damaged"):
        load(tmp_path)


def test_stages_that_climb_out_of_the_folder(told, tmp_path):
    told = {**told, "stages": [{**told["stages"][0], "name": "../../elsewhere"}]}
    (tmp_path / "run.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="run.json is damaged .*stages is"):
        load(tmp_path)


@pytest.mark.parametrize("size", [{"latent_dim": 10**7}, {"hidden_features": [10**7]}], ids=str)
def test_networks_that_would_fill_the_memory_are_not_built(tmp_path, size):
    trained_recipe(tmp_path, epochs=1)
    content = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**content, **size}))
    with pytest.raises(ValueError, match="run.json is damaged: it describes larger networks than .*best.ckpt"):
        load(tmp_path)


@pytest.mark.parametrize("part", ["updates", "history", "step", "stopped", "rng", "param_store"])
def test_a_checkpoint_that_lacks_a_part_is_refused(run, part):
    folder, path = run
    content = read_checkpoint(path)
    for changed in ({}, {part: "none"}):
        torch.save({**{name: value for name, value in content.items() if name != part}, **changed}, path)
        with pytest.raises(ValueError, match=f"last.ckpt is not a checkpoint of a training run: {part} is missing"):
            fit(*toy_programs(), Trace_ELBO(), toy_data(), out=folder, resume=True, **SETTINGS)


@pytest.mark.parametrize(
    "updates", [[], [{}], [{"optimizers": {"": {}}}], [{"optimizers": {"": None}}], ["none"]], ids=str
)
def test_optimizer_states_that_are_damaged(run, updates):
    folder, path = run
    torch.save({**read_checkpoint(path), "updates": updates}, path)
    with pytest.raises(ValueError, match="the run cannot be continued from .*last.ckpt"):
        fit(*toy_programs(), Trace_ELBO(), toy_data(), out=folder, resume=True, **SETTINGS)


def test_a_guide_of_ones_own_must_be_a_class():
    with pytest.raises(TypeError, match="guide must be a class, got functools.partial"):
        build("mvae", toy_networks(), 2, functools.partial(ProductOfExperts, prior_expert=False))


def test_config_must_be_plain(tmp_path):
    with pytest.raises(TypeError, match="plain values"):
        fit(*toy_programs(), Trace_ELBO(), toy_data(), out=tmp_path / "run", config={"x": torch.ones(1)}, **SETTINGS)
    assert not (tmp_path / "run").exists()
