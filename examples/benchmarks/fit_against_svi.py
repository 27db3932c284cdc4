"""What does `fit` cost over a plain SVI loop? Prints milliseconds per step of both and their ratio.

Both train the same small MoPoE on the digits with Adam; each epoch of one is followed by an epoch of the other, so
that a change of the machine's speed affects both. The start-up of `fit`, which checks the data, is not counted.
"""

import argparse
import statistics
import time

import torch
from pyro.infer import SVI
from pyro.optim import Adam

from multipyro.data import load_dataset
from multipyro.inference import build, fit, networks_for
from multipyro.inference.training import step_seed


def main(args):
    digits = load_dataset("digits").train
    epochs = 2 if args.smoke else args.epochs
    pairs = []
    for _ in range(epochs):
        torch.manual_seed(args.seed)
        recipe = build("mopoe", networks_for(digits.modalities), latent_dim=8)
        elbo = recipe.stages[0].objective
        # fit reports the time of its own steps; one epoch of it, then one of the loop
        history = fit(recipe.model, recipe.guide, elbo, digits, epochs=1, batch_size=64, progress=False).history
        svi = SVI(recipe.model, recipe.guide, Adam({"lr": 1e-3}), elbo)
        started = time.perf_counter()
        for batch, (x, observed) in enumerate(digits.batches(64, shuffle=True)):
            torch.manual_seed(step_seed(0, 0, batch))
            svi.step(x, observed)
        pairs.append((len(digits) / history[0]["examples_per_second"], time.perf_counter() - started))
    steps = len(digits.batches(64))
    ours, plain = (statistics.median(seconds) / steps * 1e3 for seconds in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(
        f"fit {ours:.2f} ms per step, plain SVI {plain:.2f} ms per step, ratio {ratio:.2f} (median of {epochs} pairs)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="two pairs, to check that it runs")
    main(parser.parse_args())
