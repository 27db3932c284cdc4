"""Closed forms in the linear-Gaussian model that several tests share."""

import math

import torch

from multipyro.testing import DTYPE, LinearEncoder

__all__ = ["expected_log_likelihood", "largest", "random_encoders", "train"]


def expected_log_likelihood(problem, name, values, q):
    """`E_q log p(x_m | z)` for a diagonal normal, `(rows,)`, nats."""
    loading, variance = problem.loadings[name], problem.scales[name] ** 2
    miss = (values - problem.offsets[name] - q.mean @ loading.T).square() + q.variance @ loading.square().T
    return (-0.5 * miss / variance - 0.5 * math.log(2 * math.pi * variance)).sum(-1)


def random_encoders(problem, seed=0):
    """Linear encoders that know nothing yet."""
    generator = torch.Generator().manual_seed(seed)
    encoders = {}
    for m in problem.modalities:
        matrix = 0.1 * torch.randn(problem.latent_dim, len(problem.offsets[m]), dtype=DTYPE, generator=generator)
        one = torch.ones(problem.latent_dim, dtype=DTYPE)
        encoders[m] = LinearEncoder(matrix, 0 * one, one)
    return encoders


def largest(value, parameters, steps=500):
    """The largest value of a differentiable function of the parameters, found without noise."""
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -value()
        loss.backward()
        return loss

    optimizer.step(closure)
    return -closure().item()


def train(loss, model, guide, x, parameters, steps=300, lr=0.03, seed=0):
    """Adam on all rows at once."""
    torch.manual_seed(seed)
    parameters = list(parameters)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss.loss_and_grads(model, guide, x)
        optimizer.step()
