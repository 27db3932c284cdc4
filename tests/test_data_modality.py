"""Descriptions of modalities: contradictions, class and token ids, scaling, names."""

import dataclasses
import json

import pytest
import torch

from multipyro.data import KINDS, Modality, load_dataset
from multipyro.data.scaling import Scaling, fit_scaling
from multipyro.data.sets import DIGIT_WORDS

WORD = Modality("word", (5,), "text", "categorical", 16, DIGIT_WORDS, " efghinorstuvwxz")


@pytest.mark.parametrize("text", ["", "z", "zero", "seven", "so so", *DIGIT_WORDS])
def test_decoding_undoes_encoding(text):
    alphabet = " efghinorstuvwxz"
    assert WORD.encode([text]).shape == (1, 5)
    assert WORD.encode([text]).dtype == torch.int64
    assert WORD.decode(WORD.encode([text])) == [text]
    assert [alphabet[i] for i in WORD.encode([text])[0]] == list(text.ljust(5))


def test_encoding_undoes_decoding():
    ids = torch.randint(1, 16, (100, 5))
    assert torch.equal(WORD.encode(WORD.decode(ids)), ids)


def test_no_texts():
    assert WORD.encode([]).shape == (0, 5)
    assert WORD.decode(torch.empty(0, 5, dtype=torch.int64)) == []


@pytest.mark.parametrize("text", ["eleven", "Zero", "null"])
def test_a_text_that_does_not_fit(text):
    with pytest.raises(ValueError, match=f"'{text}' does not fit 5 characters of ' efghinorstuvwxz'"):
        WORD.encode([text])


@pytest.mark.parametrize("value", [-1, 16])
def test_a_class_id_outside_the_alphabet(value):
    ids = torch.zeros(2, 5, dtype=torch.int64)
    ids[1, 3] = value
    with pytest.raises(ValueError, match=rf"'word' must lie in 0 to 15, got .*{value}"):
        WORD.decode(ids)


def test_ids_of_another_shape():
    with pytest.raises(ValueError, match=r"'word' must have shape \(rows, 5\), got \(2, 4\)"):
        WORD.decode(torch.zeros(2, 4, dtype=torch.int64))


