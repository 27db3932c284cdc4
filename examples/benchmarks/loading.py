"""What share of a training step is spent on fetching its batch?

For each data set that is available, with the method, networks and batch size of its results: the time to fetch shuffled
batches, and the time of training steps on batches that are already in memory, measured in turn in one run; the fastest
of several rounds counts. Expect a share below 0.05: images are decoded in memory, or mapped from disk.
"""

import argparse
import time
from pathlib import Path

import torch

from multipyro.data import load_dataset
from multipyro.inference import build, fit_recipe, networks_for

# data set -> its options, method, width, size of the latent, batch size, options of the method
SETTINGS = {
    "digits": ({}, "mopoe", 256, 6, 64, {}),
    "polymnist": ({}, "mopoe", 512, 64, 128, {"beta": 2.5}),
    "two-objects": ({"size": 64, "num_rows": 1_000}, "vlvae", 128, 50, 32, {}),
    "celeba": ({"form": "words"}, "mopoe", 160, 32, 64, {"private": 16}),
    "cub": ({}, "mmvae", 128, 64, 64, {"particles": 1}),
}


def seconds(work):
    """Wall time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(name, steps, rounds, data_root, seed):
    """Seconds to fetch a batch, and seconds of a training step on it."""
    options, method, width, latent_dim, batch_size, settings = SETTINGS[name]
    train = load_dataset(name, data_root, **options).train
    torch.manual_seed(seed)
    recipe = build(method, networks_for(train.modalities, (width, width)), latent_dim, **settings)
    fetching, one, two = [], [], []
    for epoch in range(rounds + 1):
        batches, loader = [], iter(train.batches(batch_size, shuffle=True, epoch=epoch))
        fetching.append(
            seconds(lambda batches=batches, loader=loader: batches.extend(next(loader) for _ in range(steps)))
        )
        one.append(seconds(lambda batches=batches: fit_recipe(recipe, batches, epochs=1, progress=False)))
        two.append(seconds(lambda batches=batches: fit_recipe(recipe, batches, epochs=2, progress=False)))
    # the first round warms up, and every call checks its data and sets up before its first epoch
    return min(fetching[1:]) / steps, (min(two[1:]) - min(one[1:])) / steps


def main(args):
    """Measures each data set that is available."""
    print(f"{'data set':14}{'batch':>12}{'step':>12}{'ratio':>10}")
    for name in args.data:
        try:
            batch, step = measure(name, args.steps, args.rounds, args.data_root, args.seed)
        except (FileNotFoundError, ImportError) as error:
            print(f"{name:14}skipped: {error}")
            continue
        print(f"{name:14}{1e3 * batch:9.2f} ms{1e3 * step:9.1f} ms{batch / step:10.4f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--data-root", type=Path, help="data folder, searched before MULTIPYRO_DATA")
    parser.add_argument("--steps", type=int, default=8, help="batches per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="only check that it runs, on the digits")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.data, arguments.steps, arguments.rounds = ["digits"], 3, 1
    main(arguments)
