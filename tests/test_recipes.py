"""One contract for every method: sites, gradients, freezing, subsets, missing rows, saving, seeds, modalities."""

import itertools

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from multipyro.data import Modality, MultimodalData
from multipyro.inference import METHODS, Networks, build, cross_generate, embed, fit_recipe, frozen, load
from multipyro.inference.evaluation import supports
from multipyro.inference.handlers import conditional
from multipyro.inference.objectives.sites import sample_sites

MODALITIES = {
    "signal": Modality("signal", (4,), "vector", "normal"),
    "label": Modality("label", (), "label", "categorical", 3),
    "sound": Modality("sound", (3,), "vector", "laplace"),
    "touch": Modality("touch", (5,), "vector", "bernoulli"),
    "word": Modality("word", (2,), "text", "categorical", 4),
}
COUNTS = {2: ("signal", "word"), 3: ("signal", "label", "word"), 5: tuple(MODALITIES)}
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


class NormalisedNetworks(Networks):
    """Encoders with batch norm, which have statistics that a frozen stage could move."""

    def branches(self):
        return {name: Normalized(network) for name, network in super().branches().items()}

    def select(self, modalities):
        return NormalisedNetworks({name: self.modalities[name] for name in modalities}, self.hidden_features)


def data(names=COUNTS[3], rows=ROWS, seed=0):
    """Rows whose modalities all depend on one label."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (rows,), generator=generator)
    noise = torch.randn(rows, 4, generator=generator)
    values = {
        "signal": label[:, None] - 1.0 + 0.3 * noise,
        "label": label,
        "sound": 1.0 - label[:, None] + 0.3 * noise[:, :3],
        "touch": (torch.rand(rows, 5, generator=generator) < (label[:, None] + 1) / 4).float(),
        "word": torch.stack([label, (label + torch.randint(2, (rows,), generator=generator)) % 4], -1),
    }
    chosen = {name: MODALITIES[name] for name in names}
    return MultimodalData("toy", chosen, {name: values[name] for name in names}, None, label, "train")


def recipe_of(method, names=COUNTS[3], seed=0, made_by=Networks, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = made_by({name: MODALITIES[name] for name in names}, (8,))
        return build(method, networks, 2, **{**SMALL.get(method, {}), **options})


def batch_of(recipe, names=COUNTS[3], rows=ROWS, seed=0):
    x, _ = data(names, rows, seed).rows(torch.arange(rows))
    return {name: x[name] for name in x if name in recipe.model.modalities}


def programs_in(recipe, stage):
    """Model, guide and the modules that train, as a stage of `fit_recipe` sees them."""
    if stage.train is None:
        return recipe.model, recipe.guide, (recipe.model, recipe.guide)
    return frozen(recipe.model, stage.train), frozen(recipe.guide, stage.train), stage.train


def updates_in(recipe, stage):
    """Loss, model, guide and the modules that train, of each update of a stage."""
    if not stage.updates:
        return [(stage.objective, *programs_in(recipe, stage))]
    return [
        (update.objective, frozen(recipe.model, update.train), frozen(recipe.guide, update.train), update.train)
        for update in stage.updates
    ]


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
def test_every_stage_is_finite_at_any_number_of_modalities(method, count):
    recipe = recipe_of(method, COUNTS[count])
    x = batch_of(recipe, COUNTS[count])
    assert recipe.stages and recipe.name == method
    for stage in recipe.stages:
        whole = (stage.objective, *programs_in(recipe, stage))
        for loss, model, guide, _ in [whole, *updates_in(recipe, stage)]:
            assert seeded(loss.loss, model, guide, x) == pytest.approx(seeded(loss.loss, model, guide, x))
            assert torch.isfinite(torch.tensor(seeded(loss.loss, model, guide, x)))


@ALL
def test_the_sites_of_the_model_are_those_of_the_guide(method):
    recipe = recipe_of(method)
    x = batch_of(recipe)
    for subset in subsets(recipe):
        if not supports(recipe.guide, subset):
            continue
        given = {name: x[name] for name in subset}
        for program in (recipe.guide, conditional(recipe.guide)):
            guide_trace = poutine.trace(program).get_trace(given)
            model_trace = poutine.trace(poutine.replay(recipe.model, trace=guide_trace)).get_trace(given)
            guide_sites, model_sites = sample_sites(guide_trace), sample_sites(model_trace)
            latents = {name for name, site in model_sites.items() if not site["is_observed"]}
            # what predicts may leave the lower layers of a hierarchy to the model, a posterior nothing
            assert set(guide_sites) == latents if program is recipe.guide else set(guide_sites) <= latents
            assert guide_sites and all(name == "z" or name.startswith("z") for name in guide_sites)
            for name, site in guide_sites.items():
                assert site["fn"].event_shape == model_sites[name]["fn"].event_shape
                assert site["value"].shape == (ROWS, *site["fn"].event_shape)
            plates = [name for name, site in guide_trace.nodes.items() if poutine.util.site_is_subsample(site)]
            assert plates == ["data"]


@ALL
@pytest.mark.parametrize("count", COUNTS)
def test_what_trains_gets_a_gradient_and_what_is_frozen_none(method, count):
    recipe = recipe_of(method, COUNTS[count], made_by=NormalisedNetworks)
    programs = {"model": recipe.model, "guide": recipe.guide, **dict(enumerate(recipe.others))}
    everything = {f"{key}.{n}": p for key, program in programs.items() for n, p in program.named_parameters()}
    kept = {f"{key}.{n}": b for key, program in programs.items() for n, b in program.named_buffers()}
    updates = [(stage.name, *update) for stage in recipe.stages for update in updates_in(recipe, stage)]
    for stage, loss, model, guide, trained in updates:
        wanted = {id(t) for module in trained for t in (*module.parameters(), *module.buffers())}
        before = {name: tensor.detach().clone() for name, tensor in {**everything, **kept}.items()}
        missing, largest = {name for name, p in everything.items() if id(p) in wanted}, {}
        for number in range(10):
            for parameter in everything.values():
                parameter.grad = None
            torch.manual_seed(number)
            loss.loss_and_grads(model, guide, batch_of(recipe, COUNTS[count], seed=number))
            for name, parameter in everything.items():
                if parameter.grad is not None:
                    assert id(parameter) in wanted, f"{name} is frozen in stage {stage} and got a gradient"
                    assert torch.isfinite(parameter.grad).all(), name
                    largest[name] = max(largest.get(name, 0.0), parameter.grad.abs().max().item())
            missing = {name for name in missing if largest.get(name, 0.0) < 1e-9 or name.endswith(WITHOUT_GRADIENT)}
            if number and all(name.endswith(WITHOUT_GRADIENT) for name in missing):
                break
        assert [name for name in missing if not name.endswith(WITHOUT_GRADIENT)] == []
        for name in missing:  # nothing but rounding
            assert largest.get(name, 0.0) < 1e-4 * max(largest.values()), name
        for name, tensor in {**everything, **kept}.items():
            if id(tensor) not in wanted or name in everything:
                assert torch.equal(tensor, before[name]), f"{name} moved in stage {stage}"
            elif name.endswith("running_mean"):
                assert not torch.equal(tensor, before[name]), f"{name} stood still in stage {stage}"


@ALL
def test_training_moves_what_trains_and_thaws_the_rest(method, tmp_path):
    recipe = recipe_of(method, made_by=NormalisedNetworks)
    before, modes = state(recipe), [part.training for p in (recipe.model, recipe.guide) for part in p.modules()]
    fit_recipe(recipe, data(), epochs=1, batch_size=12, progress=False)
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
def test_every_claimed_subset_answers_and_others_are_refused_by_name(method, count):
    recipe = recipe_of(method, COUNTS[count])
    x = batch_of(recipe, COUNTS[count])
    # of five modalities not every one of the 31 subsets, for time
    asked = [subset for subset in subsets(recipe) if count < 5 or len(subset) in (1, 4, 5) or subset[0] == "touch"]
    claimed = [subset for subset in asked if supports(recipe.guide, subset)]
    assert claimed
    for subset in asked:
        given = {name: x[name] for name in subset}
        if subset in claimed:
            targets = [name for name in recipe.model.modalities if name not in getattr(recipe.model, "conditions", ())]
            values = seeded(cross_generate, recipe.model, recipe.guide, given, targets, num_samples=2)
            assert {name: tuple(v.shape) for name, v in values.items()} == {
                name: (2, *x[name].shape) for name in targets
            }
            continue
        with pytest.raises(ValueError, match="\\+".join(subset)):
            cross_generate(recipe.model, recipe.guide, given, recipe.model.modalities[:1])


@pytest.mark.parametrize("method", [name for name, info in METHODS.items() if info.needs_complete_rows])
def test_methods_that_need_complete_rows_say_so(method):
    recipe, whole = recipe_of(method), data()
    rows = {"label": torch.arange(ROWS) > 2}
    part = MultimodalData("toy", whole.modalities, whole.x, rows, whole.labels, "train")
    with pytest.raises(ValueError, match=f"{method} needs complete rows, 3 of the {ROWS} training rows"):
        fit_recipe(recipe, part, epochs=1, progress=False)


@pytest.mark.parametrize("method", [name for name, info in METHODS.items() if not info.needs_complete_rows])
def test_a_missing_row_is_a_row_without_the_modality(method):
    recipe = recipe_of(method)
    x = batch_of(recipe)
    (name, *_), rows = reversed(recipe.model.modalities), torch.arange(ROWS) % 3 > 0
    losses = []
    for fill in (0, 1):
        filled = dict(x)
        filled[name] = torch.where(
            rows.reshape(-1, *[1] * (x[name].dim() - 1)), x[name], torch.full_like(x[name], fill)
        )
        updates = [update for stage in recipe.stages for update in updates_in(recipe, stage)]
        losses.append([seeded(loss.loss, m, g, filled, {name: rows}) for loss, m, g, _ in updates])
    assert losses[0] == losses[1] and torch.isfinite(torch.tensor(losses[0])).all()


@ALL
def test_a_run_is_loaded_as_it_was_saved(method, tmp_path):
    recipe = recipe_of(method)
    pyro.clear_param_store()
    fit_recipe(recipe, data(), epochs=1, batch_size=12, out=tmp_path / "run", progress=False)
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
        fit_recipe(recipe, data(), epochs=1, batch_size=12, seed=seed, progress=False)
        states.append(state(recipe))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


@ALL
def test_embeddings_have_a_row_each(method):
    recipe = recipe_of(method)
    x = batch_of(recipe)
    subset = max((s for s in subsets(recipe) if supports(recipe.guide, s)), key=len)
    assert seeded(embed, recipe.guide, x, subset).shape == (ROWS, recipe.latent_dim)
