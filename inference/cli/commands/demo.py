"""`multipyro demo`: train MoPoE on the embedded digits, evaluate it and draw figures."""

import argparse
import shlex

from multipyro.inference.cli.console import say
from multipyro.inference.cli.drawing import figure_name

__all__ = ["demo_commands", "run"]

# takes about two minutes on two cores (measured)
_TRAIN = (
    *("mopoe", "--data", "digits", "--latent-dim", "6", "--hidden", "256", "256", "--batch-size", "64", "--lr", "3e-3"),
    *("--lr-schedule", "exponential", "--lr-final", "0.03", "--beta", "3", "--weights", "label=20,word=10"),
    *("--option", "aggregate_prior=true", "--no-figure"),
)
# epochs of the flow that replaces the prior
_PRIOR_EPOCHS = 25
# what is given, what is generated, and how many samples of it are drawn
_FIGURES = ((["label"], ["image"], 8), (["word"], ["image"], 8), (["image"], ["label", "word"], 3))


def demo_commands(arguments: argparse.Namespace) -> list[list[str]]:
    """The commands of `multipyro` that the demo runs."""
    out, seed = str(arguments.out), ["--seed", str(arguments.seed)]
    prior_epochs = min(_PRIOR_EPOCHS, arguments.epochs)
    train = [*_TRAIN, "--option", f"aggregate_epochs={prior_epochs}", "--epochs", str(arguments.epochs)]
    train += [*seed, "--out", out, *(["--resume"] if arguments.resume else [])]
    draw = [
        ["generate", out, "--given", *given, "--target", *target, "--num-samples", str(number)]
        + [*seed, "--file", str(arguments.out / figure_name(given, target))]
        for given, target, number in _FIGURES
    ]
    return [["train", *train], ["evaluate", out, "--num-samples", "100", *seed], *draw]


def run(arguments: argparse.Namespace) -> None:
    """Runs them one after the other."""
    for command, parsed, tokens in arguments.steps:
        say(f"multipyro {shlex.join(tokens)}")
        command(parsed)
    say(f"multipyro figures {arguments.out} draws more of it")
