"""Likelihoods and scales in place of those of the data: in Python, in networks, on the command line."""

import json

import pytest
import torch

from multipyro.data import Modality, load_dataset
from multipyro.inference import build, fit_recipe, load, networks_for
from multipyro.inference.cli.parser import main
from multipyro.ppl_models import BetaLikelihood, LaplaceLikelihood

SMALL = ["--data", "digits", "--epochs", "1", "--latent-dim", "2", "--hidden", "8", "8"]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits").head(40)


def likelihood_of(family, scale, networks=None):
    image = Modality("image", (3, 64, 64), "image", family, scale=scale)
    return networks_for({"image": image}, (8, 8), networks).likelihoods(2)["image"]


@pytest.mark.parametrize(
    ("family", "scale", "networks", "first", "shape", "learned"),
    [
        ("laplace", None, "mlp", 0.75, (), False),
        ("laplace", 0.01, "mlp", 0.01, (), False),
        ("normal", None, "strided", 0.27, (), False),
        ("normal", 1.0, "strided", 1.0, (), False),
        ("normal", "learned", "mlp", 1.0, (), True),
        ("normal", "channels", "strided", 0.27, (3, 1, 1), True),
        ("discretized_logistic", None, "mlp", 0.1, (), True),
        ("discretized_logistic", 0.2, "mlp", 0.2, (), False),
        ("discretized_logistic", "channels", "mlp", 0.1, (3, 1, 1), True),
    ],
)
def test_the_scale_of_a_modality_is_that_of_its_likelihood(family, scale, networks, first, shape, learned):
    likelihood = likelihood_of(family, scale, networks)
    assert likelihood.log_scale.shape == shape
    assert torch.allclose(likelihood.log_scale.exp(), torch.full(shape, first))
    assert ("log_scale" in dict(likelihood.named_parameters())) == learned


def test_examples_stay_and_their_description_changes(digits):
    changed = digits.with_likelihoods({"image": "beta", "label": "categorical"})
    assert changed.test.modalities["image"].likelihood == "beta"
    assert changed.train.content_hash == digits.train.content_hash and changed.test.options == digits.test.options
    assert digits.test.modalities["image"].likelihood == "continuous_bernoulli"
    assert changed.train.modalities["word"] == digits.train.modalities["word"]
    assert isinstance(networks_for(changed.train.modalities, (8,)).likelihoods(2)["image"], BetaLikelihood)


@pytest.mark.parametrize(
    ("families", "scales", "error", "message"),
    [
        ({"photo": "beta"}, None, ValueError, r"unknown modalities \['photo'\]: there are \['image', 'label'"),
        (
            {"image": "gauss"},
            None,
            ValueError,
            "likelihood of modality 'image', of kind 'image', must be .* got 'gauss'",
        ),
        ({"image": "beta"}, {"image": 0.1}, ValueError, "'image' has a beta likelihood, which takes no scale, got 0.1"),
        ({"image": "normal"}, {"label": 0.1}, ValueError, r"scales name \['label'\], but likelihoods only \['image'\]"),
        ({"image": "normal"}, {"image": 0.0}, ValueError, "must be a number above 0, 'learned' or 'channels', got 0.0"),
        ({"image": "normal"}, {"image": "each"}, ValueError, "'learned' or 'channels', got 'each'"),
        (
            {"label": "normal"},
            None,
            ValueError,
            "'label', of kind 'label', must be one of .'categorical',., got 'normal'",
        ),
        ({"image": "categorical"}, None, ValueError, "'image', of kind 'image', must be one of .* got 'categorical'"),
    ],
)
def test_a_likelihood_that_does_not_suit_the_data_is_refused(digits, families, scales, error, message):
    with pytest.raises(error, match=message):
        digits.with_likelihoods(families, scales)


def test_a_run_keeps_its_likelihoods(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "mopoe", *SMALL, "--likelihood", "image=laplace:0.1", "--out", str(run)]) == 0
    kept = json.loads((run / "run.json").read_text())["modalities"]["image"]
    assert (kept["likelihood"], kept["scale"]) == ("laplace", 0.1)
    likelihood = load(run).model.likelihoods["image"]
    assert isinstance(likelihood, LaplaceLikelihood) and likelihood.log_scale.exp().item() == pytest.approx(0.1)
    assert main(["evaluate", str(run), "--num-samples", "2"]) == 0
    # another scale is another run
    other = ["--likelihood", "image=laplace:0.2", "--out", str(run), "--resume"]
    assert main(["train", "mopoe", *SMALL, *other]) == 2
    assert "scale" in capsys.readouterr().err


def test_a_run_that_python_gave_other_likelihoods_is_evaluated_too(digits, tmp_path):
    changed = load_dataset("digits").with_likelihoods({"image": "normal"}, {"image": 0.2})
    recipe = build("mvae", networks_for(changed.train.modalities, (8,)), 2)
    fit_recipe(recipe, changed, epochs=1, batch_size=512, out=tmp_path, progress=False)
    assert main(["evaluate", str(tmp_path), "--num-samples", "2"]) == 0


def test_a_scale_for_each_channel_is_learned_from_the_command_line(tmp_path):
    run = tmp_path / "run"
    changed = ["--likelihood", "image=laplace:channels", "--modalities", "image", "label"]
    assert main(["train", "mopoe", *SMALL, *changed, "--out", str(run)]) == 0
    likelihood = load(run).model.likelihoods["image"]
    assert likelihood.log_scale.requires_grad and likelihood.log_scale.shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("beta", "--likelihood: must be a mapping from names to texts, got 'beta'"),
        ("image=beta:0.1", "has a beta likelihood, which takes no scale, got 0.1"),
        ("image=normal:wide", "got 'wide'"),
        (
            "label=normal",
            "likelihood of modality 'label', of kind 'label', must be one of ('categorical',), got 'normal'",
        ),
    ],
)
def test_a_wrong_likelihood_is_one_line(changed, message, tmp_path, capsys):
    assert main(["train", "mopoe", *SMALL, "--likelihood", changed, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()
