"""`multipyro train`: train one method on one data set."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from multipyro.inference.cli.console import say, warn
from multipyro.inference.cli.drawing import draw_cross_generation, figure_name
from multipyro.inference.cli.jobs import TrainingJob, check_options, figure_modalities, load_data, training_job
from multipyro.inference.cli.plugins import guide_class, method_name
from multipyro.inference.evaluation import supports
from multipyro.inference.recipes import Recipe
from multipyro.inference.runs import load

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Trains the method, or prints what it would train."""
    method = method_name(arguments.method)
    out = arguments.out or Path("runs") / f"{method}-{Path(arguments.data).stem}-{arguments.seed}"
    guide = guide_class(arguments.guide)
    check_options(arguments, [method])
    job = training_job(arguments, method, load_data(arguments), arguments.seed, out, arguments.resume, guide)
    given, target = figure_modalities(arguments, job.recipe)
    say(_summary(job))
    if arguments.dry_run:
        return
    job.train()
    if arguments.figure and supports(job.recipe.guide, given):
        file = out / figure_name(given, target)
        try:
            draw_cross_generation(load(out, guide).recipe, job.splits, given, target, file, seed=arguments.seed)
        except Exception as error:  # the run is finished, even if drawing the figure fails
            warn(f"no figure was drawn: {error}")
    say(f"trained {method} on {arguments.data}; the run is in {out}")


def _summary(job: TrainingJob) -> str:
    """The modalities, their networks, and the stages with their objectives."""
    recipe, settings, train = job.recipe, job.settings, job.splits.train
    sizes = ", ".join(f"{len(getattr(job.splits, name)):,} {name}" for name in job.splits.NAMES)
    lines = [train.select(list(recipe.model.modalities)).describe()]
    lines += [f"{recipe.name}, {recipe.num_parameters:,} parameters; examples: {sizes}", *_networks(recipe)]
    batches = len(train.batches(settings.batch_size, drop_last=settings.drop_last))
    for stage, equation in zip(recipe.stages, recipe.equations, strict=True):
        epochs = settings.epochs if stage.epochs is None else stage.epochs
        length = f"{epochs} epoch{'s' * (epochs != 1)} of {batches} step{'s' * (batches != 1)}"
        lines.append(f"stage {stage.name}, {length}: maximizes {equation}")
    return "\n".join(lines)


def _networks(recipe: Recipe) -> Iterator[str]:
    networks = recipe.networks.select(recipe.model.modalities)
    decoders = networks.likelihoods(recipe.latent_dim)
    for name, encoder in networks.branches().items():
        sizes = f"encoder {_size(encoder)}, decoder {_size(decoders[name])} parameters"
        yield f"  {name}: architecture {networks.architectures[name]}, {sizes}"


def _size(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"
