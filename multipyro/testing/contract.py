"""The contract that every method keeps, as functions that raise an AssertionError which says what is broken."""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from pyro import poutine
from torch import Tensor, nn

from multipyro.batch import Values, subsets_of
from multipyro.data import Modality, MultimodalData
from multipyro.inference import METHODS, build, conditional, cross_generate, fit_recipe, frozen, load
from multipyro.inference.evaluation import supports
from multipyro.inference.objectives import Objective
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.recipes import MethodInfo, Networks, Recipe

__all__ = [
    "check_gradients",
    "check_method",
    "check_missing",
    "check_sites",
    "check_subsets",
    "toy_data",
    "updates_in",
]

_MODALITIES = {
    "signal": Modality("signal", (4,), "vector", "normal"),
    "label": Modality("label", (), "label", "categorical", 3),
    "sound": Modality("sound", (3,), "vector", "laplace"),
    "touch": Modality("touch", (5,), "vector", "bernoulli"),
    "word": Modality("word", (2,), "text", "categorical", 4),
}
# batches after which a parameter must have had a gradient: a random subset of the objective may miss it in one
_BATCHES = 10
# smaller gradients are rounding
_LEAST = 1e-9


def check_method(method: str | MethodInfo, **options: Any) -> None:
    """Builds a method for small data and checks everything that the library expects of it.

    That is: `check_sites`, `check_gradients`, `check_subsets`, `check_missing`, finite losses that a seed repeats, one
    epoch of `fit_recipe`, and a run that `load` restores.

    Args:
        method: The method, or the name of a registered one.
        **options: As in `build`; for a slow method choose values that make it fast.

    Raises:
        AssertionError: If the contract is broken; the message says where.

    Example:
        >>> from dataclasses import replace
        >>> from multipyro.inference.objectives import GUIDE, MODEL, elbo
        >>> from multipyro.inference.recipes import Stage, method
        >>> @method("broken", title="a stage that trains what its objective freezes", paper="this example")
        ... def broken(networks, latent_dim, weighting):
        ...     recipe = METHODS["mvae"](networks, latent_dim, weighting)
        ...     return replace(recipe, stages=(Stage(elbo(frozen(MODEL), GUIDE), train=(recipe.model,)),))
        >>> check_method("mvae")
        >>> check_method(broken)
        Traceback (most recent call last):
            ...
        AssertionError: no gradient of ELBO(frozen(m) || g) for model.likelihoods.signal.network.layers.0.weight
    """
    info = METHODS[method] if isinstance(method, str) else method
    with mock.patch.dict(METHODS, {info.name: info}), torch.random.fork_rng():
        data = toy_data()
        recipe = build(info.name, Networks(data.modalities, (8,)), 2, **options)
        batches = [_batch(recipe, toy_data(seed=seed)) for seed in range(_BATCHES)]
        for loss, model, guide, _ in updates_in(recipe):
            values = [_seeded(loss.loss, model, guide, batches[0]) for _ in range(2)]
            _check(values[0] == values[1], f"{loss} is not the same for the same seed: {values}")
            _check(torch.isfinite(torch.tensor(values)).all(), f"{loss} is not finite: {values[0]}")
        check_sites(recipe, batches[0])
        check_gradients(recipe, batches)
        check_subsets(recipe, batches[0])
        if not info.needs_complete_rows:
            check_missing(recipe, batches[0])
        with tempfile.TemporaryDirectory() as folder:
            fit_recipe(recipe, data, epochs=1, batch_size=12, out=folder, progress=False)
            loaded = load(folder).recipe
        for name, value in _state(recipe).items():
            _check(torch.equal(value, _state(loaded)[name]), f"a loaded run has another {name}")


