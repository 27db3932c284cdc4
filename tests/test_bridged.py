"""Bridged VAE: bridges against the exact posterior, the mean of their predictions, and numbers of parameters."""

import itertools

import pyro.distributions as dist
import pytest
import torch
from closed_forms import train
from torch import nn

from multipyro.data import Modality
from multipyro.guides import BridgedGuide
from multipyro.inference import build, frozen
from multipyro.inference.objectives import GUIDE, MODEL, SINGLES, SUBSET, elbo, sum_over
from multipyro.inference.recipes import Networks
from multipyro.ppl_models import MLP
from multipyro.testing import DTYPE, LinearGaussian, kl_normal

PUBLISHED = {"bridged": (36_697_290, 72_141_450), "telbo": (60_794_122, 226_958_346), "mvae": (31_484_362, 61_550_346)}


def exact_joint(problem, wide):
    """A guide whose joint posterior is exact; with wide features a bridge can also tell how sure to be.

    A feature is what its modality adds to precision times mean; wide ones have as many zeros besides, which the
    fusion adds to the pre-activation of its scales.
    """
    size = problem.latent_dim
    branches = {}
    for m in problem.modalities:
        branch = nn.Linear(len(problem.offsets[m]), 2 * size if wide else size, dtype=DTYPE)
        statistic = problem.loadings[m].T / problem.scales[m] ** 2
        branch.weight.data.zero_()[:size] = statistic
        branch.bias.data.zero_()[:size] = -statistic @ problem.offsets[m]
        branches[m] = branch
    guide = BridgedGuide(size, branches, bridge_features=()).double()
    scale = problem.best_diagonal(problem.sample(1)).stddev[0]
    heads, width = guide.fusion.heads, branches["image"].out_features
    heads.weight.data.zero_()
    for number in range(len(problem.modalities)):
        start = number * width
        heads.weight.data[:size, start : start + size] = (scale**2).diag()
        if wide:
            heads.weight.data[size:, start + size : start + 2 * size] = torch.eye(size, dtype=DTYPE)
    heads.bias.data[:size] = 0.0
    heads.bias.data[size:] = (scale - 1e-6).expm1().log()
    return guide


def bridge_loss():
    bridges = frozen(GUIDE, [GUIDE.part("bridges")])
    return sum_over(SINGLES, elbo(frozen(MODEL) | SUBSET, bridges | SUBSET, num_particles=2))


def divergences(problem, guide, x):
    """`log p(x_a) - ELBO` of each single modality, in nats per data point: `KL(q(z | x_a) || p(z | x_a))`."""
    result = {}
    for a in x:
        given = {a: x[a]}
        result[a] = kl_normal(guide.posterior(given), problem.best_diagonal(given, (a,))).mean().item()
    return result


@pytest.mark.parametrize("wide", (True, False))
def test_bridges_reach_the_evidence_with_wide_features_and_differ_by_the_computed_kl_with_narrow_ones(wide):
    torch.manual_seed(0)
    problem = LinearGaussian(2, latent_dim=2)
    x, model, guide = problem.sample(200), problem.model(), exact_joint(problem, wide)
    joint = elbo(MODEL, GUIDE, kl="sampled")
    assert -joint.loss(model, guide, x) == pytest.approx(problem.log_evidence(x).sum().item(), rel=1e-6)
    assert min(divergences(problem, guide, x).values()) > 0.5  # untrained bridges
    both = problem.best_diagonal(x)
    expected = {a: 0.0 for a in x}
    if not wide:  # the mean is right, the scale stays that of the joint posterior
        for a in x:
            alone = problem.best_diagonal(x, (a,))
            expected[a] = kl_normal(dist.Normal(alone.mean, both.stddev).to_event(1), alone).mean().item()
            assert expected[a] > 0.05
    before = {n: p.clone() for n, p in guide.named_parameters() if not n.startswith("bridges")}
    train(bridge_loss(), model, guide, x, guide.bridges.parameters(), steps=300, lr=0.05)
    result = divergences(problem, guide, x)
    assert all(abs(result[a] - expected[a]) < 0.01 for a in x)
    after = dict(guide.named_parameters())
    assert all(torch.equal(before[n], after[n]) for n in before)


def random_guide(**options):
    torch.manual_seed(0)
    return BridgedGuide(2, {"a": MLP(4, 5), "b": MLP(3, 6), "c": MLP(2, 7)}, (8,), **options)


def data(rows=6):
    generator = torch.Generator().manual_seed(0)
    return {m: torch.randn(rows, size, generator=generator) for m, size in (("a", 4), ("b", 3), ("c", 2))}


