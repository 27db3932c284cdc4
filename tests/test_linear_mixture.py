"""The linear-time bound against the component form it estimates."""

import math

import pyro.distributions as dist
import pytest
import torch
from closed_forms import expected_log_likelihood, largest, random_encoders, train
from linear_gaussian import gradient_samples, mean_and_se, repeated
from test_private import PrivateProblem
from torch import nn
from toy import toy_data, toy_networks

from multipyro.guides import MixtureOfExperts, MixtureOfProducts
from multipyro.inference import build, fit_recipe
from multipyro.inference.objectives import LinearMixtureELBO, StratifiedELBO
from multipyro.testing import DTYPE, LinearGaussian, kl_normal


def standard(problem):
    return dist.Normal(torch.zeros(problem.latent_dim, dtype=DTYPE), 1.0).to_event(1)


def component_form(problem, guide, x, observed=None):
    """`sum_r pi_r [sum_d E_q_r log p(x_d | z) - KL(q_r || p)]`, summed over rows."""
    rows = len(next(iter(x.values())))
    held = {m: (observed or {}).get(m, torch.ones(rows).bool()).to(DTYPE) for m in x}
    number = sum(held.values()).clamp(min=1)
    total = 0.0
    for r in x:
        q = guide.encoders[r](x[r])
        value = -kl_normal(q, standard(problem))
        for d in x:
            value = value + held[d] * expected_log_likelihood(problem, d, x[d], q)
        total = total + (held[r] / number * value).sum()
    return total


def estimates(loss, model, guide, x, observed=None, calls=20):
    rows = len(next(iter(x.values())))
    torch.manual_seed(0)
    return mean_and_se(torch.tensor([-loss.loss(model, guide, x, observed) / rows for _ in range(calls)]))


@pytest.mark.parametrize("count", (1, 2, 3))
@pytest.mark.parametrize("particles", (1, 5))
def test_the_estimate_agrees_with_the_component_form_on_overlapping_experts(count, particles):
    problem = LinearGaussian(count, latent_dim=2)
    x, model, guide = repeated(problem.sample(1), 2000), problem.model(), problem.mixture_guide(stretch=1.2)
    found, error = estimates(LinearMixtureELBO(particles), model, guide, x)
    exact = component_form(problem, guide, x).item() / 2000
    assert error < 0.1 and abs(found - exact) < 4 * error


def test_it_is_below_the_elbo_of_the_mixture_and_the_evidence():
    problem = LinearGaussian(2, latent_dim=2)
    x, model, guide = repeated(problem.sample(1), 2000), problem.model(), problem.mixture_guide()
    low, low_se = estimates(LinearMixtureELBO(), model, guide, x)
    high, high_se = estimates(StratifiedELBO(1), model, guide, x)
    assert low + 4 * low_se < high - 4 * high_se < problem.log_evidence(x)[0]


def test_a_row_counts_the_experts_it_has():
    problem = LinearGaussian(3, latent_dim=2)
    x, model, guide = problem.sample(3), problem.model(), problem.mixture_guide(stretch=1.2)
    x = {m: values.repeat(1000, 1) for m, values in x.items()}
    observed = {
        "image": torch.tensor([1, 0, 0]).bool().repeat(1000),
        "label": torch.tensor([1, 1, 0]).bool().repeat(1000),
        "word": torch.tensor([1, 1, 0]).bool().repeat(1000),
    }
    exact = component_form(problem, guide, x, observed).item() / 3000
    for fill in (0.0, float("nan"), 1e8):
        broken = {m: torch.where(observed[m][:, None], x[m], fill) for m in x}
        found, error = estimates(LinearMixtureELBO(), model, guide, broken, observed)
        assert abs(found - exact) < 4 * error
        LinearMixtureELBO().loss_and_grads(model, guide, broken, observed)
        assert all(torch.isfinite(p.grad).all() for p in guide.parameters())
    assert abs(exact - component_form(problem, guide, x).item() / 3000) > 0.5


def test_the_gradient_is_unbiased_and_the_released_one_is_not():
    problem = LinearGaussian(2, latent_dim=1)
    x, model, guide = repeated(problem.sample(1), 1000), problem.model(), problem.mixture_guide(0.2, 1.1)
    parameters = [*model.likelihoods.parameters(), *guide.encoders.parameters()]
    exact_model = [p for m in problem.modalities for p in (problem.loadings, problem.offsets) if p[m] is not None]
    assert len(exact_model) == 4
    for m in problem.modalities:  # the closed form with the model's own parameters
        problem.loadings[m], problem.offsets[m] = model.likelihoods[m].network.weight, model.likelihoods[m].network.bias
    exact = torch.autograd.grad(component_form(problem, guide, x) / 1000, parameters)
    exact = torch.cat([g.flatten() for g in exact])
    found, error = mean_and_se(gradient_samples(LinearMixtureELBO(), model, guide, x, parameters, 40))
    assert ((found - exact).abs() < 5 * error + 1e-9).all() and exact.abs().max() > 0.3
    released = LinearMixtureELBO(gradient="released")
    found, error = mean_and_se(gradient_samples(released, model, guide, x, parameters, 40))
    size = sum(p.numel() for p in model.likelihoods.parameters())
    assert ((found - exact).abs() < 5 * error + 1e-9)[:size].all()
    assert ((found - exact).abs() > 8 * error)[size:].any()


