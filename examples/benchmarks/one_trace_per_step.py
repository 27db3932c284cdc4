"""What does one trace per guide and step save? JMVAE-kl as one objective against three ELBOs of Pyro.

Prints milliseconds per step of both and their ratio, measured in turn in one run. Our objective runs the joint encoder
once; written naively, as a sum of `Trace_ELBO`s, the encoder runs once for each term that contains it.
"""

import argparse
import statistics
import time

import torch
from pyro.infer import Trace_ELBO

from multipyro.data import load_dataset
from multipyro.inference import build, networks_for, restrict


def main(args):
    digits = load_dataset("digits").select(["image", "label"]).train
    torch.manual_seed(args.seed)
    recipe = build("jmvae-kl", networks_for(digits.modalities, (512, 512)), latent_dim=64)
    model, guide, elbo = recipe.model, recipe.guide, recipe.stages[0].objective
    x, _ = digits.rows(torch.arange(100))
    subsets = [("image",), ("label",)]
    runs = {"joint": 0}
    guide.joint.register_forward_hook(lambda *_: runs.__setitem__("joint", runs["joint"] + 1))

    def terms():
        elbo.loss_and_grads(model, guide, x)

    def naive():
        losses = [Trace_ELBO().differentiable_loss(model, guide, x)]
        losses += [Trace_ELBO().differentiable_loss(restrict(guide, subset), guide, x) for subset in subsets]
        sum(losses).backward()

    seconds, calls = {"terms": [], "naive": []}, {}
    for _ in range(3 if args.smoke else args.steps):
        for name, step in (("terms", terms), ("naive", naive)):
            model.zero_grad()
            guide.zero_grad()
            runs["joint"] = 0
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
            calls[name] = runs["joint"]
    ours, plain = (statistics.median(seconds[name]) * 1e3 for name in ("terms", "naive"))
    ratio = statistics.median(b / a for a, b in zip(seconds["terms"], seconds["naive"], strict=True))
    print(f"one objective {ours:.2f} ms per step, joint encoder runs {calls['terms']} time(s)")
    print(f"three ELBOs   {plain:.2f} ms per step, joint encoder runs {calls['naive']} time(s); ratio {ratio:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="three steps, to check that it runs")
    main(parser.parse_args())