@pytest.mark.parametrize("given", [s for n in (1, 2, 3) for s in itertools.combinations("abc", n)])
def test_a_missing_feature_is_the_mean_of_the_predictions_of_the_bridges(given):
    guide, x = random_guide(hidden_features=(9,)), data()
    features = {m: guide.branches[m](x[m]) for m in given}
    joined = []
    for m in "abc":
        predicted = [guide.bridges[f"{a}->{m}"](features[a]) for a in given if a != m]
        joined.append(features[m] if m in given else sum(predicted) / len(predicted))
    expected, result = guide.fusion(torch.cat(joined, -1)), guide.posterior({m: x[m] for m in given})
    torch.testing.assert_close(result.mean, expected.mean)
    torch.testing.assert_close(result.stddev, expected.stddev)


@pytest.mark.parametrize("fill", (0.0, 1e30, float("nan")))
def test_every_row_is_completed_from_its_modalities(fill):
    guide, x = random_guide(), data()
    masks = {"a": [1, 1, 0, 0, 1, 1], "b": [1, 0, 1, 0, 1, 0], "c": [1, 1, 1, 1, 0, 0]}
    observed = {m: torch.tensor(rows).bool() for m, rows in masks.items()}
    result = guide.posterior({m: torch.where(observed[m][:, None], x[m], fill) for m in x}, observed)
    for row in range(6):
        alone = guide.posterior({m: x[m][row : row + 1] for m in x if masks[m][row]})
        torch.testing.assert_close(result.mean[row : row + 1], alone.mean)
    (result.mean.sum() + result.stddev.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in guide.parameters() if p.grad is not None)
    assert guide({m: x[m] for m in "ab"}, {m: torch.zeros(6).bool() for m in "ab"})["z"].isfinite().all()


class Normalized(nn.Module):
    """A feature network that ends in batch norm."""

    def __init__(self, size):
        super().__init__()
        self.linear, self.norm, self.out_features = nn.Linear(size, 3), nn.BatchNorm1d(3), 3

    def forward(self, values):
        return self.norm(self.linear(values))


def test_batch_norm_normalizes_over_observed_rows_only():
    torch.manual_seed(0)
    guide = BridgedGuide(2, {"a": Normalized(4), "b": Normalized(3)}, (8,))
    x = data()
    rows = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    means = []
    for fill in (0.0, 1e6):
        filled = {"a": x["a"], "b": torch.where(rows[:, None], x["b"], fill)}
        means.append(guide.posterior(filled, {"b": rows}).mean)
    assert torch.equal(*means)
    none = guide.posterior({m: x[m] for m in "ab"}, {"b": torch.zeros(6).bool()})
    torch.testing.assert_close(none.mean, guide.posterior({"a": x["a"]}).mean)


def networks(count):
    image = Modality("image", (1, 28, 28), "image", "bernoulli")
    label = Modality("label", (), "label", "categorical", 10)
    other = Modality("other", (1, 28, 28), "image", "bernoulli")
    all_modalities = {"image": image, "label": label, "other": other}
    return Networks({name: all_modalities[name] for name in list(all_modalities)[:count]}, (512, 512))


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("number, fusion, bridges", ((2, 262_400, 1_050_624), (3, 393_472, 3_151_872)))
def test_numbers_of_parameters(number, fusion, bridges):
    guide = build("bridged", networks(number), 128).guide
    assert (count(guide.fusion), count(guide.bridges)) == (fusion, bridges)
    assert len(guide.bridges) == number * (number - 1)


def test_the_totals_have_the_published_order():
    """The published totals grow from two to three modalities by 1.97 (Bridged), 3.73 (TELBO) and 1.95 (MVAE)."""
    totals = {}
    for method in PUBLISHED:
        recipes = [build(method, networks(number), 128) for number in (2, 3)]
        totals[method] = tuple(count(recipe.model) + count(recipe.guide) for recipe in recipes)
    ours = {"bridged": (3_310_618, 6_938_410), "telbo": (3_455_514, 9_760_042), "mvae": (2_260_250, 3_787_050)}
    assert totals == ours
    for result in (totals, PUBLISHED):
        assert all(result["mvae"][i] < result["bridged"][i] < result["telbo"][i] for i in (0, 1))
        growth = {method: three / two for method, (two, three) in result.items()}
        assert growth["telbo"] > growth["bridged"]
    assert [b - m for b, m in zip(totals["bridged"], totals["mvae"], strict=True)] == [1_050_368, 3_151_360]