def test_every_decoder_runs_once():
    problem = LinearGaussian(3, latent_dim=2)
    model, calls = problem.model(), []
    for m in problem.modalities:
        model.likelihoods[m].register_forward_hook(lambda *_, m=m: calls.append(m))
    LinearMixtureELBO().loss(model, problem.mixture_guide(), problem.sample(4))
    assert sorted(calls) == sorted(problem.modalities)


def test_private_latents_have_their_own_divergence():
    problem = PrivateProblem(2)
    model, guide = problem.model(), problem.guide(MixtureOfExperts, shift=0.3)
    x = repeated(problem.sample(1), 4000)
    exact = 0.0
    for r in x:
        q, value = guide.encoders[r](x[r]), 0.0
        for d in x:
            s = guide.private[d](x[d])
            loading, variance = torch.cat([problem.loadings[d], problem.own[d]], 1), problem.scales[d] ** 2
            mean, spread = torch.cat([q.mean, s.mean], -1), torch.cat([q.variance, s.variance], -1)
            miss = (x[d] - problem.offsets[d] - mean @ loading.T).square() + spread @ loading.square().T
            value = value + (-0.5 * miss / variance - 0.5 * math.log(2 * math.pi * variance)).sum(-1)
        exact = exact + 0.5 * (value - kl_normal(q, standard(problem)))[0]
    unit = dist.Normal(torch.zeros(1, dtype=DTYPE), 1.0).to_event(1)
    private = {m: kl_normal(guide.private[m](x[m]), unit)[0] for m in x}
    sites = {"z_image": 2.0}
    found, error = estimates(LinearMixtureELBO(sites=sites), model, guide, x)
    assert abs(found - (exact - 2 * private["image"] - private["label"])) < 4 * error
    report = LinearMixtureELBO().report(model, guide, x)
    assert report["kl/z_image"].item() == pytest.approx(4000 * private["image"].item(), rel=1e-9)


def test_training_reaches_the_optimum_and_the_untrained_guide_does_not():
    problem = LinearGaussian(2, latent_dim=1)
    for m in problem.modalities:  # the more the data says, the further apart are the best experts of one row
        problem.scales[m] *= 3
    x, model = problem.sample(100), problem.model()
    reference = MixtureOfExperts(1, random_encoders(problem, seed=1)).double()
    best = largest(lambda: component_form(problem, reference, x) / 100, reference.parameters())
    guide = MixtureOfExperts(1, random_encoders(problem)).double()
    assert component_form(problem, guide, x) / 100 < best - 0.4
    train(LinearMixtureELBO(5), model, guide, x, guide.parameters(), steps=250)
    assert abs(component_form(problem, guide, x) / 100 - best) < 0.05


def test_weights_explode_when_experts_do_not_overlap():
    problem = LinearGaussian(2, latent_dim=2)
    x, model = repeated(problem.sample(1), 2000), problem.model()
    apart = problem.mixture_guide()
    with torch.no_grad():
        apart.encoders["image"].bias.add_(6.0)
    exact = component_form(problem, apart, x).item() / 2000
    found, _ = estimates(LinearMixtureELBO(), model, apart, x, calls=3)
    assert abs(found - exact) > 0.2 * abs(exact)


def test_what_is_no_mixture_of_single_experts_is_refused():
    problem = LinearGaussian(2)
    products = MixtureOfProducts(3, {m: problem.expert_encoder(m) for m in problem.modalities}).double()
    for guide in (problem.product_guide(), products):
        with pytest.raises(ValueError, match="mixture of one expert per modality"):
            LinearMixtureELBO().loss(problem.model(), guide, problem.sample(2))
    with pytest.raises(ValueError, match="gradient must be 'unbiased' or 'released', got 'dreg'"):
        LinearMixtureELBO(gradient="dreg")


@pytest.mark.parametrize("family", ("laplace", "normal"))
def test_the_recipe_takes_the_linear_bound(family):
    recipe = build("mmvae", toy_networks(), 2, bound="linear", particles=2, family=family, private=1)
    assert isinstance(recipe.stages[0].objective, LinearMixtureELBO)
    assert isinstance(recipe.model, nn.Module)
    result = fit_recipe(recipe, toy_data(), epochs=2, progress=False)
    assert math.isfinite(result.history[-1]["train/bound"])
