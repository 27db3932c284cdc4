"""Architectures: the defaults, how to choose others, and that a run keeps them."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from multipyro.data import Modality, MultimodalData, Splits
from multipyro.inference import METHODS, build, fit_recipe, load, networks_for
from multipyro.inference.cli.jobs import paper_architectures
from multipyro.inference.cli.parser import main
from multipyro.inference.recipes import Networks
from multipyro.inference.recipes.architectures import ARCHITECTURES
from multipyro.ppl_models import MLP
from multipyro.ppl_models.networks.heads import NormalEncoder

ALPHABET = "-ab"
WORDS = ("<pad>", "a", "b")
MODALITIES = {
    "gray": Modality("gray", (1, 64, 64), "image", "bernoulli"),
    "written": Modality("written", (1, 28, 28), "image", "laplace"),
    "odd": Modality("odd", (3, 28, 28), "image", "laplace"),
    "small": Modality("small", (3, 32, 32), "image", "laplace"),
    "large": Modality("large", (3, 64, 64), "image", "laplace"),
    "wide": Modality("wide", (3, 64, 72), "image", "laplace"),
    "name": Modality("name", (5,), "text", "categorical", 3, alphabet=ALPHABET),
    "string": Modality("string", (8,), "text", "categorical", 3, alphabet=ALPHABET),
    "long": Modality("long", (256,), "text", "categorical", 3, alphabet=ALPHABET),
    "tags": Modality("tags", (9,), "text", "categorical", 3, vocabulary=WORDS),
    "caption": Modality("caption", (32,), "text", "categorical", 3, vocabulary=WORDS),
    "label": Modality("label", (), "label", "categorical", 3),
    "flags": Modality("flags", (4,), "vector", "bernoulli"),
    "features": Modality("features", (2048,), "vector", "laplace"),
}
DEFAULTS = {
    **dict.fromkeys(("gray", "name", "tags", "label", "flags"), "mlp"),
    **{"odd": "convolutional", "wide": "convolutional", "small": "plain", "large": "strided"},
    **{"written": "shallow", "features": "tapered"},
    **{"string": "characters", "long": "characters", "caption": "sentence"},
}
SUITED = {
    "mlp": set(MODALITIES),
    "normalized": set(MODALITIES),
    "shallow": {"gray", "written", "odd", "small", "large", "wide", "flags", "features"},
    "tapered": {"flags", "features"},
    "convolutional": {"gray", "written", "odd", "small", "large", "wide"},
    "plain": {"gray", "small", "large", "wide"},
    "strided": {"gray", "small", "large"},
    "residual": {"gray", "large", "long"},
    "instance": {"gray", "written", "odd", "small", "large", "wide"},
    "characters": {"string", "long", "caption"},
    "sentence": {"string", "long", "caption"},
    "gru": {"name", "string", "long", "tags", "caption"},
}


def rows(modality, number=3):
    if modality.likelihood == "categorical":
        return torch.randint(3, (number, *modality.shape))
    return (torch.rand(number, *modality.shape) > 0.5).float()


@pytest.mark.parametrize("likelihood", ["negative_binomial", "poisson", "zero_inflated_poisson"])
def test_decoders_of_counts_start_at_the_means_of_the_data(likelihood):
    means = (400.0, 0.02, 5.0)
    counts = Modality("counts", (3,), "counts", likelihood, mean_counts=means)
    decoder = networks_for({"counts": counts}).likelihoods(4)["counts"]
    started = decoder(torch.randn(500, 4))
    started = started.base_dist.base_dist if "zero" in likelihood else started
    torch.testing.assert_close(started.mean.mean(0), torch.tensor(means), rtol=0.3, atol=0)
    unknown = networks_for({"counts": replace(counts, mean_counts=None)}).likelihoods(4)["counts"]
    assert unknown(torch.randn(500, 4)).mean.max() < 2


def test_the_default_architectures():
    assert Networks(MODALITIES, (32, 32)).architectures == DEFAULTS


def test_a_written_digit_has_the_shallow_networks_beside_a_plain_image_alone():
    for other, architecture in (("small", "shallow"), ("odd", "mlp"), ("label", "mlp")):
        networks = networks_for({name: MODALITIES[name] for name in ("written", other)})
        assert (
            networks.architectures["written"] == networks.select(["written"]).architectures["written"] == architecture
        )


def convolutions(*layers):
    """Number of parameters of square convolutions, `(before, after, kernel)`, with their biases."""
    return sum(before * after * kernel**2 + after for before, after, kernel in layers)


def layers(*widths):
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


# what the papers list with 20 (CUB: 64) latents, family and modality -> encoder with its two heads, and decoder
PUBLISHED = {
    ("shallow", "written", 20): (layers(784, 400) + 2 * layers(400, 20), layers(20, 400, 784)),
    ("plain", "small", 20): (
        convolutions((3, 32, 4), (32, 64, 4), (64, 64, 4), (64, 128, 4)) + 2 * layers(128, 20),
        layers(20, 128) + convolutions((128, 64, 4), (64, 64, 4), (64, 32, 4), (32, 3, 4)),
    ),
    ("plain", "large", 64): (
        convolutions((3, 64, 4), (64, 128, 4), (128, 256, 4), (256, 512, 4)) + 2 * convolutions((512, 64, 4)),
        convolutions((64, 512, 4), (512, 256, 4), (256, 128, 4), (128, 64, 4), (64, 3, 4)),
    ),
    ("tapered", "features", 64): (
        layers(2048, 1024, 512, 256) + 2 * layers(256, 64),
        layers(64, 256, 512, 1024, 2048),
    ),
    ("characters", "text", 20): (
        71 * 128 + 128 + 2 * (4 * 128 * 128 + 128) + 2 * layers(128, 20),
        layers(20, 128) + 2 * (4 * 128 * 128 + 128) + 71 * 128 + 71,
    ),
}


@pytest.mark.parametrize("architecture, name, latent_dim", PUBLISHED)
def test_at_widths_of_512_they_are_those_of_the_papers(architecture, name, latent_dim):
    alphabet = "".join(map(chr, range(32, 103)))
    text = Modality("text", (8,), "text", "categorical", 71, alphabet=alphabet)
    networks = networks_for({name: text if name == "text" else MODALITIES[name]}, (512, 512), architecture)
    parts = (networks.encoders(latent_dim)[name], networks.likelihoods(latent_dim)[name].network)
    sizes = tuple(sum(parameter.numel() for parameter in part.parameters()) for part in parts)
    assert sizes == PUBLISHED[architecture, name, latent_dim]


def test_features_narrow_in_steps_with_elus_and_widen_again():
    networks = networks_for({"features": MODALITIES["features"]})
    for network in (networks.branches()["features"], networks.likelihoods(64)["features"].network):
        kinds = [type(layer).__name__ for layer in network.layers]
        assert kinds == ["Linear", "ELU"] * (len(kinds) // 2) + ["Linear"] * (len(kinds) % 2)
    widths = [layer.out_features for layer in network.layers[::2]]
    assert widths == [256, 512, 1024, 2048]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_is_built_where_it_suits_and_refused_elsewhere(architecture):
    networks = networks_for(MODALITIES, (32, 32), architecture)
    assert {name for name, chosen in networks.architectures.items() if chosen == architecture} >= SUITED[architecture]
    assert {name for name, modality in MODALITIES.items() if ARCHITECTURES[architecture].suits(modality)} == SUITED[
        architecture
    ]
    for name in SUITED[architecture]:
        one = networks.select([name])
        x = rows(MODALITIES[name])
        assert one.architectures == {name: architecture} and one.encoders(2)[name](x).batch_shape == (3,)
        likelihood = one.likelihoods(2)[name](torch.zeros(4, 3, 2))
        assert likelihood.log_prob(x).shape == (4, 3)
    for name in set(MODALITIES) - SUITED[architecture]:
        with pytest.raises(ValueError, match=f"{architecture}.* does not suit modality '{name}'"):
            Networks(MODALITIES, (32, 32), architectures={name: architecture})


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown architecture 'dense': choose from strided, plain"):
        networks_for(MODALITIES, architectures="dense")
    with pytest.raises(ValueError, match=r"architectures name unknown modalities \['sound'\]"):
        networks_for(MODALITIES, architectures={"sound": "mlp"})
    with pytest.raises(ValueError, match="'strided' suits none of the modalities"):
        networks_for({"label": MODALITIES["label"]}, architectures="strided")


def test_a_run_keeps_its_networks(tmp_path):
    data = MultimodalData("toy", {"string": MODALITIES["string"]}, {"string": torch.randint(3, (20, 8))})
    networks = networks_for(data.modalities, (16,), "gru")
    recipe = build("mvae", networks, 2)
    fit_recipe(recipe, Splits(data, data, data), epochs=1, out=tmp_path, progress=False)
    networks = load(tmp_path).recipe.networks
    assert networks.architectures == {"string": "gru"} and networks.hidden_features == (16,)
    with pytest.raises(ValueError, match="architectures.string was gru, now characters"):
        other = build("mvae", networks_for(data.modalities, (16,)), 2)
        fit_recipe(other, Splits(data, data, data), epochs=1, out=tmp_path, resume=True, progress=False)


def test_architectures_from_the_command_line(tmp_path, capsys):
    small = ["--epochs", "1", "--batch-size", "512", "--modalities", "image", "word", "--latent-dim", "2"]
    run = tmp_path / "run"
    assert (
        main(
            ["train", "mvae", "--networks", "image=convolutional,word=gru", "--hidden", "8", "--out", str(run), *small]
        )
        == 0
    )
    config = json.loads((run / "run.json").read_text())
    assert config["architectures"] == {"image": "convolutional", "word": "gru"} and config["hidden_features"] == [8]
    assert main(["train", "mvae", "--networks", "image=dense", *small]) == 2
    assert "unknown architecture 'dense'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "shape", "image", "text"),
    [
        ("mopoe", (3, 64, 64), "residual", "residual"),
        ("mopoe", (3, 28, 28), "convolutional", "residual"),
        ("mmvae", (3, 64, 64), "plain", "sentence"),
        ("vlvae", (3, 64, 64), "instance", "gru"),
        ("jmvae-kl", (3, 64, 64), "strided", "characters"),
    ],
)
def test_the_networks_of_a_methods_paper(method, shape, image, text):
    modalities = {
        "image": Modality("image", shape, "image", "laplace"),
        "text": Modality("text", (256,), "text", "categorical", 3, alphabet=" ab"),
        "label": Modality("label", (), "label", "categorical", 3),
    }
    architectures = paper_architectures(method, modalities)
    assert networks_for(modalities, architectures=architectures).architectures == {
        "image": image,
        "text": text,
        "label": "mlp",
    }
    assert {name for info in METHODS.values() for name in info.architectures} <= set(ARCHITECTURES)


def test_a_method_whose_paper_has_no_networks_says_so():
    with pytest.raises(ValueError, match="the architectures of mvae's paper are not known, only of .*mopoe"):
        paper_architectures("mvae", MODALITIES)


def test_scales_of_normal_encoders_are_positive_with_finite_gradients():
    raw = torch.tensor([-200.0, -3.0, 0.0, 4.0])
    positive = torch.nn.functional.softplus(raw)
    for scale, expected in (("softplus", positive), ("exp", raw.exp()), ("variance", positive.sqrt())):
        encoder = NormalEncoder(MLP(3, 2, ()), 4, scale)
        with torch.no_grad():
            encoder.heads.weight.zero_()
            encoder.heads.bias[4:] = raw
        found = encoder(torch.zeros(1, 3)).base_dist.scale
        torch.testing.assert_close(found, expected[None] + 1e-6, rtol=1e-4, atol=1e-6)
        found.sum().backward()
        assert encoder.heads.bias.grad.isfinite().all() and (found > 0).all()
    with pytest.raises(ValueError, match="scale must be one of .* got 'linear'"):
        NormalEncoder(MLP(3, 2, ()), 4, "linear")