def toy_data(
    modalities: Sequence[str] = ("signal", "label", "word"), num_rows: int = 24, seed: int = 0
) -> MultimodalData:
    """Small data whose modalities all depend on one class label.

    Args:
        modalities: Which of `signal`, `label`, `sound`, `touch` and `word` it has.
        num_rows: Number of examples.
        seed: Seed of the values.

    Returns:
        Training data.

    Example:
        >>> toy_data(["signal", "sound"]).x["sound"].shape
        torch.Size([24, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (num_rows,), generator=generator)
    noise = torch.randn(num_rows, 4, generator=generator)
    values = {
        "signal": label[:, None] - 1.0 + 0.3 * noise,
        "label": label,
        "sound": 1.0 - label[:, None] + 0.3 * noise[:, :3],
        "touch": (torch.rand(num_rows, 5, generator=generator) < (label[:, None] + 1) / 4).float(),
        "word": torch.stack([label, (label + torch.randint(2, (num_rows,), generator=generator)) % 4], -1),
    }
    chosen = {name: _MODALITIES[name] for name in modalities}
    return MultimodalData("toy", chosen, {name: values[name] for name in chosen}, None, label, "train")


def check_sites(recipe: Recipe, x: Values) -> None:
    """Checks that the guide samples the model's latents, in the plate `data`, for every subset that it supports.

    The guide's `conditional` may leave latents to the model, as that of a hierarchical guide does.

    Args:
        recipe: Model and guide.
        x: A batch of all modalities.

    Raises:
        AssertionError: If the sites differ; the message says where.
    """
    rows = len(next(iter(x.values())))
    for subset in filter(lambda names: supports(recipe.guide, names), subsets_of(recipe.model.modalities)):
        given = {name: x[name] for name in subset}
        for program in (recipe.guide, conditional(recipe.guide)):
            guide_trace = poutine.trace(program).get_trace(given)
            model_trace = poutine.trace(poutine.replay(recipe.model, trace=guide_trace)).get_trace(given)
            guide_sites, model_sites = sample_sites(guide_trace), sample_sites(model_trace)
            where = f"given {'+'.join(subset)}"
            latents = {name for name, site in model_sites.items() if not site["is_observed"]}
            complete = program is not recipe.guide or set(guide_sites) == latents
            _check(
                guide_sites and set(guide_sites) <= latents and complete,
                f"{where} the guide samples {sorted(guide_sites)}, the model's latents are {sorted(latents)}",
            )
            for name, site in guide_sites.items():
                _check(name.startswith("z"), f"{where} the latent {name} has no name that begins with z")
                event_shape = model_sites[name]["fn"].event_shape
                _check(
                    site["value"].shape == (rows, *event_shape),
                    f"{where} {name} has shape {tuple(site['value'].shape)}, not {(rows, *event_shape)}",
                )
            plates = [name for name, site in guide_trace.nodes.items() if poutine.util.site_is_subsample(site)]
            _check(plates == ["data"], f"{where} the guide has the plates {plates}, not ['data']")


def check_gradients(recipe: Recipe, batches: Sequence[Mapping[str, Tensor]], without: Collection[str] = ()) -> None:
    """Checks that in each stage every parameter that trains has a gradient, and nothing else has one or changes.

    Args:
        recipe: Model, guide and stages.
        batches: Batches of all modalities; a parameter needs a gradient in one of them.
        without: Ends of the names of parameters that cannot have a gradient.

    Raises:
        AssertionError: If a gradient is missing, not finite, or where there should be none; the message says where.
    """
    programs = {"model": recipe.model, "guide": recipe.guide, **dict(enumerate(recipe.others))}
    parameters = {f"{key}.{n}": p for key, program in programs.items() for n, p in program.named_parameters()}
    buffers = {f"{key}.{n}": b for key, program in programs.items() for n, b in program.named_buffers()}
    for loss, model, guide, trained in updates_in(recipe):
        wanted = {id(t) for module in trained for t in (*module.parameters(), *module.buffers())}
        before = {name: tensor.detach().clone() for name, tensor in {**parameters, **buffers}.items()}
        largest = dict.fromkeys((name for name, p in parameters.items() if id(p) in wanted), 0.0)
        for seed, x in enumerate(batches):
            for parameter in parameters.values():
                parameter.grad = None
            _seeded(loss.loss_and_grads, model, guide, x, seed=seed)
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    _check(name in largest, f"{name} is frozen for {loss} and has a gradient")
                    _check(torch.isfinite(parameter.grad).all(), f"the gradient of {name} for {loss} is not finite")
                    largest[name] = max(largest[name], parameter.grad.abs().max().item())
            if seed and all(value > _LEAST for name, value in largest.items() if not name.endswith(tuple(without))):
                break
        rounding = 1e-4 * max(largest.values())
        for name, value in largest.items():
            if name.endswith(tuple(without)):
                _check(value < rounding, f"{name} has a gradient of {value} for {loss}")
            else:
                _check(value > _LEAST, f"no gradient of {loss} for {name}")
        for name, tensor in {**parameters, **buffers}.items():
            moves = id(tensor) in wanted and name in buffers
            _check(moves or torch.equal(tensor, before[name]), f"{name} changes in an evaluation of {loss}")
            if moves and name.endswith("running_mean"):
                _check(not torch.equal(tensor, before[name]), f"{name} trains on {loss} and does not change")


def check_subsets(recipe: Recipe, x: Values, subsets: Sequence[Sequence[str]] | None = None) -> list[tuple[str, ...]]:
    """Checks that every subset that the guide supports predicts all modalities, and others are refused by name.

    Args:
        recipe: Model and guide.
        x: A batch of all modalities.
        subsets: The subsets; every non-empty one by default.

    Returns:
        The subsets that the guide supports.

    Raises:
        AssertionError: If none is supported, or a prediction has a wrong shape; the message says where.
    """
    target = [name for name in recipe.model.modalities if name not in getattr(recipe.model, "conditions", ())]
    supported = []
    for subset in subsets_of(recipe.model.modalities) if subsets is None else map(tuple, subsets):
        given = {name: x[name] for name in subset}
        if supports(recipe.guide, subset):
            supported.append(subset)
            values = _seeded(cross_generate, recipe.model, recipe.guide, given, target, num_samples=2)
            shapes = {name: tuple(value.shape) for name, value in values.items()}
            expected = {name: (2, *x[name].shape) for name in target}
            _check(shapes == expected, f"given {'+'.join(subset)} the shapes are {shapes}, not {expected}")
            continue
        try:
            cross_generate(recipe.model, recipe.guide, given, target[:1])
        except ValueError as error:
            _check("+".join(subset) in str(error), f"{'+'.join(subset)} is refused without its name: {error}")
        else:
            _check(False, f"{'+'.join(subset)} is not supported and not refused")
    _check(supported, "the guide supports no subset")
    return supported


def check_missing(recipe: Recipe, x: Values) -> None:
    """Checks that no loss depends on the values of missing examples.

    Args:
        recipe: Model, guide and stages.
        x: A batch of all modalities.

    Raises:
        AssertionError: If a loss changes or is not finite; the message says which.
    """
    name = recipe.model.modalities[-1]
    mask = torch.arange(len(x[name])) % 3 > 0
    rows = mask.reshape(-1, *[1] * (x[name].dim() - 1))
    fills = [{**x, name: torch.where(rows, x[name], torch.full_like(x[name], fill))} for fill in (0, 1)]
    for loss, model, guide, _ in updates_in(recipe):
        one, other = (_seeded(loss.loss, model, guide, filled, {name: mask}) for filled in fills)
        _check(one == other, f"{loss} depends on the values of {name} where it is missing: {one} and {other}")
        _check(torch.isfinite(torch.tensor(one)), f"{loss} is not finite with missing {name}: {one}")


def updates_in(recipe: Recipe) -> Iterator[tuple[Objective, nn.Module, nn.Module, Sequence[nn.Module]]]:
    """The updates of all stages: objective, model and guide as they train, and the modules that train."""
    for update in (update for stage in recipe.stages for update in stage.updates or (stage,)):
        if update.train is None:
            yield update.objective, recipe.model, recipe.guide, (recipe.model, recipe.guide)
        else:
            programs = frozen(recipe.model, update.train), frozen(recipe.guide, update.train)
            yield update.objective, *programs, update.train


def _batch(recipe: Recipe, data: MultimodalData) -> dict[str, Tensor]:
    x, _ = data.rows(torch.arange(len(data)))
    return {name: values for name, values in x.items() if name in recipe.model.modalities}


def _state(recipe: Recipe) -> dict[str, Tensor]:
    programs = (recipe.model, recipe.guide, *recipe.others)
    return {f"{i}.{name}": value for i, program in enumerate(programs) for name, value in program.state_dict().items()}


def _seeded(function: Any, *args: Any, seed: int = 0, **kwargs: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return function(*args, **kwargs)


def _check(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)
