"""Draws for arviz: groups, shapes, that they belong together, and the plots a reader makes of them."""

import math

import pytest
import scipy.stats
import torch
from torch import nn
from toy import toy_data, toy_networks

from multipyro.batch import subsets_of
from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.inference import METHODS, build, log_likelihood
from multipyro.inference.evaluation import (
    _memory,
    check_predictions,
    check_statistic,
    color_histogram,
    inference_data,
    predictive_log_weights,
    stroke_width,
    supports,
    to_elpd,
    to_inference_data,
)
from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood, OneHotMLP
from multipyro.testing import LinearGaussian


def digits_like():
    """An image and a label, programs and data."""
    model = MultimodalModel(
        2, {"image": NormalLikelihood(MLP(2, (1, 3, 3), (8,))), "label": CategoricalLikelihood(MLP(2, 4, (8,)))}
    )
    encoders = {"image": MLP((1, 3, 3), 8, ()), "label": OneHotMLP(4, 8, ())}
    guide = ProductOfExperts(2, {name: NormalEncoder(network, 2) for name, network in encoders.items()})
    return model, guide, {"image": torch.randn(5, 1, 3, 3), "label": torch.tensor([0, 1, 2, 3, 0])}


@pytest.mark.parametrize("given", [None, ["image"], ["label"], ["image", "label"]])
def test_groups_and_shapes(given):
    model, guide, x = digits_like()
    data = to_inference_data(model, guide, x, 7, given)
    assert set(data.groups()) == {
        *("posterior", "posterior_predictive", "prior", "prior_predictive", "sample_stats", "observed_data")
    }
    for group in (data.posterior, data.prior):
        assert dict(group["z"].sizes) == {"chain": 1, "draw": 7, "data_point": 5, "z_entry": 2}
    assert data.sample_stats["log_weight"].dims == ("chain", "draw", "data_point")
    assert data.sample_stats["khat"].dims == data.sample_stats["ess"].dims == ("data_point",)
    assert data.attrs["given"] == "+".join(given or x) and "leave-one-out" in data.attrs["log_likelihood"]
    for group in (data.posterior_predictive, data.prior_predictive):
        assert group["image"].shape == (1, 7, 5, 1, 3, 3)
        assert group["label"].shape == (1, 7, 5)
        assert group["label"].dims == ("chain", "draw", "data_point")
        assert group["image"].dims[2:] == ("data_point", "image_channel", "image_row", "image_column")
    assert data.observed_data["image"].shape == (5, 1, 3, 3)
    assert (data.observed_data["label"].values == x["label"].numpy()).all()


@pytest.mark.parametrize("limit", [8_000_000, 60])
def test_predictions_are_decoded_from_the_latents_beside_them(limit, monkeypatch):
    monkeypatch.setattr(_memory, "MAX_ELEMENTS", limit)
    problem = LinearGaussian(2)
    problem.scales = {"image": 1e-4, "label": 0.8}
    x = problem.sample(6)
    observed = {"label": torch.tensor([True] * 5 + [False])}
    x["label"][5] = math.nan
    data = to_inference_data(problem.model(), problem.product_guide(), x, 30, ["label"], observed)
    z = torch.as_tensor(data.posterior["z"].values)[0]
    image = torch.as_tensor(data.posterior_predictive["image"].values)[0]
    assert image.shape == (30, 6, 4)
    assert torch.allclose(image, z @ problem.loadings["image"].T + problem.offsets["image"], atol=1e-3)
    # the row without evidence has latents of the prior, the others those of the posterior
    assert 0.6 < z[:, 5].std() < 1.4
    exact = problem.posterior({"label": x["label"][:5]})
    error = exact.covariance_matrix[0].diagonal().div(30).sqrt()
    assert ((z[:, :5].mean(0) - exact.mean).abs() < 4.5 * error).all()


