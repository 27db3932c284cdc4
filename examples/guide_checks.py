"""Which guides can be trusted, given which modalities, and do the verdicts of a check agree with other measurements?

Each method is trained by `multipyro train`, and `check_guide` checks its guide given every subset that it supports.
Three measurements that are not part of the check stand beside the verdicts: the coherence of what is generated from the
subset; by how many nats the guide's prediction of a further modality is worse than the model's conditional likelihood,
paired over test examples, which is 0 for a calibrated guide; and the likelihood by annealed importance sampling, which
uses no guide. Finished training and checks are not repeated: run the same command to resume.

Expect products of experts to be too narrow, and the narrower the more experts agree; mixtures to be too wide given
several modalities; and joint samples to be incoherent where the aggregate posterior is easily distinguished from the
prior. Results: `results/guide_checks/README.md`.
"""

import argparse
import json
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from multipyro.data import load_dataset
from multipyro.data.storage import write_atomically
from multipyro.inference import load, log_likelihood
from multipyro.inference.cli.parser import main as command
from multipyro.inference.evaluation import (
    Annealing,
    check_guide,
    conditional_coherence,
    guide_predictive_log_likelihood,
    joint_coherence,
    train_classifiers,
)
from multipyro.inference.runs import versions

METHODS = ("mvae", "mmvae", "mopoe", "jmvae-kl", "telbo")
TRAINING = {
    "digits": "--epochs 40 --batch-size 64 --lr 3e-3 --latent-dim 16 --warmup 15",
    "mnist": "--epochs 15 --batch-size 128 --lr 1e-3 --latent-dim 32 --warmup 5 --hidden 512 512",
}
# options that only some methods have
OPTIONS = {"mmvae": ["--particles", "4"]}


def train(method, seed, args):
    """The run folder of a method, which is trained first if necessary."""
    folder = args.out / f"{method}-{args.data}-{seed}"
    place = [] if args.data_root is None else ["--data-root", str(args.data_root)]
    options = [*args.training.split(), *OPTIONS.get(method, []), *place, "--seed", str(seed), "--no-figure"]
    if args.modalities:
        options += ["--modalities", *args.modalities]
    if command(["train", method, "--data", args.data, *options, "--out", str(folder), "--resume"]):
        raise SystemExit(1)
    return folder


def measured(folder, splits, classifiers, args, seed):
    """The check of a run and the measurements beside it, from a file in its folder if there is one."""
    file = folder / "measured.json"
    settings = {name: getattr(args, name) for name in ("rows", "simulated", "samples", "annealed_rows", "temperatures")}
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["settings"] == settings:
            return stored
    run = load(folder)
    torch.manual_seed(seed)
    x, _ = splits.test.rows(torch.arange(min(args.rows, len(splits.test))))
    check = check_guide(run.model, run.guide, x, num_simulated=args.simulated, num_samples=args.samples)
    subsets = {}
    for given in check.subsets:
        others = [name for name in x if name not in given]
        coherence = {
            name: conditional_coherence(run.model, run.guide, splits.test, given, name, classifiers[name]).to_dict()
            for name in others
        }
        subsets["+".join(given)] = {"coherence": coherence, "loss": others and loss(run, x, given, others[0], args)}
    few = {name: values[: args.annealed_rows] for name, values in x.items()}
    annealing = Annealing(num_temperatures=args.temperatures, num_simulated=args.annealed_rows)
    annealed = log_likelihood(run.model, run.guide, few, method=annealing)
    difference = log_likelihood(run.model, run.guide, few, num_samples=args.samples).difference(annealed)
    result = {
        "settings": settings,
        "check": check.to_dict(),
        "subsets": subsets,
        "joint": joint_coherence(run.model, classifiers).to_dict(),
        "annealed": {**annealed.to_dict(), "difference": difference.value, "difference_mc_se": difference.mc_se},
    }
    write_atomically(file, json.dumps(result, indent=1) + "\n")
    return result


def loss(run, x, given, target, args):
    """By how many nats the guide predicts one modality worse than the model's conditional likelihood."""
    exact = log_likelihood(run.model, run.guide, x, [target], given, args.samples)
    predicted = guide_predictive_log_likelihood(run.model, run.guide, x, given, [target], args.samples)
    difference = exact.difference(predicted)
    unreliable = max(exact.unreliable, predicted.unreliable)
    return {"target": target, "value": difference.value, "se": difference.se, "unreliable": unreliable}


