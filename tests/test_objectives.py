"""Objectives as values: printed, compared, pickled, fingerprinted and bound without executing a function."""

import copy
import dataclasses
import functools
import gc
import pickle
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from small_programs import batch, programs
from torch import nn

from multipyro.data import Modality
from multipyro.inference import METHODS, build
from multipyro.inference.handlers import conditional, frozen, restrict
from multipyro.inference.objectives import (
    GUIDE,
    MODEL,
    NUM_MODALITIES,
    PROPER_SUBSETS,
    SINGLES,
    SUBSET,
    Evaluation,
    GeneratorLoss,
    LinearMixtureELBO,
    LinearWarmup,
    Objective,
    StratifiedELBO,
    TracePair,
    by_subset,
    elbo,
    fingerprint_of,
    listed_subsets,
    number,
    schedules_of,
    spec_of,
    subset_elbo,
    sum_over,
)
from multipyro.inference.objectives.spec import instances_in
from multipyro.inference.programs import Applied, Binding, Concrete, Placeholder, SubsetPlaceholder, handler
from multipyro.inference.recipes import Networks, equations

MODALITIES = {
    "image": Modality("image", (4,), "vector", "normal"),
    "label": Modality("label", (), "label", "categorical", 3),
    "word": Modality("word", (2,), "text", "categorical", 4),
}
# method -> options that reach every objective of the library
OPTIONS = {
    **{method: [{}] for method in METHODS},
    "mopoe": [{"private": 2}, {"objective": "subsets"}, {"aggregate": "label", "aggregate_prior": True}],
    "mmvae": [{}, {"bound": "linear"}],
    "telbo": [{}, {"one_stage": True}],
    "vlvae": [{}, {"aggregate_objective": "q_true"}],
}
CASES = [(method, options) for method, cases in OPTIONS.items() for options in cases]
each_case = pytest.mark.parametrize("method, options", CASES, ids=lambda value: str(value))


def objectives_of(method, options):
    recipe = build(method, Networks(MODALITIES, (8,)), 2, beta=0.5, warmup=3, weights={"label": 2.0}, **options)
    return [objective for stage in recipe.stages for objective in (stage.objective, *stage.objectives)]


def mutations(value, where=""):
    """Copies of a value in which one part has another meaning, with the place of the change."""
    if isinstance(value, bool):
        yield where, not value
    elif isinstance(value, int | float):
        yield where, value + 1
    elif isinstance(value, str):
        yield where, value + "x"
    elif value is None:
        yield where, 1
    elif isinstance(value, SubsetPlaceholder):
        yield where, ("other",)
    elif isinstance(value, Placeholder):
        yield where, GUIDE if value is MODEL else MODEL
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            for place, other in mutations(item, f"{where}[{index}]"):
                yield place, (*value[:index], other, *value[index + 1 :])
        if value:
            yield f"{where} without its last item", value[:-1]
    elif isinstance(value, dict):
        for key, item in value.items():
            for place, other in mutations(item, f"{where}[{key!r}]"):
                yield place, {**value, key: other}
            yield f"{where} without {key!r}", {name: inner for name, inner in value.items() if name != key}
    elif isinstance(value, nn.Module):
        yield where, nn.Linear(1, 1)
    else:
        if isinstance(value, Applied):
            yield f"{where} without {value.handler}", value.arguments[0][1]
        if hasattr(value, "p") and value.p != value.q:
            yield f"{where} with its programs swapped", changed(changed(value, "p", value.q), "q", value.p)
        for name in names_of(value):
            for place, other in mutations(getattr(value, name), f"{where}.{name}"):
                yield place, changed(value, name, other)


def names_of(value):
    """The settings of an object: not how a handler is printed, and no state."""
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value) if field.compare]
    return [name for name in vars(value) if not name.startswith("_")]


def changed(value, name, other):
    result = copy.copy(value)
    object.__setattr__(result, name, other)
    return result


