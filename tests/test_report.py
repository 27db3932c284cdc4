"""The report of `evaluate`: its estimates, the values of data points behind them, and comparisons of two methods."""

import json
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from multipyro.batch import subsets_of
from multipyro.data import Modality, MultimodalData, Splits, load_dataset
from multipyro.guides import Guide
from multipyro.inference import build, evaluate, networks_for
from multipyro.inference.cli.tables import flat_metrics
from multipyro.inference.evaluation import Classifier, Report, latent_accuracy, paired_differences, train_classifiers
from multipyro.ppl_models import BernoulliLikelihood, MultimodalModel, NormalLikelihood


@pytest.fixture(scope="module")
def digits():
    parts = [getattr(load_dataset("digits"), name) for name in Splits.NAMES]
    return Splits(*(part.take(torch.arange(number)) for part, number in zip(parts, (200, 20, 60), strict=True)))


def report(splits, seed=0, **options):
    torch.manual_seed(seed)
    recipe = build("mvae", networks_for(splits.train.modalities, (8,)), 3, **options)
    return recipe, evaluate(recipe.model, recipe.guide, splits, num_samples=5, coherence_samples=100)


@pytest.fixture(scope="module")
def reported(digits):
    return report(digits)


def test_shares_have_intervals_and_the_bracket_of_the_classifiers(reported, digits):
    plain = reported[1].to_dict()
    error = train_classifiers(digits.train, digits.test)["image"].largest_error
    assert 1 - plain["classifier_accuracy"]["image"] < error < 0.1
    share = plain["coherence"]["conditional"]["label->image"]
    assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1 and share["low"] < share["high"]
    expected = [max(0.0, share["value"] - error), min(1.0, share["value"] + error)]
    assert share["bracket"] == pytest.approx(expected)
    # a label is the class itself, so there is no error of a classifier
    assert "bracket" not in plain["coherence"]["conditional"]["image->label"]
    joint = plain["coherence"]["joint"]
    assert joint["num"] == 100 and joint["bracket"][1] - joint["bracket"][0] <= 2 * error + 1e-9
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_latents_are_probed_and_measured_for_every_subset(reported, digits):
    recipe, result = reported
    subsets = ["+".join(subset) for subset in subsets_of(tuple(digits.test.modalities))]
    assert list(result.metrics["latent_accuracy"]) == list(result.metrics["latent_dimensions"]) == subsets
    dimensions = result.to_dict()["latent_dimensions"]["image+label"]
    assert len(dimensions["kl"]) == 3 and 0 <= dimensions["active_units"] <= 3
    assert set(result.metrics["symmetric_kl"]) == {"image|label", "image|word", "label|word"}
    assert all(value >= 0 for value in result.metrics["symmetric_kl"]["image|label"])


def test_examples_are_the_values_behind_the_estimates(reported, digits):
    _, result = reported
    for name, values in result.examples.items():
        first, second, *rest = name.split("/")
        estimate = result.metrics[first][second]
        for key in rest:
            estimate = estimate[key]
        mean = estimate.value if hasattr(estimate, "value") else estimate.mean
        assert values.shape == (60,) and values.nanmean().item() == pytest.approx(mean, rel=1e-9)
    kinds = {name.split("/")[0] for name in result.examples}
    assert kinds == {
        *("coherence", "latent_accuracy", "log_likelihood", "conditional_log_likelihood"),
        "guide_conditional_log_likelihood",
    }
    assert not any(name.startswith("coherence/joint") for name in result.examples)


def test_examples_are_kept_in_a_file(reported, tmp_path):
    _, result = reported
    result.save_examples(tmp_path / "examples.npz")
    loaded = Report.load_examples(tmp_path / "examples.npz")
    assert loaded.keys() == result.examples.keys()
    assert all(torch.equal(loaded[n].nan_to_num(-9), result.examples[n].nan_to_num(-9)) for n in loaded)


