"""Figures of latents, attributes, words and numbers: what they show, and that each applies where it says."""

import io
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

from multipyro.data import Modality, MultimodalData, Splits, load_dataset
from multipyro.inference import build, evaluate, networks_for
from multipyro.inference.evaluation import attribute_scores, decode, embed, latent_dimensions
from multipyro.inference.evaluation.figures import (
    attribute_changes_figure,
    attribute_edits_figure,
    attribute_scores_figure,
    by_number_figure,
    by_setting_figure,
    cross_generation_figure,
    figures_of,
    latent_map_figure,
    latent_samples_figure,
    posteriors_figure,
    save_figure,
    training_curves_figure,
    traversals_figure,
    word_histogram_figure,
)
from multipyro.inference.evaluation.figures._drawing import draw_tiles


@pytest.fixture(scope="module")
def digits():
    parts = [getattr(load_dataset("digits"), name) for name in Splits.NAMES]
    return Splits(*(part.take(torch.arange(60)) for part in parts))


def recipe_of(splits, method="mvae", latent_dim=3, **options):
    torch.manual_seed(0)
    return build(method, networks_for(splits.train.modalities, (8,)), latent_dim, **options)


def images_of(figure):
    return [torch.as_tensor(ax.images[0].get_array().filled()) for ax in figure.axes if ax.images]


def texts_of(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_a_traversal_moves_one_dimension_from_the_posterior_mean(digits):
    recipe = recipe_of(digits)
    x, _ = digits.test.rows(torch.arange(20))
    modalities = digits.test.modalities
    figure = traversals_figure(
        recipe.model, recipe.guide, modalities, x, ["image"], ["image", "label"], num_steps=5, num_dimensions=2
    )
    kl = latent_dimensions(recipe.model, recipe.guide, x, ["image", "label"]).kl.mean(0)
    order = kl.argsort(descending=True)[:2]
    bars = [ax.patches[0].get_width() for ax in figure.axes if ax.patches]
    assert bars == pytest.approx(kl[order].tolist())
    given, *steps = images_of(figure)
    assert torch.equal(given, x["image"][0, 0])
    # the middle of each row is the posterior mean itself, and the ends differ from it
    mean = embed(recipe.guide, {name: x[name][:1] for name in ("image", "label")})
    center = decode(recipe.model, {"z": mean}, ["image"])["image"][0, 0].clamp(0, 1)
    for row in range(2):
        torch.testing.assert_close(steps[5 * row + 2], center)
        assert not torch.allclose(steps[5 * row], steps[5 * row + 4])
    titles = {ax.get_title() for ax in figure.axes}
    assert {"KL, nats", "−3 sd", "image", "+3 sd"} <= titles


def test_tiles_stand_in_rows_with_lines_between(digits):
    ax = Figure().subplots()
    images = torch.ones(5, 1, 2, 2)
    draw_tiles(ax, images, columns=3)
    pixels = torch.as_tensor(ax.images[0].get_array().filled())
    assert pixels.shape == (2 * 3 - 1, 3 * 3 - 1)
    assert pixels.sum() == 5 * 4 and (pixels[2] == 0).all() and (pixels[:, 2] == 0).all()


def test_samples_of_one_latent_share_it(digits):
    recipe = recipe_of(digits)
    figure = latent_samples_figure(recipe.model, digits.test.modalities["image"], 4, 9)
    assert len(figure.axes) == 4
    with pytest.raises(ValueError, match="got 'label' of kind 'label'"):
        latent_samples_figure(recipe.model, digits.test.modalities["label"])


@pytest.mark.parametrize("latent_dim", (2, 3))
def test_a_map_has_one_panel_per_subset_and_one_projection(digits, latent_dim):
    recipe = recipe_of(digits, latent_dim=latent_dim)
    figure = latent_map_figure(recipe.guide, digits.test, [["image"], ["image", "label"]], max_points=40)
    assert [ax.get_title() for ax in figure.axes] == ["given image", "given image, label"]
    points = sum(len(collection.get_offsets()) for collection in figure.axes[0].collections)
    assert points == 40
    assert len({ax.get_xlabel() for ax in figure.axes}) == 1
    assert figure.axes[0].get_xlabel().startswith("$z_1$" if latent_dim == 2 else "PC 1")
    if latent_dim == 2:
        expected = embed(recipe.guide, digits.test.select(["image"]).rows(torch.arange(40))[0])
        found = torch.cat([torch.as_tensor(c.get_offsets().filled()) for c in figure.axes[0].collections])
        torch.testing.assert_close(found.float().sum(0), expected.sum(0), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="method must be 'pca' or 'umap'"):
        latent_map_figure(recipe.guide, digits.test, [["image"]], method="tsne")
    unlabeled = replace(digits.test, labels=None)
    assert len(latent_map_figure(recipe.guide, unlabeled, [["image"]]).axes[0].collections) == 1


def test_posteriors_of_a_latent_of_two_dimensions(digits):
    recipe = recipe_of(digits, latent_dim=2)
    figure = posteriors_figure(recipe.model, recipe.guide, digits.test, 0, ["label"], 50, 60)
    same = int((digits.test.labels == digits.test.labels[0]).sum())
    assert figure.axes[1].get_title() == f"aggregate of {same} data points"
    density = torch.as_tensor(figure.axes[0].images[0].get_array().filled())
    assert density.sum().item() == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match="two latent dimensions, got 3"):
        posteriors_figure(*_programs(recipe_of(digits)), digits.test, 0, ["label"])


