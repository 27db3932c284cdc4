"""Public functions with arguments that Hypothesis draws: finite results, or an error that says what is wrong.

The default suite makes a hundred fixed calls, the slow tests 10,000 random ones.
"""

import functools
import itertools
import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from multipyro.data import MultimodalData, from_tensors
from multipyro.inference import METHODS, build, cross_generate, embed, fit_recipe, log_likelihood
from multipyro.inference.evaluation import supports
from multipyro.inference.recipes import Networks
from multipyro.testing import toy_data

ROOT = Path(__file__).resolve().parents[1]
ROWS = 6
NAMES = ("signal", "label", "word")
# without chains, networks of several stages or minutes of steps
CHEAP = [name for name in METHODS if name not in ("jnf", "jmvae-h")]
FEW, MANY = 25, 2_500


def examples(number):
    """How many calls Hypothesis makes: few that are always the same, or many random ones."""
    return settings(
        max_examples=number,
        derandomize=number == FEW,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def few_and_many(**strategies):
    """Two tests of one property: a few fixed calls, and many random ones among the slow tests."""

    def decorate(check):
        @pytest.mark.parametrize("number", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
        @functools.wraps(check, assigned=("__name__", "__doc__", "__module__", "__qualname__"))
        def test(number):
            outcomes = Counter()

            def run(**drawn):
                outcome = check(**drawn)
                outcomes[outcome] += 1
                event(outcome)

            examples(number)(given(**strategies)(run))()
            print(check.__name__, dict(outcomes))
            assert outcomes["finite"]

        del test.__wrapped__
        return test

    return decorate


@functools.cache
def recipe_of(method):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"particles": 2} if method == "mmvae" else {}
        return build(method, Networks(toy_data(NAMES).modalities, (4,)), 2, **options)


def batch():
    return {name: values.clone() for name, values in toy_data(NAMES, ROWS).x.items()}


def assert_finite(value):
    values = value.values() if isinstance(value, dict) else [value]
    assert all(bool(torch.as_tensor(each).double().isfinite().all()) for each in values)


def outcome_of(call):
    """`"finite"`, or the name of the error; fails if that was raised by others than us, or is long."""
    try:
        assert_finite(call())
    except (ValueError, TypeError, NotImplementedError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        is_ours = ROOT in Path(last.filename).resolve().parents and "raise" in last.line
        assert is_ours, f"raised by {last.filename}, line {last.lineno}: {error}"
        assert 0 < len(str(error).splitlines()) <= 3, str(error)
        return type(error).__name__
    return "finite"


SUBSETS = [s for size in range(1, 4) for s in itertools.combinations(NAMES, size)]
MASKS = st.dictionaries(st.sampled_from(NAMES), st.lists(st.booleans(), min_size=ROWS, max_size=ROWS))


@few_and_many(
    method=st.sampled_from(CHEAP),
    subset=st.sampled_from(SUBSETS),
    target=st.sampled_from(SUBSETS),
    masks=MASKS,
    samples=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_valid_calls_have_finite_results(method, subset, target, masks, samples, seed):
    recipe = recipe_of(method)
    model, guide = recipe.model, recipe.guide
    torch.manual_seed(seed)
    x = {name: values for name, values in batch().items() if name in model.modalities}
    observed = {name: torch.tensor(mask) for name, mask in masks.items() if name in x}
    if METHODS[method].needs_complete_rows:
        observed = None
    if method != "jmvae-gan":  # its discriminators take part in the loss
        objective = recipe.stages[0].objective
        guide.zero_grad()
        assert_finite(objective.loss_and_grads(model, guide, x, observed))
        assert all(p.grad is None or p.grad.isfinite().all() for p in guide.parameters())
    subset = tuple(name for name in subset if name in x)
    target = [name for name in target if name in x]
    if not subset or not target or not supports(guide, subset):
        return "not supported"
    part = {name: x[name] for name in subset}
    masks = None if observed is None else {name: observed[name] for name in subset if name in observed}
    assert_finite(embed(guide, part, None, masks))
    generated = cross_generate(model, guide, part, target, samples, masks)
    assert all(values.shape[:2] == (samples, ROWS) for values in generated.values())
    assert_finite(generated)
    assert_finite(log_likelihood(model, guide, part, num_samples=samples + 1, observed=masks).values)
    return "finite"


def changed(values, change):
    """Values of a modality, as a mistake would make them."""
    if change in ("nan", "inf") and values.is_floating_point():
        values.view(-1)[0] = float(change)
    return {
        "fewer rows": lambda: values[1:],
        "no rows": lambda: values[:0],
        "another shape": lambda: values[..., None],
        "float64": lambda: values.double(),
        "int64": lambda: values.long(),
        "numpy": values.numpy,
        "list": values.tolist,
        "none": lambda: None,
        "negative": lambda: values - 100,
    }.get(change, lambda: values)()


CHANGES = ["", "", "nan", "inf", "fewer rows", "no rows", "another shape", "float64", "int64", "numpy", "list", "none"]
WRONG_NAMES = st.sampled_from([[], ["signal", "signal"], ["taste"], "signal", "taste", 3, None, [3], [None]])
NUMBERS = st.sampled_from([1, 1, 2, 0, -1, 2.5, "2", None, True, float("nan")])
WRONG_MASKS = st.sampled_from(
    [
        None,
        {},
        {"signal": torch.ones(ROWS)},
        {"signal": torch.ones(ROWS - 1, dtype=torch.bool)},
        {"signal": torch.ones(ROWS, 4, dtype=torch.bool)},
        {"taste": torch.ones(ROWS, dtype=torch.bool)},
        {"signal": [True] * ROWS},
        {name: torch.zeros(ROWS, dtype=torch.bool) for name in NAMES},
        [True],
        3,
    ]
)


@few_and_many(
    method=st.sampled_from(["mvae", "mmvae", "mopoe", "jmvae", "vlvae"]),
    function=st.sampled_from(["embed", "cross_generate", "log_likelihood"]),
    change=st.sampled_from([*CHANGES, "negative"]),
    name=st.sampled_from(NAMES),
    names=st.one_of(st.sampled_from(SUBSETS).map(list), WRONG_NAMES),
    samples=NUMBERS,
    observed=WRONG_MASKS,
    output=st.sampled_from(["sample", "sample", "mean", "mode", 3, None]),
)
def test_mistakes_in_a_prediction(method, function, change, name, names, samples, observed, output):
    recipe, x = recipe_of(method), batch()
    x[name] = changed(x[name], change)
    calls = {
        "embed": lambda: embed(recipe.guide, x, names, observed, output),
        "cross_generate": lambda: cross_generate(recipe.model, recipe.guide, x, names, samples, observed, output),
        "log_likelihood": lambda: (
            log_likelihood(recipe.model, recipe.guide, x, names, num_samples=samples, observed=observed).values
        ),
    }
    return outcome_of(calls[function])


SETTINGS = {
    "epochs": [1, 1, 0, -1, 2.5, "1", None, True],
    "batch_size": [4, 4, 0, -3, 1, 1000, 2.5, "4"],
    "lr": [1e-3, 1e-3, 0.0, -1.0, float("nan"), float("inf"), "1e-3", None],
    "seed": [0, 0, -1, 2**70, "0", 1.5],
    "optimizer": ["adam", "adam", "sgd", "Adam", 3, None],
    "lr_schedule": ["constant", "constant", "cosine", "exponential", "one-cycle", "linear", 3],
    "gradient_clip": [None, None, 1.0, 0.0, -1.0, "1", float("nan")],
    "precision": ["32-true", "32-true", "bf16-mixed", "8", 32, None],
    "device": ["auto", "cpu", "cpu", "gpu0", 3],
    "early_stopping": [None, None, None, 1, 0, -1, "1"],
}


@few_and_many(
    method=st.sampled_from(["mvae", "mopoe", "telbo"]),
    values=st.fixed_dictionaries({name: st.sampled_from(options) for name, options in SETTINGS.items()}),
    correct=st.sets(st.sampled_from(list(SETTINGS)), min_size=len(SETTINGS) - 2),
)
def test_mistakes_in_the_settings_of_training(method, values, correct):
    # all but two settings at most are as they should be
    settings = {name: SETTINGS[name][1] if name in correct else value for name, value in values.items()}
    recipe = build(method, Networks(toy_data(NAMES).modalities, (4,)), 2)

    def train():
        fit_recipe(recipe, toy_data(NAMES, ROWS), progress=False, **settings)
        return torch.cat([p.detach().flatten() for p in recipe.model.parameters()])

    return outcome_of(train)


VALUES = {
    "real numbers": lambda rows: torch.linspace(-1, 1, 3 * rows).reshape(rows, 3),
    "one number": lambda rows: torch.linspace(-1, 1, rows),
    "classes": lambda rows: torch.arange(rows) % 3,
    "counts": lambda rows: torch.arange(4 * rows).reshape(rows, 4),
    "image": lambda rows: torch.linspace(0, 1, 4 * rows).reshape(rows, 1, 2, 2),
    "bytes": lambda rows: torch.arange(4 * rows).reshape(rows, 1, 2, 2).to(torch.uint8),
    "volume": lambda rows: torch.linspace(0, 1, 8 * rows).reshape(rows, 2, 2, 2, 1),
    "switches": lambda rows: torch.arange(2 * rows).reshape(rows, 2) % 3 == 0,
    "constant": lambda rows: torch.ones(rows, 2),
    "nan": lambda rows: torch.full((rows, 2), float("nan")),
    "inf": lambda rows: torch.full((rows, 2), float("inf")),
    "negative": lambda rows: -torch.arange(rows),
    "complex": lambda rows: torch.zeros(rows, 2, dtype=torch.complex64),
    "empty": lambda rows: torch.zeros(rows, 0),
    "a number": lambda rows: torch.tensor(1.0),
    "text": lambda rows: "text",
    "none": lambda rows: None,
}
VALID = ["real numbers", "one number", "classes", "image", "bytes", "switches"]
KINDS = ["vector", "label", "image", "text", "counts", "positive", "ordinal", "sound", 3]


@few_and_many(
    valid=st.lists(st.sampled_from(VALID), min_size=1, max_size=2),
    invalid=st.sampled_from([name for name in VALUES if name not in VALID]),
    rows=st.sampled_from([ROWS, 1, 0]),
    kind=st.sampled_from(KINDS),
    mask=st.sampled_from(["rows", "wrong rows", "nobody", "unknown"]),
    split=st.sampled_from([(1.0, 0.0, 0.0), (0.5, 0.5), (2, -1, 0), "train", None]),
    seed=st.sampled_from([-1, "0", 2.5, 2**70]),
    mistakes=st.sets(st.sampled_from(["values", "rows", "kind", "mask", "split", "seed"]), max_size=2),
)
def test_mistakes_in_tensors(valid, invalid, rows, kind, mask, split, seed, mistakes):
    kinds_of_values = [*valid, invalid] if "values" in mistakes else valid
    rows = rows if "rows" in mistakes else 20
    kind = kind if "kind" in mistakes else None
    mask = mask if "mask" in mistakes else None
    split = split if "split" in mistakes else (0.8, 0.1, 0.1)
    seed = seed if "seed" in mistakes else 0
    x = {f"m{number}": VALUES[name](rows) for number, name in enumerate(kinds_of_values)}
    masks = {
        "rows": {"m0": torch.arange(rows) % 2 == 0},
        "wrong rows": {"m0": torch.ones(rows + 1, dtype=torch.bool)},
        "nobody": {"m0": torch.zeros(rows, dtype=torch.bool)},
        "unknown": {"taste": torch.ones(rows, dtype=torch.bool)},
    }
    kinds = {} if kind is None else {"m0": kind}

    def load():
        splits = from_tensors(x, observed=masks.get(mask), kinds=kinds, split=split, seed=seed)
        assert isinstance(splits.train, MultimodalData)
        observed = splits.train.observed or {}
        return {
            name: values[torch.arange(len(splits.train))][observed.get(name, ...)]
            for name, values in splits.train.x.items()
            if name not in observed or not torch.as_tensor(values[:]).isnan().any()
        }

    return outcome_of(load)
