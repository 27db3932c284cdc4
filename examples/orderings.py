"""Do the methods rank as published, on data that trains in hours on a CPU?

`multipyro compare` trains every method over several seeds with the same networks and settings, and prints its table.
From these runs this script computes what the papers report: how well a guide predicts across modalities (Suzuki et
al., Table 1), which guide is best given all modalities and which given one (Sutter et al., Tables 2 to 4), and how
much worse a bound is given the image alone (Yadav et al., Table 1). Run the same command again to resume after an
interruption.

Expect label -> image to collapse for JMVAE, and JMVAE-kl and JMVAE-h to repair it; MVAE to have the best bound given
all modalities, MMVAE a better one given a single one, and MoPoE to be close to the better of the two; the difference
between q(z|all) and q(z|image) to be smallest for the bridged VAE. Results: `results/orderings/README.md`.
"""

import argparse
import json
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from multipyro.data import load_dataset
from multipyro.inference import METHODS, load
from multipyro.inference.cli.parser import main as command
from multipyro.inference.evaluation import importance_weighted_bound
from multipyro.inference.runs import versions

SETTINGS = {
    "digits": "--epochs 40 --batch-size 64 --lr 3e-3 --latent-dim 16 --warmup 15 --particles 4",
    "mnist": "--epochs 30 --batch-size 100 --lr 1e-3 --latent-dim 64 --warmup 8 --particles 1",
}
MODALITIES = ["image", "label"]
PREDICTION = ("jmvae", "jmvae-kl", "jmvae-h", "cvae", "cmma")
SUBSETS = ("mvae", "mmvae", "mopoe")
DIFFERENCE = ("vae", "jmvae-kl", "telbo", "mvae", "bridged")


def bounds(folder, target, given, x, args):
    """The K-sample bound on log p(target) with samples of the guide given some modalities, in nats per example."""
    run = load(folder)
    torch.manual_seed(args.seed)
    return importance_weighted_bound(run.model, run.guide, x, given, target, args.bound_particles).mean


def over_seeds(method, out, args, measure):
    """Mean and standard deviation over seeds of what `measure` returns for a run."""
    values = [measure(out / f"{method}-{args.data}-{seed}") for seed in range(args.seeds)]
    return {"value": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def table(title, header, rows):
    print(f"\n{title}\n{'':12}" + "".join(f"{name:>26}" for name in header))
    for name, cells in rows.items():
        shown = [
            "-"
            if cell is None
            else f"{cell['value']:.3f} ± {cell['std'] if cell['std'] is not None else float('nan'):.3f}"
            for cell in cells
        ]
        print(f"{name:12}" + "".join(f"{cell:>26}" for cell in shown), flush=True)


def main(args):
    with tempfile.TemporaryDirectory() if args.smoke else nullcontext(args.out) as folder:
        compare(args, Path(folder))


def compare(args, out):
    """Trains and evaluates what is missing, then prints the tables and writes `orderings.json`."""
    methods, settings = args.methods, [*SETTINGS[args.data].split(), "--weights", f"label={args.label_weight}"]
    settings += [] if args.warmup is None else ["--warmup", str(args.warmup)]
    if args.smoke:
        args.seeds, args.rows = 1, 20
        methods, settings = ["mvae", "jmvae-kl"], "--epochs 1 --batch-size 256 --latent-dim 4".split()
    place = [] if args.data_root is None else ["--data-root", str(args.data_root)]
    samples = ["--seeds", str(args.seeds), "--num-samples", "5" if args.smoke else str(args.particles)]
    if command(
        [
            "compare",
            *methods,
            "--data",
            args.data,
            "--modalities",
            *MODALITIES,
            *settings,
            *place,
            *samples,
            "--out",
            str(out),
        ]
    ):
        raise SystemExit(1)
    metrics = json.loads((out / "compare.json").read_text(encoding="utf-8"))["methods"]
    test = load_dataset(args.data, args.data_root).test.select(MODALITIES)
    x, _ = test.rows(torch.arange(min(args.rows, len(test))))
    every = tuple(x)

    def columns(names, keys):
        return {name: [metrics[name].get(key) for key in keys] for name in names if name in metrics}

    keys = ["guide's label->image, mean", "guide's label->image, log-mean-exp", "guide's image->label, mean"]
    prediction = columns(PREDICTION, keys)
    table("What the guide predicts, nats per example", ["label->image", "its log-mean-exp", "image->label"], prediction)

    whole = "+".join(every)
    keys = ["latent accuracy image", f"latent accuracy {whole}", "coherence image->label", "coherence label->image"]
    shares = columns(SUBSETS, [*keys, "joint coherence"])
    table("Shares", ["latent, image", "latent, all", "image->label", "label->image", "joint"], shares)

    subsets = {
        name: [
            over_seeds(name, out, args, lambda run, given=given: bounds(run, every, given, x, args)) for given in sets
        ]
        for sets in [[every, ("image",), ("label",)]]
        for name in SUBSETS
        if name in metrics
    }
    title = f"Bound on log p({', '.join(every)}), {args.bound_particles} samples given"
    table(title, ["all", "image", "label"], subsets)

    difference = {}
    for name in (method for method in DIFFERENCE if method in metrics):
        given = [every, ("image",)] if name != "vae" else [None, ("image",)]
        both = [
            None
            if modalities is None
            else over_seeds(name, out, args, lambda run, given=modalities: bounds(run, ("image",), given, x, args))
            for modalities in given
        ]
        gap = None if both[0] is None else {"value": both[0]["value"] - both[1]["value"], "std": None}
        difference[name] = [*both, gap]
    table(f"Bound on log p(image), {args.bound_particles} samples given", ["all", "image", "difference"], difference)

    report = {
        "settings": {name: value for name, value in vars(args).items() if name not in ("out", "data_root")},
        "compare": settings,
        "versions": versions(),
        "prediction": prediction,
        "shares": shares,
        "subsets": subsets,
        "difference": difference,
    }
    (out / "orderings.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=tuple(SETTINGS), default="digits")
    parser.add_argument("--data-root", type=Path, help="data folder, searched before MULTIPYRO_DATA")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--label-weight", type=float, default=1.0, help="weight of the label's likelihood in training")
    parser.add_argument(
        "--warmup", type=int, help="epochs over which the weight of the KL rises; by default a share of all"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="seed of the bounds' samples")
    parser.add_argument("--particles", type=int, default=300, help="importance samples per example, for likelihoods")
    parser.add_argument("--bound-particles", type=int, default=15, help="samples per example, for the bounds")
    parser.add_argument("--rows", type=int, default=1_000, help="test examples for the bounds")
    parser.add_argument("--out", type=Path, default=Path("runs/orderings"), help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs")
    main(parser.parse_args())
