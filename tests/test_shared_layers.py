"""VLVAE's shared layers: one module for image and text, its sizes, its statistics, checkpoints and the command line."""

import json

import pyro
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam
from torch import nn
from toy import KillAt, Killed

from multipyro.data import Modality, MultimodalData, Splits
from multipyro.inference import build, cross_generate, fit_recipe, load, networks_for
from multipyro.inference.cli.parser import main
from multipyro.inference.training import step_seed
from multipyro.ppl_models.networks import GRUTextEncoder, InstanceNormConvDecoder, InstanceNormConvEncoder, ResidualMLP

MODALITIES = {
    "image": Modality("image", (6,), "vector", "normal"),
    "text": Modality("text", (3,), "text", "categorical", 5, alphabet="-abcd"),
}
ROWS = 24
DIGITS = ("image", "word")


class Interrupted(Exception):
    """Ends a run in these tests."""


def rows():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(ROWS, 6, generator=generator)
    x = {"image": image, "text": (image[:, :3] > 0).long() + 1}
    return MultimodalData("toy", MODALITIES, x)


def recipe_of(**options):
    torch.manual_seed(0)
    return build("vlvae", networks_for(MODALITIES, (16,)), 2, **{"shared": True, "aggregate": None, **options})


def shared_in(program):
    return [part for part in program.modules() if isinstance(part, ResidualMLP)]


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("inference, joined", [("marginal", 200), ("joint", 400)])
def test_the_sizes_are_those_of_the_paper(inference, joined):
    scenes = {
        "image": Modality("image", (3, 64, 64), "image", "beta"),
        "text": Modality("text", (9,), "text", "categorical", 20, vocabulary=tuple(map(str, range(20)))),
    }
    networks = networks_for(scenes, architectures={"image": "instance", "text": "gru"})
    recipe = build("vlvae", networks, 50, shared=True, inference=inference, aggregate=None)
    (encoder,), (decoder,) = shared_in(recipe.guide), shared_in(recipe.model)
    # three layers and the moments of 50 latents; five layers
    heads = next(part for name, part in recipe.guide.named_modules() if name.endswith("heads"))
    assert size(encoder) + size(heads) == joined * 500 + 1000 + 501 * 500 + 501 * 100
    assert size(decoder) == 50 * 500 + 500 * 500 + 2 * (1000 + 501 * 500) + 501 * 200
    image, text = recipe.model.likelihoods["image"], recipe.model.likelihoods["text"]
    assert size(image.network) == size(InstanceNormConvDecoder(200, (3, 64, 64)))
    assert size(text.network) == 0 and text.decoder.cell.input_size == 100 + 200
    branches = size(InstanceNormConvEncoder((3, 64, 64))) + (size(GRUTextEncoder(20, 9)) if inference == "joint" else 0)
    assert size(recipe.guide) == branches + size(encoder) + size(heads)
    assert recipe.num_parameters == size(recipe.guide) + size(decoder) + size(image) + size(text)


@pytest.mark.parametrize("inference", ["marginal", "joint"])
def test_image_and_text_train_one_module_that_runs_once_per_step(inference):
    x, _ = rows().rows(torch.arange(ROWS))
    gradients = []
    for weights in ({}, {"text": 0.0}, {"image": 0.0}):
        recipe, runs = recipe_of(inference=inference, beta=0.0, weights=weights), []
        recipe.model.trunk.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        torch.manual_seed(1)
        recipe.stages[0].objective.loss_and_grads(recipe.model, recipe.guide, x)
        assert len(runs) == 1 and recipe.model.trunk.blocks[0][1].num_batches_tracked == 1
        gradients.append([parameter.grad for parameter in recipe.model.trunk.parameters()])
    for both, image, text in zip(*gradients, strict=True):
        assert image.abs().max() > 1e-3 and text.abs().max() > 1e-3
        torch.testing.assert_close(both, image + text, atol=1e-4, rtol=1e-4)


def test_one_step_of_the_optimizer_changes_the_shared_layers_once():
    x, _ = rows().rows(torch.arange(ROWS))
    recipe, twin, given = recipe_of(), recipe_of(), []
    torch.manual_seed(step_seed(0, 0, 0))
    twin.stages[0].objective.loss_and_grads(twin.model, twin.guide, x)

    def sgd(parameters):
        given.extend(parameters)
        return torch.optim.SGD(given, lr=1e-3)

    fit_recipe(recipe, [(x, None)], epochs=1, optimizer=sgd, progress=False)
    assert len(given) == len({id(p) for p in given}) and sum(p.numel() for p in given) == recipe.num_parameters
    for program in ("model", "guide"):
        pairs = zip(getattr(recipe, program).parameters(), getattr(twin, program).parameters(), strict=True)
        for new, old in pairs:
            torch.testing.assert_close(new, old - 1e-3 * old.grad, atol=1e-6, rtol=1e-5)