def test_fill_values_are_no_observed_data():
    model, guide, x = digits_like()
    x["image"][0], x["label"][1] = 99.0, 0
    observed = {"image": torch.arange(5) != 0, "label": torch.tensor([True, False, True, False, True])}
    data = to_inference_data(model, guide, x, 7, observed=observed)
    values = data.observed_data
    assert math.isnan(float(values["image"][0].max())) and not values["image"][1:].isnull().any()
    assert values["image"].dims[0] == "data_point" and values["image"].shape == (5, 1, 3, 3)
    assert values["label"].dims == ("label_data_point",) and values["label"].values.tolist() == [0, 2, 0]
    assert values["label_data_point"].values.tolist() == [0, 2, 4] and values["label"].dtype == x["label"].numpy().dtype
    assert data.posterior_predictive["label"].dims == ("chain", "draw", "data_point")
    assert x["image"][0].max() == 99


def test_memory_is_bounded_without_dask(monkeypatch):
    monkeypatch.setattr(inference_data, "find_spec", lambda name: None)
    model, guide, x = digits_like()
    needed = 2 * 7 * 5 * (9 * 4 + 8)  # both groups, draws, data points, nine pixels and a label
    to_inference_data(model, guide, x, 7, max_bytes=needed)
    with pytest.raises(
        ValueError, match=r"5 data points times 7 samples need 0.0 MiB, more than max_bytes=3079: .*dask"
    ):
        to_inference_data(model, guide, x, 7, max_bytes=needed - 1)


def test_large_groups_are_generated_when_they_are_read(monkeypatch):
    dask, dask_config = pytest.importorskip("dask.array"), pytest.importorskip("dask.config")
    monkeypatch.setattr(_memory, "MAX_ELEMENTS", 60)
    problem = LinearGaussian(2)
    problem.scales = {"image": 1e-4, "label": 0.8}
    x = problem.sample(6)
    data = to_inference_data(problem.model(), problem.product_guide(), x, 30, ["label"], max_bytes=1)
    images = data.posterior_predictive["image"]
    assert isinstance(images.data, dask.Array) and images.data.npartitions > 1 and images.shape == (1, 30, 6, 4)
    state = torch.get_rng_state()
    first, again = images.values, images.values
    assert torch.equal(torch.get_rng_state(), state) and (first == again).all()
    labels = data.posterior_predictive["label"].values
    assert labels.std(1).min() > 0.3 and images.dtype == first.dtype
    for group, predicted in (("posterior", images), ("prior", data.prior_predictive["image"])):
        z = torch.as_tensor(data[group]["z"].values)
        expected = z @ problem.loadings["image"].T + problem.offsets["image"]
        assert torch.allclose(torch.as_tensor(predicted.values), expected, atol=1e-3)
    with dask_config.set(scheduler="processes", num_workers=1):
        assert (images[:, :5].values == first[:, :5]).all()
    checked = check_statistic(data, "image", lambda image: image.amax(-1), "largest")
    assert checked.posterior_predictive["largest"].values == pytest.approx(first.max(-1))
    several = check_statistic(data, "image", lambda image: image[..., :2], "two")
    assert several.posterior_predictive["two"].values == pytest.approx(first[..., :2])


def test_names_stand_along_the_dimensions_and_missing_integers_are_left_out():
    model, guide, x = digits_like()
    x["label"][1] = -1
    model.likelihoods["label"] = CategoricalLikelihood(MLP(2, 4, (8,)), missing_entries=True)
    guide = ProductOfExperts(2, {"image": NormalEncoder(MLP((1, 3, 3), 8, ()), 2)})
    ids = list("abcde")
    data = to_inference_data(model, guide, x, 7, ["image"], coords={"data_point": ids})
    assert data.posterior["data_point"].values.tolist() == ids
    assert data.observed_data["label_data_point"].values.tolist() == ["a", "c", "d", "e"]
    even = check_statistic(data, "label", lambda label: label % 2, "even")
    assert even.posterior_predictive["even"].shape == (1, 7, 4)
    assert even.posterior_predictive["even"].values == pytest.approx(
        data.posterior_predictive["label"].values[:, :, [0, 2, 3, 4]] % 2
    )


def test_bad_input():
    model, guide, x = digits_like()
    with pytest.raises(ValueError, match="given must be some of"):
        to_inference_data(model, guide, x, 7, ["word"])
    with pytest.raises(ValueError, match="unknown modality"):
        to_inference_data(model, guide, {**x, "word": x["label"]}, 7)
    with pytest.raises(TypeError, match="int64"):
        to_inference_data(model, guide, {**x, "label": torch.zeros(5)}, 7)


