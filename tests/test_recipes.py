"""One contract for every method: sites, gradients, freezing, subsets, missing rows, saving, seeds, modalities."""

import itertools
import math

import pyro
import pytest
import torch
from torch import nn

from multipyro.data import MultimodalData
from multipyro.inference import METHODS, build, embed, fit_recipe, load
from multipyro.inference.evaluation import supports
from multipyro.inference.recipes import Networks
from multipyro.testing import check_gradients, check_missing, check_sites, check_subsets, toy_data
from multipyro.testing.contract import updates_in

COUNTS = {2: ("signal", "word"), 3: ("signal", "label", "word"), 5: ("signal", "label", "sound", "touch", "word")}
ROWS = 24
# method -> options that make it small, where the default would be slow
SMALL = {"mmvae": {"particles": 2}, "jnf": {"flow_steps": 1, "sampler_steps": 2, "leapfrogs": 1}}
# the parameters that cannot get a gradient: biases that the normalization right after them takes away
WITHOUT_GRADIENT = "before_norm.bias"
ALL = pytest.mark.parametrize("method", METHODS)


class Normalized(nn.Module):
    """A feature network whose last layer is normalized over the batch."""

    def __init__(self, network):
        super().__init__()
        self.network, self.out_features = network, network.out_features
        self.before_norm = nn.Linear(self.out_features, self.out_features)
        self.norm = nn.BatchNorm1d(self.out_features)

    def forward(self, values):
        return nn.functional.silu(self.norm(self.before_norm(self.network(values))))


class NormalizedNetworks(Networks):
    """Encoders with batch norm, which have statistics that a frozen stage could move."""

    def branches(self):
        return {name: Normalized(network) for name, network in super().branches().items()}

    def select(self, modalities):
        return NormalizedNetworks({name: self.modalities[name] for name in modalities}, self.hidden_features)


def recipe_of(method, names=COUNTS[3], seed=0, made_by=Networks, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = made_by(toy_data(names).modalities, (8,))
        return build(method, networks, 2, **{**SMALL.get(method, {}), **options})


def batch_of(recipe, names=COUNTS[3], seed=0):
    x, _ = toy_data(names, seed=seed).rows(torch.arange(ROWS))
    return {name: x[name] for name in x if name in recipe.model.modalities}


def subsets(recipe):
    names = recipe.model.modalities
    return [s for size in range(1, len(names) + 1) for s in itertools.combinations(names, size)]


def seeded(function, *args, seed=0, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return function(*args, **kwargs)


def state(recipe):
    programs = (recipe.model, recipe.guide, *recipe.others)
    return {f"{i}.{n}": v.clone() for i, p in enumerate(programs) for n, v in p.state_dict().items()}


@ALL
@pytest.mark.parametrize("count", COUNTS)
def test_every_update_is_finite_at_any_number_of_modalities(method, count):
    recipe = recipe_of(method, COUNTS[count])
    x = batch_of(recipe, COUNTS[count])
    assert len(recipe.stages) == len(recipe.equations) and recipe.name == method
    for loss, model, guide, _ in updates_in(recipe):
        value = seeded(loss.loss, model, guide, x)
        assert value == pytest.approx(seeded(loss.loss, model, guide, x)) and math.isfinite(value)


@ALL
def test_the_sites_of_the_model_are_those_of_the_guide(method):
    recipe = recipe_of(method)
    check_sites(recipe, batch_of(recipe))


@ALL
@pytest.mark.parametrize("count", COUNTS)
def test_what_trains_gets_a_gradient_and_what_is_frozen_none(method, count):
    recipe = recipe_of(method, COUNTS[count], made_by=NormalizedNetworks)
    batches = [batch_of(recipe, COUNTS[count], seed=seed) for seed in range(10)]
    check_gradients(recipe, batches, without=[WITHOUT_GRADIENT])


@ALL
def test_training_moves_what_trains_and_thaws_the_rest(method, tmp_path):
    recipe = recipe_of(method, made_by=NormalizedNetworks)
    before, modes = state(recipe), [part.training for p in (recipe.model, recipe.guide) for part in p.modules()]
    fit_recipe(recipe, toy_data(), epochs=1, batch_size=12, progress=False)
    after = state(recipe)
    programs = (recipe.model, recipe.guide, *recipe.others)
    names = {f"{i}.{n}" for i, p in enumerate(programs) for n, _ in p.named_parameters()}
    still = [name for name in names if torch.equal(before[name], after[name])]
    assert [name for name in still if not name.endswith(WITHOUT_GRADIENT)] == []
    assert modes == [part.training for p in (recipe.model, recipe.guide) for part in p.modules()]
    parameters = [parameter for program in programs for parameter in program.parameters()]
    assert all(p.requires_grad and p.is_leaf and p.grad is None for p in parameters)


@ALL
def test_weights_may_name_every_modality_of_the_data(method):
    weights = dict.fromkeys(COUNTS[3], 2.0)
    assert recipe_of(method, weights=weights).options["weights"] == weights
    with pytest.raises(ValueError, match="weights name unknown modalities .*taste"):
        recipe_of(method, weights={"taste": 2.0})


@ALL
@pytest.mark.parametrize("count", COUNTS)
def test_supported_subsets_predict_and_others_are_refused_by_name(method, count):
    recipe = recipe_of(method, COUNTS[count])
    # of five modalities not every one of the 31 subsets, for time
    some = [subset for subset in subsets(recipe) if count < 5 or len(subset) in (1, 4, 5) or subset[0] == "touch"]
    check_subsets(recipe, batch_of(recipe, COUNTS[count]), some)


@pytest.mark.parametrize("method", [name for name, info in METHODS.items() if info.needs_complete_rows])
def test_methods_that_need_complete_rows_say_so(method):
    recipe, whole = recipe_of(method), toy_data()
    rows = {"label": torch.arange(ROWS) > 2}
    part = MultimodalData("toy", whole.modalities, whole.x, rows, whole.labels, "train")
    with pytest.raises(ValueError, match=f"{method} needs complete examples, 3 of the {ROWS} training examples"):
        fit_recipe(recipe, part, epochs=1, progress=False)


@pytest.mark.parametrize("method", [name for name, info in METHODS.items() if not info.needs_complete_rows])
def test_values_of_missing_rows_do_not_matter(method):
    recipe = recipe_of(method)
    check_missing(recipe, batch_of(recipe))


@ALL
def test_a_run_is_loaded_as_it_was_saved(method, tmp_path):
    recipe = recipe_of(method)
    pyro.clear_param_store()
    fit_recipe(recipe, toy_data(), epochs=1, batch_size=12, out=tmp_path / "run", progress=False)
    loaded = load(tmp_path / "run")
    expected = state(recipe)
    assert {n: tuple(v.shape) for n, v in state(loaded.recipe).items()} == {
        n: tuple(v.shape) for n, v in expected.items()
    }
    assert all(torch.equal(value, expected[name]) for name, value in state(loaded.recipe).items())
    assert loaded.recipe.options == recipe.options and loaded.recipe.name == method


@ALL
def test_one_seed_repeats_and_two_differ(method):
    states = []
    for seed in (0, 0, 1):
        recipe = recipe_of(method)
        fit_recipe(recipe, toy_data(), epochs=1, batch_size=12, seed=seed, progress=False)
        states.append(state(recipe))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


@ALL
def test_embeddings_have_a_row_each(method):
    recipe = recipe_of(method)
    x = batch_of(recipe)
    subset = max((s for s in subsets(recipe) if supports(recipe.guide, s)), key=len)
    assert seeded(embed, recipe.guide, x, subset).shape == (ROWS, recipe.latent_dim)