def test_ids_without_names_cannot_be_encoded_or_decoded():
    label = Modality("label", (), "label", "categorical", 10)
    text = Modality("text", (3,), "text", "categorical", 10)
    with pytest.raises(ValueError, match="'label' has no class_names"):
        label.encode(["one"])
    with pytest.raises(ValueError, match="'label' has no class_names"):
        label.decode(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="'text' has no alphabet and no vocabulary"):
        text.encode(["one"])
    with pytest.raises(ValueError, match="'text' has no alphabet and no vocabulary"):
        text.decode(torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize("kind, likelihood", [("label", "categorical"), ("ordinal", "ordinal")])
def test_names_of_classes_become_ids_and_back(kind, likelihood):
    stage = Modality("stage", (), kind, likelihood, 3, ("I", "II", "III"))
    assert stage.encode(["II", "I"]).tolist() == [1, 0]
    assert stage.decode(torch.tensor([2, 0])) == ["III", "I"]
    assert stage.encode([]).shape == (0,) and stage.is_discrete
    with pytest.raises(ValueError, match=r"'stage' has no class 'IV': its classes are \('I', 'II', 'III'\)"):
        stage.encode(["I", "IV"])
    with pytest.raises(ValueError, match="ids of 'stage' must lie in 0 to 2, got 0 to 3"):
        stage.decode(torch.tensor([0, 3]))


@pytest.mark.parametrize(
    ("changes", "message"),
    {
        "kind": ({"kind": "sound"}, "kind of modality 'word'.*'sound'"),
        "likelihood": ({"likelihood": "poisson"}, "likelihood of modality 'word', of kind 'text', must be .*'poisson'"),
        "classes": ({"num_classes": None, "alphabet": None}, "'word' is categorical and needs num_classes"),
        "alphabet's size": ({"num_classes": 15}, "num_classes = 15 different characters"),
        "character twice": ({"alphabet": " efghinorstuvwxx"}, "num_classes = 16 different characters"),
        "shape": ({"shape": (5, 2)}, r"'word' must have the shape \(positions,\), got \(5, 2\)"),
        "scaled text": (
            {"scaling": Scaling((0.0,), (1.0,))},
            "'word' is of kind 'text', only .*'vector'.* can be scaled",
        ),
        "mean counts of a text": (
            {"mean_counts": (1.0,) * 5},
            "mean_counts of modality 'word' .*kind 'counts', got 5, of which 5 are positive, for the kind 'text'",
        ),
        "scale of a text": ({"scale": 2.0}, "'word' has a categorical likelihood, which takes no scale, got 2.0"),
    }.values(),
)
def test_a_description_that_contradicts_itself(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(WORD, **changes)


@pytest.mark.parametrize("text", [" two", "two ", " "])
def test_texts_do_not_end_with_the_padding(text):
    with pytest.raises(ValueError, match=f"'{text}' begins or ends with ' ', the padding of text 'word'"):
        WORD.encode([text])


@pytest.mark.parametrize("text", ["", "two", "so so", "seven"])
def test_a_text_is_the_same_wherever_it_starts(text):
    ids = WORD.encode([text])
    for start in range(6 - len(text)):
        assert WORD.decode(ids.roll(start, 1)) == [text]


SCENE = Modality("text", (3,), "text", "categorical", 3, vocabulary=("red", "big", "cube"))
WORDS = Modality("words", (3,), "text", "categorical", 3, vocabulary=["-", "Bald", "Wavy_Hair"])


@pytest.mark.parametrize("text", ["", "Bald", "Wavy_Hair Bald", "Bald Bald Wavy_Hair"])
def test_words_are_padded_with_the_blank(text):
    ids = WORDS.encode([text])
    assert ids.shape == (1, 3)
    assert WORDS.decode(ids) == [text]
    assert ids[0].tolist() == [WORDS.vocabulary.index(w) for w in [*text.split(), "-", "-", "-"][:3]]


def test_words_without_a_blank_fill_every_position():
    assert SCENE.encode(["big red cube", "red red red"]).tolist() == [[1, 0, 2], [0, 0, 0]]
    assert SCENE.decode(torch.tensor([[1, 0, 2], [2, 0, 0]])) == ["big red cube", "cube red red"]
    for text in ("big red", "", "big red cube cube", "big red ball", "big red -"):
        with pytest.raises(ValueError, match=rf"'{text}' does not fit 3 words of \('red', 'big', 'cube'\)"):
            SCENE.encode([text])


CAPTION = Modality("caption", (4,), "text", "categorical", 4, vocabulary=("<exc>", "<pad>", "<eos>", "bird"))


@pytest.mark.parametrize("text", ["", "bird <eos>", "<exc> bird bird <eos>"])
def test_a_word_that_pads_need_not_be_the_first(text):
    ids = CAPTION.encode([text])
    assert ids[0].tolist() == [CAPTION.vocabulary.index(w) for w in [*text.split(), *["<pad>"] * 4][:4]]
    assert CAPTION.decode(ids) == [text]
    assert CAPTION.decode(torch.tensor([[0, 3, 1, 2], [1, 3, 0, 1]])) == ["<exc> bird <pad> <eos>", "bird <exc>"]
    with pytest.raises(ValueError, match="begins or ends with '<pad>'"):
        CAPTION.encode(["bird <pad>"])


@pytest.mark.parametrize(
    ("changes", "message"),
    {
        "size": ({"num_classes": 4}, "num_classes = 4 different words"),
        "twice": ({"vocabulary": ("red", "big", "red")}, "num_classes = 3 different words"),
        "space": ({"vocabulary": ("red", "very big", "cube")}, "different words without spaces"),
        "empty": ({"vocabulary": ("red", "", "cube")}, "different words without spaces"),
        "both": ({"alphabet": "abc"}, "has an alphabet or a vocabulary, got both"),
        "shape": ({"shape": ()}, r"'text' must have the shape \(positions,\), got \(\)"),
    }.values(),
)
def test_a_vocabulary_that_contradicts_itself(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SCENE, **changes)


@pytest.mark.parametrize("modality", [SCENE, WORDS])
def test_a_vocabulary_survives_json(modality):
    assert Modality(**json.loads(json.dumps(dataclasses.asdict(modality)))) == modality


def test_number_of_elements():
    assert [m.dim for m in load_dataset("digits").train.modalities.values()] == [64, 1, 5]


@pytest.mark.parametrize("name", ["image", "label", "word"])
def test_a_description_survives_json(name):
    modality = load_dataset("digits").train.modalities[name]
    assert Modality(**json.loads(json.dumps(dataclasses.asdict(modality)))) == modality


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_default_likelihood_and_survives_json(kind):
    shape = () if kind in ("label", "ordinal") else (3, 8, 8) if kind == "image" else (3,)
    discrete = kind in ("label", "ordinal", "text")
    modality = Modality("m", shape, kind, KINDS[kind][0], 4 if discrete else None)
    assert modality.is_discrete == discrete
    assert Modality(**json.loads(json.dumps(dataclasses.asdict(modality)))) == modality


@pytest.mark.parametrize(
    ("name", "error"),
    [("", ValueError), ("a.b", ValueError), ("a/b", ValueError), ("a\x1b[2J", ValueError), ("a" * 101, ValueError)]
    + [(0, TypeError), (None, TypeError), ("a\0", ValueError), ("a\nb", ValueError)],
)
def test_a_name_that_cannot_be_a_site_or_a_file(name, error):
    with pytest.raises(error, match="the name of a modality must"):
        Modality(name, (2,), "vector", "normal")


STEPS = ["standardize", "robust", "log1p", ["log1p", "standardize"], ["log1p", "robust"]]


@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("shape", [(4,), (2, 5), (3, 2, 2)])
def test_scaling_is_undone(steps, shape):
    units = torch.rand(200, *shape) * torch.tensor([1e-3, 5.0, 4e3, 0.0])[: shape[0]].reshape(
        -1, *[1] * (len(shape) - 1)
    )
    scaling = fit_scaling(units, steps)
    modality = Modality("m", shape, "vector" if len(shape) == 1 else "grid", "normal", scaling=scaling)
    scaled = modality.from_units(units)
    torch.testing.assert_close(modality.to_units(scaled), units, rtol=1e-4, atol=1e-3)
    assert modality.to_units(scaled[None]).shape == (1, *units.shape)
    assert Modality(**json.loads(json.dumps(dataclasses.asdict(modality)))) == modality


def test_scaled_columns_have_the_requested_location_and_spread():
    units = torch.randn(5_000, 3) * torch.tensor([1.0, 50.0, 0.0]) + torch.tensor([0.0, 300.0, 7.0])
    units[::7, 0] = torch.nan
    scaled = Modality("m", (3,), "vector", "normal", scaling=fit_scaling(units, "standardize")).from_units(units)
    torch.testing.assert_close(scaled.nanmean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled[:, 1].std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert (scaled[:, 2] == 0).all()  # a constant column is shifted only
    units[0, 1] = 1e6  # one outlier does not move a robust scaling
    robust = Modality("m", (3,), "vector", "normal", scaling=fit_scaling(units, "robust")).from_units(units)
    assert abs(robust[1:, 1].std().item() - 1) < 0.05


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_densities_in_units_count_the_jacobian(steps):
    units = torch.rand(50, 2).double() * torch.tensor([3.0, 400.0])
    modality = Modality("m", (2,), "vector", "normal", scaling=fit_scaling(units, steps))
    slope = torch.autograd.functional.jacobian(lambda u: modality.from_units(u).sum(0), units).sum(0)
    torch.testing.assert_close(modality.log_jacobian(modality.from_units(units)), slope.log(), rtol=1e-4, atol=1e-4)
    plain = dataclasses.replace(modality, scaling=None)
    assert torch.equal(plain.to_units(units), units) and (plain.log_jacobian(units) == 0).all()


@pytest.mark.parametrize(
    ("values", "steps", "message"),
    [
        (torch.tensor([[-1.0]]), "log1p", "log1p needs values above -1, got -1"),
        (torch.ones(2, 1), "whiten", "scaling must be one of .*'standardize'.*, got 'whiten'"),
        (torch.ones(2, 1), ["standardize", "log1p"], "scaling must be one of"),
    ],
)
def test_a_scaling_that_cannot_be_learned(values, steps, message):
    with pytest.raises(ValueError, match=message):
        fit_scaling(values, steps)


def test_long_descriptions_are_shortened():
    modality = Modality("rna", (2_000,), "counts", "poisson", columns=tuple(f"gene {i}" for i in range(2_000)))
    assert repr(modality) == (
        "Modality('rna', (2000,), 'counts', 'poisson', columns=('gene 0', 'gene 1', 'gene 2', ..., 'gene 1999': 2000 "
        "in all))"
    )