@each_case
def test_every_change_of_meaning_changes_the_fingerprint(method, options):
    for objective in objectives_of(method, options):
        fingerprint = fingerprint_of(objective)
        seen = 0
        for place, other in mutations(objective):
            assert fingerprint_of(other) != fingerprint, place
            seen += 1
        assert seen >= 3


@each_case
def test_an_objective_is_the_same_value_when_made_printed_or_pickled_twice(method, options):
    for one, other in zip(objectives_of(method, options), objectives_of(method, options), strict=True):
        copied = pickle.loads(pickle.dumps(one))
        assert one == other == copied and hash(one) == hash(other) == hash(copied)
        assert repr(one) == repr(other) == repr(copied) == one.equation()
        assert fingerprint_of(one) == fingerprint_of(copied)
        assert one != elbo(MODEL, GUIDE, {"z": 17.0})


def test_equations_read_as_on_paper():
    m, g, A = MODEL, GUIDE, SUBSET
    alpha, a = number("alpha", 0.1), number("a", 0.5)
    objective = elbo(m, g) + alpha * sum_over(PROPER_SUBSETS, elbo(g | A, g))
    assert repr(objective) == "ELBO(m || g) + alpha sum_{A proper} ELBO(g|A || g)"
    weighted = elbo(m, g, {"z": LinearWarmup(8)}, reconstruction=(NUM_MODALITIES - a) / NUM_MODALITIES)
    assert repr(weighted) == "ELBO(m || g; x: (M - a)/M, z: warmup(8 epochs to 1))"
    telbo = sum_over(SINGLES, elbo(frozen(m) | A, frozen(g, [g.part("flows", A)]) | A))
    assert repr(telbo) == "sum_{A single} ELBO(frozen(m)|A || frozen(g except g.flows.A)|A)"
    assert repr(2 * (elbo(m, g) + elbo(m | "a", g | ("a", "b")))) == "2 (ELBO(m || g) + ELBO(m|a || g|a+b))"
    assert all(line for method in METHODS for line in equations(method))


def test_schedules_and_modules_are_found_wherever_they_stand():
    first, second, discriminator = LinearWarmup(3), LinearWarmup(4), nn.Linear(2, 1)
    objective = elbo(MODEL, GUIDE, {"z": 2 * first / NUM_MODALITIES}) + second * subset_elbo(1, {"z": first})
    assert schedules_of(objective) == (first, second)
    assert schedules_of(StratifiedELBO(sites={"z": second})) == (second,)
    assert schedules_of(Trace_ELBO()) == ()
    assert instances_in(GeneratorLoss(discriminator, "image"), nn.Module) == (discriminator,)
    assert instances_in(elbo(discriminator, GUIDE), nn.Module) == (discriminator,)


def test_a_function_among_the_settings_is_refused_by_name():
    class Tilted(Objective):
        def __init__(self, tilt):
            super().__init__()
            self.tilt = {"by": [tilt]}

        def evaluate(self, model, guide, x, observed=None):
            return Evaluation(torch.zeros(()))

    assert spec_of(Tilted(1.0))["tilt"] == {"by": [1.0]}
    with pytest.raises(TypeError, match=r"a function at tilt\['by'\]\[0\], whose meaning cannot be compared"):
        fingerprint_of(Tilted(lambda z: z))
    with pytest.raises(TypeError, match="a weight must be a number, a tensor or a schedule, got str"):
        elbo(MODEL, GUIDE, {"z": "much"})
    with pytest.raises(TypeError, match="only sums of ELBOs can be added up, got StratifiedELBO"):
        elbo(MODEL, GUIDE) + StratifiedELBO()


class Tempered(StratifiedELBO):
    """A subclass of an objective of the library, with a setting of its own."""

    def __init__(self, temperature):
        super().__init__(num_particles=2)
        self.temperature = temperature


