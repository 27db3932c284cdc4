"""Checkpoints that are whole or not there, and that run no code when they are read."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor, nn

from multipyro._modes import evaluation_mode
from multipyro.data.storage import write_atomically
from multipyro.inference._program_modules import modules_of
from multipyro.inference.programs import Program

__all__ = ["load_state", "programs_of", "read_checkpoint", "save_state", "write_checkpoint"]


def programs_of(*programs: Program) -> list[nn.Module]:
    """The modules of several programs in order, each once: what a checkpoint of them holds."""
    found: dict[int, nn.Module] = {}
    for program in programs:
        found.update({id(module): module for module in modules_of(program)})
    return list(found.values())


def write_checkpoint(checkpoint: dict[str, Any], path: str | os.PathLike) -> Path:
    """Writes a dict of tensors and plain values atomically."""
    # through memory: on a full disk torch's own writer hides the cause behind an error of its own
    content = io.BytesIO()
    torch.save(checkpoint, content)
    return write_atomically(path, content.getvalue())


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; only tensors and plain values are accepted, so no code in it can run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, no checkpoint, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is truncated or no checkpoint of torch")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch does not compare checksums
        if broken is not None:
            raise zipfile.BadZipFile(f"bad checksum of {broken}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors and plain values and is not loaded") from error
    except Exception as error:  # what a damaged archive raises depends on the place of the damage
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is damaged or no checkpoint of torch ({cause})") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise ValueError(f"{path} is no checkpoint of a training run: it has no state_dict")
    return checkpoint


def save_state(path: str | os.PathLike, model: Program, guide: Program, others: Sequence[nn.Module] = ()) -> Path:
    """Writes the parameters of a model and a guide of one's own; `load_state` reads them.

    Where one of them is a plain function, the values in Pyro's parameter store that belong to no module are written
    too.

    Args:
        path: The file.
        model: The generative program.
        guide: The variational program.
        others: Further modules, such as the `others` of a recipe.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> from multipyro.guides import JointGuide
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, OneHotMLP
        >>> model = MultimodalModel(2, {"label": CategoricalLikelihood(MLP(2, 3))})
        >>> guide = JointGuide(2, {"label": OneHotMLP(3, 8)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_state(f"{folder}/mine.ckpt", model, guide)
        ...     load_state(path, model, guide)
    """
    modules, names = programs_of(model, guide, *others), []
    if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
        known = {id(parameter) for module in modules for parameter in module.parameters()}
        names = [name for name, value in pyro.get_param_store().named_parameters() if id(value) not in known]
    return write_checkpoint({"state_dict": _state(modules), "param_store": store_state(names)}, path)


def load_state(path: str | os.PathLike, model: Program, guide: Program, others: Sequence[nn.Module] = ()) -> None:
    """Loads the parameters of a model and a guide from a checkpoint of `fit` or `save_state`.

    Values of `pyro.param` statements of plain functions go into Pyro's parameter store.

    Args:
        path: The file.
        model: The generative program.
        guide: The variational program.
        others: The further modules that the checkpoint holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the checkpoint is damaged, or of other programs; nothing is changed then.

    Example:
        >>> import tempfile
        >>> from multipyro.guides import JointGuide
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, OneHotMLP
        >>> model = MultimodalModel(2, {"label": CategoricalLikelihood(MLP(2, 3))})
        >>> guide = JointGuide(2, {"label": OneHotMLP(3, 8)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_state(save_state(f"{folder}/mine.ckpt", model, guide), model, guide)
    """
    load_programs(read_checkpoint(path), programs_of(model, guide, *others), path)


def load_programs(checkpoint: dict[str, Any], programs: Sequence[nn.Module], path: str | os.PathLike) -> None:
    """Loads the state of `programs`, and of `param` statements, from a checkpoint that was read from `path`."""
    expected, found = _state(programs), checkpoint["state_dict"]
    different = sorted(
        name
        for name in expected.keys() | found.keys()
        if name not in expected or name not in found or expected[name].shape != found[name].shape
    )
    if different:
        raise ValueError(
            f"{path} is a checkpoint of other programs: {len(different)} of its entries differ in name or shape from "
            f"this model and guide, among them {', '.join(different[:3])}"
        )
    store = checkpoint.get("param_store", {})
    state: dict[str, dict] = {"params": {}, "constraints": {}}
    for name, entry in store.items():
        state["params"][name] = entry["unconstrained"].clone().requires_grad_()
        state["constraints"][name] = _constraint(entry["constraint"], path)
    for number, program in enumerate(programs):
        prefix = f"programs.{number}."
        program.load_state_dict({n[len(prefix) :]: v for n, v in found.items() if n.startswith(prefix)})
    pyro.get_param_store().set_state(state)


def store_state(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The values of these names in Pyro's parameter store, as plain values and tensors.

    Raises:
        ValueError: If a value has a constraint that cannot be described by its name and numbers.
    """
    state = pyro.get_param_store().get_state()
    return {
        name: {
            "unconstrained": state["params"][name].detach(),
            "constraint": _description(state["constraints"][name], name),
        }
        for name in names
    }


@contextmanager
def own_store() -> Iterator[dict[str, Tensor]]:
    """An empty parameter store for a training run, so that nothing leaks into it or out of it.

    Yields a dict to be filled by `param_statements`; what stands in it goes into the outer store at the end, because
    the values of a plain function live nowhere else.
    """
    outer, state = pyro.get_param_store(), {"params": {}, "constraints": {}}
    statements: dict[str, Tensor] = {}
    try:
        with outer.scope():
            try:
                yield statements
            finally:
                inner = outer.get_state()
                state["params"] = {name: inner["params"][name] for name in statements}
                state["constraints"] = {name: inner["constraints"][name] for name in statements}
    finally:  # after an interrupt too, as the parameters of modules keep what they have learned
        outer.set_state(state)


def param_statements(run: Callable[[], Any], modules: Sequence[nn.Module], before: dict[str, Any]) -> dict[str, Tensor]:
    """The unconstrained values of the `param` statements that `run` executes and that belong to none of `modules`.

    Args:
        run: Runs the programs once; no gradient is needed.
        modules: They are in evaluation mode meanwhile, so that no batch-norm statistics move.
        before: The state of the outer parameter store: a statement goes on from the value it has there.
    """
    with evaluation_mode(*modules), poutine.trace(param_only=True) as captured, torch.no_grad():
        run()
    known = {id(parameter) for module in modules for parameter in module.parameters()}
    values = dict(pyro.get_param_store().named_parameters())
    found = {name: values[name] for name in captured.trace.nodes if name in values and id(values[name]) not in known}
    with torch.no_grad():
        for name, value in found.items():
            if name in before["params"] and before["params"][name].shape == value.shape:
                value.copy_(before["params"][name])
    return found


def _state(programs: Sequence[nn.Module]) -> dict[str, Tensor]:
    return {
        f"programs.{number}.{name}": value
        for number, program in enumerate(programs)
        for name, value in program.state_dict().items()
    }


def _description(constraint: Any, name: str) -> list:
    """A constraint as the name and the numbers it is made of, `["greater_than", {"lower_bound": 0.0}]`."""
    for public in constraints.__all__:
        candidate = getattr(constraints, public)
        details = {key: value for key, value in vars(constraint).items() if not key.startswith("_")}
        if candidate is constraint or (type(candidate) is type(constraint) and not details):
            return [public, {}]
        plain = all(isinstance(value, int | float) for value in details.values())
        if candidate is type(constraint) and details and plain:
            return [public, details]
    raise ValueError(
        f"the constraint {constraint} of the param statement {name!r} cannot be written to a checkpoint: use one of "
        "pyro.distributions.constraints with numbers for its bounds"
    )


def _constraint(description: Any, path: str | os.PathLike) -> Any:
    name, details = description
    if name not in constraints.__all__:
        raise ValueError(f"{path} names an unknown constraint {name!r}")
    constraint = getattr(constraints, name)
    return constraint(**details) if details else constraint
