"""What do an aggregate posterior and an aggregate prior repair in methods that were trained without them?

Each method is trained as usual. Then, with its programs frozen, a flow is fitted to the aggregate of the posteriors
given all modalities and replaces the prior; for JMVAE-kl another flow is fitted to their aggregate given the label and
replaces the Gaussian q(z|label) (On the Importance of Learning Aggregate Posteriors in Multimodal Variational
Autoencoders, Cremer and Kushman, sections 4.1 and 4.2). The same decoders are evaluated before and after.

Expect the joint coherence to rise most of the way from that of N(0, I) to that of the exact aggregate, which is
sampled by sampling the posterior of a random example: the rest is the error of the flow. The log-likelihood under
the learned prior rises too. Results and their commands: `results/aggregates/README.md`.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from pyro import poutine

from multipyro.data import Splits, load_dataset
from multipyro.inference import build, fit_recipe, generative, log_likelihood, networks_for
from multipyro.inference.evaluation import conditional_coherence, evaluating, joint_coherence, train_classifiers
from multipyro.inference.runs import versions
from multipyro.ppl_models import point_estimate


def exact_aggregate(recipe, data, classifiers):
    """Joint coherence of samples that are decoded from the posteriors of the test examples given all modalities."""
    x, _ = data.select(recipe.model.modalities).rows(torch.arange(len(data)))
    with evaluating(recipe.model, recipe.guide), poutine.block():
        latents = poutine.trace(recipe.guide).get_trace(x)
        sites = poutine.trace(poutine.replay(generative(recipe.model, tuple(x)), trace=latents))
        sites = sites.get_trace({}, num_rows=len(data)).nodes
    classes = torch.stack([classify(point_estimate(sites[name]["fn"])) for name, classify in classifiers.items()])
    return (classes == classes[0]).all(0).float().mean().item()


def metrics(recipe, splits, classifiers, args):
    """Joint coherence, coherence of label -> image, and the log-likelihood of the first test examples."""
    torch.manual_seed(args.seed)
    x, _ = splits.test.rows(torch.arange(min(args.likelihood_rows, len(splits.test))))

    def images_from_labels(output):
        programs = (recipe.model, recipe.guide)
        return conditional_coherence(*programs, splits.test, ["label"], "image", classifiers["image"], output).value

    return {
        "joint": joint_coherence(recipe.model, classifiers, args.samples).value,
        "label->image": images_from_labels("mean"),
        "label->image, sampled pixels": images_from_labels("sample"),
        "log_likelihood": log_likelihood(recipe.model, recipe.guide, x, num_samples=args.particles).mean,
    }


def run(method, seed, splits, classifiers, args):
    """Trains one method, evaluates it, adds its aggregates, and evaluates it again."""
    torch.manual_seed(seed)
    recipe = build(
        method,
        networks_for(splits.train.modalities),
        args.latent_dim,
        beta=args.beta,
        warmup=args.warmup,
        weights=dict(map(_pair, args.weights)),
        aggregate="label" if method == "jmvae-kl" else None,
        aggregate_prior=True,
        aggregate_epochs=args.flow_epochs,
        **({"particles": 1} if method == "mmvae" else {}),
    )
    number = [stage.name not in ("aggregate", "prior") for stage in recipe.stages].count(True)
    settings = {"epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr, "seed": seed, "progress": False}

    def train(stages, name):
        folder = {} if args.runs is None else {"out": args.runs / f"{method}-{seed}-{name}", "resume": True}
        fit_recipe(replace(recipe, stages=stages), splits, **settings, **folder)

    train(recipe.stages[:number], "method")
    before = metrics(recipe, splits, classifiers, args)
    exact = exact_aggregate(recipe, splits.test, classifiers)
    train(recipe.stages[number:], "flows")
    return {"before": before, "after": metrics(recipe, splits, classifiers, args), "exact aggregate": {"joint": exact}}


def _pair(text):
    name, _, number = text.partition("=")
    return name, float(number)


def _spread(values):
    mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{mean:.3f} ± {spread:.3f}"


def main(args):
    splits = load_dataset(args.data, args.data_root)
    if args.smoke:
        args.epochs = args.flow_epochs = args.seeds = 1
        args.methods, args.rows, args.samples, args.particles = args.methods[:1], 100, 50, 5
    if args.rows:
        parts = (splits.train.take(torch.arange(min(args.rows, len(splits.train)))), splits.validation)
        splits = Splits(*parts, splits.test)
    torch.manual_seed(args.seed)
    classifiers = train_classifiers(splits.train, splits.test)
    results = {}
    print(f"{'':24}{'joint coherence':>18}{'label -> image':>18}{'sampled pixels':>18}{'log p(x), nats':>20}")
    for method in args.methods:
        results[method] = []
        for seed in range(args.seed, args.seed + args.seeds):
            results[method].append(run(method, seed, splits, classifiers, args))
            if args.out is not None:
                hidden = ("out", "runs", "data_root")
                settings = {name: value for name, value in vars(args).items() if name not in hidden}
                report = {"settings": settings, "versions": versions(), "methods": results}
                args.out.write_text(json.dumps(report, indent=1) + "\n")
        for state in ("before", "after", "exact aggregate"):
            keys = ("joint", "label->image", "label->image, sampled pixels", "log_likelihood")
            columns = [[one[state][key] for one in results[method] if key in one[state]] for key in keys]
            joint, label, pixels, likelihood = (_spread(values) if values else "" for values in columns)
            print(f"{method + ' ' + state:24}{joint:>18}{label:>18}{pixels:>18}{likelihood:>20}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--data-root", type=Path, help="data folder, searched before MULTIPYRO_DATA")
    parser.add_argument("--methods", nargs="+", default=["jmvae-kl", "mopoe", "mvae"])
    parser.add_argument("--rows", type=int, help="number of training examples; all by default")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of the method")
    parser.add_argument("--flow-epochs", type=int, default=30, help="epochs of each flow")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--latent-dim", type=int, default=6)
    parser.add_argument("--beta", type=float, default=3.0)
    parser.add_argument("--warmup", type=int, default=0, help="epochs over which beta rises from 0")
    parser.add_argument("--weights", nargs="*", default=["label=10", "word=5"])
    parser.add_argument("--samples", type=int, default=10_000, help="samples of the prior for the joint coherence")
    parser.add_argument("--particles", type=int, default=100, help="importance samples per example")
    parser.add_argument("--likelihood-rows", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=Path, help="folder of the runs; the script resumes runs that it finds there")
    parser.add_argument("--out", type=Path, help="json file to write")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs")
    main(parser.parse_args())