def test_fingerprints_see_what_is_inside_of_programs_modules_and_subclasses():
    model, guide = programs()
    relu, tanh = (nn.Sequential(nn.Linear(2, 1), activation()) for activation in (nn.ReLU, nn.Tanh))
    values = [
        elbo(restrict(model, ["image"]), GUIDE),
        elbo(restrict(model, ["label"]), GUIDE),
        elbo(restrict(frozen(model), ["label"]), GUIDE),
        elbo(model, GUIDE),
        elbo(gaussian_guide, GUIDE),
        elbo(latent, GUIDE),
        *(GeneratorLoss(network, "image") for network in (relu, tanh)),
        *map(Tempered, (1.0, 2.0, LinearWarmup(3))),
        *(elbo(MODEL, GUIDE, {"z": weight}) for weight in (1, torch.tensor(1), torch.ones(1), torch.ones(100), 0.1)),
        *(elbo(MODEL, restrict(GUIDE, given)) for given in (["a"], ["b"])),
    ]
    assert len({fingerprint_of(value) for value in values}) == len(values)
    assert schedules_of(Tempered(LinearWarmup(3))) != ()


def test_fingerprints_do_not_see_how_a_meaning_is_written():
    one = elbo(MODEL, GUIDE | ("a", "b"), {"z": 2, "a": number("alpha", 1.5)})
    other = elbo(MODEL, restrict(GUIDE, {"b", "a"}), {"a": number("beta", 1.5), "z": 2.0})
    assert one == other and hash(one) == hash(other) and fingerprint_of(one) == fingerprint_of(other)
    undefined = torch.tensor([1.0, float("nan")])
    assert elbo(MODEL, GUIDE, {"z": undefined}) == elbo(MODEL, GUIDE, {"z": undefined.clone()})


@pytest.mark.parametrize(
    "setting, message",
    [
        (functools.partial(elbo, MODEL), "a function at setting,"),
        ([{1: lambda z: z}], r"a function at setting\[0\]\[1\],"),
        (torch.float64, "contains torch.float64 at setting, which cannot be compared"),
    ],
)
def test_settings_that_cannot_be_compared_are_refused_by_name(setting, message):
    objective = elbo(MODEL, GUIDE)
    objective.setting = setting
    with pytest.raises(TypeError, match=message):
        fingerprint_of(objective)
    with pytest.raises(TypeError, match="a function at p, whose meaning"):
        fingerprint_of(elbo(lambda x, observed=None: x, GUIDE))


def test_the_spec_of_a_foreign_elbo_has_its_settings():
    assert spec_of(Trace_ELBO(num_particles=3)) != spec_of(Trace_ELBO())
    guessed = Trace_ELBO()
    guessed.max_plate_nesting = 1  # what Pyro does in the first call
    assert spec_of(guessed) == spec_of(Trace_ELBO())


def test_handlers_are_made_once_for_a_model_and_a_guide(monkeypatch):
    model, guide = programs()
    restricted, made = type(restrict(model, ["image"])), []
    original = restricted.__init__

    def counted(self, *arguments):
        made.append(arguments)
        original(self, *arguments)

    monkeypatch.setattr(restricted, "__init__", counted)
    objective = subset_elbo()
    bound = objective.bind(model, guide)
    values = [bound.differentiable_loss(model, guide, batch()).item() for _ in range(3)]
    assert len(made) == 4 and len(set(values)) == 3  # two programs for each of two modalities
    other, _ = programs()
    objective.loss(other, guide, batch())
    assert len(made) == 8


@pytest.mark.parametrize("objective", (subset_elbo(), StratifiedELBO(2)), ids=str)
def test_an_objective_keeps_no_model_alive(objective):
    model, guide = programs()
    objective.loss(model, guide, batch())
    objective.bind(model, guide).evaluate(model, guide, batch())
    references = weakref.ref(model), weakref.ref(guide)
    del model, guide
    gc.collect()
    assert references[0]() is None and references[1]() is None