def test_posteriors_pool_data_points_with_the_same_covariates_alone(digits):
    parts = []
    for part in (digits.train, digits.validation, digits.test):
        site = Modality("site", (), "label", "categorical", 2)
        x = {**part.x, "site": torch.arange(60) % 2}
        parts.append(replace(part, modalities={**part.modalities, "site": site}, x=x).with_covariates(["site"]))
    networks = networks_for(parts[2].modalities, (8,), covariates=parts[2].covariates)
    recipe = build("mvae", networks, 2)
    figure = posteriors_figure(recipe.model, recipe.guide, parts[2], 0, ["label"], 50, 20)
    same = (digits.test.labels == digits.test.labels[0]) & (torch.arange(60) % 2 == 0)
    assert figure.axes[1].get_title() == f"aggregate of {int(same.sum())} data points"


def _programs(recipe):
    return recipe.model, recipe.guide


def test_training_curves_have_one_row_per_stage():
    first = [{"stage": 0, "epoch": n, "train/bound": n, "validation/bound": n - 1.0} for n in range(3)]
    first = [{**epoch, "validation/kl/z": 2.0, "validation/reconstruction/image": -3.0} for epoch in first]
    second = [{"stage": 1, "epoch": n, "train/bound": 5.0} for n in range(2)]
    figure = training_curves_figure([*first, *second])
    assert len(figure.axes) == 4
    bound, parts, second_bound, _ = figure.axes
    assert [line.get_label() for line in bound.lines] == ["training", "validation"]
    assert bound.lines[1].get_ydata().tolist() == [-1.0, 0.0, 1.0] and bound.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert [line.get_label() for line in parts.lines] == ["kl z", "reconstruction image"]
    assert [line.get_label() for line in second_bound.lines] == ["training"]
    with pytest.raises(ValueError, match="history is empty"):
        training_curves_figure([])


def report(values):
    shares = {str(n): {"value": v, "low": v - 0.1, "high": v + 0.05} for n, v in enumerate(values, start=1)}
    accuracy = {"image": shares["1"], "label": {**shares["1"], "value": values[0] + 0.1}, "image+label": shares["2"]}
    return {"coherence": {"by_number": shares}, "latent_accuracy": {**accuracy, "word": None}}


