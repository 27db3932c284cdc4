"""Average precision, errors and correctness of words, against scikit-learn and against values computed by hand."""

import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from multipyro.data import Modality, MultimodalData
from multipyro.inference.evaluation import (
    attribute_scores,
    average_precision,
    train_attribute_classifier,
    word_correctness,
    words_present,
)


def test_average_precision_by_hand():
    """Ranked: hit, miss, hit, miss. Precision at the hits is 1 and 2/3."""
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.1]])
    positives = torch.tensor([[True], [False], [True], [False]])
    assert average_precision(scores, positives).item() == pytest.approx((1 + 2 / 3) / 2)


def test_hard_predictions_have_two_thresholds():
    """Of three predicted two are right; the other positive comes with all the rest: 2/3 * 2/3 + 1/3 * 3/6."""
    scores = torch.tensor([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0]])
    positives = torch.tensor([[True], [True], [False], [True], [False], [False]])
    assert average_precision(scores, positives).item() == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 / 2)


@pytest.mark.parametrize("digits", (1, 8))
def test_average_precision_is_that_of_scikit_learn(digits):
    torch.manual_seed(0)
    scores = torch.rand(300, 5, dtype=torch.float64).round(decimals=digits)  # with one digit nearly all are tied
    positives = torch.rand(300, 5) < torch.tensor([0.02, 0.2, 0.5, 0.8, 0.99])
    expected = [average_precision_score(positives[:, k].numpy(), scores[:, k].numpy()) for k in range(5)]
    assert average_precision(scores, positives).tolist() == pytest.approx(expected)


def test_an_attribute_that_nobody_has_does_not_count():
    positives = torch.tensor([[True, False], [False, False]])
    scores = attribute_scores(torch.tensor([[0.9, 0.2], [0.6, 0.7]]), positives)
    assert scores.average_precisions[0] == 1 and math.isnan(scores.average_precisions[1])
    assert scores.mean_average_precision == 1.0
    assert scores.errors.tolist() == [1, 1] and scores.error_rate.value == 0.5
    assert scores.to_dict()["average_precision"]["attributes"] == [1.0, None]


def test_the_error_of_the_mean_is_that_of_repeated_experiments():
    torch.manual_seed(0)

    def experiment():
        positives = torch.rand(200, 3) < 0.3
        return attribute_scores((positives + 1.5 * torch.randn(200, 3)).sigmoid(), positives)

    results = [experiment() for _ in range(60)]
    values = torch.tensor([result.mean_average_precision for result in results])
    stated = sum(result.mean_average_precision_se for result in results) / 60
    assert abs(values.std().item() / stated - 1) < 4 / math.sqrt(2 * 60)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"both have shape .* got \(3, 2\) and \(3, 1\)"):
        attribute_scores(torch.rand(3, 2), torch.ones(3, 1, dtype=torch.bool))


TEXT = Modality("text", (4,), "text", "categorical", 4, vocabulary=("-", "red", "blue", "cube"))


def test_correctness_of_words_by_hand():
    words = words_present(TEXT, TEXT.encode(["red cube", "blue", "-"[:0]]))
    assert words.tolist() == [[False, True, False, True], [False, False, True, False], [False] * 4]
    probabilities = torch.tensor([[0.9, 0.8, 0.6, 0.5], [0.1, 0.9, 0.7, 0.2], [0.9, 0.9, 0.9, 0.9]])
    # one of the two words, the one word; the empty text does not count
    correct = word_correctness(probabilities, words)
    assert correct.value == pytest.approx(0.75) and correct.num == 2
    # with absent words: of four each, red alone; blank and blue... 1, 3 and 0 are right
    assert word_correctness(probabilities, words, absent=True).value == pytest.approx((1 + 3 + 0) / 12)


def test_words_need_a_vocabulary():
    with pytest.raises(ValueError, match="no vocabulary"):
        words_present(Modality("word", (2,), "text", "categorical", 3, ("ab",), " ab"), torch.zeros(1, 2).long())


def attributes(number, seed):
    """Images whose upper half is bright if they have the first attribute, the lower one if the second."""
    generator = torch.Generator().manual_seed(seed)
    positives = torch.rand(number, 2, generator=generator) < 0.5
    images = 0.2 * torch.rand(number, 1, 12, 12, generator=generator)
    images[:, :, :6] += positives[:, 0, None, None, None] * 0.7
    images[:, :, 6:] += positives[:, 1, None, None, None] * 0.7
    modality = Modality("image", (1, 12, 12), "image", "normal")
    return MultimodalData("halves", {"image": modality}, {"image": images}), positives


def test_a_classifier_of_attributes_learns_them():
    (train, first), (test, second) = attributes(1000, 0), attributes(200, 1)
    classifier = train_attribute_classifier(train, test, "image", (first, second))
    assert (classifier.accuracies > 0.99).all() and (classifier.average_precisions > 0.99).all()
    probabilities = classifier(test.x["image"].reshape(10, 20, 1, 12, 12))
    assert probabilities.shape == (10, 20, 2)
    assert ((probabilities.flatten(0, 1) > 0.5) == second).float().mean() > 0.99
    text = MultimodalData("text", {"text": TEXT}, {"text": TEXT.encode(["red"])})
    with pytest.raises(ValueError, match="got 'text' of kind 'text'"):
        train_attribute_classifier(text, text, "text", (first, second))