def test_nothing_goes_stale_and_nothing_piles_up():
    model, guide = programs()
    x = batch()
    objective = sum_over(SINGLES, elbo(MODEL | SUBSET, GUIDE | SUBSET))
    objective.loss(model, guide, x)
    with pytest.raises(AttributeError, match="kl of an objective cannot be changed"):
        objective.body.kl = "sampled"
    bound = objective.bind(model, guide)
    programs_of_bound = bound._binding(model, guide)
    objective.loss(guide, guide, x)
    bound.evaluate(model, guide, x)
    assert bound._binding(model, guide) is programs_of_bound
    binding = Binding(model, guide)
    trained = frozen(GUIDE, [GUIDE.part("encoders")])
    before = binding[trained]
    assert binding[trained] is before
    guide.encoders = nn.ModuleDict(guide.encoders.items())
    assert binding[trained] is not before and binding[trained].settings == ((guide.encoders,),)
    for index in range(5000):
        binding[MODEL | f"modality {index}"]
    assert binding[MODEL | "modality 4999"] is binding[MODEL | "modality 4999"] and len(binding._programs) < 5000


def test_expressions_resolve_to_what_the_handlers_return():
    model, guide = programs()
    binding = Binding(model, guide)
    assert binding[MODEL] is model and binding[Concrete(guide)] is guide
    assert binding[GUIDE.part("encoders", ("label",))] is guide.encoders["label"]
    assert binding[MODEL | "label"] is binding[restrict(MODEL, ["label"])]
    torch.manual_seed(0)
    expected = frozen(restrict(guide, ["label"]))(batch())["z"]
    torch.manual_seed(0)
    assert torch.equal(binding[frozen(GUIDE | "label")](batch())["z"], expected) and not expected.requires_grad
    with pytest.raises(ValueError, match="refers to g.bridges, which this ProductOfExperts does not have"):
        binding[GUIDE.part("bridges")]
    with pytest.raises(ValueError, match="A stands for the subset that a sum runs over, but is in no sum"):
        binding[MODEL | SUBSET]
    with pytest.raises(TypeError, match="cannot be a dict, got {'a': 1}"):
        restrict(MODEL, {"a": 1})
    assert isinstance(conditional(guide), nn.Module)


@handler("twice({program})")
def twice(program):
    return lambda x, observed=None: (program(x, observed), program(x, observed))[1]


def test_a_user_defined_handler_is_an_expression_too():
    expression = twice(GUIDE | "label")
    assert repr(expression) == "twice(g|label)" and pickle.loads(pickle.dumps(expression)) == expression
    assert callable(Binding(*programs())[expression])
    assert callable(twice(program=programs()[1]))


def test_a_family_of_subsets_leaves_out_what_a_batch_does_not_contain():
    family = listed_subsets([("a",), ("a", "b"), ("c",)], requires=("b",))
    assert family.subsets(("a", "b")) == [("a",), ("a", "b")] and family.subsets(("a", "c")) == []
    assert SINGLES.of_each_row().subsets(("a",)) == [] and SINGLES.subsets(("a",)) == [("a",)]
    assert listed_subsets([("a",), ("b", "a")]).of_each_row().subsets(("a", "b")) == [("a",)]
    with pytest.raises(ValueError, match="-1"):
        subset_elbo(-1)


# weights and sums


def losses_of(*objectives, **settings):
    """The loss of each objective on one batch, from one seed."""
    torch.manual_seed(0)
    (model, guide), x, losses = programs(), batch(), []
    for objective in objectives:
        torch.manual_seed(1)
        losses.append(objective.loss(model, guide, x, **settings))
    return losses


def test_a_weight_in_nested_sums_belongs_to_the_innermost_sum_around_it():
    m, g, A = MODEL, GUIDE, SUBSET
    outer = by_subset("mu", {("image",): 2.0, ("label",): 3.0})
    inner = by_subset("nu", {("image", "label"): 5.0})
    body = elbo(m | A, g | A, {"z": inner}, reconstruction=inner)
    nested = sum_over(SINGLES, outer * sum_over(listed_subsets([("image", "label")]), inner * body))
    assert repr(nested) == ("sum_{A single} mu_A sum_{A in {image+label}} nu_A ELBO(m|A || g|A; x: nu_A, z: nu_A)")
    loss, expected = losses_of(nested, 5 * 5 * (2 + 3) * elbo(m, g))
    assert loss == pytest.approx(expected, rel=1e-5)


