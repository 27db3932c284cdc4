"""MVAE with rows of which only some hold every modality: each row trains what it has, and the optimum stays."""

import math

import pytest
import torch
from closed_forms import random_encoders
from toy import toy_data, toy_networks

from multipyro.guides import ProductOfExperts
from multipyro.inference import build, frozen
from multipyro.inference.objectives import subset_elbo
from multipyro.testing import LinearGaussian

ROWS, STEPS = 1000, 100


def half(rows, seed=0):
    """Which rows have a label: one in two, at random."""
    return {"label": torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < 0.5}


def fit(loss, model, guide, x, observed, parameters):
    parameters = list(parameters)
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    torch.manual_seed(0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss.loss_and_grads(model, guide, x, observed)
        optimizer.step()
        decay.step()


def without_labels(problem, rows, observed, seed=1):
    """Data of the model whose labels are lost in some rows."""
    x = problem.sample(rows, seed)
    return {**x, "label": torch.where(observed["label"][:, None], x["label"], math.nan)}


@torch.no_grad()
def gaps(problem, guide, x):
    """Mean `KL(q(z | x_S) || p(z | x_S))` of every subset: the bound's distance from the evidence."""
    found = {}
    for subset in problem.subsets():
        q = guide.posterior({m: x[m] for m in subset})
        dense = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
        found[subset] = torch.distributions.kl_divergence(dense, problem.posterior(x, subset)).mean().item()
    return found


@pytest.mark.parametrize("lost", ("signal", "label"))
def test_a_row_trains_the_encoders_and_decoders_of_what_it_holds_and_no_other(lost):
    torch.manual_seed(0)
    recipe = build("mvae", toy_networks(), 2)
    (x, _), (stage,) = toy_data(1).rows(torch.arange(1)), recipe.stages
    if lost == "signal":
        x = {**x, "signal": torch.full_like(x["signal"], math.nan)}
    stage.objective.loss_and_grads(recipe.model, recipe.guide, x, {lost: torch.tensor([False])})
    for parts in (recipe.model.likelihoods, recipe.guide.encoders):
        for name, part in parts.items():
            for parameter in part.parameters():
                moved = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
                assert moved == (name != lost) and (parameter.grad is None or parameter.grad.isfinite().all())


def test_the_gradient_of_a_batch_is_that_of_its_rows_by_what_they_hold():
    """Exact experts and analytic divergences: the KL's part of the gradient has no noise."""
    problem, kl_only = LinearGaussian(2), {"image": 0.0, "label": 0.0}
    guide, observed = problem.product_guide(0.3, 1.2), half(40)
    x = without_labels(problem, 40, observed)
    rows, loss = observed["label"], subset_elbo(sites=kl_only)
    whole = {m: v[rows] for m, v in x.items()}
    part = {"image": x["image"][~rows]}

    def gradient(*batches):
        guide.zero_grad()
        for batch in batches:
            loss.loss_and_grads(problem.model(), guide, *batch)
        return [parameter.grad.clone() for parameter in guide.parameters()]

    for one, two in zip(gradient((x, observed)), gradient((whole,), (part,)), strict=True):
        torch.testing.assert_close(one, two)
    assert not all(torch.allclose(a, b) for a, b in zip(gradient((x, observed)), gradient((whole,)), strict=True))


def test_with_half_of_the_labels_lost_every_subset_reaches_its_exact_posterior():
    problem = LinearGaussian(2)
    guide = ProductOfExperts(problem.latent_dim, random_encoders(problem)).double()
    fresh, observed = problem.sample(300, seed=9), half(ROWS)
    assert min(gaps(problem, guide, fresh).values()) > 0.3
    x = without_labels(problem, ROWS, observed)
    fit(subset_elbo(), frozen(problem.model()), guide, x, observed, guide.parameters())
    assert max(gaps(problem, guide, fresh).values()) < 0.02


def learned_misses(x, observed):
    """How far the evidence of each subset under a learned model is below the true one's, in nats a row, new data."""
    problem, learned = LinearGaussian(2), LinearGaussian(2)
    model, fresh = problem.model(), problem.sample(500, seed=9)
    guide = ProductOfExperts(problem.latent_dim, random_encoders(problem)).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))

    def misses():
        for name in learned.modalities:
            network = model.likelihoods[name].network
            learned.loadings[name], learned.offsets[name] = network.weight.detach(), network.bias.detach()
        exact, found = problem.log_evidence, learned.log_evidence
        return {s: (exact(fresh, s) - found(fresh, s)).mean().item() for s in problem.subsets()}

    assert min(misses().values()) > 0.3
    fit(subset_elbo(), model, guide, x, observed, [*model.parameters(), *guide.parameters()])
    return misses()


def test_a_model_learned_with_half_of_the_labels_lost_explains_new_data_as_the_true_one_does():
    observed = half(ROWS)
    assert max(learned_misses(without_labels(LinearGaussian(2), ROWS, observed), observed).values()) < 0.1


def test_images_without_a_label_teach_the_model_of_images():
    """Twenty rows hold both; the others' images make the difference."""
    observed = {"label": torch.arange(ROWS) < 20}
    x = without_labels(LinearGaussian(2), ROWS, observed)
    with_them = learned_misses(x, observed)
    alone = learned_misses({name: values[:20] for name, values in x.items()}, None)
    assert with_them[("image",)] < 0.03 < 0.1 < alone[("image",)]
    assert with_them[("image", "label")] < alone[("image", "label")]
