"""`multipyro export`: a run without its data and its history, to share: weights, description, model card."""

import argparse
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from multipyro.data import Modality
from multipyro.data.storage import write_atomically
from multipyro.inference.cli.console import say
from multipyro.inference.cli.saved_runs import read_json, write_json
from multipyro.inference.cli.tables import flat_metrics, format_value, markdown_code, markdown_table, markdown_text
from multipyro.inference.cli.transfer import modalities_of, naming_damage
from multipyro.inference.recipes import METHODS
from multipyro.inference.runs import checkpoint_of, read_run
from multipyro.inference.runs.checkpoints import read_checkpoint, write_weights

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Writes a folder, or a zip file of it, that every command takes as a run."""
    out = arguments.out or arguments.run.with_name(f"{arguments.run.resolve().name}.zip")
    if out.exists():
        raise FileExistsError(f"{out} already exists: choose another --out")
    if out.suffix == ".zip":
        with tempfile.TemporaryDirectory() as folder:
            _write(arguments, Path(folder))
            write_atomically(out, lambda file: _zipped(Path(folder), out.stem, file))
    else:
        _write(arguments, out)
    say(f"exported {arguments.run} to {out}; its README.md says how to use it")


def _write(arguments: argparse.Namespace, folder: Path) -> None:
    config = read_run(arguments.run)
    if config["method"] is None or config["modalities"] is None:
        raise ValueError(f"{arguments.run} was trained from user-defined programs, which cannot be rebuilt elsewhere")
    checkpoint = read_checkpoint(checkpoint_of(arguments.run, arguments.checkpoint))
    options = config["data"].get("options") or {}
    # the path of the data means nothing on other machines, and the data is not exported
    config["data"]["options"] = {name: value for name, value in options.items() if name != "file"} or None
    config = {**config, "state": "exported"}
    metrics = read_json(arguments.run / "metrics.json")
    with naming_damage(f"run.json or metrics.json in {arguments.run}"):
        card = "\n".join(_card(config, modalities_of(arguments.run), metrics))
    write_weights(folder / "model.safetensors", checkpoint)
    write_atomically(folder / "README.md", card)
    if metrics:
        write_json(folder / "metrics.json", metrics)
    write_json(folder / "run.json", config)  # last: without it an export that was interrupted is no run


def _zipped(folder: Path, name: str, file: Any) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{name}/{path.name}")


def _card(config: Mapping[str, Any], modalities: Mapping[str, Modality], metrics: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a model card; names from the run and its data are escaped."""
    method, data, info = config["method"], config["data"], METHODS.get(config["method"])
    tags = json.dumps(["multimodal", "variational-autoencoder", "pyro", method])
    yield f"---\nlibrary_name: multipyro\ntags: {tags}\n---\n"
    yield f"# {markdown_text(method)} on {markdown_text(data['name'])}\n"
    title = "a user-defined method" if info is None else f"{info.title} ({info.paper})"
    yield f"A multimodal variational autoencoder: {title}, with {config['latent_dim']} latent dimensions.\n"
    for stage in config["stages"]:
        yield f"* stage {markdown_text(stage['name'])} maximizes {markdown_code(stage['equation'])}"
    yield "\n## Modalities\n"
    rows = [[m.name, m.kind, str(m.shape), m.likelihood, _meaning(m)] for m in modalities.values()]
    yield markdown_table(["modality", "kind", "shape", "likelihood", "values"], rows)
    yield "## Training data\n"
    sizes = ", ".join(f"{size:,} {part}" for part, size in data["size"].items() if size is not None)
    yield f"The data set {markdown_text(data['name'])} has {markdown_text(sizes)} examples.\n"
    yield "The data is not part of this export; its SHA-256:\n"
    for part, digest in data["content_hash"].items():
        if digest is not None:
            yield f"* {markdown_text(part)}: {markdown_code(digest)}"
    versions = ", ".join(f"{name} {number}" for name, number in config["versions"].items())
    yield f"\nVersions: {markdown_text(versions)}.\n"
    if metrics:
        yield "## Metrics on the test data\n"
        rows = [[name, format_value(value)] for name, value in flat_metrics(metrics).items() if value is not None]
        yield markdown_table(["metric", "value ± standard error, or [95 % interval]"], rows)
    guide = f" --guide FILE.py:{config['guide_class']}" if config["guide_class"] else ""
    yield "## Use\n"
    yield f"```sh\nmultipyro predict FOLDER{guide} --data NEW.csv --file predictions.csv"
    yield f"multipyro embed FOLDER{guide} --data NEW.csv --file embeddings.csv\n```\n"
    yield '```python\nfrom multipyro.inference import load\n\nmodel, guide, recipe = load("FOLDER")\n```\n'
    yield "New data is read by the descriptions above: columns by their names, in the units of the training data.\n"


def _meaning(modality: Modality) -> str:
    """Columns, classes, vocabulary and scaling of a modality, in words."""
    parts = []
    for title, names in (
        ("columns", modality.columns),
        ("classes", modality.class_names),
        ("words", modality.vocabulary),
    ):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            parts.append(f"{title} {', '.join(names[:8])}{more}")
    if modality.scaling is not None:
        parts.append("scaled for training, read and written in original units")
    if modality.exposure is not None:
        parts.append(f"exposure: {modality.exposure}")
    if modality.missing_entries:
        parts.append("entries may be missing")
    return "; ".join(parts) or "–"
