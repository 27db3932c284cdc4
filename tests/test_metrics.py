"""The report of all metrics, and the classifiers of real data."""

import itertools
import json
import math
import statistics
from dataclasses import replace

import pytest
import torch

from multipyro.data import Modality, MultimodalData, Splits, load_dataset
from multipyro.guides import JointGuide
from multipyro.inference import build, evaluate, log_likelihood
from multipyro.inference.cli.commands.compare import summarize
from multipyro.inference.cli.tables import flat_metrics, format_value, markdown_table, metrics_table
from multipyro.inference.evaluation import Classifier, conditional_coherence, latent_accuracy, train_classifiers
from multipyro.inference.recipes.networks import Networks


def test_classifiers_of_the_digits():
    splits = load_dataset("digits")
    found = train_classifiers(splits.train, splits.test)
    assert set(found) == {"image", "label", "word"}
    assert found["image"].accuracy >= 0.98
    x, _ = splits.test.rows(torch.arange(20))
    for name in ("label", "word"):
        assert torch.equal(found[name](x[name]), splits.test.labels[:20])
    # leading dimensions stay, and a word that is none has no class
    assert found["image"](x["image"].reshape(4, 5, 1, 8, 8)).shape == (4, 5)
    assert found["word"](splits.test.modalities["word"].encode(["seven", "sven", "zero"])).tolist() == [7, -1, 0]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def small(digits):
    """A few digits: these tests are of the report, not of a method."""
    parts = [getattr(digits, name) for name in Splits.NAMES]
    return Splits(*(part.take(torch.arange(number)) for part, number in zip(parts, (300, 20, 60), strict=True)))


class Joint(JointGuide):
    """A guide that supports all modalities together and nothing else."""

    def __init__(self, latent_dim, encoders):
        super().__init__(latent_dim, {name: encoder.network for name, encoder in encoders.items()})


def report(method, splits, seed=0, guide=None, **options):
    torch.manual_seed(0)
    recipe = build(method, Networks(splits.train.modalities, (16, 16)), 4, guide, **options)
    state = torch.get_rng_state()
    found = evaluate(recipe.model, recipe.guide, splits, num_samples=20, coherence_samples=400, seed=seed).to_dict()
    assert torch.equal(torch.get_rng_state(), state)
    return recipe, found


def estimates(tree):
    """Every dict with a value in a report."""
    if isinstance(tree, dict) and "value" in tree:
        yield tree
    elif isinstance(tree, dict):
        for inner in tree.values():
            yield from estimates(inner)


def test_the_report_has_what_metrics_json_promises(small):
    recipe, found = report("mopoe", small)
    assert set(found["coherence"]["conditional"]) >= {"image->label", "word->image", "image+label->word"}
    assert set(found["latent_accuracy"]) == set(found["log_likelihood"]) >= {"image", "image+label", "image+label+word"}
    assert set(found["conditional_log_likelihood"]) >= {"label->image"}
    assert set(found["guide_conditional_log_likelihood"]["label->image"]) == {"mean", "logmeanexp"}
    values = list(estimates(found))
    assert len(values) == 1 + 9 + 2 + 7 + 7 + 9 + 2 * 6
    single = [found["coherence"]["conditional"][f"{g}->{t}"] for g, t in itertools.permutations(small.test.x, 2)]
    value = statistics.fmean(estimate["value"] for estimate in single)
    assert found["coherence"]["by_number"]["1"]["value"] == pytest.approx(value, abs=0.2)
    assert all(math.isfinite(value["value"]) and value["se"] >= 0 for value in values)
    assert found["classifier_accuracy"]["image"] > 0.8
    assert found["parameters"] == sum(p.numel() for m in (recipe.model, recipe.guide) for p in m.parameters())
    assert found["data"]["content_hash"]["test"] == small.test.content_hash
    relabeled = replace(small.test, labels=small.test.labels.flip(0))
    assert found["data"]["labels_hash"]["test"] == small.test.labels_hash != relabeled.labels_hash
    assert relabeled.content_hash == small.test.content_hash and replace(small.test, labels=None).labels_hash is None
    assert found["data"]["rows"] == {"train": 300, "validation": 20, "test": 60}
    assert {"multipyro", "torch", "pyro-ppl"} <= set(found["versions"])
    assert found["seed"] == 0 and found["seconds"] > 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    # a conditional is the difference of two reported evidences
    difference = found["log_likelihood"]["image+label"]["value"] - found["log_likelihood"]["image"]["value"]
    assert found["conditional_log_likelihood"]["image->label"]["value"] == pytest.approx(difference, abs=1e-4)


