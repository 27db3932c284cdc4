"""How much memory does a step of MMVAE take, by the number of particles and how many are decoded at once?

One step on W2 of `training_steps.py` (PolyMNIST's five modalities, a latent of 512, batches of 128) in a process of its
own for each line, and the peak of its resident memory, with that before the step beside it. "chunk" is the option
`chunk_size`; the last column is the CPU time of the step. A line for multivae follows where it is installed.
"""

import argparse
import importlib
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from multipyro.inference import build
from multipyro.inference.recipes import Networks

CASES = ((1, None), (10, None), (10, 5), (10, 2), (10, 1), (50, 1))


def gibibytes():
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, kibibytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def one_step(particles, chunk, peer, rows):
    """Prints the peak memory before and after one step, in GiB, and its CPU seconds."""
    sys.path.insert(0, str(Path(__file__).parent))
    shared = importlib.import_module("training_steps")
    modalities, hidden, latent_dim, batch = shared.workload("W2")
    recipe = build(
        "mmvae", Networks(modalities, hidden), latent_dim, particles=particles, family="normal", chunk_size=chunk
    )
    step, x = None, batch(rows)
    if peer:
        step = shared.peer_of("mmvae, K = 10", shared.Floor("mmvae, K = 10", recipe), modalities, latent_dim)
        if step is None:
            return
    before, started = gibibytes(), time.process_time()
    if step is None:
        recipe.stages[0].objective.loss_and_grads(recipe.model, recipe.guide, x)
    else:
        step(x)
    print(f"{before:.2f} {gibibytes():.2f} {time.process_time() - started:.1f}")


def main(args):
    rows = "2" if args.smoke else "128"
    print(f"{'':10}{'particles':>10}{'chunk':>8}{'before, GiB':>14}{'peak, GiB':>12}{'seconds':>10}")
    for particles, chunk, *peer in (*CASES[: 1 if args.smoke else None], (10, None, "peer")):
        command = [sys.executable, __file__, "--step", str(particles), str(chunk or 0), str(int(bool(peer))), rows]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-3:]
        if output:
            name = "multivae" if peer else "ours"
            print(
                f"{name:10}{particles:10}{chunk or 'all':>8}{output[0]:>14}{output[1]:>12}{output[2]:>10}", flush=True
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, nargs=4, help="one line's step: particles, chunk, of multivae, rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="one small step, to check that it runs")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    if arguments.step:
        particles, chunk, peer, rows = arguments.step
        one_step(particles, chunk or None, bool(peer), rows)
    else:
        main(arguments)
