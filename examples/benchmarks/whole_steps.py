"""How many training steps per second, if a whole step is one graph, and what share of the machine's peak rate is used?

On a GPU the forward pass, the backward pass and the optimizer are captured as one CUDA graph, so that the host only
launches it and never waits. On a CPU the captured loss and gradients are replayed, as `fit` replays them, before a
fused Adam. The script measures steps per second of MoPoE on the workloads of `training_steps.py`: ours step by step,
ours as a graph, and those of multivae at batches of 128 if it is installed; then batches that double up to `--most`, or
until memory is full. The peak is the rate that a large matrix product reaches on the same machine, in the same run.
Timers wait for the device. Expect a few minutes.
"""

import argparse
import copy
import importlib
import statistics
import sys
import time
from pathlib import Path

import pyro
import torch
from torch.utils.flop_counter import FlopCounterMode

from multipyro.inference import build
from multipyro.inference.capture import StepGraph
from multipyro.inference.recipes import Networks


def seconds(function, device):
    """Seconds of a call, the device's work included."""
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def by_steps(recipe, x):
    """A function that takes a step as `SVI` would, without reading the loss."""
    objective, parameters = recipe.stages[0].objective, list(parameters_of(recipe))
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True, capturable=x_device(x) == "cuda")

    def step():
        optimizer.zero_grad(set_to_none=False)
        loss = objective.differentiable_loss(recipe.model, recipe.guide, x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def by_graph(recipe, x):
    """A function that takes a step by replaying one graph."""
    if x_device(x) == "cuda":
        step, stream = by_steps(recipe, x), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels and optimizer states are created before the capture
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = step()

        def replay():
            graph.replay()
            return loss

        return replay
    objective, parameters = recipe.stages[0].objective, list(parameters_of(recipe))
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)
    graph = StepGraph(lambda x, _: objective.differentiable_loss(recipe.model, recipe.guide, x), parameters, (x, None))

    def replay():
        loss, *gradients = graph((x, None))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return loss

    return replay


def parameters_of(recipe):
    return [*recipe.model.parameters(), *recipe.guide.parameters()]


def x_device(x):
    return next(iter(x.values())).device.type


def rate(function, steps, rounds, device):
    """Calls per second, the median of some rounds."""
    seconds(function, device)
    times = [seconds(lambda: [function() for _ in range(steps)], device) / steps for _ in range(rounds)]
    return 1 / statistics.median(times)


def peak(size, device):
    """Floating-point operations per second of a product of large matrices."""
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    return 2 * size**3 * rate(lambda: left @ right, 3, 5, device)


def main(args):
    sys.path.insert(0, str(Path(__file__).parent))
    shared = importlib.import_module("training_steps")
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    steps, rounds, first = (1, 1, 8) if args.smoke else (args.steps, args.rounds, 128)
    best = peak(256 if args.smoke else 8192 if device == "cuda" else 2048, device)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} thread(s) of a CPU"
    print(f"{name}, torch {torch.__version__}, {best / 1e9:,.0f} billion operations per second in a matrix product")
    print(f"{'MoPoE':8}{'batch':>8}{'steps/s':>12}{'as a graph':>12}{'multivae':>12}{'ratio':>8}{'of peak':>10}")
    for workload in ("W1", "W2"):
        modalities, hidden, latent_dim, batch = shared.workload(workload)
        initial = build("mopoe", Networks(modalities, hidden), latent_dim)
        rows = first
        while rows <= (first if args.smoke else args.most):
            recipe = copy.deepcopy(initial)
            recipe.model.to(device), recipe.guide.to(device)
            x = {m: values.to(device) for m, values in batch(rows).items()}
            try:
                with FlopCounterMode(display=False) as counter:
                    by_steps(recipe, x)()
                plain, graph = (rate(make(recipe, x), steps, rounds, device) for make in (by_steps, by_graph))
                peer = None
                if rows == first:
                    peer = shared.peer_of("mopoe", shared.Floor("mopoe", recipe), modalities, latent_dim)
                theirs = peer and rate(lambda x=x, peer=peer: peer(x), steps, rounds, device)
            except torch.cuda.OutOfMemoryError:
                print(f"{workload:8}{rows:8,} does not fit into memory")
                break
            columns = ("", "") if theirs is None else (f"{theirs:.1f}", f"{graph / theirs:.2f}")
            share = graph * counter.get_total_flops() / best
            print(
                f"{workload:8}{rows:8,}{plain:12.1f}{graph:12.1f}{columns[0]:>12}{columns[1]:>8}{share:10.1%}",
                flush=True,
            )
            rows *= 2


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=int, default=1024, help="the largest batch; on a GPU one that does not fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="one batch, one step, to check that it runs")
    with pyro.validation_enabled(False):  # validation reads values, so the host would wait
        main(parser.parse_args())