def test_one_seed_gives_one_report_and_leaves_the_generator_alone(small):
    splits = small.select(["image", "label"])
    first, second, third = (report("mvae", splits, seed)[1] for seed in (3, 3, 4))
    for run in (first, second, third):
        del run["seconds"]
    assert first == second
    assert first["log_likelihood"] != third["log_likelihood"]


def test_a_subset_that_the_guide_does_not_support_is_null(small):
    _, found = report("jmvae", small, guide=Joint)
    assert found["coherence"]["joint"] is not None
    assert set(found["coherence"]["conditional"].values()) == {None}
    assert found["log_likelihood"]["image"] is None
    assert found["log_likelihood"]["image+label+word"] is not None
    assert set(found["conditional_log_likelihood"].values()) == {None}
    assert set(found["guide_conditional_log_likelihood"].values()) == {None}
    assert found["latent_accuracy"]["image+label"] is None


def test_a_modality_that_the_model_does_not_have_is_null(small):
    _, found = report("vae", small)
    assert found["coherence"]["joint"] is None
    assert found["coherence"]["conditional"]["image->label"] is None
    assert found["log_likelihood"]["image"] is not None and found["log_likelihood"]["label"] is None
    assert found["latent_accuracy"]["image"] is not None and found["latent_accuracy"]["image+label"] is None
    assert list(found["classifier_accuracy"]) == ["image"]


def test_data_without_classes_has_likelihoods_only(small):
    splits = Splits(*(replace(getattr(small, name), labels=None) for name in Splits.NAMES))
    _, found = report("mvae", splits)
    assert found["coherence"]["joint"] is None and set(found["latent_accuracy"].values()) == {None}
    assert found["log_likelihood"]["image"] is not None
    json.dumps(found, allow_nan=False)


def without(data, name, rows):
    """The same data, some data points of which miss a modality."""
    return replace(data, observed={name: ~rows.expand(len(data))})


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_modality_without_data_points_is_null(small, part):
    small = small.select(["image", "label"])
    parts = {name: getattr(small, name) for name in Splits.NAMES}
    parts[part] = without(parts[part], "image", torch.ones(1, dtype=torch.bool))
    _, found = report("mvae", Splits(**parts))
    assert found["latent_accuracy"]["image"] is None and found["latent_accuracy"]["label"] is not None
    assert found["classifier_accuracy"].get("image") is None
    if part == "test":
        assert found["coherence"]["conditional"]["image->label"] is None
        assert found["coherence"]["conditional"]["label->image"] is not None
        assert found["log_likelihood"]["image"] is None and found["log_likelihood"]["label"] is not None
    else:
        assert found["coherence"]["conditional"]["label->image"] is None
    json.dumps(found, allow_nan=False)


def test_training_rows_of_one_class_make_no_judge(small):
    small = small.select(["image", "label"])
    train = without(small.train, "image", small.train.labels != 3)
    _, found = report("mvae", Splits(train, small.validation, small.test))
    assert "image" not in found["classifier_accuracy"] and found["latent_accuracy"]["image"] is None


def test_single_metrics_say_that_no_data_point_counts(small):
    torch.manual_seed(0)
    recipe = build("mvae", Networks(small.train.modalities, (8,)), 2)
    test = without(small.test, "image", torch.ones(1, dtype=torch.bool))
    with pytest.raises(ValueError, match="no data point of 'digits' contains .'image'."):
        conditional_coherence(
            recipe.model, recipe.guide, test, ["image"], "label", Classifier(test.modalities["label"])
        )
    with pytest.raises(ValueError, match="two classes of training data points that contain .'image'."):
        latent_accuracy(recipe.guide, small.train, test, ["image"])


def test_likelihoods_count_the_data_points_that_contain_the_subset(small):
    mask = torch.arange(60) < 25
    image = torch.where(mask.reshape(-1, 1, 1, 1), small.test.x["image"], torch.nan)
    test = replace(small.test, x={**small.test.x, "image": image}, observed={"image": mask})
    recipe, found = report("mvae", Splits(small.train, small.validation, test))
    x, _ = test.rows(torch.arange(25))
    torch.manual_seed(0)
    exact = log_likelihood(recipe.model, recipe.guide, x, ["image"], num_samples=500)
    estimate = found["log_likelihood"]["image"]
    assert abs(estimate["value"] - exact.mean) < 4.5 * (estimate["mc_se"] + exact.mc_se) + 0.05
    assert found["coherence"]["conditional"]["image->label"]["se"] <= math.sqrt(0.25 / 25)


