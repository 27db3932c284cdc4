"""MMVAE+'s estimator against its closed form, and what its auxiliary priors do and do not touch."""

import pyro.distributions as dist
import pytest
import torch
from closed_forms import largest, random_encoders, train
from linear_gaussian import _hermite, mean_and_se, repeated
from test_private import PrivateProblem
from torch import nn
from toy import toy_data, toy_networks

from multipyro.guides import MixtureOfExperts
from multipyro.inference import build, cross_generate, fit_recipe, log_likelihood
from multipyro.inference.objectives import StratifiedELBO
from multipyro.ppl_models import StandardNormalPrior
from multipyro.testing import DTYPE, kl_normal

NODES = 40


class Scaled(nn.Module):
    """`N(0, s^2)`, learned."""

    def __init__(self, scale):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([scale], dtype=DTYPE).log())

    def forward(self):
        return dist.Normal(torch.zeros(1, dtype=DTYPE), self.log_scale.exp()).to_event(1)


def guide_of(problem, auxiliary, shift=0.0):
    encoders = {m: problem.posterior_encoder(m) for m in problem.modalities}
    private = {m: problem.private_encoder(m, shift) for m in problem.modalities}
    return MixtureOfExperts(1, encoders, private=private, auxiliary=auxiliary).double()


def expected_likelihood(problem, name, values, z, own):
    """`E log p(x_m | z, z_m)` for independent normals, `(rows,)`."""
    loading, variance = torch.cat([problem.loadings[name], problem.own[name]], 1), problem.scales[name] ** 2
    mean = torch.cat(torch.broadcast_tensors(z.mean, own.mean), -1)
    spread = torch.cat(torch.broadcast_tensors(z.variance, own.variance), -1)
    miss = (values - problem.offsets[name] - mean @ loading.T).square() + spread @ loading.square().T
    return (-0.5 * miss / variance - 0.5 * torch.tensor(2 * torch.pi * variance).log()).sum(-1)


def closed_form(problem, guide, x):
    """The objective with one particle and a shared latent of size 1, summed over rows."""
    unit = dist.Normal(torch.zeros(1, dtype=DTYPE), 1.0).to_event(1)
    abscissae, weights = _hermite(NODES)
    experts = {m: guide.encoders[m](x[m]) for m in x}
    total = 0.0
    for m, q in experts.items():
        z = q.mean + q.stddev * abscissae  # (rows, nodes)
        logs = torch.stack([dist.Normal(e.mean, e.stddev).log_prob(z) for e in experts.values()])
        log_mixture = logs.logsumexp(0) - torch.tensor(float(len(x))).log()
        value = ((dist.Normal(0.0, 1.0).log_prob(z) - log_mixture) * weights).sum(-1)
        private = guide.private[m](x[m])
        value = value + expected_likelihood(problem, m, x[m], q, private) - kl_normal(private, unit)
        for n in x:
            if n != m:
                value = value + expected_likelihood(problem, n, x[n], q, guide.auxiliary[n]())
        total = total + value.sum() / len(x)
    return total


def estimate(loss, model, guide, x, observed=None, calls=12):
    torch.manual_seed(0)
    rows = len(next(iter(x.values())))
    return mean_and_se(torch.tensor([-loss.loss(model, guide, x, observed) / rows for _ in range(calls)]))


@pytest.mark.parametrize("count", (1, 2, 3))
def test_the_estimator_agrees_with_its_closed_form(count):
    problem = PrivateProblem(count, latent_dim=1)
    guide = guide_of(problem, {m: Scaled(0.5 + i) for i, m in enumerate(problem.modalities)}, shift=0.2)
    x = repeated(problem.sample(1), 2000)
    found, error = estimate(StratifiedELBO(auxiliary=guide.auxiliary), problem.model(), guide, x)
    assert abs(found - closed_form(problem, guide, x) / 2000) < 4 * error


def test_its_gradient_is_that_of_the_closed_form_the_auxiliary_priors_included():
    problem = PrivateProblem(2, latent_dim=1)
    guide = guide_of(problem, {m: Scaled(0.8) for m in problem.modalities}, shift=0.2)
    x, model = repeated(problem.sample(1), 2000), problem.model()
    parameters = [*guide.encoders.parameters(), *guide.private.parameters(), *guide.auxiliary.parameters()]
    exact = torch.autograd.grad(closed_form(problem, guide, x) / 2000, parameters)
    loss, found = StratifiedELBO(auxiliary=guide.auxiliary), []
    torch.manual_seed(0)
    for _ in range(20):
        grads = torch.autograd.grad(-loss.differentiable_loss(model, guide, x) / 2000, parameters)
        found.append(torch.cat([g.flatten() for g in grads]))
    mean, error = mean_and_se(torch.stack(found))
    exact = torch.cat([g.flatten() for g in exact])
    assert ((mean - exact).abs() < 5 * error + 1e-9).all() and (exact[-2:].abs() > 0.01).all()


