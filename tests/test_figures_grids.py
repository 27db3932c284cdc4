"""Grids of values: what is drawn where, and that nothing of matplotlib's global state is touched."""

import io

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure

from multipyro.data import Modality
from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.inference.evaluation.figures import cross_generation_figure, joint_samples_figure, reconstructions_figure
from multipyro.inference.evaluation.figures._drawing import draw_value
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
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == list(MODALITIES)
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