def test_two_methods_are_compared_on_the_same_data_points(reported, digits):
    _, first = reported
    _, second = report(digits, seed=1)
    differences = paired_differences([first.examples], [second.examples])
    assert differences.keys() == first.examples.keys()
    name = "log_likelihood/image"
    values = first.examples[name] - second.examples[name]
    assert differences[name].value == pytest.approx(values.mean().item())
    assert differences[name].se == pytest.approx(values.std().item() / math.sqrt(60))
    # images that are hard for one model are hard for the other
    alone = [result.metrics["log_likelihood"]["image"].se for result in (first, second)]
    assert differences[name].se < math.hypot(*alone)
    assert differences[name].seed_std is None
    two = paired_differences([first.examples, second.examples], [second.examples, first.examples])
    assert two[name].value == pytest.approx(0.0) and two[name].seed_std > 0


def test_methods_without_a_common_metric_have_no_difference(reported):
    _, first = reported
    missing = {"log_likelihood/image": torch.full((60,), math.nan)}
    assert paired_differences([first.examples], [missing]) == {}


def test_probes_of_one_expert_per_data_point(digits):
    torch.manual_seed(0)
    recipe = build("mmvae", networks_for(digits.train.modalities, (8,)), 3)
    means, components = (
        latent_accuracy(recipe.guide, digits.train, digits.test, ["image", "label"], output=output)
        for output in ("mean", "component")
    )
    assert means.num == components.num == 60 and means.value != components.value
    with pytest.raises(ValueError, match="output must be one of"):
        latent_accuracy(recipe.guide, digits.train, digits.test, ["image"], output="median")


def test_the_error_of_a_classifier_is_bounded_by_what_its_test_data_allows():
    modality = load_dataset("digits").test.modalities["image"]
    # Wilson's limit for all of 60 is 60 / (60 + z^2)
    assert Classifier(modality, None, 1.0, 60).largest_error == pytest.approx(1 - 60 / (60 + 1.959964**2))
    assert Classifier(modality, None, 1.0).largest_error == 0.0
    assert Classifier(modality, None, math.nan, 0).largest_error == 1.0


class Repeated(nn.Module):
    """The latent, three times."""

    def forward(self, z):
        return torch.cat([z, z, z], -1)


class Threshold(nn.Module):
    """Logits that are positive above one half."""

    def forward(self, z):
        return 20 * (z - 0.5)


class AtTheImage(Guide):
    """`z` is the beginning of the image; it does not look at attributes."""

    def posterior(self, x, observed=None):
        rows = len(next(iter(x.values())))
        place = x["image"][:, :2] if "image" in x else torch.zeros(rows, 2)
        return dist.Normal(place, 1e-4).to_event(1)


def test_attributes_have_average_precision_and_errors():
    torch.manual_seed(0)
    modalities = {
        "image": Modality("image", (6,), "vector", "normal"),
        "attributes": Modality("attributes", (2,), "vector", "bernoulli"),
    }

    def data(split):
        attributes = (torch.rand(200, 2) < 0.4).float()
        image = torch.cat([attributes, attributes, attributes], 1) + 0.3 * torch.randn(200, 6)
        return MultimodalData("faces", modalities, {"image": image, "attributes": attributes}, split=split)

    splits = Splits(*(data(name) for name in Splits.NAMES))
    likelihoods = {"image": NormalLikelihood(Repeated()), "attributes": BernoulliLikelihood(Threshold())}
    model, guide = MultimodalModel(2, likelihoods), AtTheImage(2, modalities=("image", "attributes"))
    result = evaluate(model, guide, splits, num_samples=5)
    scores = result.to_dict()["attributes"]["image->attributes"]
    assert scores["average_precision"]["value"] > 0.9 and scores["average_precision"]["se"] > 0
    x = splits.test.x
    assert scores["errors"] == ((x["image"][:, :2] > 0.5) != (x["attributes"] > 0.5)).sum(0).tolist()
    assert scores["error_rate"]["value"] == pytest.approx(sum(scores["errors"]) / 400)
    assert result.examples["attributes/image->attributes/error_rate"].shape == (200,)
    flat = flat_metrics(result.to_dict())
    assert flat["average precision image->attributes"]["value"] == scores["average_precision"]["value"]
    assert flat["error rate image->attributes"]["value"] == scores["error_rate"]["value"]