def test_weights_are_numbers_tensors_symbols_and_arithmetic_with_them():
    m, g, M, a = MODEL, GUIDE, NUM_MODALITIES, number("a", 0.5)
    plain, halved = elbo(m, g), 0.5 * elbo(m, g)
    rows = torch.full((5,), 0.5)
    for other in (torch.tensor(0.5) * plain, rows * plain, 1 / M * plain, (1 - a) * plain, (a / (M * a)) * plain):
        assert losses_of(other) == pytest.approx(losses_of(halved), rel=1e-6)
    tripled = elbo(m, g, {"z": rows * 0, "image": rows}, num_particles=3)
    assert losses_of(tripled) == losses_of(elbo(m, g, {"z": 0, "image": 0.5}, num_particles=3))
    assert losses_of(sum([plain, plain]), 0 * plain) == [pytest.approx(2 * losses_of(plain)[0]), 0]
    assert repr(1 / (M * a)) == "1/(M a)" and repr(M / a / 2) == "M/a/2" and repr(M / (a / 2)) == "M/(a/2)"
    nothing = sum_over(listed_subsets([("sound",)]), elbo(m | SUBSET, g | SUBSET))
    assert losses_of(nothing, nothing + plain)[1] == losses_of(plain)[0]
    assert nothing.loss_and_grads(*programs(), batch()) == 0


@pytest.mark.parametrize(
    "objective, message",
    [
        (elbo(MODEL, GUIDE, {"z": by_subset("mu", {("a",): 1.0})}), "mu_A has no number for a term outside of a sum"),
        (
            sum_over(SINGLES, by_subset("mu", {("image",): 1.0}) * elbo(MODEL | SUBSET, GUIDE | SUBSET)),
            "mu_A has no number for the subset label: it has those of image",
        ),
    ],
)
def test_a_subset_without_a_weight_is_named(objective, message):
    with pytest.raises(ValueError, match=message):
        losses_of(objective)


def test_the_kl_of_what_is_no_mixture_is_exact_beside_the_components_one():
    """A private latent beside a mixture: `kl="components"` replaces the KL of the mixture, and of nothing else."""
    recipe = build("mopoe", Networks(MODALITIES, (8,)), 2, objective="subsets", private=2)
    x = {"image": torch.randn(5, 4), "label": torch.randint(3, (5,)), "word": torch.randint(4, (5, 2))}
    reports = []
    for seed in range(2):
        torch.manual_seed(seed)
        reports.append(recipe.stages[0].objective.report(recipe.model, recipe.guide, x))
    kls = [name for name in reports[0] if name.startswith("kl/")]
    assert len(kls) == 4 and all(torch.equal(reports[0][name], reports[1][name]) for name in kls)


# what Pyro's own objectives check


def latent(name="z", plate="data", distribution=None):
    with pyro.plate(plate, 3, dim=-1):
        return pyro.sample(name, distribution or dist.Normal(torch.zeros(3, requires_grad=True), 1.0))


def gaussian_guide(x, observed=None):
    with pyro.plate("data", 3, dim=-1):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(3)), 1.0))


def test_a_second_plate_is_refused_by_name():
    def model(x, observed=None):
        with pyro.plate("data", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 4, dim=-2):
                pyro.sample("image", dist.Normal(z, 1.0), obs=x["image"].T)

    for objective in (elbo(MODEL, GUIDE), StratifiedELBO(2)):
        with pytest.raises(ValueError, match="site 'image' of the generative program is in the plate 'pixels'"):
            objective.loss(model, gaussian_guide, {"image": torch.zeros(3, 4)})


