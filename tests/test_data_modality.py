"""What a modality is: descriptions that contradict themselves, and texts to class ids and back."""

import dataclasses
import json

import pytest
import torch

from multipyro.data import Modality, load_dataset
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


def test_a_modality_without_alphabet_spells_nothing():
    label = Modality("label", (), "label", "categorical", 10)
    with pytest.raises(ValueError, match="'label' has no alphabet and no vocabulary"):
        label.encode(["one"])
    with pytest.raises(ValueError, match="'label' has no alphabet and no vocabulary"):
        label.decode(torch.zeros(1, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changes", "message"),
    {
        "kind": ({"kind": "sound"}, "kind of modality 'word'.*'sound'"),
        "likelihood": ({"likelihood": "poisson"}, "likelihood of modality 'word'.*'poisson'"),
        "classes": ({"num_classes": None, "alphabet": None}, "'word' is categorical and needs num_classes"),
        "alphabet's size": ({"num_classes": 15}, "num_classes = 15 different characters"),
        "character twice": ({"alphabet": " efghinorstuvwxx"}, "num_classes = 16 different characters"),
        "shape": ({"shape": (5, 2)}, r"'word' must have the shape \(positions,\), got \(5, 2\)"),
    }.values(),
)
def test_a_description_that_contradicts_itself(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(WORD, **changes)


@pytest.mark.parametrize("text", [" two", "two ", " "])
def test_what_pads_is_no_end_of_a_text(text):
    with pytest.raises(ValueError, match=f"'{text}' begins or ends with ' ', which pads texts 'word'"):
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
