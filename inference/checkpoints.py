"""Checkpoints that are whole or not there, and that run no code when they are read."""

import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from multipyro.data import write_atomically
from multipyro.inference.combinators import Program, modules_of

__all__ = ["load_state", "programs_of", "read_checkpoint", "save_state", "write_checkpoint"]


def programs_of(*programs: Program) -> list[nn.Module]:
    """The modules of several programs in order, each once: what a checkpoint of them holds."""
    found: dict[int, nn.Module] = {}
    for program in programs:
        found.update({id(module): module for module in modules_of(program)})
    return list(found.values())


def write_checkpoint(checkpoint: dict[str, Any], path: str | os.PathLike) -> Path:
    """Writes a dict of tensors and plain values atomically."""
    return write_atomically(path, lambda file: torch.save(checkpoint, file))


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
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors and plain values and is not loaded") from error
    except (RuntimeError, EOFError, KeyError, OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or no checkpoint of torch ({str(error).splitlines()[0]})") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is no checkpoint of a training run: it has no state_dict")
    return checkpoint


def save_state(path: str | os.PathLike, model: Program, guide: Program) -> Path:
    """Writes the parameters of a model and a guide of one's own; `load_state` reads them."""
    return write_checkpoint({"state_dict": _state(programs_of(model, guide))}, path)


def load_state(path: str | os.PathLike, model: Program, guide: Program) -> None:
    """Loads the parameters of a model and a guide from a checkpoint of `fit` or `save_state`.

    Raises:
        ValueError: If the checkpoint is damaged, or of other programs; nothing is changed then.
    """
    load_programs(read_checkpoint(path), programs_of(model, guide), path)


def load_programs(checkpoint: dict[str, Any], programs: Sequence[nn.Module], path: str | os.PathLike) -> None:
    """Loads the state of `programs` from a checkpoint that was read from `path`."""
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
    for number, program in enumerate(programs):
        prefix = f"programs.{number}."
        program.load_state_dict({n[len(prefix) :]: v for n, v in found.items() if n.startswith(prefix)})


def _state(programs: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
    return {
        f"programs.{number}.{name}": value
        for number, program in enumerate(programs)
        for name, value in program.state_dict().items()
    }