def test_tables_leave_out_what_does_not_exist_and_what_is_too_much(small):
    _, found = report("jmvae", small, guide=Joint)
    flat = flat_metrics(found)
    assert flat["log p(image, label, word)"]["value"] == found["log_likelihood"]["image+label+word"]["value"]
    assert flat["log p(label | image)"] is None and flat["guide's image->label, mean"] is None
    table = metrics_table(found, "jmvae")
    names = list(table.columns[0].cells)
    assert "log p(image, label, word)" in names and "log p(label | image)" not in names and table.caption is None
    many = {f"m{i}": {"value": float(i), "se": 0.1, "unreliable": 0.02} for i in range(11)}
    table = metrics_table({"log_likelihood": many, "classifier_accuracy": {}}, "many")
    assert table.row_count == 8 and table.caption.startswith("* importance weights unreliable")
    assert table.caption.endswith("3 further metrics are in metrics.json")
    assert format_value({"value": 0.5, "se": 0.01}) == "0.500 ± 0.010"
    assert format_value({"value": -123.456, "se": None}) == "-123.46"
    assert markdown_table(["a", "b"], [["1", "–"]]) == "| a | b |\n| --- | --- |\n| 1 | – |\n"


def test_a_comparison_counts_the_seeds_that_have_a_metric(small):
    _, first = report("mvae", small.select(["image", "label"]))
    second = {**first, "latent_accuracy": {**first["latent_accuracy"], "image": None}, "parameters": 0}
    second["coherence"] = {**first["coherence"], "joint": {"value": 0.5, "se": 0.01}}
    found = summarize([second, first])
    joint = [0.5, first["coherence"]["joint"]["value"]]
    expected = {"value": statistics.fmean(joint), "std": statistics.stdev(joint), "seeds": 2}
    assert found["joint coherence"] == pytest.approx(expected)
    alone = {"value": first["latent_accuracy"]["image"]["value"], "std": None, "seeds": 1}
    assert found["latent accuracy image"] == alone
    assert found["parameters"]["std"] > 0
    assert format_value({"value": 0.5, "std": 0.25, "seeds": 2}) == "0.500 ± 0.250"
    assert format_value(alone).count("±") == 0


def test_a_label_classifies_itself_only_where_it_is_the_class(small):
    train = replace(small.train, labels=small.train.labels // 2)
    assert "label" in train_classifiers(small.train, small.test)
    assert "label" not in train_classifiers(train, replace(small.test, labels=small.test.labels // 2))


def test_larger_images_are_classified_by_a_network():
    labels = torch.arange(400) % 2
    image = torch.zeros(400, 1, 11, 10)
    image[torch.arange(400), 0, torch.arange(400) % 11, 1 + 8 * labels] = 1
    modality = Modality("image", (1, 11, 10), "image", "bernoulli")
    rows = MultimodalData("dots", {"image": modality}, {"image": image}, labels=labels)
    state = torch.get_rng_state()
    first, second = (train_classifiers(rows, rows.take(torch.arange(100)))["image"] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.accuracy == second.accuracy == 1
    assert torch.equal(first(image.reshape(20, 20, 1, 11, 10)), labels.reshape(20, 20))


def test_other_kinds_of_modalities_are_classified_without_their_missing_entries():
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    modalities = {
        "grade": Modality("grade", (), "ordinal", "ordinal", 3),
        "counts": Modality("counts", (2,), "counts", "poisson"),
        "panel": Modality("panel", (2,), "vector", "normal"),
    }
    panel = labels[:, None] + 0.1 * torch.randn(90, 2)
    panel[::7, 0] = torch.nan
    x = {"grade": labels, "counts": 5.0 * labels[:, None] + torch.zeros(90, 2), "panel": panel}
    data = MultimodalData("kinds", modalities, x, labels=labels)
    classifiers = train_classifiers(data, data)
    assert set(classifiers) == set(x) and all(one.accuracy == 1.0 for one in classifiers.values())
    assert classifiers["panel"].num_test == 90 - 13
    assert classifiers["grade"](labels.reshape(9, 10)).shape == (9, 10)