# arviz 0.23 passes matplotlib 3.11 an argument that it will drop in 3.13
@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")
def test_arviz_plots_a_predictive_check():
    import arviz
    import matplotlib.pyplot as plt

    model, guide, x = digits_like()
    data = to_inference_data(model, guide, x, 60, given=["label"])
    weights = predictive_log_weights(data, "image")
    try:
        arviz.plot_ppc(data, var_names=["image"], num_pp_samples=5)
        arviz.plot_ppc(data, group="prior", var_names=["label"], num_pp_samples=5)
        arviz.plot_bpv(data, var_names=["image"], kind="t_stat", t_stat="std")
        replicates = scipy.stats.ecdf(data.posterior_predictive["image"].values.flatten())
        arviz.plot_ecdf(
            data.observed_data["image"].values.flatten(),
            cdf=replicates.cdf.evaluate,
            eval_points=torch.linspace(-3, 3, 50).numpy(),
        )
        arviz.plot_loo_pit(data, y="image", log_weights=weights)
        checked = check_statistic(data, "image", lambda image: image.amax((-3, -2, -1)), "brightest")
        arviz.plot_ppc(checked, num_pp_samples=5)
        arviz.plot_bpv(checked, var_names=["brightest"], kind="u_value")
    finally:
        plt.close("all")
    assert arviz.summary(data, var_names=["z"]).shape[0] == 10
    with pytest.raises(TypeError, match="log likelihood not found"):
        arviz.loo(data)


@pytest.mark.parametrize("given", [["image"], ["label", "word"], ["image", "label", "word"]])
def test_the_weights_of_an_exact_guide_are_the_evidence(given):
    problem = LinearGaussian(3)
    x = problem.sample(4)
    data = to_inference_data(problem.model(), problem.product_guide(), x, 40, given)
    stats, exact = data.sample_stats, problem.log_evidence(x, given)
    log_weight = torch.as_tensor(stats["log_weight"].values)
    torch.testing.assert_close(log_weight, exact.expand_as(log_weight))
    assert (stats["ess"] > 39.9).all() and (stats["khat"] < 0).all()
    # log p(x_G, z) at the draws
    z = torch.as_tensor(data.posterior["z"].values)
    posterior = problem.posterior(x, given).log_prob(z)
    torch.testing.assert_close(torch.as_tensor(stats["lp"].values), posterior + exact)


def test_without_evidence_all_weights_are_equal():
    problem = LinearGaussian(2)
    x, observed = problem.sample(3), {"image": torch.tensor([True, False, True])}
    x["image"][1] = math.nan
    data = to_inference_data(problem.model(), problem.product_guide(1.0), x, 20, ["image"], observed)
    log_weight = data.sample_stats["log_weight"].values[0]
    assert (log_weight[:, 1] == 0).all() and (log_weight[:, 0].std() > 0.1).all()


def test_draws_of_the_prior_belong_together():
    problem = LinearGaussian(2)
    problem.scales = {"image": 1e-4, "label": 0.8}
    data = to_inference_data(problem.model(), problem.product_guide(), problem.sample(3), 500)
    z, image = (torch.as_tensor(data[g][n].values)[0] for g, n in (("prior", "z"), ("prior_predictive", "image")))
    assert torch.allclose(image, z @ problem.loadings["image"].T + problem.offsets["image"], atol=1e-3)
    assert (z.mean((0, 1)).abs() < 4 / 1500**0.5).all()


def test_weighted_predictions_are_calibrated_whatever_the_guide_is():
    """Unweighted, under draws of a shifted guide, the transform of held-out values is far from uniform."""
    import arviz

    problem = LinearGaussian(2)
    x = problem.sample(1500)
    data = to_inference_data(problem.model(), problem.product_guide(0.7, 1.2), x, 300, ["image"])
    first = data.isel(label_entry=0)
    weights = predictive_log_weights(data, "label").isel(label_entry=0)
    weighted = arviz.loo_pit(first, y="label", log_weights=weights)
    plain = (first.posterior_predictive["label"] <= first.observed_data["label"]).mean(("chain", "draw")).values
    # the variance of a uniform variable is 1/12, and so is that of its mean over the data points
    error = (1 / 12 / 1500) ** 0.5
    assert abs(weighted.mean() - 0.5) < 4 * error
    assert abs(plain.mean() - 0.5) > 8 * error
    with pytest.raises(ValueError, match="inferred from 'image' too"):
        predictive_log_weights(data, "image")


