r"""How biased are the gradient estimators of the K-sample bounds, for decoders and for encoders?

The model is linear and Gaussian with a latent of one dimension, the guide a mixture of one normal expert per modality.
The bound is then a low-dimensional Gaussian integral, whose exact gradient is computed by quadrature and compared with
the average of many samples of each estimator of `StratifiedELBO`:

* `reparam`, the plain reparametrized gradient, is unbiased for both bounds;
* `dreg` (Tucker et al., 2019, eq. 8, as used by Shi et al., 2019) is exact for decoders; for encoders it is exact with
  one expert, or with one sample per stratum of the stratified bound, and biased otherwise, because a sample comes from
  its expert while its weight contains the mixture;
* `stl`, which drops the path through the density's parameters, is what MMVAE's released code computes. For K > 1 its
  encoder gradient is far off.

A bias is printed relative to the norm of the exact gradient, with its standard error: below about three standard
errors it cannot be distinguished from 0. `python examples/benchmarks/gradient_bias.py` takes about a minute on one
core.
"""

import argparse
import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives import StratifiedELBO
from multipyro.ppl_models import MultimodalModel, NormalLikelihood

#: Experts, samples of each, bound.
SETTINGS = (
    (1, 3, "stratified"),
    (2, 1, "stratified"),
    (2, 2, "stratified"),
    (2, 4, "stratified"),
    (3, 2, "stratified"),
    (2, 1, "tight"),
    (2, 2, "tight"),
    (3, 1, "tight"),
)
GRADIENTS = ("reparam", "dreg", "stl")
#: Quadrature nodes per dimension, by the number of dimensions; the error is below 1e-4 of the gradient's norm.
NODES = {1: 200, 2: 200, 3: 96, 4: 32}


class LinearEncoder(nn.Module):
    """`N(a x + b, s^2)` of a single number; all parameters train."""

    def __init__(self, slope: float, bias: float, scale: float) -> None:
        super().__init__()
        self.slope, self.bias = nn.Parameter(torch.tensor(slope)), nn.Parameter(torch.tensor(bias))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, values: Tensor) -> dist.Distribution:
        loc = self.slope * values + self.bias
        return dist.Normal(loc, self.log_scale.exp().expand_as(loc)).to_event(1)


def programs(number: int) -> tuple[MultimodalModel, MixtureOfExperts, dict[str, Tensor]]:
    """Model, guide and one example, with each expert close to the posterior of its modality but not equal to it."""
    names = [f"modality_{position}" for position in range(number)]
    likelihoods = {}
    for position, name in enumerate(names):
        network = nn.Linear(1, 1)
        nn.init.constant_(network.weight, 1.0 + 0.3 * position)
        nn.init.constant_(network.bias, 0.2 * position)
        likelihoods[name] = NormalLikelihood(network, scale=0.7)
    model = MultimodalModel(1, likelihoods).double()
    guide = MixtureOfExperts(1, {m: LinearEncoder(0.6, 0.5 - 0.6 * i, 0.5 + 0.1 * i) for i, m in enumerate(names)})
    x = {name: torch.tensor([[0.8 - 0.9 * position]], dtype=torch.float64) for position, name in enumerate(names)}
    return model, guide.double(), x