def spread(values, digits):
    """Mean and standard deviation over seeds."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def worst(levels):
    """The worst verdict of all seeds."""
    return next(level for level in ("bad", "note", "good") if level in levels)


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(results):
    """A table of subsets, and one of methods, in Markdown."""
    by_subset, by_method = [], []
    for method, seeds in results.items():
        for name in seeds[0]["check"]["subsets"]:
            checks = [one["check"]["subsets"][name] for one in seeds]
            others = [one["subsets"][name] for one in seeds]
            gaps = [[check["gap"][part]["value"] for check in checks] for part in ("total", "approximation")]
            verdicts = {
                each["aspect"]: worst(
                    [v["level"] for c in checks for v in c["verdicts"] if v["aspect"] == each["aspect"]]
                )
                for each in checks[0]["verdicts"]
            }
            coherences = [[share["value"] for share in one["coherence"].values()] for one in others]
            row = [
                method,
                name,
                verdicts["calibration"],
                spread([check["spread"] for check in checks], 2),
                spread([check["coverage"]["0.9"]["value"] for check in checks], 2),
                spread([check["khat"]["median"] for check in checks], 2),
                *(spread(gap, 2) for gap in gaps),
                spread([statistics.fmean(values) for values in coherences], 3) if all(coherences) else "",
                spread([one["loss"]["value"] for one in others], 2) if all(one["loss"] for one in others) else "",
            ]
            by_subset.append(row)
        aggregates = [one["check"]["aggregate"]["accuracy"]["value"] for one in seeds]
        by_method.append(
            [
                method,
                worst([v["level"] for one in seeds for v in one["check"]["verdicts"]]),
                spread(aggregates, 2),
                spread([one["joint"]["value"] for one in seeds], 3),
                spread([one["annealed"]["difference"] for one in seeds], 3),
                spread([one["annealed"]["gap"] for one in seeds], 3),
            ]
        )
    first = ["method", "given", "calibration", "spread", "90 % regions", "k-hat", "gap", "approximation", "coherence"]
    second = ["method", "aggregate posterior", "accuracy", "joint coherence", "importance - annealed", "sandwich"]
    return table([*first, "loss of prediction"], by_subset), table(second, by_method)


def main(args):
    if args.smoke:
        args.methods, args.seeds, args.training = args.methods[:1], 1, "--epochs 1 --batch-size 256 --latent-dim 4"
        args.rows, args.simulated, args.samples, args.annealed_rows, args.temperatures = 10, 50, 30, 2, 5
        args.modalities = ["image", "label"]
    args.training = args.training or TRAINING[args.data]
    with tempfile.TemporaryDirectory() if args.smoke else nullcontext(args.out) as folder:
        args.out = Path(folder)
        splits = load_dataset(args.data, args.data_root)
        splits = splits.select(args.modalities) if args.modalities else splits
        torch.manual_seed(0)
        classifiers = train_classifiers(splits.train, splits.test)
        results = {}
        for seed in range(args.seeds):
            for method in args.methods:
                result = measured(train(method, seed, args), splits, classifiers, args, seed)
                results.setdefault(method, []).append(result)
                print(f"{method}, seed {seed}", flush=True)
                for subset, check in result["check"]["subsets"].items():
                    for verdict in check["verdicts"]:
                        print(f"  {subset}: {verdict['level']}, {verdict['aspect']}: {verdict['text']}", flush=True)
        print("\n\n".join(tables(results)))
        omitted = ("out", "data_root", "smoke")
        settings = {name: value for name, value in vars(args).items() if name not in omitted}
        report = {"settings": settings, "versions": versions(), "methods": results}
        write_atomically(args.out / "guide_checks.json", json.dumps(report, indent=1) + "\n")


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=tuple(TRAINING), default="digits")
    parser.add_argument("--data-root", type=Path, help="data folder, searched before MULTIPYRO_DATA")
    parser.add_argument("--modalities", nargs="+", help="all of the data by default")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--training", help="arguments of multipyro train; by default some that suit the data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200, help="test examples for k-hat, gaps and likelihoods")
    parser.add_argument("--simulated", type=int, default=500, help="simulated data points for the calibration")
    parser.add_argument("--samples", type=int, default=1000, help="importance samples per example")
    parser.add_argument("--annealed-rows", type=int, default=20)
    parser.add_argument("--temperatures", type=int, default=300, help="of annealed importance sampling")
    parser.add_argument("--out", type=Path, default=Path("runs/guide_checks"), help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(arguments())
