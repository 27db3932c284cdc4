"""`multipyro predict`: missing values and modalities predicted from the others, with their uncertainty."""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from multipyro.batch import is_missing
from multipyro.data import Modality, MultimodalData
from multipyro.inference.cli.console import say
from multipyro.inference.cli.predictions import check_output, only_missing, summarize_samples, write_predictions
from multipyro.inference.cli.saved_runs import SavedRun, model_under, open_run
from multipyro.inference.evaluation import cross_generate
from multipyro.inference.progress import Progress

__all__ = ["run"]

# most elements in the samples of all targets together
_MAX_ELEMENTS = 20_000_000


def run(arguments: argparse.Namespace) -> None:
    """Predicts and writes the table, the arrays or the images."""
    check_output(arguments.file, folder=True)
    if arguments.keep_samples and arguments.file.suffix != ".npz":
        raise ValueError("--keep-samples needs a .npz file")
    saved = open_run(arguments)
    parts = saved.parts(arguments.part)
    given, target = _given_and_target(arguments, saved, parts)
    impute = _imputes(arguments)
    modalities = {name: saved.recipe.networks.modalities[name] for name in target}
    model = model_under(saved.recipe, arguments.covariates)
    torch.manual_seed(arguments.seed)
    origin: dict[str, list] = {"part": [], "id": []}
    summaries: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in target}
    chunks = list(_chunks(parts, modalities, arguments.num_samples, impute))
    if not chunks:
        raise ValueError(f"{' or '.join(target)} is missing in no example: name what to condition on with --given")
    progress, total = Progress(), sum(len(rows) for _, rows in chunks)
    for part, rows in chunks:
        x, observed = part.select(given).rows(rows)
        samples = cross_generate(model, saved.recipe.guide, x, target, arguments.num_samples, observed)
        origin["part"] += [part.split] * len(rows)
        origin["id"] += part.ids[rows.numpy()].tolist()
        for name, values in samples.items():
            summary = summarize_samples(values.cpu(), modalities[name], arguments.quantiles)
            if impute:
                summary = only_missing(summary, _missing(part, modalities[name])[rows].numpy(), modalities[name])
            units = modalities[name].to_units(values.cpu()).transpose(0, 1)
            summaries[name].append({**summary, **({"samples": units.numpy()} if arguments.keep_samples else {})})
        progress.update(len(origin["id"]), total, lambda: "predicting")
    progress.close()
    joined = {
        name: {kind: np.concatenate([chunk[kind] for chunk in chunks]) for kind in chunks[0]}
        for name, chunks in summaries.items()
    }
    write_predictions(arguments.file, origin, joined, modalities)
    say(f"predicted {', '.join(target)} of {total:,} examples from {', '.join(given)}; written to {arguments.file}")


def _given_and_target(
    arguments: argparse.Namespace, saved: SavedRun, parts: Sequence[MultimodalData]
) -> tuple[list[str], list[str]]:
    """The modalities that are conditioned on, and those that are predicted.

    For imputation all modalities are given, and the targets are those with missing values; their observed values are
    conditioned on too.
    """
    available, model = list(saved.splits.test.modalities), list(saved.recipe.model.modalities)
    for flag, names, known in (("given", arguments.given, available), ("target", arguments.target, model)):
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise ValueError(f"--{flag} names {', '.join(unknown)}: choose from {', '.join(known)}")
    usable = [name for name in available if name in model]
    if _imputes(arguments):
        conditions = getattr(saved.recipe.model, "conditions", ())
        names = arguments.target or [name for name in model if name not in conditions]
        modalities = [saved.recipe.networks.modalities[name] for name in names]
        target = [m.name for m in modalities if any(_missing(part, m).any() for part in parts)]
        if not target:
            raise ValueError("nothing is missing in the data: name what to predict with --target")
        return arguments.given or usable, target
    target = arguments.target or [name for name in model if name not in arguments.given]
    given = arguments.given or [name for name in usable if name not in target]
    if not target:
        raise ValueError("every modality is given: name what to predict with --target")
    if not given:
        raise ValueError(f"nothing is left to predict {', '.join(target)} from")
    return given, target


def _imputes(arguments: argparse.Namespace) -> bool:
    """Whether only missing values are predicted: by request, or where no flag says what to predict from what."""
    return arguments.impute or (arguments.given is None and arguments.target is None)


def _missing(part: MultimodalData, modality: Modality) -> torch.Tensor:
    """Which values of a modality are missing, bool `(rows, *shape)`, or `(rows,)` for classes and texts."""
    shape = () if modality.is_discrete else modality.shape
    if modality.name not in part.modalities:
        return torch.ones(len(part), *shape, dtype=torch.bool)
    absent = torch.zeros(len(part), dtype=torch.bool)
    if part.observed is not None and modality.name in part.observed:
        absent = ~part.observed[modality.name]
    absent = absent.reshape(-1, *[1] * len(shape)).expand(-1, *shape)
    return absent | is_missing(part.x[modality.name]) if modality.missing_entries else absent


def _chunks(
    parts: Sequence[MultimodalData], modalities: dict[str, Modality], num_samples: int, impute: bool
) -> Iterator[tuple[MultimodalData, torch.Tensor]]:
    """The rows to predict, in chunks: all rows, or those with missing values in a target."""
    elements = num_samples * sum(modality.dim for modality in modalities.values())
    for part in parts:
        rows = torch.arange(len(part))
        if impute:
            missing = [_missing(part, modality).reshape(len(part), -1).any(1) for modality in modalities.values()]
            rows = rows[torch.stack(missing).any(0)]
        for chunk in rows.split(max(1, _MAX_ELEMENTS // elements)) if len(rows) else ():
            yield part, chunk
