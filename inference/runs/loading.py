"""Loading a run: the programs that it trained, rebuilt from its folder."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from multipyro.data import Modality
from multipyro.inference.recipes import METHODS, Networks, Recipe, build
from multipyro.inference.runs.checkpoints import load_programs, programs_of, read_checkpoint
from multipyro.inference.runs.folder import checkpoint_of, read_run

__all__ = ["LoadedRun", "load"]


class LoadedRun(NamedTuple):
    """A loaded run: the programs with their trained parameters, and the recipe that they belong to."""

    model: Any
    guide: Any
    recipe: Recipe


def load(run_folder: str | os.PathLike, guide: type | None = None, which: str = "best") -> LoadedRun:
    """Rebuilds a run of `fit_recipe` (or of the command line) with its best parameters, or its last.

    No code is imported on behalf of a file: a run with a user-defined guide class records its name, and loading it
    requires the class.

    Args:
        run_folder: The folder of the run.
        guide: The guide class, for a run that was trained with a user-defined one.
        which: `"best"` for the parameters of the best validation bound, the last where there was no validation; or
            `"last"`.

    Returns:
        A named tuple `(model, guide, recipe)`, the modules in evaluation mode, those in `recipe.others` too.

    Raises:
        FileNotFoundError: If there is no run, or it has no checkpoint yet.
        ValueError: If the run cannot be rebuilt from its folder, or a file in it is damaged.

    Example:
        >>> import tempfile
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, fit_recipe, networks_for
        >>> splits = load_dataset("digits")
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = fit_recipe(recipe, splits, epochs=1, out=folder, progress=False)
        ...     model, guide, recipe = load(folder)
        >>> model.modalities
        ('image', 'label', 'word')
    """
    content = read_run(run_folder)
    method, name = content["method"], content["guide_class"]
    if method is None or content["modalities"] is None or content["covariates"] is None:
        raise ValueError(
            f"{run_folder} was trained from user-defined programs: build them and call "
            "multipyro.inference.load_state(checkpoint, model, guide)"
        )
    if method not in METHODS:
        raise ValueError(
            f"{run_folder} was trained by the unknown method {method!r}: register it first (--method FILE.py:NAME)"
        )
    if (name is None) != (guide is None) or (guide is not None and guide.__name__ != name):
        expected = f"the guide class {name}" if name is not None else "no guide class"
        actual = "none" if guide is None else guide.__name__
        raise ValueError(
            f"{run_folder} was trained with {expected}, got {actual}: pass it as guide= (--guide FILE.py:CLASS)"
        )
    damaged = f"{Path(run_folder) / 'run.json'} is damaged: "
    try:
        modalities, covariates = (
            {name: Modality(**values) for name, values in content[key].items()} for key in ("modalities", "covariates")
        )
        sizes, architectures = content["hidden_features"], content["architectures"]
        networks = Networks(modalities, sizes, architectures=architectures, covariates=covariates)
        largest = max([content["latent_dim"], *content["hidden_features"]])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{damaged}{error}") from error
    path = checkpoint_of(run_folder, which)
    checkpoint = read_checkpoint(path)
    # before networks are built that fill the memory
    if largest > max(size for values in checkpoint["state_dict"].values() for size in (1, *values.shape)):
        raise ValueError(f"{damaged}it describes larger networks than {path} contains")
    try:
        recipe = build(method, networks, content["latent_dim"], guide, **content["options"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{Path(run_folder) / 'run.json'} describes a model that cannot be built: {error}") from error
    programs = programs_of(recipe.model, recipe.guide, *recipe.others)
    load_programs(checkpoint, programs, path)
    for program in programs:
        program.eval()
    return LoadedRun(recipe.model, recipe.guide, recipe)
