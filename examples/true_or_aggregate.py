"""Given a text, should the guide be the model's own posterior, or the aggregate posterior of the images with this text?

VLVAE trains its decoders with q(z|image) alone. With the programs frozen, one flow is then fitted to the model's
posterior p(z|word), q_true, and another to the aggregate of q(z|image) over the images of that word, q_agg; a third is
fitted to the aggregate over all images and replaces the prior (On the Importance of Learning Aggregate Posteriors in
Multimodal Variational Autoencoders, Cremer and Kushman, Tables 1 and 2).

Expect images from q_agg to show the word more often and to be more likely, since q_true also covers latents that
decode to the word but that no image is encoded to; the learned prior should beat N(0, I) for the same reason. Results
and their commands: `results/aggregates/README.md`.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from multipyro.data import load_dataset
from multipyro.inference import build, fit_recipe, log_likelihood, networks_for
from multipyro.inference.evaluation import (
    ImportanceSampling,
    conditional_coherence,
    guide_predictive_log_likelihood,
    joint_coherence,
    train_classifiers,
)
from multipyro.inference.runs import versions

TEXT = "word"


def flow_metrics(recipe, splits, classifiers, args):
    """Correctness of word -> image, and log p(image | word) under the flow: the paper's bound, and a tighter one."""
    torch.manual_seed(args.seed)
    x, _ = splits.test.rows(torch.arange(min(args.likelihood_rows, len(splits.test))))
    programs = recipe.model, recipe.guide
    correct = [
        conditional_coherence(*programs, splits.test, [TEXT], "image", classifiers["image"]).value
        for _ in range(args.images)
    ]

    def likelihood(number, **proposal):
        method = ImportanceSampling(**proposal)
        return guide_predictive_log_likelihood(*programs, x, [TEXT], ["image"], number, method=method).mean

    return {
        "correctness": statistics.fmean(correct),
        "log p(image|word), one sample": likelihood(1, scales=[1], prior=0),
        "log p(image|word)": likelihood(args.particles),
    }


def prior_metrics(recipe, splits, classifiers, args):
    """Agreement of images and words sampled from the prior, and the log-likelihood of each under it."""
    torch.manual_seed(args.seed)
    x, _ = splits.test.rows(torch.arange(min(args.likelihood_rows, len(splits.test))))

    def likelihood(name):
        return log_likelihood(recipe.model, recipe.guide, x, [name], num_samples=args.particles).mean

    return {
        "correctness": joint_coherence(recipe.model, classifiers, args.samples).value,
        "log p(image)": likelihood("image"),
        "log p(word)": likelihood(TEXT),
    }


def run(seed, splits, classifiers, args):
    """Trains VLVAE once, then both flows and the prior on top of it."""
    recipes = {}
    for objective in ("q_true", "q_agg"):
        torch.manual_seed(seed)
        recipes[objective] = build(
            "vlvae",
            networks_for(splits.train.modalities),
            args.latent_dim,
            beta=args.beta,
            weights={TEXT: args.text_weight},
            aggregate=TEXT,
            aggregate_objective=objective,
            aggregate_prior=True,
            aggregate_epochs=args.flow_epochs,
        )
    settings = {"epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr, "seed": seed, "progress": False}

    def train(recipe, name):
        fit_recipe(replace(recipe, stages=tuple(s for s in recipe.stages if s.name == name)), splits, **settings)

    train(recipes["q_true"], "main")
    for program in ("model", "guide"):
        getattr(recipes["q_agg"], program).load_state_dict(getattr(recipes["q_true"], program).state_dict())
    metrics = {}
    for objective, recipe in recipes.items():
        train(recipe, "aggregate")
        metrics[objective] = flow_metrics(recipe, splits, classifiers, args)
    recipe = recipes["q_agg"]
    metrics["N(0, I)"] = prior_metrics(recipe, splits, classifiers, args)
    train(recipe, "prior")
    metrics["learned prior"] = prior_metrics(recipe, splits, classifiers, args)
    return metrics


def _spread(values):
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.3f} ± {spread:.3f}"


def main(args):
    splits = load_dataset("digits").select(["image", TEXT])
    if args.smoke:
        args.epochs = args.flow_epochs = args.seeds = args.images = 1
        args.samples, args.particles, args.likelihood_rows, splits = 50, 5, 20, splits.head(100)
    torch.manual_seed(args.seed)
    classifiers = train_classifiers(splits.train, splits.test)
    results = []
    for seed in range(args.seed, args.seed + args.seeds):
        results.append(run(seed, splits, classifiers, args))
        if args.out is not None:
            settings = {name: value for name, value in vars(args).items() if name != "out"}
            args.out.write_text(
                json.dumps({"settings": settings, "versions": versions(), "seeds": results}, indent=1) + "\n"
            )
    for pair in (("q_true", "q_agg"), ("N(0, I)", "learned prior")):
        print(f"{'':30}{pair[0]:>20}{pair[1]:>20}")
        for metric in results[0][pair[0]]:
            columns = [_spread([one[name][metric] for one in results]) for name in pair]
            print(f"{metric:30}{columns[0]:>20}{columns[1]:>20}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60, help="epochs of VLVAE")
    parser.add_argument("--flow-epochs", type=int, default=30, help="epochs of each flow")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--latent-dim", type=int, default=16)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--text-weight", type=float, default=10.0, help="weight of the word's likelihood")
    parser.add_argument("--images", type=int, default=5, help="images per word for the correctness")
    parser.add_argument("--samples", type=int, default=10_000, help="samples of the prior for its correctness")
    parser.add_argument("--particles", type=int, default=1_000, help="importance samples per example")
    parser.add_argument("--likelihood-rows", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path, help="json file to write")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs")
    main(parser.parse_args())
