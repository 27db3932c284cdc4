"""Do the published orderings of the methods appear on data that this machine can train on?

`multipyro compare` trains every method over several seeds with the same networks and settings, and prints its table.
Over its runs this script asks what the papers ask: how well a guide predicts across modalities (Suzuki et al., Table
1), which guide is best with all modalities and which with one (Sutter et al., Tables 2 to 4), and what it costs to have
seen the image alone (Yadav et al., Table 1). A run that is killed is resumed by the same command.

Expect label -> image to collapse under JMVAE and to be repaired by JMVAE-kl and JMVAE-h; MVAE to have the best bound
given all modalities, MMVAE the better one given a single one, MoPoE to be near the better of both; the difference
between q(z|all) and q(z|image) to be smallest for Bridged. Results: `results/orderings/README.md`.
"""

import argparse
import json
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from multipyro.data import load_dataset
from multipyro.inference import METHODS, importance_weighted_bound, load
from multipyro.inference.cli.parser import main as command
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
    found = load(folder)
    torch.manual_seed(args.seed)
    return importance_weighted_bound(found.model, found.guide, x, given, target, args.bound_particles).mean


def over_seeds(method, out, args, ask):
    """Mean and standard deviation over seeds of what `ask` finds in the run of each."""
    values = [ask(out / f"{method}-{args.data}-{seed}") for seed in range(args.seeds)]
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
        compared(args, Path(folder))


def compared(args, out):
    """Trains and judges what is not there yet, then prints the tables and writes `orderings.json`."""
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
    found = json.loads((out / "compare.json").read_text(encoding="utf-8"))["methods"]
    test = load_dataset(args.data, args.data_root).test.select(MODALITIES)
    x, _ = test.rows(torch.arange(min(args.rows, len(test))))
    every = tuple(x)

    def columns(names, metrics):
        return {name: [found[name].get(metric) for metric in metrics] for name in names if name in found}

    asked = ["guide's label->image, mean", "guide's label->image, log-mean-exp", "guide's image->label, mean"]
    prediction = columns(PREDICTION, asked)
    table("What the guide predicts, nats a row", ["label->image", "its log-mean-exp", "image->label"], prediction)

    whole = "+".join(every)
    asked = ["latent accuracy image", f"latent accuracy {whole}", "coherence image->label", "coherence label->image"]
    shares = columns(SUBSETS, [*asked, "joint coherence"])
    table("Shares", ["latent, image", "latent, all", "image->label", "label->image", "joint"], shares)

    subsets = {
        name: [
            over_seeds(name, out, args, lambda run, given=given: bounds(run, every, given, x, args)) for given in sets
        ]
        for sets in [[every, ("image",), ("label",)]]
        for name in SUBSETS
        if name in found
    }
    table(f"Bound on log p({', '.join(every)}), {args.bound_particles} draws given", ["all", "image", "label"], subsets)

    difference = {}
    for name in (method for method in DIFFERENCE if method in found):
        given = [every, ("image",)] if name != "vae" else [None, ("image",)]
        both = [
            None
            if modalities is None
            else over_seeds(name, out, args, lambda run, given=modalities: bounds(run, ("image",), given, x, args))
            for modalities in given
        ]
        gap = None if both[0] is None else {"value": both[0]["value"] - both[1]["value"], "std": None}
        difference[name] = [*both, gap]
    table(f"Bound on log p(image), {args.bound_particles} draws given", ["all", "image", "difference"], difference)

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
    parser.add_argument("--data-root", type=Path, help="folder of data sets, before MULTIPYRO_DATA")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--label-weight", type=float, default=1.0, help="of the label's likelihood in training")
    parser.add_argument(
        "--warmup", type=int, help="epochs in which the weight of the KL grows; a share of all by default"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the bounds' draws")
    parser.add_argument("--particles", type=int, default=300, help="importance samples a row of the likelihoods")
    parser.add_argument("--bound-particles", type=int, default=15, help="draws a row of the bounds")
    parser.add_argument("--rows", type=int, default=1_000, help="test rows of the bounds")
    parser.add_argument("--out", type=Path, default=Path("runs/orderings"), help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="only show that it runs")
    main(parser.parse_args())
