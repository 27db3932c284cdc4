"""The options that give any method aggregate posteriors and an aggregate prior: stages, freezing, masks, saving."""

import math
from dataclasses import replace

import pytest
import torch
from test_recipes import batch_of, recipe_of, seeded, state

from multipyro.guides import AggregateGuide, StratifiedMixture
from multipyro.inference import cross_generate, fit_recipe, joint_samples, load, log_likelihood
from multipyro.ppl_models import FlowPrior
from multipyro.ppl_models.networks.flows import FlowDistribution
from multipyro.testing import toy_data
from multipyro.testing.contract import updates_in

CASES = {
    "mopoe": {"aggregate": ["label", "signal+word"], "aggregate_prior": True},
    "jmvae": {"aggregate": "label", "aggregate_prior": True},
    "mvae": {"aggregate": True, "teacher": "signal+label", "aggregate_objective": "q_true", "aggregate_prior": True},
    "telbo": {"aggregate": "word", "teacher": "signal"},
    "mmvae+": {"aggregate": "label", "aggregate_prior": True},
    "bridged": {"aggregate": "label"},
    "jnf": {"aggregate": "word"},
    "vlvae": {"aggregate_prior": True},
}
EVERY = pytest.mark.parametrize("method", CASES)


def trained(method, seed=0, **settings):
    recipe = recipe_of(method, **CASES[method])
    fit_recipe(recipe, toy_data(), epochs=1, batch_size=24, seed=seed, progress=False, **settings)
    return recipe


@EVERY
def test_earlier_stages_train_as_without_flows_and_each_later_one_trains_its_flows_alone(method):
    plain = recipe_of(method, **({"aggregate": None} if method == "vlvae" else {}))
    recipe = recipe_of(method, **CASES[method])
    number = len(plain.stages)
    names = [stage.name for stage in recipe.stages[number:]]
    flows = bool(CASES[method].get("aggregate", method == "vlvae"))
    assert names == ["aggregate"] * flows + ["prior"] * CASES[method].get("aggregate_prior", False)
    fit_recipe(plain, toy_data(), epochs=1, batch_size=24, progress=False)
    fit_recipe(replace(recipe, stages=recipe.stages[:number]), toy_data(), epochs=1, batch_size=24, progress=False)
    values = state(recipe)
    assert all(torch.equal(value, values[n.replace("1.", "1.teacher.", 1) if flows and n[0] == "1" else n])
               for n, value in state(plain).items())  # fmt: skip
    for stage in recipe.stages[number:]:
        before = state(recipe)
        fit_recipe(replace(recipe, stages=(stage,)), toy_data(), epochs=1, batch_size=24, progress=False)
        moved = [name for name, value in state(recipe).items() if not torch.equal(value, before[name])]
        (module,) = stage.train
        trains, switch = ("1.flows.", "1.") if stage.name == "aggregate" else ("0.prior.flow.", "0.prior.")
        expected = [trains + name for name, _ in module.named_parameters()]
        assert sorted(moved) == sorted([*expected, f"{switch}_extra_state"])


@EVERY
def test_a_run_with_flows_is_loaded_as_it_was_saved_and_predicts(method, tmp_path):
    recipe = trained(method, out=tmp_path / "run")
    loaded = load(tmp_path / "run")
    expected, restored = state(recipe), state(loaded.recipe)
    assert restored.keys() == expected.keys() and all(torch.equal(restored[name], expected[name]) for name in restored)
    x = batch_of(recipe)
    if isinstance(recipe.guide, AggregateGuide):
        assert loaded.guide.active
        for subset in recipe.guide.flow_subsets:
            given = {name: x[name] for name in subset}
            values = [seeded(cross_generate, r.model, r.guide, given, ["signal"]) for r in (recipe, loaded)]
            assert torch.equal(values[0]["signal"], values[1]["signal"])
    if CASES[method].get("aggregate_prior"):
        assert isinstance(loaded.model.prior, FlowPrior) and loaded.model.prior.active
        samples = [seeded(joint_samples, r.model, 5)["signal"] for r in (recipe, loaded)]
        assert torch.equal(*samples)
    assert torch.isfinite(seeded(log_likelihood, loaded.model, loaded.guide, x, num_samples=5).values).all()


@pytest.mark.parametrize("method", ["mopoe", "vlvae"])
def test_one_seed_repeats_and_two_differ(method):
    states = [state(trained(method, seed)) for seed in (0, 0, 1)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    later = [name for name in states[0] if "couplings" in name]
    assert any(not torch.equal(states[0][name], states[2][name]) for name in later)


@pytest.mark.parametrize("method", ["mopoe", "mvae", "telbo", "vlvae"])
def test_each_row_has_the_posterior_given_its_modalities_for_any_fill_values(method):
    recipe = trained(method)
    x, rows = batch_of(recipe), torch.arange(24)
    incomplete = next(iter(x))  # the signal, in every third row
    last = recipe.model.modalities[-1]
    given = {name: x[name] for name in (incomplete, last)}
    masks = {incomplete: rows % 3 > 0}
    given[incomplete] = torch.where(masks[incomplete][:, None], given[incomplete], math.nan)
    if method == "telbo":
        masks[last] = rows % 3 != 1
    mixed = recipe.guide.conditional(given, masks)
    z = torch.randn(24, 2)
    log_prob = mixed.log_prob(z)
    for subset in ((incomplete,), (last,), (incomplete, last)):
        here = torch.stack([masks.get(n, rows > -1) == (n in subset) for n in (incomplete, last)]).all(0)
        if here.any():
            part = recipe.guide.conditional({name: given[name][here] for name in subset})
            torch.testing.assert_close(log_prob[here], part.log_prob(z[here]))
    losses = []
    for fill in (0.0, math.nan):
        filled = {**x, incomplete: torch.where(masks[incomplete][:, None], x[incomplete], fill)}
        updates = list(updates_in(recipe))[-2:]
        losses.append([seeded(loss.loss, model, guide, filled, masks) for loss, model, guide, _ in updates])
    assert losses[0] == losses[1] and torch.isfinite(torch.tensor(losses[0])).all()


def test_the_proposal_is_the_one_of_the_teacher_for_subsets_without_a_flow():
    recipe = trained("jmvae")
    x = batch_of(recipe)
    for name, kind in (("label", FlowDistribution), ("signal", StratifiedMixture)):
        assert isinstance(recipe.guide.proposal({name: x[name]}), kind)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mopoe", {"aggregate": "image"}, r"\['signal', 'label', 'word'\].*got \['image'\]"),
        ("mopoe", {"aggregate": "signal+label+word"}, "cannot be aggregated into itself"),
        ("mopoe", {"aggregate": "label", "aggregate_objective": "kl"}, "aggregate_objective must be .*'kl'"),
        ("mopoe", {"aggregate": 3}, "aggregate must be .*, got 3"),
        ("vlvae", {"teacher": "word"}, "vlvae does not support the teacher word: it supports signal"),
        ("cvae", {"aggregate_prior": True}, "cvae has no prior p"),
        ("jmvae-h", {"aggregate": "label"}, "jmvae-h has no prior p"),
    ],
)
def test_invalid_options(method, options, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(method, **options)
