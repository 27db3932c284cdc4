"""What the tables of VLVAE share: a second flow of the text on the same model, and the metrics of flows and priors."""

from collections.abc import Callable
from dataclasses import replace

import torch
from experiment import Run, Trial
from torch import Tensor

from multipyro.inference import build, cross_generate, fit_recipe, joint_samples
from multipyro.inference.evaluation import importance_weighted_bound, vlvae_log_likelihood

#: Trains the flow of the aggregate posterior and that of the prior; `second_flow` adds that of the model's posterior.
TRAINED = Run("vlvae", {"aggregate": True, "aggregate_prior": True})
#: The share of the words of texts that are right for images.
Correctness = Callable[[Tensor, Tensor], float]


def table_1(trial: Trial, correctness: Correctness) -> dict[str, float]:
    """Correctness and log p(x | y) with the text's flow fitted to the aggregate, and to the model's own posterior."""
    values = {}
    trial.model.prior.active = False  # the flows of the text replace q(z | y) under the prior of the first stage
    for title, guide in (("q_agg", trial.guide), ("q_true", second_flow(trial))):
        x = trial.test(5_000, 200)
        images = cross_generate(trial.model, guide, {"text": x["text"]}, ["image"], output="mean")["image"][0]
        values[f"correctness, {title}"] = correctness(images, x["text"])
        bound = vlvae_log_likelihood(trial.model, guide, x, ["text"], ["image"])
        values[f"log p(x | y), {title}"] = bound.mean
    return values


def table_2(trial: Trial, correctness: Correctness) -> dict[str, float]:
    """Correctness of images and texts from the prior, and both marginals, under N(0, I) and under the learned prior."""
    x, samples = trial.test(5_000, 200), trial.size(10, 10)
    values = {}
    for title, active in (("N(0, I)", False), ("learned prior", True)):
        trial.model.prior.active = active
        generated = joint_samples(trial.model, len(x["text"]), ["image", "text"], "mean")
        values[f"correctness, {title}"] = correctness(generated["image"], generated["text"])
        for letter, name in (("x", "image"), ("y", "text")):
            bound = importance_weighted_bound(trial.model, trial.guide, x, [name], [name], samples)
            values[f"log p({letter}), {title}"] = bound.mean
    return values


def second_flow(trial: Trial):
    """The guide whose flow is fitted to the posterior of the same frozen model."""
    recipe = trial.recipe
    torch.manual_seed(trial.settings.seed)
    options = {**recipe.options, "aggregate_objective": "q_true"}
    other = build(recipe.name, recipe.networks, recipe.latent_dim, **options)
    # everything but the flow of the text is that of the first training
    other.model.load_state_dict(recipe.model.state_dict())
    other.guide.teacher.load_state_dict(recipe.guide.teacher.state_dict())
    other.model.prior.active = False
    stages = tuple(stage for stage in other.stages if stage.name == "aggregate")
    folder = trial.folder / "q_true"
    fit_recipe(replace(other, stages=stages), trial.splits, replace(trial.settings, out=folder, resume=True))
    return other.guide