def test_metrics_by_the_number_of_given_modalities():
    figure = by_number_figure({"mopoe": report([0.5, 0.8]), "mvae": [report([0.4, 0.6]), report([0.6, 0.6])]})
    coherence, accuracy = figure.axes
    one, several = (container for container in coherence.containers)
    assert one[0].get_ydata().tolist() == [0.5, 0.8]
    low, high = one[2][0].get_segments()[0][:, 1].tolist()
    assert (low, high) == pytest.approx((0.4, 0.55))
    assert several[0].get_ydata().tolist() == [0.5, 0.6]
    low, high = several[2][0].get_segments()[0][:, 1].tolist()
    assert high - low == pytest.approx(2 * 0.02**0.5)  # the standard deviation of 0.4 and 0.6
    assert accuracy.containers[0][0].get_ydata().tolist() == pytest.approx([0.55, 0.8])
    likelihoods = {"a->b": -4.0, "c->b": -2.0, "a+c->b": -1.0, "a->c": -8.0, "b->c": -6.0, "a+b->c": -5.0, "b->a": 9.0}
    estimates = {name: {"value": value, "se": 0.2} for name, value in likelihoods.items()}
    one = {**report([0.5, 0.8]), "conditional_log_likelihood": {**estimates, "b+c->a": None}}
    *_, likelihood = by_number_figure({"mopoe": one}).axes
    # of targets that have both numbers: b and c
    assert likelihood.containers[0][0].get_ydata().tolist() == pytest.approx([-5.0, -3.0])
    with pytest.raises(ValueError, match="several numbers"):
        by_number_figure({"mvae": {"coherence": {"by_number": {}}, "latent_accuracy": {}}})


