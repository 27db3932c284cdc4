"""mmJSD's divergence against numerical integration, and its objective against the closed form."""

import pyro.distributions as dist
import pytest
import torch
from closed_forms import expected_log_likelihood, largest, random_encoders, train
from linear_gaussian import mean_and_se, repeated
from test_private import PrivateProblem
from toy import toy_networks

from multipyro.guides import MixtureOfExperts, StratifiedMixture
from multipyro.inference import build
from multipyro.inference.objectives import JensenShannonELBO
from multipyro.inference.objectives.jensen_shannon import jensen_shannon
from multipyro.testing import DTYPE, FixedGuide, LinearGaussian, kl_normal

WEIGHTS = {"image": 0.5, "label": 2.0, "prior": 1.5}


def normal(loc, scale):
    return dist.Normal(torch.tensor([[loc]], dtype=DTYPE), torch.tensor([[scale]], dtype=DTYPE)).to_event(1)


def numerical(parts, shares):
    """The divergence of densities on the line to their geometric mean, by a sum over a fine grid."""
    grid = torch.linspace(-25, 25, 20001, dtype=DTYPE)[:, None, None]
    logs = [part.log_prob(grid)[:, 0] for part in parts]
    dynamic = sum(share * log for share, log in zip(shares, logs, strict=True))
    width = 50 / 20000
    dynamic = dynamic - (dynamic.exp().sum() * width).log()
    return sum(s * (log.exp() * (log - dynamic)).sum() * width for s, log in zip(shares, logs, strict=True))


@pytest.mark.parametrize("weights", (None, WEIGHTS, {"label": 0.0}))
def test_the_divergence_equals_the_numerical_one(weights):
    experts = [normal(1.5, 0.4), normal(-0.7, 1.6)]
    prior = dist.Normal(torch.zeros(1, dtype=DTYPE), 1.0).to_event(1)
    found, shares = jensen_shannon(StratifiedMixture(experts, names=("image", "label")), prior, weights)
    raw = [
        {**dict.fromkeys(("image", "label", "prior"), 1.0), **(weights or {})}[k] for k in ("image", "label", "prior")
    ]
    by_hand = [r / sum(raw) for r in raw]
    torch.testing.assert_close(shares[0], torch.tensor(by_hand, dtype=DTYPE))
    exact = numerical([*experts, normal(0.0, 1.0)], by_hand)
    assert exact > 0.2
    torch.testing.assert_close(found[0], exact, rtol=1e-6, atol=1e-8)


def test_equal_experts_have_no_divergence_and_a_missing_one_no_share():
    prior = dist.Normal(torch.zeros(1, dtype=DTYPE), 1.0).to_event(1)
    same = StratifiedMixture([normal(0.0, 1.0)] * 2, names=("a", "b"))
    assert jensen_shannon(same, prior)[0].abs().max() < 1e-12
    part = torch.tensor([[0.0, 1.0]], dtype=DTYPE)
    lacking = StratifiedMixture([normal(9.0, 0.1), normal(-0.7, 1.6)], part, names=("a", "b"))
    alone = StratifiedMixture([normal(-0.7, 1.6)], names=("b",))
    torch.testing.assert_close(jensen_shannon(lacking, prior)[0], jensen_shannon(alone, prior)[0])


def divergence(problem, guide, x, weights=None):
    """The divergence by the formulas of the paper for normals, `(rows,)`."""
    parts = {m: guide.encoders[m](x[m]) for m in x}
    zero = torch.zeros_like(next(iter(parts.values())).mean)
    parts["prior"] = dist.Normal(zero, 1.0).to_event(1)
    raw = {name: (weights or {}).get(name, 1.0) for name in parts}
    pi = {name: weight / sum(raw.values()) for name, weight in raw.items()}
    precision = sum(pi[k] / parts[k].variance for k in parts)
    mean = sum(pi[k] * parts[k].mean / parts[k].variance for k in parts) / precision
    dynamic = dist.Normal(mean, precision.rsqrt()).to_event(1)
    return sum(pi[k] * kl_normal(parts[k], dynamic) for k in parts)


def closed_form(problem, guide, x, beta=1.0, weights=None, prior_share=0.0):
    """The objective summed over rows, by hand."""
    total = -beta * divergence(problem, guide, x, weights)
    zero = torch.zeros_like(next(iter(x.values()))[:, :1]).expand(-1, problem.latent_dim)
    for d in x:
        for r in x:
            q = guide.encoders[r](x[r])
            total = total + (1 - prior_share) / len(x) * expected_log_likelihood(problem, d, x[d], q)
        prior = dist.Normal(zero, 1.0).to_event(1)
        total = total + prior_share * expected_log_likelihood(problem, d, x[d], prior)
    return total.sum()


