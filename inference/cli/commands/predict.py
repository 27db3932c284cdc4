"""`multipyro predict`: missing modalities predicted from the others, with their uncertainty."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch

from multipyro.data import MultimodalData
from multipyro.inference.cli.console import say
from multipyro.inference.cli.predictions import (
    check_table_file,
    columns_of,
    summarize_samples,
    write_arrays,
    write_table,
)
from multipyro.inference.cli.saved_runs import SavedRun, chosen_parts, open_run
from multipyro.inference.evaluation import cross_generate

__all__ = ["run"]

# elements of the samples of all targets at once
_MAX_ELEMENTS = 20_000_000


def run(arguments: argparse.Namespace) -> None:
    """Predicts and writes the table or the arrays."""
    check_table_file(arguments.file)
    saved = open_run(arguments)
    parts = chosen_parts(arguments, saved.splits)
    given, target = _given_and_target(arguments, saved, parts)
    modalities = {name: saved.recipe.networks.modalities[name] for name in target}
    torch.manual_seed(arguments.seed)
    origin: dict[str, list] = {"part": [], "id": []}
    summaries: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in target}
    for part in parts:
        for rows in _chunks(part, target, arguments, sum(modality.dim for modality in modalities.values())):
            x, observed = part.select(given).rows(rows)
            samples = cross_generate(saved.recipe.model, saved.recipe.guide, x, target, arguments.num_samples, observed)
            origin["part"] += [part.split] * len(rows)
            origin["id"] += part.ids[rows.numpy()].tolist()
            for name, values in samples.items():
                summary = summarize_samples(values.cpu(), modalities[name], arguments.quantiles)
                units = modalities[name].to_units(values.cpu()).transpose(0, 1)
                kept = {"samples": units.numpy()} if arguments.keep_samples else {}
                summaries[name].append({**summary, **kept})
    if not origin["id"]:
        raise ValueError(f"no example misses {' or '.join(target)}: name what to condition on with --given")
    joined = {
        name: {kind: np.concatenate([chunk[kind] for chunk in chunks]) for kind in chunks[0]}
        for name, chunks in summaries.items()
    }
    if arguments.file.suffix == ".csv":
        tables = [columns_of(joined[name], modality) for name, modality in modalities.items()]
        write_table(arguments.file, {**origin, **dict(chain.from_iterable(table.items() for table in tables))})
    else:
        arrays = {f"{name}/{kind}": values for name, kinds in joined.items() for kind, values in kinds.items()}
        write_arrays(arguments.file, {**{name: np.array(values) for name, values in origin.items()}, **arrays})
    say(f"predicted {', '.join(target)} of {len(origin['id'])} examples; written to {arguments.file}")


def _given_and_target(
    arguments: argparse.Namespace, saved: SavedRun, parts: Sequence[MultimodalData]
) -> tuple[list[str], list[str]]:
    """The modalities that are conditioned on, and those that are predicted."""
    available, model = list(saved.splits.test.modalities), list(saved.recipe.model.modalities)
    if arguments.keep_samples and arguments.file.suffix == ".csv":
        raise ValueError("--keep-samples needs a .npz file")
    for flag, names, known in (("given", arguments.given, available), ("target", arguments.target, model)):
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise ValueError(f"--{flag} names {', '.join(unknown)}: there are {', '.join(known)}")
    if arguments.target is not None:
        target = arguments.target
    elif arguments.given is not None:
        target = [name for name in model if name not in arguments.given]
    else:
        incomplete = {name for part in parts for name, mask in (part.observed or {}).items() if not mask.all()}
        target = [name for name in model if name not in available or name in incomplete]
    if not target:
        raise ValueError("no modality is missing in the data: name what to predict with --target")
    if arguments.given is not None:
        return arguments.given, target
    given = [name for name in available if name in model and (arguments.target is None or name not in target)]
    if not given:
        raise ValueError(f"nothing is left to predict {', '.join(target)} from")
    return given, target


def _chunks(
    part: MultimodalData, target: Sequence[str], arguments: argparse.Namespace, elements: int
) -> Iterator[torch.Tensor]:
    """The rows to predict, a few at a time: all, or without `--given` and `--target` those that miss a target."""
    rows = torch.arange(len(part))
    if arguments.given is None and arguments.target is None and all(name in part.modalities for name in target):
        rows = rows[~torch.stack([part.observed[name] for name in target if name in (part.observed or {})]).all(0)]
    yield from rows.split(max(1, _MAX_ELEMENTS // (arguments.num_samples * elements))) if len(rows) else ()