def test_a_statistic_stands_in_place_of_its_modality():
    model, guide, x = digits_like()
    x["image"][0] = math.nan
    observed = {"image": torch.arange(5) != 0, "label": torch.tensor([True, False, True, False, True])}
    data = to_inference_data(model, guide, x, 9, observed=observed)
    ink = check_statistic(data, "image", lambda image: image.sum((-3, -2, -1)), "ink")
    replicates = data.posterior_predictive["image"].values.sum((-3, -2, -1))
    assert ink.posterior_predictive["ink"].values == pytest.approx(replicates, rel=1e-5)
    expected = (replicates[0] <= data.observed_data["image"].values.sum((-3, -2, -1))).mean(0)
    assert math.isnan(ink.sample_stats["p_value"][0])
    assert ink.sample_stats["p_value"].values[1:] == pytest.approx(expected[1:])
    odd = check_statistic(data, "label", lambda label: label % 2, "odd")
    assert odd.observed_data["odd"].dims == ("label_data_point",) and odd.sample_stats["p_value"].shape == (3,)
    rows = check_statistic(data, "image", lambda image: image.mean((-3, -1)), "rows")
    assert rows.posterior_predictive["rows"].dims[-1] == "rows_entry"
    assert rows.sample_stats["p_value"].shape == (5, 3) and rows.sample_stats["p_value"][0].isnull().all()
    with pytest.raises(ValueError, match=r"must return shape \(2,\) or \(2, 'k'\), got \(\)"):
        check_statistic(data, "image", torch.mean, "mean")
    with pytest.raises(ValueError, match="'word' is not observed: there are"):
        check_statistic(data, "word", torch.mean, "mean")


def test_held_out_modalities_are_compared_with_what_the_others_predict():
    problem = LinearGaussian(3)
    x = problem.sample(300)
    names = list(x)
    observed = {names[0]: torch.arange(300) < 200}
    x[names[0]][200:] = math.nan

    def last(values):
        return values[..., -1]

    shares = check_predictions(problem.model(), problem.product_guide(), x, names[2], last, 200, observed)
    assert list(shares) == [(names[0],), (names[1],), (names[0], names[1])]
    assert [share.num for share in shares.values()] == [200, 300, 200]
    assert all(share.low < 0.11 and share.high > 0.09 for share in shares.values())  # an exact guide is calibrated
    shifted = check_predictions(problem.model(), problem.product_guide(3.0), x, names[2], last, 200, observed)
    assert shifted[names[1],].low > 0.8


def test_statistics_of_images():
    lines = torch.zeros(2, 3, 1, 24, 24)
    lines[0, :, :, :, 8:10] = 1.0
    lines[1, :, :, 4:9] = 1.0
    widths = stroke_width(lines)
    assert widths.shape == (2, 3) and widths[:, 0].tolist() == pytest.approx([2.0, 5.0], rel=1e-3)
    distance = (torch.arange(60) - torch.arange(60)[:, None]).abs()
    blurred = torch.nn.functional.avg_pool2d((distance < 6).float()[None], 3, 1, 1)
    assert stroke_width(blurred).item() == pytest.approx(11 / 2**0.5, rel=0.1)
    assert stroke_width(torch.zeros(1, 5, 5)) == 0 and stroke_width(torch.full((1, 5, 5), math.nan)).isnan()
    colors = torch.rand(4, 3, 10, 10)
    shares = color_histogram(colors, 5).unflatten(-1, (3, 5))
    torch.testing.assert_close(shares.sum(-1), torch.ones(4, 3))
    assert shares[1, 2, 0] == pytest.approx((colors[1, 2] < 0.2).float().mean().item())
    colors[0, 0, 0, 0] = math.nan
    assert color_histogram(colors).isnan().all(-1).tolist() == [True, False, False, False]


