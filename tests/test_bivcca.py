"""BiVCCA's weighted sum against its closed form, and to what its encoders converge."""

import pyro.distributions as dist
import pytest
import torch
from closed_forms import expected_log_likelihood, random_encoders, train
from linear_gaussian import mean_and_se, repeated
from toy import toy_networks

from multipyro.data import Modality
from multipyro.guides import MixtureOfExperts
from multipyro.inference import build, frozen
from multipyro.inference.recipes import Networks
from multipyro.testing import DTYPE, LinearGaussian, kl_normal


def objective(problem, **options):
    """The recipe's objective; its own programs are put aside."""
    modalities = {m: Modality(m, (len(problem.offsets[m]),), "vector", "normal") for m in problem.modalities}
    return build("bivcca", Networks(modalities, (8,)), 2, **options).stages[0].objective


def guide_of(problem, seed=0):
    return MixtureOfExperts(problem.latent_dim, random_encoders(problem, seed)).double()


def closed_form(problem, guide, x, shares, observed=None):
    """The objective summed over rows, by hand."""
    rows = {m: (observed or {}).get(m, torch.ones(len(x[m])).bool()) for m in x}
    total = 0.0
    for m in x:
        q = guide.encoders[m](x[m])
        value = -kl_normal(q, dist.Normal(torch.zeros_like(q.mean), 1.0).to_event(1))
        for n in x:
            value = value + torch.where(rows[n], expected_log_likelihood(problem, n, x[n], q), 0.0)
        total = total + shares[m] * torch.where(rows[m], value, 0.0).sum()
    return total


def estimate(loss, problem, guide, x, observed=None):
    torch.manual_seed(0)
    rows = len(next(iter(x.values())))
    losses = [-loss.loss(problem.model(), guide, x, observed) / rows for _ in range(10)]
    return mean_and_se(torch.tensor(losses, dtype=DTYPE))


@pytest.mark.parametrize(
    ("count", "mu", "shares"),
    [
        (2, None, (0.5, 0.5)),
        (2, 0.3, (0.3, 0.7)),
        (2, 1.0, (1.0, 0.0)),
        (3, 0.5, (0.5, 0.25, 0.25)),
        (3, {"image": 1, "label": 0, "word": 3}, (0.25, 0.0, 0.75)),
        (5, None, (0.2,) * 5),
    ],
)
def test_the_terms_sum_to_the_closed_form(count, mu, shares):
    problem = LinearGaussian(count)
    x, guide = repeated(problem.sample(1), 400), guide_of(problem)
    found, error = estimate(objective(problem, mu=mu), problem, guide, x)
    exact = closed_form(problem, guide, x, dict(zip(problem.modalities, shares, strict=True))).item() / 400
    assert abs(found - exact) < 4 * error


def test_each_encoder_converges_to_its_mean_with_the_width_of_the_joint_posterior():
    """What explains all of `x` from `x_m` alone: `N(E[z | x_m], Var[z | x])`, whatever the weights."""
    problem = LinearGaussian(2)
    x, guide, fresh = problem.sample(3000), guide_of(problem), problem.sample(200, seed=2)
    joint = problem.posterior(fresh).covariance_matrix[0].diagonal().sqrt()

    @torch.no_grad()
    def misses(width=joint):
        found = {}
        for m in problem.modalities:
            mean = problem.posterior(fresh, [m]).mean
            found[m] = kl_normal(guide.encoders[m](fresh[m]), dist.Normal(mean, width).to_event(1)).mean()
        return found

    assert min(misses().values()) > 0.5
    train(objective(problem, mu=0.2), frozen(problem.model()), guide, x, guide.parameters(), steps=150, lr=0.05)
    assert max(misses().values()) < 0.01
    # which is not its own posterior
    for m, miss in misses().items():
        own = problem.posterior(fresh, [m]).covariance_matrix[0].diagonal().sqrt()
        assert misses(own)[m] > miss + 0.05


@pytest.mark.parametrize("fill", (0.0, float("nan")))
def test_a_row_that_lacks_a_modality_drops_its_encoder_and_its_likelihood(fill):
    problem = LinearGaussian(2)
    x, guide = {m: v.repeat(200, 1) for m, v in problem.sample(2).items()}, guide_of(problem)
    observed = {"label": torch.tensor([True, False]).repeat(200)}
    exact = closed_form(problem, guide, x, {"image": 0.3, "label": 0.7}, observed).item() / 400
    broken = {**x, "label": torch.where(observed["label"][:, None], x["label"], fill)}
    found, error = estimate(objective(problem, mu=0.3), problem, guide, broken, observed)
    assert abs(found - exact) < 4 * error


def test_an_encoder_without_weight_does_not_train():
    problem = LinearGaussian(2)
    guide = guide_of(problem)
    objective(problem, mu=0.0).loss_and_grads(problem.model(), guide, problem.sample(20))
    assert all(p.grad.abs().max() == 0 for p in guide.encoders["image"].parameters())
    assert all(p.grad.abs().max() > 0 for p in guide.encoders["label"].parameters())


@pytest.mark.parametrize("mu", (-0.1, 1.1, {"signal": 1.0}, {"signal": 1.0, "label": -1.0}, {"signal": 0, "label": 0}))
def test_bad_weights_are_refused(mu):
    with pytest.raises(ValueError, match="mu must be a .*got"):
        build("bivcca", toy_networks(), 2, mu=mu)
