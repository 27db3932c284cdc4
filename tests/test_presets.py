"""Every preset builds with the data it names, and the command line trains what Python does."""

import math
from dataclasses import fields, replace

import fake_mnist
import pytest
import torch
from experiment import noise
from torch import nn

from multipyro.data.registry import DATASETS
from multipyro.inference import fit_recipe
from multipyro.inference.cli.jobs import load_data, training_job
from multipyro.inference.cli.parser import main, parse
from multipyro.inference.presets import PRESETS, preset
from multipyro.inference.recipes import METHODS, options_for
from multipyro.inference.training.settings import TrainingSettings
from multipyro.ppl_models.networks.heads import NormalEncoder

PAIRS = [(name, method) for name, one in PRESETS.items() for method in one.methods]


@pytest.fixture
def mnist(monkeypatch, tmp_path):
    """A data root with a small MNIST."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    files = fake_mnist.contents()
    fake_mnist.expect(monkeypatch, files)
    fake_mnist.write_mnist(tmp_path / "data", files, packed=False)
    return str(tmp_path / "data")


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_every_method_of_every_preset_builds(name, method):
    one = PRESETS[name]
    splits = noise(one)
    # narrow networks: their widths follow from the hidden ones
    recipe = replace(one, hidden_features=(16, 16)).build(splits.train.modalities, method)
    assert recipe.name == method and recipe.latent_dim == one.latent_dim
    assert one.method_options(method).items() <= recipe.options.items()
    assert one.architectures.items() <= recipe.networks.architectures.items()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_states_its_source_and_its_settings(name):
    one = PRESETS[name]
    assert one.method in METHODS and one.source and one.departures
    assert all(sentence.endswith(".") for sentence in one.departures)
    assert {"epochs", "batch_size", "lr"} <= set(one.training) <= {setting.name for setting in fields(TrainingSettings)}
    assert isinstance(one.settings(), TrainingSettings)
    assert set(one.data_options) <= set(DATASETS[one.data].options)
    for method in one.methods:
        assert set(one.method_options(method)) <= set(options_for(method))


def test_widths_are_those_of_the_papers():
    one = PRESETS["jmvae/mnist"]
    assert one.build(noise(one).train.modalities, "jmvae-kl").num_parameters == 3_127_450


def test_encoders_of_jmvae_give_variances_and_those_of_other_presets_do_not():
    for name, scale in (("jmvae/mnist", "variance"), ("mvae/mnist", "softplus")):
        one = replace(PRESETS[name], hidden_features=(16, 16))
        for method in one.methods:
            recipe = one.build(noise(one).train.modalities, method)
            parts = [*recipe.model.modules(), *recipe.guide.modules()]
            assert {part.scale for part in parts if isinstance(part, NormalEncoder)} == {scale}


def test_bridged_networks_have_batch_norm_and_leaky_relus():
    for name in ("bridged/mnist", "bridged/celeba", "bridged/mnist-fashion"):
        one = replace(PRESETS[name], hidden_features=(16, 16), latent_dim=2)
        recipe = one.build(noise(one).train.modalities)
        for part in (recipe.model, *recipe.guide.branches.values()):
            kinds = {type(layer) for layer in part.modules()}
            assert nn.LeakyReLU in kinds and nn.ReLU not in kinds and kinds & {nn.BatchNorm1d, nn.BatchNorm2d}


def test_the_posteriors_of_birds_are_a_laplace_and_a_normal_distribution():
    one = replace(PRESETS["mmvae/cub-images"], hidden_features=(32, 32))
    splits = noise(one)
    recipe = one.build(splits.train.modalities, particles=2)
    x, _ = splits.train.rows(torch.arange(4))
    mixture = recipe.guide.posterior(x)
    families = [type(part.base_dist).__name__ for part in mixture.components]
    assert families == ["Laplace", "Normal"]
    z = mixture.rsample()
    torch.testing.assert_close(
        mixture.log_prob(z), torch.stack([part.log_prob(z) for part in mixture.components]).logsumexp(0) - math.log(2)
    )
    history = fit_recipe(recipe, splits.train, one.settings(epochs=1, batch_size=12, progress=False)).history
    assert math.isfinite(history[-1]["train/bound"])
    with pytest.raises(ValueError, match="family must name each of"):
        one.build(splits.train.modalities, family={"image": "laplace"})


def test_warmups_count_epochs_or_steps():
    one = replace(PRESETS["vlvae/celeba"], hidden_features=(16, 16), latent_dim=2)
    assert "z: warmup(20000 steps to 1)" in one.build(noise(one).train.modalities).equations[0]
    one = replace(PRESETS["mopoe/celeba"], hidden_features=(16, 16))
    recipe = one.build(noise(one).train.modalities, warmup=3, warmup_unit="step", beta=1.0)
    assert "z: warmup(3 steps to 1)" in recipe.equations[0] and "z_text: warmup(3 steps to 10)" in recipe.equations[0]


def test_unknown_presets_are_named():
    with pytest.raises(ValueError, match="choose from jmvae/mnist, "):
        preset("jmvae/mnits")


def test_command_line_trains_what_python_does(mnist):
    arguments = parse(["train", "--preset", "jmvae/mnist", "--data-root", mnist])
    splits = load_data(arguments)
    job = training_job(arguments, arguments.method, splits, 0)
    one = PRESETS["jmvae/mnist"]
    recipe = one.build(one.splits(mnist).train.modalities)
    assert job.recipe.name == recipe.name == "jmvae"
    assert job.recipe.options == recipe.options and job.recipe.equations == recipe.equations
    assert job.recipe.networks.architectures == recipe.networks.architectures
    assert job.recipe.networks.hidden_features == recipe.networks.hidden_features
    assert (job.settings.epochs, job.settings.batch_size, job.settings.lr) == (2_000, 100, 1e-3)


def test_arguments_take_precedence_over_the_configuration_and_it_over_the_preset(mnist, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('preset = "jmvae/mnist"\nepochs = 7\nlr = 0.5\nwarmup = 3\n')
    command = [
        "train",
        "jmvae-kl",
        "--config",
        str(config),
        "--lr",
        "0.25",
        "--option",
        "alpha=2",
        "--data-root",
        mnist,
    ]
    arguments = parse(command)
    job = training_job(arguments, arguments.method, load_data(arguments), 0)
    assert (job.settings.epochs, job.settings.lr, job.settings.batch_size) == (7, 0.25, 100)
    assert (job.recipe.name, job.recipe.options["alpha"], job.recipe.options["warmup"]) == ("jmvae-kl", 2.0, 3)
    assert job.recipe.latent_dim == 64


def test_a_method_that_is_not_of_the_paper_has_what_it_shares_with_all(mnist):
    arguments = parse(["train", "mopoe", "--preset", "jmvae/mnist", "--data-root", mnist])
    job = training_job(arguments, arguments.method, load_data(arguments), 0)
    assert (job.recipe.name, job.recipe.options["warmup"], job.recipe.latent_dim) == ("mopoe", 200, 64)


def test_presets_are_printed(capsys):
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in PRESETS if name not in printed] == []
    assert main(["presets", "mopoe/celeba"]) == 0
    printed = capsys.readouterr().out
    assert "image=laplace:0.75" in printed and "private_beta=image=2.0,text=10.0" in printed
    assert all(sentence in printed for sentence in PRESETS["mopoe/celeba"].departures)
    assert main(["presets", "nothing"]) == 2
