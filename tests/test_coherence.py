"""Coherence and probes of latents on programs for which the correct values are known."""

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from multipyro.data import Modality, MultimodalData
from multipyro.guides import Guide
from multipyro.inference.evaluation import (
    Classifier,
    coherence_by_number,
    conditional_coherence,
    joint_coherence,
    latent_accuracy,
    train_classifiers,
)
from multipyro.ppl_models import CategoricalLikelihood, MultimodalModel, NormalLikelihood

LABEL = Modality("label", (), "label", "categorical", 2)
WORD = Modality("word", (2,), "text", "categorical", 3, ("ab", "b"), " ab")
VECTOR = Modality("vector", (1,), "vector", "normal")


class Switch(nn.Module):
    """Logits, practically certain, of class `z > threshold`."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, z):
        above = (z[..., 0] > self.threshold).long()
        return 60.0 * nn.functional.one_hot(above, 2).to(z.dtype)


class Speller(nn.Module):
    """The word "ab" (class 0) below 0, "b" (class 1) above, and "a", which is no class, above 1."""

    def forward(self, z):
        words = WORD.encode(["ab", "b"])
        words = torch.cat([words, torch.tensor([[1, 0]])])
        index = (z[..., 0] > 0).long() + (z[..., 0] > 1).long()
        return 60.0 * nn.functional.one_hot(words[index], 3).to(z.dtype)


class Sign:
    """A classifier of one number by its sign, in the manner of scikit-learn."""

    def predict(self, values):
        return (values[:, 0] > 0).astype(int)


class AtTheVector(Guide):
    """`z` is the vector itself."""

    def posterior(self, x, observed=None):
        return dist.Normal(x["vector"], 1e-5).to_event(1)


def cdf(value):
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


def data(labels, vector=None, **kwargs):
    """A vector, its label and its word, the vector having the sign of the label by default."""
    if vector is None:
        vector = (labels * 2.0 - 1.0)[:, None] * 0.5
    x = {"vector": vector, "label": labels, "word": WORD.encode(["ab", "b"])[labels]}
    return MultimodalData("toy", {"vector": VECTOR, "label": LABEL, "word": WORD}, x, labels=labels, **kwargs)


def model():
    label, word, vector = (
        CategoricalLikelihood(Switch(0.3)),
        CategoricalLikelihood(Speller()),
        NormalLikelihood(nn.Identity(), 2.0),
    )
    return MultimodalModel(1, {"label": label, "word": word, "vector": vector})


CLASSIFIERS = {"label": Classifier(LABEL), "word": Classifier(WORD), "vector": Classifier(VECTOR, Sign())}


def test_a_text_is_classified_wherever_it_starts():
    text = Modality("text", (6,), "text", "categorical", 4, ("ab", "b"), "-abc")
    rows = torch.tensor([[0, 0, 1, 2, 0, 0], [2, 0, 0, 0, 0, 0], [0, 1, 0, 2, 0, 0], [0, 0, 0, 0, 0, 0]])
    assert Classifier(text)(rows).tolist() == [0, 1, -1, -1]
    assert Classifier(text)(rows.reshape(2, 2, 6)).shape == (2, 2)


def assert_share(found, exact):
    assert abs(found.value - exact) < 4.5 * max(found.se, 1e-3)


@pytest.mark.parametrize(
    ("names", "exact"),
    [
        (("label", "vector"), 1 - (cdf(0.3) - cdf(0.0))),
        (("word", "vector"), cdf(1.0)),
        (("label", "word"), cdf(0.0) + cdf(1.0) - cdf(0.3)),
        (("label", "word", "vector"), cdf(0.0) + cdf(1.0) - cdf(0.3)),
    ],
)
def test_joint_coherence_is_the_probability_that_all_classes_agree(names, exact):
    found = joint_coherence(model(), {name: CLASSIFIERS[name] for name in names}, 10_001)
    assert found.se == pytest.approx(math.sqrt(found.value * (1 - found.value) / 10_001))
    assert_share(found, exact)


def test_joint_coherence_of_samples_differs_from_that_of_means():
    names = {name: CLASSIFIERS[name] for name in ("word", "vector")}
    # the noise of the vector, twice as wide as z, turns its sign with probability arctan(2) / pi
    turned = joint_coherence(model(), {"vector": CLASSIFIERS["vector"], "label": Classifier(LABEL)}, 4000, "sample")
    assert turned.value < joint_coherence(model(), names, 4000).value - 0.1


def test_joint_coherence_needs_two_modalities():
    with pytest.raises(ValueError, match=r"at least two modalities, got classifiers for \['label'\]"):
        joint_coherence(model(), {"label": CLASSIFIERS["label"]})


def test_conditional_coherence_is_the_share_of_rows_that_show_their_own_class():
    labels = torch.arange(200) % 2
    vector = (labels * 2.0 - 1.0)[:, None] * 0.5
    vector[:30] *= -1
    guide = AtTheVector(1, modalities=("vector", "label"))
    rows = data(labels, vector)
    found = conditional_coherence(model(), guide, rows, ["vector"], "label", CLASSIFIERS["label"])
    assert found.value == pytest.approx(0.85) and found.se == pytest.approx(math.sqrt(0.85 * 0.15 / 200))
    # above 1 the word is none: all of class 1 but the turned ones are wrong, and those of class 0 are right
    rows = data(labels, vector * 3)
    found = conditional_coherence(model(), guide, rows, ["vector"], "word", CLASSIFIERS["word"])
    assert found.value == pytest.approx(85 / 200)


def test_coherence_by_number_is_the_mean_over_subsets_and_their_targets():
    labels = torch.arange(200) % 2
    vector = (labels * 2.0 - 1.0)[:, None] * 1.5
    vector[:30] *= -1
    guide = AtTheVector(1, modalities=("vector", "label", "word"), subsets=[("vector",), ("vector", "label")])
    found = coherence_by_number(model(), guide, data(labels, vector), CLASSIFIERS)
    # of vectors that are not negated both are right in class 0 and the label alone in class 1, of negated ones none
    both, value = [2] * 85 + [1] * 85 + [0] * 30, (0.85 + 0.425) / 2
    spread = math.sqrt(sum((right - 2 * value) ** 2 for right in both)) / 400
    assert (found[1].value, found[1].se) == pytest.approx((value, spread))
    assert (found[2].value, found[2].se) == pytest.approx((0.425, math.sqrt(0.425 * 0.575 / 200)))
    assert set(found) == {1, 2}


def test_coherence_by_number_counts_the_data_points_that_contain_the_subset():
    labels = torch.arange(40) % 2
    rows = data(labels, observed={"vector": torch.arange(40) < 10}).select(["vector", "label"])
    rows.x["vector"][10:] = math.nan
    guide = AtTheVector(1, modalities=("vector",))
    found = coherence_by_number(model(), guide, rows, {"label": CLASSIFIERS["label"]})
    assert list(found) == [1] and found[1].value == 1.0 and found[1].num == 10
    assert coherence_by_number(model(), guide, rows, {"vector": CLASSIFIERS["vector"]}) == {}


def test_conditional_coherence_of_sampled_values():
    labels = torch.arange(4000) % 2
    guide = AtTheVector(1, modalities=("vector",))
    found = [
        conditional_coherence(model(), guide, data(labels), ["vector"], "vector", CLASSIFIERS["vector"], output)
        for output in ("mean", "sample")
    ]
    assert found[0].value == 1
    assert_share(found[1], cdf(0.25))


def test_rows_that_lack_what_is_given_are_not_counted():
    labels = torch.arange(40) % 2
    rows = data(labels, observed={"vector": torch.arange(40) < 10})
    rows.x["vector"][10:] = math.nan
    guide = AtTheVector(1, modalities=("vector",))
    found = conditional_coherence(model(), guide, rows, ["vector"], "label", CLASSIFIERS["label"])
    accuracy = latent_accuracy(guide, rows, rows, ["vector"])
    assert found.value == accuracy.value == 1.0 and found.num == accuracy.num == 10


def test_a_probe_finds_separable_latents_and_only_those():
    labels = torch.arange(400) % 2
    guide = AtTheVector(1, modalities=("vector",))
    assert latent_accuracy(guide, data(labels), data(labels), ["vector"]).value == 1
    noise = [data(labels, torch.randn(400, 1)) for _ in range(2)]
    assert_share(latent_accuracy(guide, *noise, ["vector"]), 0.5)
    # on another scale and offset the probe is the same: it standardizes
    moved = [data(rows.labels, rows.x["vector"] * 1e-4 + 50) for rows in (data(labels), data(labels))]
    assert latent_accuracy(guide, *moved, ["vector"]).value == 1


def test_data_without_labels_has_no_such_metric():
    rows = replace(data(torch.arange(4) % 2), labels=None)
    guide = AtTheVector(1, modalities=("vector",))
    with pytest.raises(ValueError, match="'toy' has no labels"):
        conditional_coherence(model(), guide, rows, ["vector"], "label", CLASSIFIERS["label"])
    with pytest.raises(ValueError, match="'toy' has no labels"):
        latent_accuracy(guide, rows, rows, ["vector"])
    assert train_classifiers(rows, rows) == {}
