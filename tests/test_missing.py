"""A missing modality, for any way of missing and any fill value, is as if the model did not have it."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import mean_and_se, repeated
from missing_rows import (
    CASES,
    CLASSES,
    FAMILIES,
    FILLS,
    LENGTH,
    LOSSES,
    MIXTURES,
    ROWS,
    SIZE,
    batch,
    filled,
    guide,
    held,
    model,
    value_and_gradients,
)
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import nn

from multipyro.data import Modality
from multipyro.inference import build, cross_generate
from multipyro.inference.objectives import GUIDE, StratifiedELBO, elbo, subset_elbo
from multipyro.inference.objectives.expressions import Elbo, Sum
from multipyro.inference.recipes import Networks
from multipyro.ppl_models import LaplacePrior, MultimodalModel
from multipyro.testing import LinearGaussian


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("missing", ("image", "label", "word"))
def test_a_masked_row_has_exactly_the_posterior_without_the_modality(family, missing, fill):
    x, g = batch(), guide(family)
    rows = torch.tensor([True, False, True, False, False, True])
    x = filled(x, missing, rows, fill)
    masked = g.posterior(x, {missing: rows})
    predicting = g.conditional(x, {missing: rows})
    rest = {name: values for name, values in x.items() if name != missing}
    without, predicting_without = g.posterior(rest), g.conditional(rest)
    for row in (~rows).nonzero()[:, 0].tolist():
        for result, expected in zip(held(masked, row), held(without, row), strict=True):
            for left, right in zip(result, expected, strict=True):
                assert left is right or torch.equal(left, right)
        assert torch.equal(predicting.mean[row], predicting_without.mean[row])
        assert torch.equal(predicting.variance[row], predicting_without.variance[row])


@pytest.mark.parametrize("family, loss", CASES)
def test_no_fill_value_affects_a_loss_or_a_gradient(family, loss):
    programs = model(LaplacePrior(2) if family == "laplace mixture" else None), guide(family)
    observed = {
        "image": torch.tensor([True, False, True, False, False, True]),
        "label": torch.tensor([False, True, True, False, True, True]),
        "word": torch.tensor([True, True, False, False, False, True]),
    }
    results = []
    for fill in FILLS:
        x = batch()
        for name, rows in observed.items():
            x = filled(x, name, rows, fill)
        results.append(value_and_gradients(LOSSES[loss](), programs, x, observed))
    (value, gradients), *others = results
    assert torch.isfinite(torch.tensor(value)) and gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    for other, result in others:
        assert other == value and result.keys() == gradients.keys()
        assert all(torch.equal(result[name], gradients[name]) for name in gradients)


@pytest.mark.parametrize("loss", ("elbo", "sampled", "stratified", "tight", "dreg", "pyro"))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_modality_masked_everywhere_equals_the_absent_key(family, loss):
    programs = model(), guide(family)
    x = batch()
    rest = {name: values for name, values in x.items() if name != "label"}
    nowhere = {"label": torch.zeros(ROWS, dtype=torch.bool)}
    value, gradients = value_and_gradients(LOSSES[loss](), programs, rest, None)
    smaller = model(likelihoods=("image", "word"))
    smaller.load_state_dict(programs[0].state_dict(), strict=False)
    alone, _ = value_and_gradients(LOSSES[loss](), (smaller, programs[1]), rest, None)
    assert alone == pytest.approx(value, rel=1e-6)  # equals the model that never had it
    if family in MIXTURES:
        expected, error = averages(loss, programs, rest, None)
        result, other = averages(loss, programs, x, nowhere)  # other random numbers: the mixture has more components
        assert (result - expected).abs() < 4 * (error**2 + other**2).sqrt()
        return
    masked, result = value_and_gradients(LOSSES[loss](), programs, x, nowhere)
    assert masked == pytest.approx(value, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(result[name], gradient, rtol=1e-4, atol=1e-5)
    assert all((gradient == 0).all() for name, gradient in result.items() if name not in gradients)


def averages(loss, programs, x, observed, calls=8, rows=100):
    """Mean loss of the first row over independent samples, with its standard error."""
    observed = None if observed is None else {name: mask[:1].repeat(rows) for name, mask in observed.items()}
    many = repeated(x, rows)
    values = torch.tensor([LOSSES[loss]().loss(*programs, many, observed) / rows for _ in range(calls)])
    return values.mean(), values.std() / calls**0.5


@pytest.mark.parametrize("family, loss", CASES)
def test_a_row_with_nothing_observed_contributes_nothing(family, loss):
    programs = model(LaplacePrior(2)), guide(family)
    nothing = dict.fromkeys(batch(), torch.zeros(ROWS, dtype=torch.bool))
    x = {name: filled(batch(), name, mask, float("nan"))[name] for name, mask in nothing.items()}
    value, gradients = value_and_gradients(LOSSES[loss](), programs, x, nothing)
    assert value == pytest.approx(0.0, abs=1e-6)  # RenyiELBO: logsumexp of zeros minus log K
    assert all((gradient == 0).all() for gradient in gradients.values())


@pytest.mark.parametrize("bound", ("stratified", "tight"))
def test_exact_losses_with_missing_rows_are_the_evidence_of_the_observed_modalities(bound):
    problem = LinearGaussian(3)
    x, m, g = problem.sample(8), problem.model(), problem.product_guide()
    observed = {name: torch.arange(8) // 2**i % 2 == 1 for i, name in enumerate(problem.modalities)}
    x = {name: torch.where(observed[name][:, None], values, float("nan")) for name, values in x.items()}
    expected = 0.0
    for row in range(8):
        given = [name for name in problem.modalities if observed[name][row]]
        expected += problem.log_evidence({n: values[row : row + 1] for n, values in x.items()}, given).item()
    for loss in (StratifiedELBO(3, bound=bound), LOSSES["sampled"](), Trace_ELBO(), RenyiELBO(num_particles=2)):
        assert -loss.loss(m, g, x, observed) == pytest.approx(expected, rel=1e-10)


def test_missing_rows_of_the_subset_elbo_are_the_evidences_of_each_term():
    problem = LinearGaussian(2)
    x = problem.sample(6)
    observed = {
        "image": torch.tensor([True, True, False, False, True, False]),
        "label": torch.tensor([True, False, True, False, False, True]),
    }
    expected = 0.0
    for row in range(6):
        one = {name: values[row : row + 1] for name, values in x.items()}
        given = [name for name in problem.modalities if observed[name][row]]
        subsets = (given, *[(m,) for m in given]) if len(given) > 1 else (given,)
        expected += sum(problem.log_evidence(one, subset).item() for subset in subsets)
    value = -subset_elbo(kl="sampled").loss(problem.model(), problem.product_guide(), x, observed)
    assert value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("absent", ("image", "label", "word"))
@pytest.mark.parametrize("method", ("jmvae-kl", "mvae"))
def test_objectives_over_subsets_treat_a_masked_modality_as_absent(method, absent):
    """A subset that a row does not contain must not count as another one, nor the full subset twice."""
    x = batch()
    modalities = {
        "image": Modality("image", (SIZE,), "vector", "normal"),
        "label": Modality("label", (), "label", "categorical", CLASSES),
        "word": Modality("word", (LENGTH,), "text", "categorical", CLASSES),
    }
    torch.manual_seed(0)
    recipe = build(method, Networks(modalities, (8,)), 2)
    programs = recipe.model, recipe.guide
    loss = _divergences_only(recipe.stages[0].objective)
    rest = {name: values for name, values in x.items() if name != absent}
    value, expected_gradients = value_and_gradients(loss, programs, rest, None)
    masked, result = value_and_gradients(loss, programs, x, {absent: torch.zeros(ROWS, dtype=torch.bool)})
    assert masked == pytest.approx(value, rel=1e-5)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(result[name], gradient, rtol=1e-4, atol=1e-5)


def _divergences_only(objective):
    """The divergences of an objective, which are closed forms and need no samples: every likelihood has weight 0."""
    if isinstance(objective, Elbo):
        return elbo(objective.p, objective.q, reconstruction=0.0)
    if isinstance(objective, Sum):
        return sum(map(_divergences_only, objective.summands))
    return replace(objective, body=_divergences_only(objective.body))


def test_jmvae_kl_terms_leave_out_rows_without_the_subset():
    m, g, x = model(), guide("joint"), batch()
    loss = elbo(GUIDE | "image", GUIDE)
    rows = torch.tensor([True, True, False, True, False, True])
    x = filled(x, "image", rows, float("nan"))
    value, gradients = value_and_gradients(loss, (m, g), x, {"image": rows})
    complete = {name: values[rows] for name, values in x.items()}
    expected, expected_gradients = value_and_gradients(loss, (m, g), complete, None)
    assert value == pytest.approx(expected, rel=1e-5)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_plain_function_as_guide_with_missing_rows():
    m, x = model(), batch()
    loc = torch.zeros(2, requires_grad=True)

    def plain(x, observed=None):
        with pyro.plate("data", ROWS, dim=-1):
            pyro.sample("z", dist.Normal(loc, torch.ones(2)).to_event(1))

    rows = torch.tensor([True, False, True, False, False, True])
    results = []
    for fill in FILLS:
        torch.manual_seed(0)
        results.append(LOSSES["elbo"]().loss(m, plain, filled(x, "image", rows, fill), {"image": rows}))
    assert len(set(results)) == 1 and torch.isfinite(torch.tensor(results[0]))


@pytest.mark.parametrize("targets", (("image",), ("label",), ("image", "label")))
def test_prediction_with_a_masked_row_equals_the_absent_key(targets):
    problem = LinearGaussian(2)
    x, m, g = problem.sample(3), problem.model(), problem.product_guide()
    rows = torch.tensor([True, False, False])
    spoilt = {**x, "label": torch.where(rows[:, None], x["label"], float("nan"))}
    result = cross_generate(m, g, spoilt, targets, num_samples=3000, observed={"label": rows}, output="mean")
    posteriors = problem.posterior(x), problem.posterior(x, ["image"])
    for name in targets:
        for row in range(3):
            posterior = posteriors[0 if rows[row] else 1]
            mean = posterior.mean[row] @ problem.loadings[name].T + problem.offsets[name]
            average, error = mean_and_se(result[name][:, row])
            assert ((average - mean).abs() < 4 * error).all()


@pytest.mark.parametrize("targets", (("image",), ("label",), ("image", "label")))
def test_prediction_without_evidence_uses_the_prior_of_the_model(targets):
    problem = LinearGaussian(2)
    x, g = problem.sample(3), problem.product_guide()
    m = MultimodalModel(3, dict(problem.model().likelihoods), Elsewhere()).double()
    rows = torch.tensor([True, False, True])
    observed = {"image": rows, "label": rows}
    result = cross_generate(m, g, x, targets, num_samples=3000, observed=observed, output="mean")
    for name in targets:
        average, error = mean_and_se(result[name])
        prior = m.likelihoods[name](torch.full((3,), 5.0, dtype=torch.float64)).mean
        assert ((average[1] - prior).abs() < 4 * error[1]).all()
        posterior = m.likelihoods[name](g.posterior(x).mean).mean
        assert ((average[rows] - posterior[rows]).abs() < 4 * error[rows]).all()


class Elsewhere(nn.Module):
    """A prior far from the standard normal."""

    def forward(self):
        return dist.Normal(torch.full((3,), 5.0, dtype=torch.float64), 3.0).to_event(1)
