"""The options of a method are declared once, by the signature of its build function."""

from collections.abc import Mapping, Sequence
from typing import Literal

import pytest

from multipyro.inference.options import Count, Option, Share, Weight, check_options, options_of


def build(
    networks,
    latent_dim,
    *,
    alpha: Weight = 0.1,
    share: Share = 0.5,
    num_particles: Count = 1,
    private: int | Mapping[str, int] | None = None,
    bound: Literal["stratified", "tight"] = "stratified",
    shared: bool = False,
    weights: Mapping[str, Weight] | Literal["dimension"] | None = None,
    teacher: str | Sequence[str] | None = None,
):
    """Builds a method.

    Args:
        networks: Builds its parts.
        latent_dim: Size of the latent.
        alpha: Weight of the terms of the subsets: the larger, the closer
            the encoders.
        share: A share.
        num_particles: Number of samples.
        private: Sizes of private latents.
        bound: Which bound.
        shared: Whether layers are shared.
        weights: Weights of the likelihoods.
        teacher: A subset.

    Returns:
        Nothing.
    """


OPTIONS = options_of(build)


def test_names_defaults_choices_and_help_come_from_the_signature_and_the_docstring():
    assert list(OPTIONS) == ["alpha", "share", "num_particles", "private", "bound", "shared", "weights", "teacher"]
    assert OPTIONS["alpha"].default == 0.1 and OPTIONS["bound"].choices == ("stratified", "tight")
    assert OPTIONS["alpha"].help == "Weight of the terms of the subsets: the larger, the closer the encoders."
    assert OPTIONS["teacher"].help == "A subset." and OPTIONS["weights"].choices == ("dimension",)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("alpha", "2", 2.0),
        ("alpha", "1e-3", 0.001),
        ("num_particles", "3", 3),
        ("private", "4", 4),
        ("private", "image=4,label=2", {"image": 4, "label": 2}),
        ("private", "{'image': 4}", {"image": 4}),
        ("private", "none", None),
        ("bound", "tight", "tight"),
        ("shared", "true", True),
        ("weights", "dimension", "dimension"),
        ("weights", "image=1,label=10", {"image": 1.0, "label": 10.0}),
        ("teacher", "image+word", "image+word"),
        ("teacher", "['image', 'word']", ("image", "word")),
    ],
)
def test_texts_of_the_command_line_become_values(name, text, value):
    parsed = OPTIONS[name].parse(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (Sequence[str], "image", ("image",)),
        (Sequence[str], "image,label", ("image", "label")),
        (Sequence[int], "64", (64,)),
        (Sequence[int], "64,32", (64, 32)),
        (Sequence[int], "(64, 32)", (64, 32)),
        (Sequence[int], "wide", None),
        (Mapping[str, str], "a=b,a=c", None),
        (Mapping[str, str] | str, "a=b,a=c", "a=b,a=c"),
        (Mapping[str, str], "x=a=1", {"x=a": "1"}),
    ],
)
def test_texts_of_lists_and_mappings(type_, text, value):
    option = Option("sizes", None, type_)
    if value is None:
        with pytest.raises(ValueError, match="sizes must be"):
            option.parse(text)
    else:
        assert option.parse(text) == value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alpha", -1, "alpha must be a number (at least 0), got -1"),
        ("alpha", float("nan"), "alpha must be a number (at least 0), got nan"),
        ("alpha", "2", "alpha must be a number (at least 0), got '2'"),
        ("alpha", True, "alpha must be a number"),
        ("share", 1.5, "share must be a number (from 0 to 1), got 1.5"),
        ("num_particles", 2.5, "num_particles must be an integer (at least 1), got 2.5"),
        ("num_particles", 0, "num_particles must be an integer (at least 1), got 0"),
        ("private", "x", "private must be an integer or a mapping from names to integers or None"),
        ("bound", "loose", "bound must be 'stratified' or 'tight', got 'loose'"),
        ("shared", 1, "shared must be True or False, got 1"),
        (
            "weights",
            {"image": -3},
            "weights must be a mapping from names to numbers (at least 0) or 'dimension' or None",
        ),
        ("weights", "size", "'dimension' or None, got 'size'"),
    ],
)
def test_values_of_other_types_or_out_of_bounds_are_refused(name, value, message):
    with pytest.raises(ValueError) as error:
        check_options(OPTIONS, {name: value}, "mine")
    assert message in str(error.value)


def test_values_are_converted_and_completed_by_the_defaults():
    values = check_options(OPTIONS, {"alpha": 2, "teacher": ["image"]}, "mine")
    assert values == {name: option.default for name, option in OPTIONS.items()} | {"alpha": 2.0, "teacher": ("image",)}
    with pytest.raises(ValueError, match="mine has no option beta: it has alpha, share"):
        check_options(OPTIONS, {"beta": 1.0}, "mine")


def test_a_text_that_is_not_of_the_type_is_refused():
    with pytest.raises(ValueError, match=r"num_particles must be an integer .at least 1., got 'x'"):
        OPTIONS["num_particles"].parse("x")


def test_an_option_needs_a_default_of_its_type():
    def without(*, alpha: float): ...
    def wrong(*, alpha: float = "much"): ...

    with pytest.raises(TypeError, match="option alpha of .*without needs a default"):
        options_of(without)
    with pytest.raises(TypeError, match="the default of option alpha must be a number, got 'much'"):
        options_of(wrong)


def test_an_option_without_annotation_takes_any_value():
    def loose(*, size=3): ...

    assert options_of(loose) == {"size": Option("size", 3)} and options_of(loose)["size"].parse("4") == 4
