"""What a job trains, in words: modalities, networks, objectives, epochs."""

import math
from collections.abc import Iterator

from torch import nn

from multipyro.inference.cli.jobs import TrainingJob
from multipyro.inference.recipes import Recipe

__all__ = ["summary"]


def summary(job: TrainingJob) -> str:
    """The modalities with their likelihoods and networks, and the stages with their objectives."""
    recipe, settings = job.recipe, job.settings
    sizes = ", ".join(f"{len(getattr(job.splits, name)):,} {name}" for name in job.splits.NAMES)
    lines = [f"{recipe.name} on {job.splits.train.name} ({sizes} examples), {recipe.num_parameters:,} parameters"]
    lines += [f"  {line}" for line in _modalities(recipe)]
    batches = len(job.splits.train.batches(settings.batch_size, drop_last=settings.drop_last))
    for stage, equation in zip(recipe.stages, recipe.equations, strict=True):
        epochs = settings.epochs if stage.epochs is None else stage.epochs
        lines.append(f"  stage {stage.name}: {epochs} epochs of {batches} steps")
        lines.append(f"    maximize {equation}")
    return "\n".join(lines)


def _modalities(recipe: Recipe) -> Iterator[str]:
    networks = recipe.networks.select(recipe.model.modalities)
    decoders = networks.likelihoods(recipe.latent_dim)
    for name, encoder in networks.branches().items():
        modality = networks.modalities[name]
        shape = "x".join(map(str, modality.shape)) or "1"
        classes = "" if modality.num_classes is None else f" of {modality.num_classes} classes"
        scale = "" if modality.scale is None else f", scale {modality.scale}"
        counts = f"encoder {_size(encoder)}, decoder {_size(decoders[name])}"
        yield (
            f"{name}: {modality.kind} {shape}, {modality.likelihood}{classes}{scale}; "
            f"{networks.architectures[name]} ({counts} parameters)"
        )


def _size(module: nn.Module) -> str:
    return f"{sum(math.prod(parameter.shape) for parameter in module.parameters()):,}"