def hermite(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the expectation under `N(0, 1)`, from the eigenvalues of the Jacobi matrix."""
    off = torch.arange(1, nodes, dtype=torch.float64).sqrt()
    values, vectors = torch.linalg.eigh(off.diag(1) + off.diag(-1))
    return values, vectors[0] ** 2


def expected_log_mean(log_weights: list[Tensor], weights: Tensor) -> Tensor:
    """`E log mean_i w_i` over independent samples, given each sample's `log w` at the quadrature nodes."""
    count = len(log_weights)
    shapes = [[-1 if i == j else 1 for j in range(count)] for i in range(count)]
    total, weight = log_weights[0].reshape(shapes[0]), weights.reshape(shapes[0])
    for log_weight, shape in zip(log_weights[1:], shapes[1:], strict=True):
        total = torch.logaddexp(total, log_weight.reshape(shape))
        weight = weight * weights.reshape(shape)
    return ((total - math.log(count)) * weight).sum()


def exact_bound(
    model: MultimodalModel, guide: MixtureOfExperts, x: dict[str, Tensor], particles: int, bound: str
) -> Tensor:
    """The expectation of the bound, differentiable in every parameter."""
    experts = list(guide.experts(x).values())
    loc = torch.stack([expert.mean[0, 0] for expert in experts])
    scale = torch.stack([expert.stddev[0, 0] for expert in experts])
    dimensions = particles * (len(experts) if bound == "tight" else 1)
    nodes, weights = hermite(NODES[dimensions])
    z = loc[:, None] + scale[:, None] * nodes
    log_joint = dist.Normal(0.0, 1.0).log_prob(z)
    for name, values in x.items():
        log_joint = log_joint + model.likelihoods[name](z.unsqueeze(-1)).log_prob(values)
    log_mixture = dist.Normal(loc, scale).log_prob(z.unsqueeze(-1)).logsumexp(-1) - math.log(len(experts))
    log_w = list(log_joint - log_mixture)
    if bound == "tight":
        return expected_log_mean([w for w in log_w for _ in range(particles)], weights)
    return torch.stack([expected_log_mean([w] * particles, weights) for w in log_w]).mean()


def measure(
    number: int, particles: int, bound: str, rows: int, calls: int
) -> list[tuple[float, list[tuple[float, float]]]]:
    """For decoders, then encoders: norm of the exact gradient; relative bias and standard error of each estimator."""
    model, guide, x = programs(number)
    parameters = [*model.parameters(), *guide.parameters()]
    parts = [sum(p.numel() for p in program.parameters()) for program in (model, guide)]
    exact = torch.autograd.grad(exact_bound(model, guide, x, particles, bound), parameters)
    exact = torch.cat([part.flatten() for part in exact]).split(parts)
    repeated = {name: values.expand(rows, 1) for name, values in x.items()}  # each row is an independent sample
    table: list[tuple[float, list[tuple[float, float]]]] = [(part.norm().item(), []) for part in exact]
    for gradient in GRADIENTS:
        elbo = StratifiedELBO(particles, gradient, bound)
        estimates = []
        for _ in range(calls):
            # a loss is minus the bound
            gradients = torch.autograd.grad(-elbo.differentiable_loss(model, guide, repeated) / rows, parameters)
            estimates.append(torch.cat([part.flatten() for part in gradients]))
        samples = torch.stack(estimates)
        mean, error = samples.mean(0).split(parts), (samples.std(0) / math.sqrt(calls)).split(parts)
        for (norm, line), estimated, correct, spread in zip(table, mean, exact, error, strict=True):
            line.append(((estimated - correct).norm().item() / norm, spread.norm().item() / norm))
    return table


def main(args: argparse.Namespace) -> None:
    """Prints the table."""
    torch.manual_seed(args.seed)
    settings = SETTINGS[1:6:2] if args.smoke else SETTINGS
    rows, calls = (500, 10) if args.smoke else (args.rows, args.calls)
    print(f"bias of the gradient, share of the exact norm (standard error); {rows * calls} samples")
    print(
        f"{'bound':<11}{'experts':>8}{'K':>4}  {'of':<9}{'exact norm':>11}"
        + "".join(f"{name:>17}" for name in GRADIENTS)
    )
    for number, particles, bound in settings:
        parts = measure(number, particles, bound, rows, calls)
        for part, (norm, line) in zip(("decoders", "encoders"), parts, strict=True):
            cells = "".join(f"{f'{bias:.4f} ({error:.4f})':>17}" for bias, error in line)
            print(f"{bound:<11}{number:>8}{particles:>4}  {part:<9}{norm:>11.4f}{cells}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5000, help="samples per call")
    parser.add_argument("--calls", type=int, default=60, help="calls of each estimator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few samples of some settings, to check that it runs")
    main(parser.parse_args())
