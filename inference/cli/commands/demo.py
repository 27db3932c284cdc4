"""`multipyro demo`: train MoPoE on the embedded digits, evaluate it and draw figures."""

import argparse

from multipyro.inference.cli.console import say
from multipyro.inference.cli.drawing import draw_cross_generation, draw_joint_samples, draw_reconstructions, figure_name
from multipyro.inference.cli.jobs import load_data, training_job
from multipyro.inference.cli.saved_runs import write_report
from multipyro.inference.cli.summary import summary
from multipyro.inference.cli.tables import metrics_table
from multipyro.inference.evaluation import evaluate
from multipyro.inference.runs import load

__all__ = ["run", "train_arguments"]

# takes about two minutes on two cores (measured)
_TRAIN = (
    *("mopoe", "--data", "digits", "--latent-dim", "6", "--hidden", "256", "256", "--batch-size", "64", "--lr", "3e-3"),
    *("--lr-schedule", "exponential", "--lr-final", "0.03", "--beta", "3", "--weights", "label=20,word=10"),
    *("--option", "aggregate_prior=true"),
)
# epochs of the flow that replaces the prior
_PRIOR_EPOCHS = 25


def train_arguments(arguments: argparse.Namespace) -> list[str]:
    """The arguments of the `multipyro train` that the demo runs."""
    prior_epochs = min(_PRIOR_EPOCHS, arguments.epochs)
    tokens = [*_TRAIN, "--option", f"aggregate_epochs={prior_epochs}", "--epochs", str(arguments.epochs)]
    tokens += ["--seed", str(arguments.seed), "--out", str(arguments.out)]
    return ["train", *tokens, *(["--resume"] if arguments.resume else [])]


def run(arguments: argparse.Namespace) -> None:
    """Trains, evaluates and draws."""
    train, out = arguments.train, arguments.out
    splits = load_data(train)
    job = training_job(train, train.method, splits, train.seed, out, train.resume)
    say(f"multipyro {' '.join(train_arguments(arguments))}")
    say(summary(job))
    job.train()
    loaded = load(out)
    say(f"evaluating on the {len(splits.test)} test examples")
    metrics = write_report(out, evaluate(loaded.model, loaded.guide, splits, seed=train.seed))
    say(metrics_table(metrics, "MoPoE with an aggregate prior on digits"))
    for given, target in (("label", ["image"]), ("word", ["image"]), ("image", ["label", "word"])):
        file = out / figure_name([given], target)
        num_samples = 8 if target == ["image"] else 3
        draw_cross_generation(loaded.recipe, splits, [given], target, file, num_samples, seed=train.seed)
    draw_joint_samples(loaded.recipe, splits, out / "joint-samples.png")
    draw_reconstructions(loaded.recipe, splits, out / "reconstructions.png")
    say(f"figures, checkpoints and metrics.json are in {out}")
