"""A summary of a job: modalities, networks, objectives, epochs."""

from collections.abc import Iterator

from torch import nn

from multipyro.inference.cli.jobs import TrainingJob
from multipyro.inference.recipes import Recipe

__all__ = ["summary"]


def summary(job: TrainingJob) -> str:
    """The modalities, their networks, and the stages with their objectives."""
    recipe, settings, train = job.recipe, job.settings, job.splits.train
    sizes = ", ".join(f"{len(getattr(job.splits, name)):,} {name}" for name in job.splits.NAMES)
    lines = [train.select(list(recipe.model.modalities)).describe()]
    lines += [f"{recipe.name}, {recipe.num_parameters:,} parameters; examples: {sizes}", *_networks(recipe)]
    batches = len(train.batches(settings.batch_size, drop_last=settings.drop_last))
    for stage, equation in zip(recipe.stages, recipe.equations, strict=True):
        epochs = settings.epochs if stage.epochs is None else stage.epochs
        lines.append(f"stage {stage.name}, {epochs} epochs of {batches} steps: maximizes {equation}")
    return "\n".join(lines)


def _networks(recipe: Recipe) -> Iterator[str]:
    networks = recipe.networks.select(recipe.model.modalities)
    decoders = networks.likelihoods(recipe.latent_dim)
    for name, encoder in networks.branches().items():
        sizes = f"encoder {_size(encoder)}, decoder {_size(decoders[name])} parameters"
        yield f"  {name}: architecture {networks.architectures[name]}, {sizes}"


def _size(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"
