"""`predictive`: one program predicts, whether Pyro's `Predictive`, `cross_generate` or a plain call runs it."""

import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import mean_and_se
from pyro import poutine
from pyro.infer import Predictive
from small_programs import ROWS, batch, programs
from test_hierarchical import Hierarchy
from torch import nn

from multipyro.guides import MixtureOfProducts
from multipyro.inference import cross_generate, predictive, restrict
from multipyro.inference.handlers import without_likelihoods
from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood
from multipyro.testing import LinearGaussian


class Shifted(nn.Module):
    """The prior `N(5, 3^2)`, far from every guide here."""

    def forward(self):
        return dist.Normal(torch.full((2,), 5.0), torch.full((2,), 3.0)).to_event(1)


@pytest.mark.parametrize("parallel", (False, True))
def test_pyros_predictive_samples_latents_and_targets(parallel):
    model, guide = programs()
    x = batch()
    program = predictive(model, restrict(guide, ["label"]), ["image"])
    samples = Predictive(program, num_samples=7, parallel=parallel)(x)
    assert samples.keys() == {"z", "image"}
    assert samples["image"].shape == (7, ROWS, 4) and samples["z"].reshape(7, ROWS, 2).shape == (7, ROWS, 2)
    assert len(samples["z"].reshape(-1, 2).unique(dim=0)) == 7 * ROWS
    both = Predictive(predictive(model, guide, ["image", "label"]), num_samples=3, parallel=parallel)(x)
    assert both["label"].shape == (3, ROWS) and both["label"].dtype == torch.int64


class Forbidden(nn.Module):
    """A decoder that must not run."""

    def forward(self, z):
        raise AssertionError("a decoder ran")


def test_latents_are_sampled_without_running_a_likelihood():
    likelihoods = {name: NormalLikelihood(Forbidden()) for name in ("image", "label")}
    model = MultimodalModel(2, likelihoods, private={"image": 3, "label": 1})
    _, guide = programs()
    program = predictive(without_likelihoods(model), restrict(guide, ["label"]), ["image"])
    samples = Predictive(program, num_samples=7)(batch())
    assert {name: values.shape[-1] for name, values in samples.items()} == {"z": 2, "z_image": 3}


def test_the_modalities_of_a_plain_model_are_hidden_without_likelihoods():
    model, guide = programs()
    program = predictive(
        without_likelihoods(lambda x, observed=None, **kwargs: model(x, observed, **kwargs)), guide, ["image"]
    )
    trace = poutine.trace(program).get_trace(batch())
    assert "z" in trace and "image" not in trace and "label" not in trace


def moments_agree(samples, mean, covariance):
    """Samples `(number, batch, size)` have this mean and these variances, to four standard errors."""
    found, error = mean_and_se(samples)
    spread, spread_error = mean_and_se((samples - mean) ** 2)
    variance = covariance.diagonal()
    return bool(((found - mean).abs() < 4 * error).all() and ((spread - variance).abs() < 4 * spread_error).all())


@pytest.mark.parametrize("way", ("Predictive", "cross_generate"))
def test_a_mixture_of_products_predicts_from_the_product(way):
    """The product of the experts is the exact posterior, which the mixture, MoPoE's `posterior`, is not."""
    problem = LinearGaussian(3)
    x, model = problem.sample(3), problem.model()
    guide = MixtureOfProducts(3, problem.product_guide().encoders, prior_expert="all").double()
    given = {name: x[name] for name in ("label", "word")}
    if way == "Predictive":
        samples = Predictive(predictive(model, guide, ["image"]), num_samples=8000, parallel=True)(given)["image"]
    else:
        samples = cross_generate(model, guide, given, ["image"], 8000)["image"]
    posterior, loading = problem.posterior(x, ["label", "word"]), problem.loadings["image"]
    mean = posterior.mean @ loading.T + problem.offsets["image"]
    noise = problem.scales["image"] ** 2 * torch.eye(len(loading))
    assert moments_agree(samples, mean, loading @ posterior.covariance_matrix[0] @ loading.T + noise)
    mixture = guide.posterior(given)
    assert not moments_agree(samples, mixture.mean @ loading.T + problem.offsets["image"], loading @ loading.T)


