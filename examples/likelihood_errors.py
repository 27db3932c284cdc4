"""Is an estimated log-likelihood right to its stated error, and does a check find guides that are wrong?

In a linear-Gaussian model everything has a closed form. A guide whose standard deviations are 0.5, 0.7, 1 or 1.5 times
those of the exact posterior proposes in 2 to 64 dimensions; `log_likelihood` estimates log p(image, label) and
log p(label | image), first with the guide alone as its proposal, as the papers do, then as it does by default. Annealed
importance sampling, which uses no guide, and its sandwich are compared with the same truth. Then simulation-based
calibration: how often it rejects the exact guide, and guides of other widths.

Expect the guide alone to be nats too low with a stated error of hundredths where it is narrow, and flagged by k-hat;
the default estimates within two stated errors in 95 of 100 cases; the sandwich around the truth; and calibration to
reject the exact guide in one case of twenty, and one of half width always. Results:
`results/likelihood_errors/README.md`.
"""

import argparse
import json
import statistics
from pathlib import Path

import pyro.distributions as dist
import torch

from multipyro.inference import log_likelihood
from multipyro.inference.evaluation import (
    Annealing,
    ImportanceSampling,
    UniformityTest,
    bidirectional_sandwich,
    calibrate,
    log_likelihoods,
    simulate,
)
from multipyro.inference.runs import versions
from multipyro.testing.linear_gaussian import FixedGuide, LinearGaussian

SCALES = (0.5, 0.7, 1.0, 1.5)
QUERIES = [(["image", "label"], None), (["label"], ["image"])]


def scaled_guide(problem, scale):
    """The exact posterior of each subset with its standard deviations multiplied."""

    def posterior(x, observed):
        exact = problem.best_diagonal(x)
        return dist.Normal(exact.mean, scale * exact.stddev).to_event(1)

    return FixedGuide(problem, posterior)


def measured(estimate, exact):
    """The bias of an estimate beside its stated error and k-hat."""
    bias = (estimate.values - exact).mean().item()
    return {
        "bias": bias,
        "stated": estimate.mc_se,
        "ratio": abs(bias) / estimate.mc_se,
        "khat": estimate.khat.median().item(),
        "unreliable": estimate.unreliable,
        "samples": estimate.num_samples.double().mean().item(),
    }


def estimates(dim, scale, args, seed):
    """The guide alone and the default proposal against the closed form, for both queries."""
    problem = LinearGaussian(2, dim)
    model, guide, x = problem.model(), scaled_guide(problem, scale), problem.sample(args.rows, seed=seed + 1)
    exact = (problem.log_evidence(x), problem.log_conditional(x, ["label"], ["image"]))
    torch.manual_seed(seed)
    alone = ImportanceSampling(scales=[1], related=0, prior=0, max_samples=args.samples)
    plain = [log_likelihood(model, guide, x, *query, args.samples, method=alone) for query in QUERIES]
    default = log_likelihoods(model, guide, x, QUERIES, args.samples)
    return {
        name: {
            "alone": measured(plain[index], exact[index]),
            "default": measured(default[index], exact[index]),
        }
        for index, name in enumerate(("evidence", "conditional"))
    }


def annealed(dim, args):
    """Annealed importance sampling and the sandwich against the closed form."""
    problem = LinearGaussian(2, dim)
    model, x = problem.model(), problem.sample(args.annealed_rows)
    settings = Annealing(num_chains=32, num_temperatures=args.temperatures, num_simulated=0)
    torch.manual_seed(args.seed)
    found = log_likelihood(model, problem.product_guide(), x, method=settings)
    bias = (found.values - problem.log_evidence(x)).mean().item()
    sandwich = bidirectional_sandwich(model, args.annealed_rows, settings=settings)
    return {
        "bias": bias,
        "stated": found.mc_se,
        "lower": sandwich.lower.mean,
        "upper": sandwich.upper.mean,
        "gap": sandwich.gap.value,
        "gap_se": sandwich.gap.se,
    }


