"""How does the time of a training step grow with modalities, samples, batch, latent size and rows?

Each measured time is printed with a predicted one: the first time of its sweep, scaled by the growth of the
multiplications and additions in matrix products, forward and backward, which torch counts. A measured time below the
prediction means that a part of the time does not grow; above, that something grows faster than the networks. MoPoE has
a product for each of the `2^M - 1` subsets of `M` modalities, which are element-wise operations and are not counted:
expect it above the prediction from about eight modalities on. `--file growth.png` draws all sweeps. About three minutes
on one core; times are CPU time, medians over rounds that go through all points in turn.
"""

import argparse
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from multipyro.data import Modality, MultimodalData
from multipyro.inference import build, fit_recipe
from multipyro.inference.recipes import Networks

FEATURES = 64
BASE = {"method": "mvae", "modalities": 3, "batch": 128, "latent": 32, "rows": 0}
# sweep -> what changes, its values, and what else differs from the base
SWEEPS = {
    "modalities of MVAE": ("modalities", (2, 3, 5, 10, 20), {}),
    "modalities of MoPoE, all subsets": ("modalities", (2, 3, 4, 5, 6, 7, 8), {"method": "mopoe"}),
    "samples of MMVAE": ("particles", (1, 2, 5, 10, 20, 50), {"method": "mmvae"}),
    "batch of MVAE": ("batch", (128, 512, 2048), {}),
    "latent of MVAE": ("latent", (8, 32, 128, 512, 2048), {}),
    "rows of MVAE, an epoch of fit": ("rows", (1024, 4096, 16384), {}),
}


def setting(method, modalities, batch, latent, rows, particles=None):
    """A function that runs what is timed, and the one whose matrix products are counted."""
    names = [f"m{number}" for number in range(modalities)]
    described = {name: Modality(name, (FEATURES,), "vector", "normal") for name in names}
    options = {"mvae": {"random_subsets": 0}, "mmvae": {"particles": particles, "family": "normal"}}.get(method, {})
    recipe = build(method, Networks(described, (128, 128)), latent, **options)
    loss, programs = recipe.stages[0].objective, (recipe.model, recipe.guide)
    parameters = [parameter for program in programs for parameter in program.parameters()]
    optimizer = torch.optim.Adam(parameters, fused=True)
    x = {name: torch.randn(batch, FEATURES) for name in names}

    def step():
        optimizer.zero_grad()
        loss.loss_and_grads(*programs, x)
        optimizer.step()

    if not rows:
        return step, step
    data = MultimodalData("noise", described, {name: torch.randn(rows, FEATURES) for name in names})

    def epoch():
        fit_recipe(recipe, data, epochs=1, batch_size=batch, compile=False, progress=False)

    return epoch, lambda: [step() for _ in range(rows // batch)]


def counted(function):
    """Multiplications and additions of the matrix products."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def seconds(function):
    started = time.process_time()
    function()
    return time.process_time() - started


def measured(what, values, others, rounds):
    """Value -> seconds measured and predicted."""
    functions = {value: setting(**{**BASE, **others, what: value}) for value in values}
    counts = {value: counted(count) for value, (_, count) in functions.items()}
    times = {value: [] for value in values}
    for function, _ in functions.values():
        function()
    for _ in range(rounds):
        for value, (function, _) in functions.items():
            times[value].append(seconds(function))
    medians = {value: statistics.median(series) for value, series in times.items()}
    first = next(iter(values))
    return {value: (medians[value], medians[first] * counts[value] / counts[first]) for value in values}


def draw(results, file):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for axis, (sweep, points) in zip(axes.flat, results.items(), strict=True):
        for part, style in enumerate(("o-", "--")):
            label = ("measured", "predicted")[part]
            axis.loglog(list(points), [1e3 * times[part] for times in points.values()], style, label=label)
        axis.set(title=sweep, xlabel=SWEEPS[sweep][0], ylabel="ms of CPU time")
        axis.set_xticks(list(points), list(map(str, points)))
        axis.minorticks_off()
    axes.flat[0].legend()
    figure.savefig(file, dpi=120)


def main(args):
    torch.manual_seed(args.seed)
    results = {}
    print(f"{'':34}{'':>8}{'measured':>12}{'predicted':>12}{'ratio':>8}")
    for sweep, (what, values, others) in SWEEPS.items():
        values = values[:2] if args.smoke else values
        results[sweep] = measured(what, values, others, 1 if args.smoke else args.rounds)
        for value, (time_taken, predicted) in results[sweep].items():
            ratio = time_taken / predicted
            print(f"{sweep:34}{value:8}{1e3 * time_taken:9.1f} ms{1e3 * predicted:9.1f} ms{ratio:8.2f}", flush=True)
    if args.file:
        draw(results, args.file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--file", help="where to draw the sweeps, a .png, .pdf or .svg")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and values")
    parser.add_argument("--smoke", action="store_true", help="two points of each sweep, once, to check that it runs")
    main(parser.parse_args())