# arviz 0.23 asks pandas for what that will drop
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_models_are_compared_by_paired_test_log_likelihoods():
    import arviz
    import matplotlib.pyplot as plt

    problem, other = LinearGaussian(2), LinearGaussian(2, seed=5)
    x = problem.sample(200)
    estimates = {
        name: log_likelihood(one.model(), one.product_guide(), x, num_samples=20)
        for name, one in (("right", problem), ("wrong", other))
    }
    table = arviz.compare({name: to_elpd(estimate) for name, estimate in estimates.items()}, method="BB-pseudo-BMA")
    assert list(table.index) == ["right", "wrong"]
    difference = problem.log_evidence(x) - other.log_evidence(x)
    noise = 4 * 200 * sum(estimate.mc_se for estimate in estimates.values())
    assert table["elpd_diff"]["wrong"] == pytest.approx(difference.sum().item(), abs=noise) and noise < 50
    try:
        arviz.plot_compare(table)
    finally:
        plt.close("all")
    assert table["dse"]["wrong"] == pytest.approx(difference.std().item() * 200**0.5, rel=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_every_group_for_every_subset(method):
    torch.manual_seed(0)
    small = {"mmvae": {"particles": 2}, "jnf": {"flow_steps": 1, "sampler_steps": 2, "leapfrogs": 1}}
    recipe = build(method, toy_networks(), 2, **small.get(method, {}))
    x, _ = toy_data(5).rows(torch.arange(5))
    x = {name: values for name, values in x.items() if name in recipe.model.modalities}
    conditions = getattr(recipe.model, "conditions", ())
    for given in subsets_of(tuple(x)):
        if not supports(recipe.guide, given) or not set(conditions) <= set(given):
            continue
        data = to_inference_data(recipe.model, recipe.guide, x, 3, given)
        groups = {"posterior", "posterior_predictive", "prior", "prior_predictive", "observed_data"}
        assert groups <= set(data.groups())
        assert set(data.prior) == set(data.posterior)
        for name in x:
            if name in conditions:
                assert name in data.constant_data and name not in data.posterior_predictive
            else:
                assert data.posterior_predictive[name].shape == (1, 3, *x[name].shape)
        if "sample_stats" in data.groups():
            assert data.sample_stats["log_weight"].notnull().all()
        else:
            assert data.attrs["sample_stats"].startswith("not stored")


def test_networks_in_training_mode_stay_so():
    model, guide, x = digits_like()
    model.likelihoods["image"].network = nn.Sequential(model.likelihoods["image"].network, nn.Dropout(0.5)).train()
    to_inference_data(model, guide, x, 3)
    assert model.likelihoods["image"].network.training


def test_a_later_arviz_is_refused_with_the_command_that_helps(monkeypatch):
    monkeypatch.delattr("arviz.InferenceData")
    with pytest.raises(ImportError, match=r'arviz below 1 is required, got .*: pip install "multipyro\[arviz\]"'):
        to_inference_data(*digits_like(), 7)


def test_checks_of_a_discrete_statistic_do_not_count_equal_predictions_as_outside():
    torch.manual_seed(0)
    label = CategoricalLikelihood(MLP(2, 3))
    torch.nn.init.zeros_(list(label.parameters())[-2])
    with torch.no_grad():
        list(label.parameters())[-1].copy_(torch.tensor([0.0, 0.0, 10.0]))
    model = MultimodalModel(2, {"a": NormalLikelihood(MLP(2, 3)), "label": label})
    guide = ProductOfExperts(2, {"a": NormalEncoder(MLP(3, 8), 2), "label": NormalEncoder(OneHotMLP(3, 8), 2)})
    x = {"a": torch.randn(20, 3), "label": torch.full((20,), 2)}
    shares = check_predictions(model, guide, x, "label", lambda ids: ids.float(), num_samples=50)
    assert shares["a",].value == 0
    shares = check_predictions(model, guide, {**x, "label": torch.zeros(20).long()}, "label", lambda ids: ids.float())
    assert shares["a",].value == 1