def estimate(loss, model, guide, x, observed=None, calls=12):
    torch.manual_seed(0)
    rows = len(next(iter(x.values())))
    return mean_and_se(torch.tensor([-loss.loss(model, guide, x, observed) / rows for _ in range(calls)]))


@pytest.mark.parametrize("count", (1, 2, 3))
@pytest.mark.parametrize("particles", (1, 4))
def test_the_objective_agrees_with_its_closed_form(count, particles):
    problem = LinearGaussian(count)
    x, model, guide = repeated(problem.sample(1), 600), problem.model(), problem.mixture_guide(0.2, 1.2)
    for weights, prior_samples in ((None, False), ({"prior": 2.0, "image": 0.5}, True)):
        raw = {**dict.fromkeys((*x, "prior"), 1.0), **(weights or {})}
        share = raw["prior"] / sum(raw.values()) if prior_samples else 0.0
        loss = JensenShannonELBO(weights, prior_samples, {"z": 1.7}, particles)
        found, error = estimate(loss, model, guide, x)
        exact = closed_form(problem, guide, x, 1.7, weights, share).item() / 600
        assert abs(found - exact) < 4 * error


def test_a_row_without_a_modality_is_a_row_of_fewer_experts():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(2), problem.model(), problem.mixture_guide(0.2, 1.2)
    x = {m: values.repeat(600, 1) for m, values in x.items()}
    observed = {"label": torch.tensor([1, 0]).bool().repeat(600)}
    broken = {**x, "label": torch.where(observed["label"][:, None], x["label"], float("nan"))}
    whole = {m: values[::2] for m, values in x.items()}
    exact = closed_form(problem, guide, whole) + closed_form(problem, guide, {"image": x["image"][1::2]})
    found, error = estimate(JensenShannonELBO(), model, guide, broken, observed)
    assert abs(found - exact.item() / 1200) < 4 * error
    guide.zero_grad()
    JensenShannonELBO(prior_samples=True).loss_and_grads(model, guide, broken, observed)
    assert all(torch.isfinite(p.grad).all() for p in guide.encoders.parameters())


@pytest.mark.parametrize("weights, above", ((None, 0.05), ({"prior": 0.1}, 1.0)))
def test_it_is_no_bound(weights, above):
    problem = LinearGaussian(2)
    x, model = problem.sample(50), problem.model()
    q = problem.best_diagonal(x)
    mixture = StratifiedMixture([q, q], names=("image", "label"))
    likelihood = sum(expected_log_likelihood(problem, m, x[m], q) for m in x)
    prior = dist.Normal(torch.zeros(3, dtype=DTYPE), 1.0).to_event(1)
    value = (likelihood - jensen_shannon(mixture, prior, weights)[0]).mean()
    assert value > problem.log_evidence(x).mean() + above
    found, error = estimate(JensenShannonELBO(weights), model, FixedGuide(problem, lambda *_: mixture), x)
    assert abs(found - value) < 4 * error


def test_private_latents_keep_their_own_divergence():
    problem = PrivateProblem(2)
    x, guide = problem.sample(6), problem.guide(MixtureOfExperts, shift=0.3)
    report = JensenShannonELBO().report(problem.model(), guide, x)
    unit = dist.Normal(torch.zeros(1, dtype=DTYPE), 1.0).to_event(1)
    assert report["kl/z_label"].item() == pytest.approx(
        kl_normal(guide.private["label"](x["label"]), unit).sum().item()
    )
    assert report["divergence/z"].item() == pytest.approx(divergence(problem, guide, x).sum().item())


def test_training_reaches_the_optimum_and_the_untrained_guide_does_not():
    problem = LinearGaussian(2, latent_dim=2)
    x, model = problem.sample(100), problem.model()
    reference = MixtureOfExperts(2, random_encoders(problem, seed=1)).double()
    best = largest(lambda: closed_form(problem, reference, x) / 100, reference.parameters())
    guide = MixtureOfExperts(2, random_encoders(problem)).double()
    assert closed_form(problem, guide, x) / 100 < best - 0.5
    train(JensenShannonELBO(num_particles=2), model, guide, x, guide.parameters(), steps=200)
    assert abs(closed_form(problem, guide, x) / 100 - best) < 0.05


def test_what_it_cannot_take_is_refused():
    problem = LinearGaussian(2)
    with pytest.raises(ValueError, match="mixture of one expert per modality"):
        JensenShannonELBO().loss(problem.model(), problem.product_guide(), problem.sample(2))
    with pytest.raises(ValueError, match="weights must be at least 0 and name some of.*'sound'"):
        JensenShannonELBO({"sound": 1.0}).loss(problem.model(), problem.mixture_guide(), problem.sample(2))
    recipe = build("mmjsd", toy_networks(), 2, divergence_weights={"prior": 0.3}, beta=2.5, private=1)
    assert recipe.stages[0].objective.weights == {"prior": 0.3}
