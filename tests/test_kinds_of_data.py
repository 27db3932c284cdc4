"""Every kind of data with every likelihood that suits it: networks, training with missing entries, prediction."""

import math
from dataclasses import replace

import pytest
import torch

from multipyro.data import KINDS, Modality
from multipyro.inference import build, cross_generate, embed, fit_recipe, networks_for
from multipyro.ppl_models.likelihoods import OrdinalLikelihood
from multipyro.ppl_models.networks import ConvEncoder, TransformedInput

SHAPES = {"image": (1, 8, 8), "grid": (1, 20), "label": (), "ordinal": (), "text": (4,)}
CASES = [(kind, likelihood) for kind, likelihoods in KINDS.items() for likelihood in likelihoods]
DISCRETE = ("label", "ordinal", "text")


def modality(kind, likelihood, missing=False):
    classes = 3 if kind in DISCRETE else None
    return Modality("a", SHAPES.get(kind, (5,)), kind, likelihood, classes, missing_entries=missing)


@pytest.mark.parametrize("missing", (False, True))
@pytest.mark.parametrize("kind, likelihood", CASES)
def test_a_modality_of_every_kind_can_be_generated_and_encoded(kind, likelihood, missing):
    missing = missing and kind not in DISCRETE
    description = modality(kind, likelihood, missing)
    networks = networks_for({"a": description}, (8, 8))
    density = networks.likelihoods(2)["a"]
    z = torch.randn(6, 2)
    values = density(z).sample()
    assert values.shape == (6, *description.shape)
    density.check(values, "a")
    if missing:
        values[0, 0] = values[1] = math.nan
        density.check(values, "a")
    assert density(z).log_prob(values).isfinite().all()
    assert networks.encoders(2)["a"](values).mean.isfinite().all()
    assert networks.branches(7)["a"](values).shape == (6, 7)


def test_the_input_is_transformed_as_the_kind_of_data_needs():
    for kind, transform in (("counts", "log1p"), ("positive", "log"), ("angles", "circle")):
        network = networks_for({"a": modality(kind, KINDS[kind][0])}).branches()["a"]
        assert isinstance(network, TransformedInput) and network.transform == transform
    assert isinstance(networks_for({"a": modality("grid", "normal")}).branches()["a"], ConvEncoder)
    ordinal = networks_for({"a": modality("ordinal", "ordinal")}).likelihoods(2)["a"]
    assert isinstance(ordinal, OrdinalLikelihood) and ordinal.num_classes == 3


def test_a_discriminator_needs_complete_data():
    with pytest.raises(ValueError, match="'a' may have missing entries"):
        networks_for({"a": modality("vector", "normal", missing=True)}).discriminator("a")


MIXED = {
    "genes": Modality("genes", (6,), "counts", "zero_inflated_negative_binomial", missing_entries=True),
    "wind": Modality("wind", (2,), "angles", "von_mises", missing_entries=True),
    "diet": Modality("diet", (3,), "proportions", "dirichlet", missing_entries=True),
    "grade": Modality("grade", (), "ordinal", "ordinal", 4),
    "dose": Modality("dose", (2,), "positive", "gamma"),
}


def mixed_data(rows=48):
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(rows, 1, generator=generator)
    x = {
        "genes": torch.poisson((1 + 3 * level).expand(rows, 6), generator=generator),
        "wind": (2 * level - 1).expand(rows, 2).clone(),
        "diet": torch.cat([level, 1 - level, torch.ones(rows, 1)], 1) / 2,
        "grade": (4 * level[:, 0]).long(),
        "dose": 0.1 + level.expand(rows, 2),
    }
    for name in ("genes", "wind", "diet"):
        x[name][torch.rand(x[name].shape, generator=generator) < 0.2] = math.nan
    return x, {"dose": torch.rand(rows, generator=generator) < 0.7}


@pytest.mark.parametrize("method", ["mvae", "mopoe", "jmvae-kl"])
def test_methods_train_on_mixed_data_with_missing_entries(method):
    x, observed = mixed_data()
    names = list(MIXED) if method == "mopoe" else ["genes", "wind", "grade"]
    modalities = {name: MIXED[name] for name in names}
    x, observed = {name: x[name] for name in names}, {m: mask for m, mask in observed.items() if m in names}
    recipe = build(method, networks_for(modalities, (8, 8)), 2)
    history = fit_recipe(recipe, [(x, observed)], epochs=2, progress=False).history
    assert all(math.isfinite(value) for epoch in history for value in epoch.values())
    generated = cross_generate(recipe.model, recipe.guide, {"genes": x["genes"]}, ["wind", "grade"])
    assert generated["wind"].isfinite().all() and generated["grade"].dtype == torch.int64


def test_missing_entries_can_be_embedded_if_the_encoder_accepts_them():
    x, _ = mixed_data()
    modalities = {name: MIXED[name] for name in ("genes", "wind")}
    guide = build("mvae", networks_for(modalities, (8, 8)), 2).guide
    assert embed(guide, {name: x[name] for name in modalities}).isfinite().all()
    complete = {name: replace(modality, missing_entries=False) for name, modality in modalities.items()}
    with pytest.raises(ValueError, match=r"modality \['genes'\] has NaN in observed values"):
        embed(build("mvae", networks_for(complete, (8, 8)), 2).guide, {"genes": x["genes"]})