def test_with_the_models_priors_it_is_a_bound_that_rises_with_the_particles():
    problem = PrivateProblem(2, latent_dim=1)
    guide = guide_of(problem, {m: StandardNormalPrior(1).double() for m in problem.modalities})
    x, model = repeated(problem.sample(1), 300), problem.model()
    low, low_se = estimate(StratifiedELBO(1, auxiliary=guide.auxiliary), model, guide, x)
    high, high_se = estimate(StratifiedELBO(30, auxiliary=guide.auxiliary), model, guide, x)
    assert low + 4 * (low_se + high_se) < high < problem.log_evidence(x)[0] + 4 * high_se
    everything, _ = estimate(StratifiedELBO(30), model, guide, x)
    assert everything > high  # private latents from their posteriors reconstruct more


@pytest.mark.parametrize("fill", (0.0, float("nan")))
def test_a_row_without_a_modality_is_a_row_of_fewer_experts(fill):
    problem = PrivateProblem(2, latent_dim=1)
    guide = guide_of(problem, {m: Scaled(0.8) for m in problem.modalities}, shift=0.2)
    x, model = {m: v.repeat(1000, 1) for m, v in problem.sample(2).items()}, problem.model()
    observed = {"label": torch.tensor([1, 0]).bool().repeat(1000)}
    broken = {**x, "label": torch.where(observed["label"][:, None], x["label"], fill)}
    exact = closed_form(problem, guide, {m: v[::2] for m, v in x.items()})
    exact = (exact + closed_form(problem, guide, {"image": x["image"][1::2]})) / 2000
    loss = StratifiedELBO(auxiliary=guide.auxiliary)
    found, error = estimate(loss, model, guide, broken, observed)
    assert abs(found - exact) < 4 * error
    loss.loss_and_grads(model, guide, broken, observed)
    assert all(torch.isfinite(p.grad).all() for p in guide.parameters())


def test_training_reaches_the_optimum_and_the_untrained_guide_does_not():
    problem = PrivateProblem(2, latent_dim=1)
    x, model = problem.sample(60), problem.model()
    fixed = {m: StandardNormalPrior(1).double() for m in x}

    def guide_from(seed):
        private = {m: random_encoders(problem, seed + 7)[m] for m in x}
        return MixtureOfExperts(1, random_encoders(problem, seed), private=private, auxiliary=fixed).double()

    reference, guide = guide_from(1), guide_from(0)
    best = largest(lambda: closed_form(problem, reference, x) / 60, reference.parameters(), 150)
    assert closed_form(problem, guide, x) / 60 < best - 0.5
    train(StratifiedELBO(auxiliary=guide.auxiliary), model, guide, x, guide.parameters(), steps=300)
    assert abs(closed_form(problem, guide, x) / 60 - best) < 0.06


def test_no_prediction_sees_the_auxiliary_priors():
    torch.manual_seed(0)
    recipe = build("mmvae+", toy_networks(), 2, particles=2)
    assert [p.requires_grad for p in recipe.model.private.parameters()] == []
    x = {"label": toy_data().x["label"]}
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        signal = cross_generate(recipe.model, recipe.guide, x, ["signal"], 3)["signal"]
        found.append((signal, log_likelihood(recipe.model, recipe.guide, x, num_samples=5).values))
        for p in recipe.guide.auxiliary.parameters():
            p.data += torch.randn_like(p)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    before = [p.clone() for p in recipe.guide.auxiliary.parameters()]
    fit_recipe(recipe, toy_data(), epochs=1, progress=False)
    assert all(not torch.equal(a, b) for a, b in zip(before, recipe.guide.auxiliary.parameters(), strict=True))


def test_what_it_cannot_take_is_refused():
    problem = PrivateProblem(2)
    with pytest.raises(ValueError, match="'reparam' or 'stl' with auxiliary priors, got 'dreg'"):
        StratifiedELBO(2, "dreg", auxiliary={"image": StandardNormalPrior(1)})
    with pytest.raises(ValueError, match="mixture of one expert per modality"):
        loss = StratifiedELBO(2, auxiliary={"image": StandardNormalPrior(1).double()})
        loss.loss(problem.model(), problem.guide(), problem.sample(2))