def test_plain_svi_registers_every_parameter_once():
    recipe = recipe_of()
    x, _ = rows().rows(torch.arange(ROWS))
    before = state(recipe.model.trunk)
    svi = SVI(recipe.model, recipe.guide, Adam({"lr": 1e-3}), recipe.stages[0].objective)
    svi.step(x)
    values = [value for _, value in pyro.get_param_store().named_parameters()]
    assert len(values) == len({id(value) for value in values})
    assert {id(p) for p in recipe.model.trunk.parameters()} <= {id(value) for value in values}
    after = state(recipe.model.trunk)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert sorted(moved) == sorted(before)


def test_later_stages_and_predictions_do_not_change_the_shared_layers(tmp_path):
    recipe = recipe_of(aggregate=True, aggregate_prior=True)
    first = state(recipe.model.trunk), state(shared_in(recipe.guide)[0])
    data = rows()
    fit_recipe(recipe, Splits(data, data, data), epochs=2, out=tmp_path, batch_size=8, progress=False)
    stages = sorted((tmp_path / "checkpoints").iterdir())
    kept = [torch.load(stage / "last.ckpt", weights_only=True)["state_dict"] for stage in stages]
    shared = [{k: v for k, v in found.items() if "trunk" in k or "encoders.image" in k} for found in kept]
    assert len(stages) == 3 and any("running_mean" in name for name in shared[0])
    assert same(shared[0], shared[1]) and same(shared[0], shared[2])
    for before, after in zip(first, (recipe.model.trunk, shared_in(recipe.guide)[0]), strict=True):
        assert not any(torch.equal(before[name], value) for name, value in after.state_dict().items())
    # predictions use the running statistics of the decoder: a data point does not depend on the others
    model, guide, _ = load(tmp_path)
    before, x = state(model), rows().rows(torch.arange(4))[0]
    assert cross_generate(model, guide, {"text": x["text"]}, ["image"], num_samples=2)["image"].shape == (2, 4, 6)
    assert same(before, model.state_dict()) and not model.trunk.training
    z = torch.randn(4, 2)
    torch.testing.assert_close(model.trunk(z)[:1], model.trunk(z[:1]))


@pytest.mark.parametrize("inference", ["marginal", "joint"])
def test_a_run_resumes_bit_for_bit_and_loads(tmp_path, inference):
    data = rows()
    settings = {"epochs": 2, "batch_size": 8, "progress": False}

    def train(folder, **more):
        recipe = recipe_of(inference=inference)
        fit_recipe(recipe, Splits(data, data, data), out=tmp_path / folder, **settings, **more)
        return recipe

    whole = train("whole")
    with pytest.raises(Killed):
        train("parts", callbacks=[KillAt(epoch=1)])
    resumed = train("parts", resume=True)
    assert same(state(whole.model), state(resumed.model)) and same(state(whole.guide), state(resumed.guide))
    loaded = load(tmp_path / "parts", which="last")
    assert same(state(loaded.model), state(whole.model)) and same(state(loaded.guide), state(whole.guide))
    assert loaded.recipe.options["shared"] is True
    assert loaded.recipe.num_parameters == whole.num_parameters


def test_the_option_is_a_boolean_and_false_by_default():
    with pytest.raises(ValueError, match="shared must be True or False, got 'yes'"):
        recipe_of(shared="yes")
    recipe = build("vlvae", networks_for(MODALITIES, (16,)), 2)
    assert not shared_in(recipe.model) and not shared_in(recipe.guide) and isinstance(recipe.model.trunk, nn.Identity)


def test_networks_of_other_sizes_get_a_layer_to_the_shared_one():
    modalities = {**MODALITIES, "image": Modality("image", (3, 32, 32), "image", "laplace")}
    for architecture in ("plain", "convolutional", "strided", "mlp"):
        networks = networks_for(modalities, (32,), {"image": architecture})
        assert {net.out_features for net in networks.branches(12).values()} == {12}
        recipe = build("vlvae", networks, 2, shared=True, aggregate=None)
        assert torch.isfinite(
            torch.tensor(recipe.stages[0].objective.loss(recipe.model, recipe.guide, sample(modalities)))
        )


def sample(modalities):
    return {"image": torch.rand(4, *modalities["image"].shape), "text": torch.randint(5, (4, 3))}


def test_the_command_line_trains_it(tmp_path, capsys):
    run = tmp_path / "run"
    small = ["--epochs", "1", "--batch-size", "512", "--latent-dim", "2", "--hidden", "8", "--modalities", *DIGITS]
    small += ["--option", "shared=true", "--option", "aggregate=None"]
    assert main(["train", "vlvae", *small, "--out", str(run)]) == 0, capsys.readouterr().err
    assert json.loads((run / "run.json").read_text())["options"]["shared"] is True
    assert shared_in(load(run).model)
