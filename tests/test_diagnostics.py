"""Draws for arviz: groups, shapes, that they belong together, and the plots a reader makes of them."""

import math

import pytest
import torch
from linear_gaussian import LinearGaussian
from torch import nn

from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.inference import to_inference_data
from multipyro.inference.evaluation import _memory
from multipyro.inference.evaluation import inference_data as diagnostics
from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood, OneHotMLP


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
    assert set(data.groups()) == {"posterior", "posterior_predictive", "prior_predictive", "observed_data"}
    assert data.posterior["z"].shape == (1, 7, 5, 2)
    for group in (data.posterior_predictive, data.prior_predictive):
        assert group["image"].shape == (1, 7, 5, 1, 3, 3)
        assert group["label"].shape == (1, 7, 5)
        assert group["label"].dims == ("chain", "draw", "row")
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
    seen = data.observed_data
    assert math.isnan(float(seen["image"][0].max())) and not seen["image"][1:].isnull().any()
    assert seen["image"].dims[0] == "row" and seen["image"].shape == (5, 1, 3, 3)
    assert seen["label"].dims == ("label_row",) and seen["label"].values.tolist() == [0, 2, 0]
    assert seen["label_row"].values.tolist() == [0, 2, 4] and seen["label"].dtype == x["label"].numpy().dtype
    assert data.posterior_predictive["label"].dims == ("chain", "draw", "row")
    assert x["image"][0].max() == 99


def test_rows_times_draws_are_capped():
    model, guide, x = digits_like()
    with pytest.raises(ValueError, match="5 rows times 7 draws are 35, more than max_draws=34: take fewer"):
        to_inference_data(model, guide, x, 7, max_draws=34)


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
    data = to_inference_data(model, guide, x, 20)
    try:
        arviz.plot_ppc(data, var_names=["image"], num_pp_samples=5)
        arviz.plot_ppc(data, group="prior", var_names=["label"], num_pp_samples=5)
        arviz.plot_bpv(data, var_names=["image"], kind="t_stat", t_stat="std")
    finally:
        plt.close("all")
    assert arviz.summary(data, var_names=["z"]).shape[0] == 10


def test_arviz_is_imported_when_it_is_needed():
    assert "arviz" not in vars(diagnostics)


def test_networks_in_training_mode_stay_so():
    model, guide, x = digits_like()
    model.likelihoods["image"].network = nn.Sequential(model.likelihoods["image"].network, nn.Dropout(0.5)).train()
    to_inference_data(model, guide, x, 3)
    assert model.likelihoods["image"].network.training
