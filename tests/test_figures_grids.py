"""Grids of values: what is drawn where, and that nothing of matplotlib's global state is touched."""

import io

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure

from multipyro.data import Modality
from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.inference.evaluation.figures import cross_generation_figure, joint_samples_figure, reconstructions_figure
from multipyro.inference.evaluation.figures._drawing import Column, draw_value, value_grid
from multipyro.ppl_models import (
    MLP,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    MultimodalModel,
    NormalLikelihood,
    OneHotMLP,
)

MODALITIES = {
    "image": Modality("image", (1, 4, 4), "image", "continuous_bernoulli"),
    "color": Modality("color", (3, 4, 4), "image", "normal"),
    "label": Modality("label", (), "label", "categorical", 3),
    "word": Modality("word", (3,), "text", "categorical", 4, ("ab", "ca", "bbb"), " abc"),
    "vector": Modality("vector", (6,), "vector", "normal"),
}


@pytest.fixture
def programs():
    likelihoods = {
        "image": ContinuousBernoulliLikelihood(MLP(2, (1, 4, 4), (8,))),
        "color": NormalLikelihood(MLP(2, (3, 4, 4), (8,))),
        "label": CategoricalLikelihood(MLP(2, 3, (8,))),
        "word": CategoricalLikelihood(MLP(2, (3, 4), (8,))),
        "vector": NormalLikelihood(MLP(2, 6, (8,))),
    }
    encoders = {
        "image": MLP((1, 4, 4), 8, ()),
        "color": MLP((3, 4, 4), 8, ()),
        "label": OneHotMLP(3, 8, ()),
        "word": OneHotMLP(4, 8, (), length=3),
        "vector": MLP(6, 8, ()),
    }
    guide = ProductOfExperts(2, {name: NormalEncoder(network, 2) for name, network in encoders.items()})
    return MultimodalModel(2, likelihoods), guide


def rows(number):
    return {
        "image": torch.rand(number, 1, 4, 4),
        "color": torch.rand(number, 3, 4, 4),
        "label": torch.arange(number) % 3,
        "word": MODALITIES["word"].encode(["ab", "ca", "bbb"] * number)[:number],
        "vector": torch.randn(number, 6),
    }


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def images_of(figure):
    return [ax.images[0].get_array() for ax in figure.axes if ax.images]


