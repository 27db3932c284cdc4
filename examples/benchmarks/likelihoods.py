"""What does `log_likelihood` cost over a batched loop written by hand?

The loops have the networks of a model and a guide for 784 binary pixels and a label. They encode a chunk of rows once,
sample the guide, decode as many samples at once as memory allows, and add up the weights: no Pyro, no distributions,
no diagnostics. One is for log p(image, label), the other for five likelihoods from common samples, those that
`evaluate` estimates: log p(image, label), log p(image), log p(label) and the two conditionals. The library's functions
are timed with the same proposal (the guide alone, nothing refined) and with their default proposal. All are run in
turn, in seconds of this process alone; what counts is the ratio of the fastest runs.

Measured (25 rows, K = 1000, one thread): with the same proposal 1.00 and 0.99 times the time of the loops for one and
for five likelihoods, with the default one 1.01 and 1.07 times.
"""

import argparse
import math
import statistics
import time

import torch
from torch.nn import functional

from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.inference.evaluation import ImportanceSampling, log_likelihoods
from multipyro.ppl_models import MLP, BernoulliLikelihood, CategoricalLikelihood, MultimodalModel, OneHotMLP

_CHUNK = 8_000_000
ALONE = {"scales": [1], "related": 0, "prior": 0}
EVIDENCES = [("image", "label"), ("image",), ("label",)]
QUERIES = [*((subset, None) for subset in EVIDENCES), ("label", "image"), ("image", "label")]


def programs(latent_dim, hidden):
    likelihoods = {
        "image": BernoulliLikelihood(MLP(latent_dim, 784, hidden)),
        "label": CategoricalLikelihood(MLP(latent_dim, 10, hidden)),
    }
    encoders = {
        "image": NormalEncoder(MLP(784, hidden[-1], hidden[:-1], activate_output=True), latent_dim),
        "label": NormalEncoder(OneHotMLP(10, hidden[-1], hidden[:-1]), latent_dim),
    }
    return MultimodalModel(latent_dim, likelihoods), ProductOfExperts(latent_dim, encoders)


def posterior(experts):
    """Mean and standard deviation of the product of the experts and the prior."""
    precision = 1 + sum(expert.scale**-2 for expert in experts)
    return sum(expert.loc * expert.scale**-2 for expert in experts) / precision, precision.rsqrt()


def log_normal(z, mean, std):
    """The log-density, without the constant that those of all latents share."""
    return -(0.5 * ((z - mean) / std).square() + std.log()).sum(-1, dtype=torch.float64)


@torch.no_grad()
def weights_by_hand(model, guide, x, subsets, num_samples):
    """Of each chunk of rows `log p(z) - log r(z)` and the log-likelihoods of both modalities, `(samples, rows)` each.

    The proposal `r` is the mixture of the guide given each of the subsets.
    """
    image, label = (model.likelihoods[name].network for name in ("image", "label"))
    rows = max(1, _CHUNK // (784 * 64))
    for start in range(0, len(x["image"]), rows):
        pixels, classes = x["image"][start : start + rows], x["label"][start : start + rows]
        values = {"image": pixels, "label": classes}
        experts = {name: guide.encoders[name](values[name]).base_dist for name in values}
        normals = [posterior([experts[name] for name in subset]) for subset in subsets]
        zero, one = torch.zeros_like(normals[0][0]), torch.ones_like(normals[0][0])
        parts = []
        size = max(1, _CHUNK // (784 * len(pixels)))
        for mean, std in normals:
            for first in range(0, num_samples, size):
                z = mean + std * torch.randn(min(size, num_samples - first), *mean.shape)
                logits = image(z)
                log_image = -functional.binary_cross_entropy_with_logits(
                    logits, pixels.expand_as(logits), reduction="none"
                ).sum(-1, dtype=torch.float64)
                log_label = label(z).log_softmax(-1).gather(-1, classes.expand(z.shape[:-1]).unsqueeze(-1))[..., 0]
                mixture = torch.stack([log_normal(z, *normal) for normal in normals]).logsumexp(0)
                log_ratio = log_normal(z, zero, one) - mixture + math.log(len(normals))
                parts.append((log_ratio, log_image, log_label.double()))
        yield [torch.cat(column) for column in zip(*parts, strict=True)]


def one_by_hand(model, guide, x, num_samples):
    """The values of log p(image, label)."""
    chunks = weights_by_hand(model, guide, x, [("image", "label")], num_samples)
    return [torch.cat([sum(parts).logsumexp(0) - math.log(num_samples) for parts in chunks])]


def five_by_hand(model, guide, x, num_samples):
    """The values of the joint likelihood, both single ones, and both conditionals, in the order of `QUERIES`."""
    values = []
    for base, image, label in weights_by_hand(model, guide, x, EVIDENCES, num_samples):
        sums = [(base + scores).logsumexp(0) for scores in (image + label, image, label)]
        both, one, other = (each - math.log(len(base)) for each in sums)
        values.append((both, one, other, both - one, both - other))
    return [torch.cat(column) for column in zip(*values, strict=True)]


def main(args):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rows, samples, hidden, rounds = (
        (8, 50, (16, 16), 1) if args.smoke else (args.rows, args.samples, (512, 512), args.rounds)
    )
    model, guide = programs(64, hidden)
    x = {"image": torch.rand(rows, 784).round(), "label": torch.randint(10, (rows,))}
    both = [(("image", "label"), None)]

    def ours(queries, **proposal):
        estimates = log_likelihoods(
            model, guide, x, queries, samples, method=ImportanceSampling(**proposal, max_samples=samples)
        )
        return [each.values for each in estimates]

    ways = {
        "one likelihood, by hand": lambda: one_by_hand(model, guide, x, samples),
        "one likelihood, same proposal": lambda: ours(both, **ALONE),
        "one likelihood, default proposal": lambda: ours(both),
        "five likelihoods, by hand": lambda: five_by_hand(model, guide, x, samples),
        "five likelihoods, same proposal": lambda: ours(QUERIES, **ALONE),
        "five likelihoods, default proposal": lambda: ours(QUERIES),
    }
    seconds = {name: [] for name in ways}
    values = {}
    for _ in range(rounds + 1):  # the first round warms up
        for name, run in ways.items():
            started = time.process_time()
            values[name] = [each.mean().item() for each in run()]
            seconds[name].append(time.process_time() - started)
    best = {name: min(times[1:]) for name, times in seconds.items()}
    for name, time_taken in best.items():
        spread = statistics.median(seconds[name][1:]) / time_taken
        ratio = time_taken / best[f"{name.split(',')[0]}, by hand"]
        means = " ".join(f"{value:.2f}" for value in values[name])
        print(f"{name:34} {time_taken:7.2f} s  ratio {ratio:.3f}  median/fastest {spread:.2f}  means {means}")


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="only show that it runs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(arguments())