def test_a_metric_against_a_setting():
    line = {0.5: {"value": 0.9, "se": 0.01}, 2.0: {"value": 0.8, "std": 0.1}, 1.0: {"value": 0.7}}
    figure = by_setting_figure({"mopoe": line}, "beta", "joint coherence", log=True)
    (ax,) = figure.axes
    assert ax.containers[0][0].get_xdata().tolist() == [0.5, 1.0, 2.0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.5", "1", "2"]


def test_scores_by_attribute_begin_with_the_easiest():
    positives = torch.tensor([[True, False], [False, True], [False, True], [True, False]])
    probabilities = torch.tensor([[0.1, 0.2], [0.9, 0.9], [0.8, 0.8], [0.7, 0.1]])
    scores = attribute_scores(probabilities, positives)
    (ax,) = attribute_scores_figure({"image": scores}, ["bald", "big_nose"]).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["big nose", "bald"]
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([1.0, scores.average_precisions[0].item()])


def faces():
    from multipyro.guides import NormalEncoder, ProductOfExperts
    from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood

    torch.manual_seed(0)
    likelihoods = {"image": NormalLikelihood(MLP(2, (1, 4, 4), (8,))), "attributes": NormalLikelihood(MLP(2, 3, (8,)))}
    encoders = {"image": NormalEncoder(MLP((1, 4, 4), 8), 2), "attributes": NormalEncoder(MLP(3, 8), 2)}
    return (
        MultimodalModel(2, likelihoods),
        ProductOfExperts(2, encoders),
        Modality("image", (1, 4, 4), "image", "normal"),
    )


def test_average_faces_change_with_the_attributes_alone():
    model, guide, modality = faces()
    changes = {"base": {}, "again": {}, "smiling": {1: 3.0}}
    figure = attribute_changes_figure(model, guide, modality, "attributes", torch.zeros(3), changes, 2)
    images = images_of(figure)
    assert len(images) == 3 * 3
    for row in range(3):
        base, again, smiling = images[3 * row : 3 * row + 3]
        assert torch.equal(base, again) and not torch.equal(base, smiling)


def test_edits_add_the_difference_of_the_averages():
    model, guide, modality = faces()
    x = torch.rand(2, 1, 4, 4)
    figure = attribute_edits_figure(model, guide, modality, "attributes", x, {"same": {}, "smiling": {1: 3.0}})
    images = images_of(figure)
    assert len(images) == 2 * 4
    torch.testing.assert_close(images[2], x[0, 0])  # no change, no edit
    assert not torch.allclose(images[3], x[0, 0])


def test_histograms_of_words():
    text = Modality("text", (3,), "text", "categorical", 4, vocabulary=("-", "red", "blue", "cube"))
    real = text.encode(["red cube", "red cube", "blue cube", "cube"])
    (ax,) = word_histogram_figure(text, {"real": real, "generated": text.encode(["blue"])}).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["cube", "red", "blue"]
    assert [bar.get_height() for bar in ax.containers[0]] == [1.0, 0.5, 0.25]
    assert [bar.get_height() for bar in ax.containers[1]] == [0.0, 0.0, 1.0]


def test_saved_text_stays_text(digits):
    recipe = recipe_of(digits)
    x, _ = digits.test.select(["image"]).rows(torch.arange(2))
    figure = cross_generation_figure(recipe.model, recipe.guide, digits.test.modalities, x, ["word"], 2)
    file = io.BytesIO()
    save_figure(figure, file, format="svg")
    assert b"<text" in file.getvalue() and b"given" in file.getvalue()


# one latent, layers, private latents, a flow as prior, conditions, one modality
@pytest.mark.parametrize("method", ["bridged", "jmvae-h", "mmvae+", "mopoe", "cvae", "vae"])
def test_a_method_gets_the_figures_that_apply(digits, method):
    splits = digits.select(["image", "label"])
    recipe = recipe_of(splits, method, **({"aggregate_prior": True} if method == "mopoe" else {}))
    few = Splits(*(getattr(splits, name).take(torch.arange(12)) for name in Splits.NAMES))
    state = torch.get_rng_state()
    figures = list(figures_of(recipe.model, recipe.guide, few, num_rows=1))
    assert torch.equal(torch.get_rng_state(), state)
    found = {figure.name for figure in figures}
    assert len(found) == len(figures) and all(figure.caption.endswith(".") for figure in figures)
    assert "latent-map" in found
    if recipe.model.conditions:
        assert "joint-samples" not in found and any("-to-" in name for name in found)
    else:
        assert {"joint-samples", "latent-samples-image", "reconstructions"} <= found


def test_histories_and_reports_add_their_figures(digits):
    recipe = recipe_of(digits)
    history = [{"stage": 0, "epoch": 0, "train/bound": 1.0}]
    few = Splits(*(getattr(digits, name).take(torch.arange(12)) for name in Splits.NAMES))
    names = [figure.name for figure in figures_of(*_programs(recipe), few, history, report([0.5, 0.6]), num_rows=2)]
    assert names[-2:] == ["training", "by-number"] and "traversals" in names


def test_counts_with_exposures_have_figures_and_a_report():
    torch.manual_seed(0)
    rna = Modality("rna", (6,), "counts", "negative_binomial", exposure="sum", exposure_unit=100.0)
    modalities = {"rna": rna, "label": Modality("label", (), "label", "categorical", 3)}
    labels = torch.arange(30) % 3
    x = {"rna": torch.poisson(5.0 + 10.0 * torch.nn.functional.one_hot(labels, 6)), "label": labels}
    exposures = {"rna": x["rna"].sum(1) / 50}
    data = MultimodalData("cells", modalities, x, labels=labels, exposures=exposures)
    splits = Splits(data, data, data)
    recipe = recipe_of(splits)
    names = [figure.name for figure in figures_of(*_programs(recipe), splits, num_rows=2)]
    assert {"rna-to-label", "label-to-rna", "reconstructions", "traversals"} <= set(names)
    metrics = evaluate(*_programs(recipe), splits, num_samples=3, coherence_samples=20).metrics
    assert metrics["coherence"]["conditional"]["label->rna"] is not None and metrics["log_likelihood"]["rna"]
