"""Checkpoints that are complete or absent, and that run no code when they are read."""

import io
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from multipyro._optional import optional_imports
from multipyro.data.storage import write_atomically
from multipyro.inference._program_modules import modules_of
from multipyro.inference.programs import Program

__all__ = [
    "load_programs",
    "load_state",
    "programs_of",
    "read_checkpoint",
    "save_state",
    "state_of",
    "write_checkpoint",
    "write_weights",
]

_PARTS = {"state_dict": Mapping, "param_store": Mapping}


def programs_of(*programs: Program) -> list[nn.Module]:
    """The modules of several programs in order, each once: what a checkpoint of them contains."""
    modules = [module for program in programs for module in modules_of(program)]
    return list({id(module): module for module in modules}.values())


def state_of(programs: Sequence[nn.Module], statements: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The entries of a checkpoint for modules, and for `pyro.param` statements by their names.

    Raises:
        ValueError: If a statement has a constraint that cannot be described by its name and numbers.
    """
    store, entries = pyro.get_param_store().get_state(), {}
    for name in statements:
        constraint = _description(store["constraints"][name], name)
        entries[name] = {"unconstrained": store["params"][name].detach(), "constraint": constraint}
    return {"state_dict": _state_dict(programs), "param_store": entries}


def write_checkpoint(checkpoint: dict[str, Any], *paths: str | os.PathLike) -> None:
    """Writes a dict of tensors and plain values to files, each atomically."""
    # through memory: on a full disk torch's own writer raises an error that hides the cause
    content = io.BytesIO()
    torch.save(checkpoint, content)
    for path in paths:
        write_atomically(path, content.getvalue())


def write_weights(path: str | os.PathLike, checkpoint: Mapping[str, Any]) -> None:
    """Writes the parameters of a checkpoint as safetensors, a format without code.

    Raises:
        ModuleNotFoundError: If safetensors is not installed.
        ValueError: If the checkpoint has values of `pyro.param` statements, which the format cannot describe.
    """
    if checkpoint["param_store"]:
        names = ", ".join(checkpoint["param_store"])
        raise ValueError(f"the values of the param statements {names} cannot be written as safetensors")
    with optional_imports("writing safetensors"):
        from safetensors.torch import save
    # tensors may not share memory
    write_atomically(path, save({name: value.clone() for name, value in checkpoint["state_dict"].items()}))


def read_checkpoint(path: str | os.PathLike, parts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; only tensors and plain values are accepted, so no code in it can run.

    Args:
        path: The file.
        parts: What it must contain besides the programs: name -> type.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or has other content than such a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if path.suffix == ".safetensors":
        with optional_imports("reading safetensors"):
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        try:
            return {"state_dict": load_file(path), "param_store": {}}
        except SafetensorError as error:
            raise ValueError(f"{path} is truncated, damaged or not a file of safetensors ({error})") from error
    try:
        with zipfile.ZipFile(path) as archive:
            # torch compresses nothing, and a compressed member may be a thousand times as large as the file
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise zipfile.BadZipFile("compressed members")
            broken = archive.testzip()  # torch does not compare checksums
        if broken is not None:
            raise zipfile.BadZipFile(f"bad checksum of {broken}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} contains more than tensors and plain values and is not loaded") from error
    except Exception as error:  # the exception depends on where the archive is damaged
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is truncated, damaged or not a checkpoint of torch ({cause})") from error
    for name, kind in {**_PARTS, **(parts or {})}.items():
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(name), kind):
            raise ValueError(f"{path} is not a checkpoint of a training run: {name} is missing or damaged")
    if not all(isinstance(value, Tensor) for value in checkpoint["state_dict"].values()):
        raise ValueError(f"{path} is not a checkpoint of a training run: state_dict is damaged")
    return checkpoint


def save_state(path: str | os.PathLike, model: Program, guide: Program, others: Sequence[nn.Module] = ()) -> Path:
    """Writes the parameters of a user-defined model and guide; `load_state` reads them.

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
        ...     print(save_state(f"{folder}/mine.ckpt", model, guide).name)
        mine.ckpt
    """
    modules, names = programs_of(model, guide, *others), []
    if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
        known = {id(parameter) for module in modules for parameter in module.parameters()}
        names = [name for name, value in pyro.get_param_store().named_parameters() if id(value) not in known]
    write_checkpoint(state_of(modules, names), path)
    return Path(path)


def load_state(path: str | os.PathLike, model: Program, guide: Program, others: Sequence[nn.Module] = ()) -> None:
    """Loads the parameters of a model and a guide from a checkpoint of `fit` or `save_state`.

    Values of `pyro.param` statements of plain functions go into Pyro's parameter store.

    Args:
        path: The file.
        model: The generative program.
        guide: The variational program.
        others: The further modules that the checkpoint contains.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the checkpoint is damaged, or of other programs; nothing is changed then.

    Example:
        >>> import tempfile
        >>> from multipyro.guides import JointGuide
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, OneHotMLP
        >>> model = MultimodalModel(2, {"label": CategoricalLikelihood(MLP(2, 3))})
        >>> guide = JointGuide(2, {"label": OneHotMLP(3, 8)})
        >>> weight = model.likelihoods["label"].network.layers[0].weight
        >>> before = weight.detach().clone()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_state(f"{folder}/mine.ckpt", model, guide)
        ...     _ = nn.init.zeros_(weight)
        ...     load_state(path, model, guide)
        >>> torch.equal(weight, before)
        True
    """
    load_programs(read_checkpoint(path), programs_of(model, guide, *others), path)


def load_programs(checkpoint: dict[str, Any], programs: Sequence[nn.Module], path: str | os.PathLike) -> None:
    """Loads the state of `programs`, and of `param` statements, from a checkpoint that was read from `path`."""
    expected, saved = _state_dict(programs), checkpoint["state_dict"]
    names = sorted(expected.keys() | saved.keys())
    different = [n for n in names if n not in expected or n not in saved or expected[n].shape != saved[n].shape]
    if different:
        raise ValueError(
            f"{path} is a checkpoint of other programs: {len(different)} of its entries differ in name or shape from "
            f"this model and guide, among them {', '.join(different[:3])}"
        )
    store: dict[str, dict] = {"params": {}, "constraints": {}}
    for name, entry in checkpoint["param_store"].items():
        try:
            value, (constraint, details) = entry["unconstrained"], entry["constraint"]
            if constraint not in constraints.__all__ or not value.is_contiguous():
                raise ValueError("an unknown constraint, or values that repeat")
            bounds = getattr(constraints, constraint)
            store["constraints"][name] = bounds(**details) if details else bounds
            store["params"][name] = value.clone().requires_grad_()
        except Exception as error:  # a damaged entry may raise any exception
            raise ValueError(f"{path} is damaged: the entry of the param statement {name!r} ({error})") from error
    for number, program in enumerate(programs):
        prefix = f"programs.{number}."
        program.load_state_dict({n[len(prefix) :]: v for n, v in saved.items() if n.startswith(prefix)})
    pyro.get_param_store().set_state(store)


def _state_dict(programs: Sequence[nn.Module]) -> dict[str, Tensor]:
    states = [(number, program.state_dict()) for number, program in enumerate(programs)]
    return {f"programs.{number}.{name}": value for number, state in states for name, value in state.items()}


def _description(constraint: Any, name: str) -> list:
    """A constraint as the name and the numbers it is made of, `["greater_than", {"lower_bound": 0.0}]`."""
    details = {key: value for key, value in vars(constraint).items() if not key.startswith("_")}
    for public in constraints.__all__:
        candidate = getattr(constraints, public)
        if candidate is constraint or (type(candidate) is type(constraint) and not details):
            return [public, {}]
        if candidate is type(constraint) and details and all(isinstance(v, int | float) for v in details.values()):
            return [public, details]
    raise ValueError(
        f"the constraint {constraint} of the param statement {name!r} cannot be written to a checkpoint: use one of "
        "pyro.distributions.constraints with numbers for its bounds"
    )