def written(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue().startswith(b"\x89PNG")


def test_cross_generation_has_one_row_per_data_point_and_one_column_per_sample(programs):
    given = {name: rows(3)[name] for name in ("word", "label")}
    figure = cross_generation_figure(*programs, MODALITIES, given, ["image", "color"], num_samples=2)
    assert len(figure.axes) == 3 * (2 + 2 * 2)
    assert texts(figure) == ["ab", "0", "ca", "1", "bbb", "2"]
    assert len(images_of(figure)) == 3 * 2 * 2
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["given\nword", "given\nlabel", "image", "color"]
    assert written(figure)


def test_what_is_given_is_drawn_as_it_is(programs):
    x = {"image": rows(3)["image"]}
    figure = cross_generation_figure(*programs, MODALITIES, x, ["word"], num_samples=2)
    for drawn, image in zip(images_of(figure), x["image"], strict=True):
        assert torch.equal(torch.as_tensor(drawn.filled()), image[0])
    assert len(texts(figure)) == 3 * 2


def test_joint_samples_have_one_row_per_modality(programs):
    figure = joint_samples_figure(programs[0], MODALITIES, num_samples=3)
    assert len(figure.axes) == 5 * 3
    labels = [ax.get_ylabel().split("\n") for ax in figure.axes if ax.get_ylabel()]
    assert [name for name, *_ in labels] == list(MODALITIES)
    assert [len(label) for label in labels] == [1, 1, 1, 1, 2]  # the last one has the scale of its bars
    assert len(images_of(figure)) == 2 * 3 and len(texts(figure)) == 2 * 3
    assert written(figure)


def test_reconstructions_stand_beside_what_they_reconstruct(programs):
    x = rows(2)
    figure = reconstructions_figure(*programs, MODALITIES, x)
    assert len(figure.axes) == 2 * 5 * 2
    assert written(figure)


def test_no_global_state_of_matplotlib_is_touched(programs):
    before, style = matplotlib.rcParams._get_backend_or_none(), dict(matplotlib.rcParams)
    written(joint_samples_figure(programs[0], MODALITIES, num_samples=2))
    assert matplotlib.rcParams._get_backend_or_none() == before
    assert dict(matplotlib.rcParams) == style
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


def test_a_long_text_is_wrapped_and_cut():
    words = ("<pad>", *(f"word{number}" for number in range(30)))
    caption = Modality("caption", (30,), "text", "categorical", 31, vocabulary=words)
    figure = Figure()
    for ids in (torch.arange(1, 31), torch.tensor([1, 2, 3, 4] + [0] * 26)):
        draw_value(figure.add_subplot(), caption, ids)
    long, short = (text.split("\n") for text in texts(figure))
    assert len(long) == 7 and long[-1] == "..." and max(map(len, long)) <= 15
    assert short == ["word0 word1", "word2 word3"]


def test_missing_values_are_shown_as_missing_and_nothing_depends_on_what_fills_them(programs):
    x = rows(3)
    observed = {"image": torch.tensor([True, False, True]), "label": torch.tensor([False, True, True])}
    shown = []
    for filler in (0.0, 0.9):
        filled = {**x, "image": x["image"].clone(), "label": x["label"].clone()}
        filled["image"][1], filled["label"][0] = filler, int(filler > 0)
        given = {name: filled[name] for name in observed}
        torch.manual_seed(0)
        figures = [
            cross_generation_figure(*programs, MODALITIES, given, ["word", "vector"], 2, observed=observed),
            reconstructions_figure(*programs, MODALITIES, filled, observed),
        ]
        assert [texts(figure).count("missing") for figure in figures] == [2, 2]
        files = [io.BytesIO() for _ in figures]
        for figure, file in zip(figures, files, strict=True):
            figure.savefig(file, format="png")
        shown.append([file.getvalue() for file in files])
    assert shown[0] == shown[1]


def test_missing_entries_are_marked():
    figure = Figure()
    image = torch.rand(1, 4, 4)
    image[0, 0, 0] = torch.nan
    color = torch.rand(3, 4, 4)
    color[:, 1, 1] = torch.nan
    words = Modality("words", (3,), "text", "categorical", 3, vocabulary=("<pad>", "red", "cube"))
    vector = torch.tensor([1.0, torch.nan, 2.0, -1.0, torch.nan, 0.5])
    few = Modality("few", (2,), "vector", "normal", columns=("age", "crp"))
    drawn = {
        "image": (MODALITIES["image"], image),
        "color": (MODALITIES["color"], color),
        "label": (MODALITIES["label"], torch.tensor(-1)),
        "words": (words, torch.tensor([1, -1, 0])),
        "vector": (MODALITIES["vector"], vector),
        "few": (few, torch.tensor([41.0, torch.nan])),
    }
    axes = {name: figure.add_subplot() for name in drawn}
    for name, (modality, value) in drawn.items():
        draw_value(axes[name], modality, value, (-1.0, 2.0))
    assert axes["image"].images[0].get_array().mask.sum() == 1
    assert not torch.as_tensor(axes["color"].images[0].get_array()).isnan().any()
    assert [axes[name].texts[0].get_text() for name in ("label", "words", "few")] == [
        "missing",
        "red ? <pad>",
        "age 41\ncrp –",
    ]
    assert axes["vector"].lines[0].get_xdata().tolist() == [0.5, 3.5]  # crosses in place of the second and fifth bar
    assert written(figure)


def test_many_numbers_are_one_path_and_grids_are_heat_maps_of_one_scale():
    modalities = {
        "genes": Modality("genes", (2_000,), "counts", "poisson"),
        "sound": Modality("sound", (1, 40, 40), "grid", "normal"),
        "spectrum": Modality("spectrum", (1, 50), "grid", "normal"),
        "volume": Modality("volume", (1, 3, 5, 6), "grid", "normal"),
    }
    values = {name: 5.0 * torch.rand(2, *modality.shape) for name, modality in modalities.items()}
    values["sound"][1] += 7.0
    figure = value_grid([Column(modality, values[name], name) for name, modality in modalities.items()])
    genes, sound, spectrum, volume = figure.axes[:4]
    assert len(genes.patches) == 1 and len(spectrum.lines) == 1
    assert genes.get_ylim() == pytest.approx((-0.25, 5.25), abs=0.02)  # a scale that begins at 0
    assert sound.get_title() == f"sound\n{values['sound'].min():.3g} to {values['sound'].max():.3g}"
    assert {ax.images[0].get_clim() for ax in (sound, figure.axes[5])} == {
        (values["sound"].min().item(), values["sound"].max().item())
    }
    assert torch.equal(torch.as_tensor(volume.images[0].get_array().filled()), values["volume"][0, 0, 1])
    assert written(figure)


def test_names_from_data_begin_no_formula(programs):
    names = ("$x^{", "price in $", "\\alpha")
    label = Modality("label", (), "label", "categorical", 3, names)
    figure = value_grid([Column(label, torch.arange(3), "given\n$a_{"), Column(label, torch.arange(3), "b $")])
    assert texts(figure)[:3:2] == ["$x^{", "price in $"]
    assert written(figure)