def rejections(dim, scale, number, args):
    """Share of simulated data sets in which the ranks of a guide are found not to be uniform at 5 %."""
    problem = LinearGaussian(1, dim)
    model, guide = problem.model(), scaled_guide(problem, scale)
    test, rejected = UniformityTest(number, 99), 0
    for seed in range(args.repeats):
        torch.manual_seed(seed)
        ranks = calibrate(model, guide, simulate(model, number), ["image"])
        dims = dim * test.p_values(ranks.ranks).min().item()
        joint = test.p_values(ranks.joint_ranks[:, None]).item()
        rejected += 2 * min(dims, joint) < 0.05
    return rejected / args.repeats


def main(args):
    if args.smoke:
        args.dims, args.rows, args.seeds, args.samples = [2], 5, 1, 50
        args.annealed_rows, args.temperatures, args.repeats, args.numbers = 3, 10, 2, [50]
    report = {"settings": {name: value for name, value in vars(args).items() if name != "out"}, "versions": versions()}
    print(
        f"{'':34}{'guide alone':>30}{'default':>38}\n{'D, scale, what':34}"
        + f"{'bias':>10}{'stated':>10}{'k>0.7':>10}" * 2
    )
    report["estimates"], ratios, flagged = [], [], 0
    for dim in args.dims:
        for scale in SCALES:
            for seed in range(args.seeds):
                cells = estimates(dim, scale, args, seed)
                report["estimates"].append({"dim": dim, "scale": scale, "seed": seed, **cells})
                for name, cell in cells.items():
                    numbers = [cell[kind][field] for kind in cell for field in ("bias", "stated", "unreliable")]
                    line = "".join(f"{value:10.4f}" for value in numbers)
                    print(f"{dim:3} {scale:4} {name} {seed:<18}{line}", flush=True)
                    if cell["default"]["unreliable"]:
                        flagged += 1
                    else:
                        ratios.append(cell["default"]["ratio"])
    within = statistics.fmean(ratio <= 2 for ratio in ratios)
    report["summary"] = {"cells": len(ratios), "flagged": flagged, "within_two": within, "largest_ratio": max(ratios)}
    print(
        f"default: {within:.3f} of {len(ratios)} within two stated errors, largest {max(ratios):.1f}; {flagged} flagged"
    )

    report["annealed"] = {str(dim): annealed(dim, args) for dim in args.dims}
    for dim, found in report["annealed"].items():
        print(
            f"annealed, D = {dim}: bias {found['bias']:.4f}, stated {found['stated']:.4f}; sandwich "
            f"{found['lower']:.3f} to {found['upper']:.3f}, gap {found['gap']:.4f} ± {found['gap_se']:.4f}",
            flush=True,
        )

    report["rejections"] = []
    for dim in [dim for dim in args.dims if dim <= 16]:
        for number in args.numbers:
            shares = {str(scale): rejections(dim, scale, number, args) for scale in (1.0, 0.9, 0.8, 0.7, 0.5, 1.5)}
            report["rejections"].append({"dim": dim, "simulated": number, **shares})
            line = ", ".join(f"scale {scale}: {share:.2f}" for scale, share in shares.items())
            print(f"rejected, D = {dim}, {number} simulated data points: {line}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 6, 16, 64])
    parser.add_argument("--rows", type=int, default=50, help="data points")
    parser.add_argument("--samples", type=int, default=1000, help="importance samples per data point")
    parser.add_argument("--seeds", type=int, default=3, help="data sets per cell")
    parser.add_argument("--annealed-rows", type=int, default=20)
    parser.add_argument("--temperatures", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=100, help="simulated data sets per share of rejections")
    parser.add_argument("--numbers", type=int, nargs="+", default=[100, 500], help="simulated data points")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file of the numbers (.json)")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(arguments())