@pytest.mark.parametrize("way", ("Predictive", "cross_generate"))
def test_a_hierarchy_predicts_from_the_top_layer(way):
    problem = Hierarchy()
    x, model, guide = problem.sample(2), problem.model(), problem.guide()
    if way == "Predictive":
        samples = Predictive(predictive(model, guide, ["image"]), num_samples=8000, parallel=True)(x)["image"]
    else:
        samples = cross_generate(model, guide, x, ["image"], 8000)["image"]
    top = guide.conditional(x)["z2"]
    matrix, bias, scale = problem.transitions[0]
    loading = problem.flat.loadings["image"]
    mean = (top.mean @ matrix.T + bias) @ loading.T + problem.flat.offsets["image"]
    below = matrix @ top.variance[0].diag() @ matrix.T + (scale**2).diag()
    noise = problem.flat.scales["image"] ** 2 * torch.eye(len(loading))
    assert moments_agree(samples, mean, loading @ below @ loading.T + noise)


@pytest.mark.parametrize("parallel", (False, True))
def test_data_points_without_evidence_take_their_latents_from_the_models_prior(parallel):
    decoder = nn.Linear(2, 4)
    likelihoods = {
        "image": NormalLikelihood(decoder, scale=0.1),
        "label": CategoricalLikelihood(MLP(2, 3, (8,))),
    }
    model = MultimodalModel(2, likelihoods, Shifted())
    _, guide = programs()
    observed = {"label": torch.tensor([True, False, True, False, True])}
    x, number = {"label": torch.randint(3, (ROWS,))}, 3000 if parallel else 200
    program = predictive(model, guide, ["image"])
    image = Predictive(program, num_samples=number, parallel=parallel)(x, observed)["image"]
    posterior, prior = guide.posterior(x), model.prior().expand((ROWS,))
    for row in range(ROWS):
        source = posterior if observed["label"][row] else prior
        exact = decoder(source.mean[row]).detach()
        variance = (decoder.weight**2 @ source.variance[row] + 0.01).detach()
        assert ((image[:, row].mean(0) - exact).abs() < 4 * (variance / number).sqrt()).all()
        assert ((image[:, row].var(0) / variance - 1).abs() < 4 * (2 / number) ** 0.5).all()


def test_the_density_is_the_guides_where_there_is_evidence_and_the_priors_elsewhere():
    model, guide = programs()
    model.prior = Shifted()
    x, observed = batch(), {name: torch.tensor([True, False, True, False, True]) for name in ("image", "label")}
    trace = poutine.trace(predictive(model, guide, ["image"])).get_trace(x, observed)
    trace.compute_log_prob()
    site = trace.nodes["z"]
    exact = torch.where(
        observed["image"],
        guide.posterior(x, observed).log_prob(site["value"]),
        model.prior().log_prob(site["value"]),
    )
    torch.testing.assert_close(site["log_prob"], exact)


def test_handlers_outside_decide_on_latents_and_targets():
    model, guide = programs()
    x, program = batch(), predictive(*programs(), ["label"])
    trace = poutine.trace(program).get_trace(x)
    again = poutine.trace(poutine.replay(program, trace=trace)).get_trace(x)
    assert all(torch.equal(again.nodes[name]["value"], trace.nodes[name]["value"]) for name in ("z", "label"))
    z = torch.ones(ROWS, 2)
    conditioned = poutine.trace(poutine.condition(program, data={"z": z, "label": x["label"]})).get_trace(x)
    assert torch.equal(conditioned.nodes["z"]["value"], z)
    assert set(conditioned.observation_nodes) == {"z", "label"}


def test_the_decoders_of_what_is_given_do_not_run():
    model, guide = programs()
    ran = []
    for name, likelihood in model.likelihoods.items():
        likelihood.register_forward_hook(lambda *_, name=name: ran.append(name))
    predictive(model, guide, ["label"])(batch())
    assert ran == ["label"]
