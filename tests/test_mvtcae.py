"""MVTCAE's sum of terms against its closed form in the linear-Gaussian model."""

import pyro.distributions as dist
import pytest
import torch
from closed_forms import expected_log_likelihood, largest, random_encoders, train
from linear_gaussian import mean_and_se, repeated
from toy import toy_networks

from multipyro.guides import ProductOfExperts
from multipyro.inference import build
from multipyro.inference.objectives import schedules_of
from multipyro.testing import DTYPE, LinearGaussian, kl_normal

RATIO, BETA = 5 / 6, 1.5


def objective(count, **options):
    """The recipe's objective; its own programs are put aside."""
    return build("mvtcae", toy_networks(), 2, **options).stages[0].objective


def closed_form(problem, guide, x, ratio=RATIO, beta=BETA, observed=None):
    """The objective summed over rows, by hand."""
    number, q = len(x), guide.posterior(x, observed)
    rows = {m: (observed or {}).get(m, torch.ones(len(x[m])).bool()) for m in x}
    standard = dist.Normal(torch.zeros_like(q.mean), 1.0).to_event(1)
    total = -beta * (1 - ratio) * kl_normal(q, standard).sum()
    for m in x:
        kept = rows[m].to(DTYPE)
        total = total + (number - ratio) / number * (kept * expected_log_likelihood(problem, m, x[m], q)).sum()
        total = total - beta * ratio / number * (kept * kl_normal(q, guide.encoders[m](x[m]))).sum()
    return total


def random_guide(problem, seed=0):
    return ProductOfExperts(problem.latent_dim, random_encoders(problem, seed), prior_expert=False).double()


@pytest.mark.parametrize("count", (1, 2, 3, 5))
@pytest.mark.parametrize("ratio", (0.0, RATIO, 1.0))
def test_the_terms_sum_to_the_closed_form(count, ratio):
    problem = LinearGaussian(count)
    x, model, guide = repeated(problem.sample(1), 400), problem.model(), random_guide(problem)
    loss = objective(count, ratio=ratio, beta=BETA)
    torch.manual_seed(0)
    found, error = mean_and_se(torch.tensor([-loss.loss(model, guide, x) / 400 for _ in range(10)]))
    exact = closed_form(problem, guide, x, ratio).item() / 400
    assert abs(found - exact) < 4 * error + 1e-9


def test_without_the_ratio_it_is_the_elbo_and_exact_experts_reach_the_evidence():
    problem = LinearGaussian(2)
    x, model = problem.sample(50), problem.model()
    guide = ProductOfExperts(3, {m: problem.posterior_encoder(m) for m in x}, prior_expert=False).double()
    report = objective(2, ratio=0.0).report(model, guide, x)
    torch.testing.assert_close(
        report["kl/z"], kl_normal(guide.posterior(x), dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)).sum()
    )
    one = LinearGaussian(1)  # one modality: the posterior is its expert
    exact = ProductOfExperts(3, {"image": one.posterior_encoder("image")}, prior_expert=False).double()
    x = repeated(one.sample(1), 2000)
    found, error = mean_and_se(
        torch.tensor([-objective(1, ratio=0.0).loss(one.model(), exact, x) / 2000 for _ in range(10)])
    )
    assert (found - one.log_evidence(x)[0]).abs() < 4 * error


def test_a_row_without_a_modality_leaves_out_its_share():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(4), problem.model(), random_guide(problem)
    x = {m: values.repeat(300, 1) for m, values in x.items()}
    observed = {"image": torch.tensor([1, 0, 1, 1]).bool().repeat(300)}
    broken = {**x, "image": torch.where(observed["image"][:, None], x["image"], float("nan"))}
    loss = objective(2, ratio=RATIO, beta=BETA)
    torch.manual_seed(0)
    found, error = mean_and_se(torch.tensor([-loss.loss(model, guide, broken, observed) / 1200 for _ in range(10)]))
    exact = closed_form(problem, guide, x, observed=observed).item() / 1200
    assert abs(found - exact) < 4 * error
    assert abs(exact - closed_form(problem, guide, x).item() / 1200) > 0.1


def test_training_reaches_the_optimum_of_the_closed_form_and_the_untrained_guide_does_not():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(100), problem.model(), random_guide(problem)
    reference = random_guide(problem, seed=5)
    best = largest(lambda: closed_form(problem, reference, x) / 100, reference.parameters())
    assert closed_form(problem, guide, x).item() / 100 < best - 0.5
    train(objective(2, ratio=RATIO, beta=BETA), model, guide, x, guide.parameters())
    assert abs(closed_form(problem, guide, x).item() / 100 - best) < 0.03


def test_the_warm_up_scales_every_divergence():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(5), problem.model(), random_guide(problem)
    loss = objective(2, ratio=RATIO, beta=BETA, warmup=3)
    cold, warm = objective(2, ratio=RATIO, beta=0.0), objective(2, ratio=RATIO, beta=BETA)

    def value(objective):
        torch.manual_seed(0)
        return objective.loss(model, guide, x)

    assert value(loss) == pytest.approx(value(cold), rel=1e-12)
    for schedule in schedules_of(loss):
        schedule.set(epoch=2, step=0)
    assert value(loss) == pytest.approx(value(warm), rel=1e-6)
    with schedules_of(loss)[0].finished():
        assert value(loss) == pytest.approx(value(warm), rel=1e-6)


def test_a_bad_ratio_is_refused():
    with pytest.raises(ValueError, match=r"ratio must be a number \(from 0 to 1\), got 1.5"):
        build("mvtcae", toy_networks(), 2, ratio=1.5)