def test_a_latent_outside_the_plate_is_refused_by_name():
    def model(x, observed=None):
        weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z * weight, 1.0), obs=x["a"])

    def guide(x, observed=None):
        pyro.sample("weight", dist.Normal(pyro.param("mean", torch.tensor(0.0)), 1.0))
        gaussian_guide(x)

    for objective in (elbo(MODEL, GUIDE), StratifiedELBO(2), StratifiedELBO(2, bound="tight"), LinearMixtureELBO()):
        with pytest.raises(ValueError, match="latent 'weight' of the .* is outside the plate 'data'"):
            objective.loss(model, guide, {"a": torch.zeros(3)})


@pytest.mark.parametrize(
    "objective", (elbo(MODEL, GUIDE), StratifiedELBO(2), StratifiedELBO(2, bound="tight")), ids=str
)
def test_a_discrete_latent_is_refused_where_its_gradient_would_be_wrong(objective):
    def model(x, observed=None):
        with pyro.plate("data", 3, dim=-1):
            z = pyro.sample("z", dist.Categorical(torch.ones(2)))
            pyro.sample("a", dist.Normal(z.float(), 1.0), obs=x["a"])

    def guide(x, observed=None):
        logits = pyro.param("logits", torch.zeros(3, 2))
        with pyro.plate("data", 3, dim=-1):
            pyro.sample("z", dist.Categorical(logits=logits))

    x = {"a": torch.zeros(3)}
    with pytest.raises(ValueError, match="latent 'z' of the guide has the distribution Categorical, which has no"):
        objective.loss_and_grads(model, guide, x)
    assert objective.loss(model, guide, x) > 0  # the value alone is right


def test_a_loss_that_is_not_a_number_is_warned_of():
    model, guide = programs()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    pyro.enable_validation(False)
    for method in (subset_elbo().loss, StratifiedELBO(2).loss_and_grads):
        with pytest.warns(UserWarning, match="Encountered NaN: loss"):
            method(model, guide, batch())


def test_a_model_that_subsamples_its_data_scales_both_sides():
    """`plate("data", N, subsample_size=n)` in the model: the whole objective is scaled by N / n."""

    def model(scale):
        def program(x, observed=None):
            with pyro.plate("data", 30 if scale else 3, subsample_size=3 if scale else None, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("a", dist.Normal(z, 1.0), obs=x["a"])

        return program

    x = {"a": torch.tensor([1.0, -2.0, 0.5])}
    for kl in ("analytic", "sampled"):
        losses = []
        for scale in (False, True):
            torch.manual_seed(0)
            with pyro.get_param_store().scope():
                losses.append(elbo(MODEL, GUIDE, kl=kl).loss(model(scale), gaussian_guide, x))
        assert losses[1] == pytest.approx(10 * losses[0], rel=1e-5)


def test_a_user_defined_objective_needs_public_names_alone():
    """The example of `Objective`: free bits, held against its closed form."""

    class FreeBits(Objective):
        def __init__(self, free):
            super().__init__()
            self.free = free

        def evaluate(self, model, guide, x, observed=None):
            pair = TracePair.of_traces(*self.traces(model, guide, x, observed))
            result = Evaluation(torch.zeros(()))
            for name in pair.p_sites:
                if name in pair.latents:
                    result.add(name, pair.masked(name, -pair.kl(name).clamp(min=self.free)), kind="kl")
                else:
                    result.add(name, pair.masked(name, pair.log_prob(name)))
            return result

    model, guide = programs()
    x = batch()
    torch.manual_seed(0)
    free = FreeBits(100.0).loss(model, guide, x)
    torch.manual_seed(0)
    report = elbo(MODEL, GUIDE).report(model, guide, x)
    likelihood = report["reconstruction/image"] + report["reconstruction/label"]
    assert free == pytest.approx(100.0 * len(x["label"]) - likelihood.item(), rel=1e-5)
    assert FreeBits(1.0).loss_and_grads(model, guide, x) and FreeBits(1.0) != FreeBits(2.0)
    torch.manual_seed(0)
    assert FreeBits(-1e9).loss(model, guide, x) == pytest.approx((report["kl/z"] - likelihood).item(), rel=1e-5)
