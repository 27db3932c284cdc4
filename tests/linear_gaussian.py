r"""A linear-Gaussian multimodal model, in which every quantity of the library has a closed form.

.. math:: z \sim N(0, I_D), \qquad x_m \mid z \sim N(W_m z + b_m, s_m^2 I)

Everything is computed in float64. With orthogonal columns in each `W_m` the experts are diagonal and a product of
experts is the exact posterior; with generic loadings the best diagonal guide stays below the evidence by a known gap.
"""

import itertools
import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.guides import Guide, MixtureOfExperts, ProductOfExperts
from multipyro.ppl_models import MultimodalModel, NormalLikelihood

__all__ = [
    "FixedGuide",
    "LinearEncoder",
    "LinearGaussian",
    "exact_bound",
    "gradient_samples",
    "kl_normal",
    "mean_and_se",
    "repeated",
]

NAMES = ("image", "label", "word", "sound", "touch")
DTYPE = torch.float64


class LinearEncoder(nn.Module):
    """`N(A x + a, diag(t^2))`, everything learnable."""

    def __init__(self, matrix: Tensor, bias: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.matrix, self.bias = nn.Parameter(matrix.contiguous()), nn.Parameter(bias.clone())
        self.log_scale = nn.Parameter(scale.log())
        self.calls = 0

    def forward(self, values: Tensor) -> dist.Distribution:
        self.calls += 1
        loc = values @ self.matrix.T + self.bias
        return dist.Normal(loc, self.log_scale.exp().expand_as(loc)).to_event(1)


class FixedGuide(Guide):
    """A guide that answers any `x` with one given distribution, or with `function(x, observed)`."""

    def __init__(self, problem: "LinearGaussian", function) -> None:
        super().__init__(problem.latent_dim, modalities=problem.modalities)
        self.function = function

    def posterior(self, x, observed=None):
        return self.function(x, observed)


class LinearGaussian:
    """The model, its closed forms, and its exact programs.

    Args:
        num_modalities: 1 to 5.
        latent_dim: `D`.
        orthogonal: Whether the columns of each loading matrix are orthogonal.
        seed: Seed of the loadings, offsets and scales.
    """

    def __init__(self, num_modalities: int = 2, latent_dim: int = 3, orthogonal: bool = True, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.modalities = NAMES[:num_modalities]
        self.latent_dim = latent_dim
        self.loadings, self.offsets, self.scales = {}, {}, {}
        for position, name in enumerate(self.modalities):
            size = latent_dim + 1 + position % 2
            loading = torch.randn(size, latent_dim, dtype=DTYPE, generator=generator)
            if orthogonal:
                widths = 0.5 + torch.rand(latent_dim, dtype=DTYPE, generator=generator)
                loading = torch.linalg.qr(loading).Q * widths
            self.loadings[name] = loading
            self.offsets[name] = torch.randn(size, dtype=DTYPE, generator=generator)
            self.scales[name] = 0.6 + 0.2 * position

    def subsets(self) -> list[tuple[str, ...]]:
        """Every non-empty subset."""
        sizes = range(1, len(self.modalities) + 1)
        return [subset for size in sizes for subset in itertools.combinations(self.modalities, size)]

    def sample(self, rows: int, seed: int = 1) -> dict[str, Tensor]:
        """Data of the model, name -> `(rows, size)`."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(rows, self.latent_dim, dtype=DTYPE, generator=generator)
        x = {}
        for name in self.modalities:
            mean = z @ self.loadings[name].T + self.offsets[name]
            x[name] = mean + self.scales[name] * torch.randn(mean.shape, dtype=DTYPE, generator=generator)
        return x

    def log_evidence(self, x: dict[str, Tensor], subset=None) -> Tensor:
        """`log p(x_S)` of each row, `(rows,)`, nats."""
        subset = [m for m in self.modalities if m in (x if subset is None else subset)]
        if not subset:
            return torch.zeros(len(next(iter(x.values()))), dtype=DTYPE)
        loading = torch.cat([self.loadings[m] for m in subset])
        noise = torch.cat([torch.full((len(self.loadings[m]),), self.scales[m] ** 2, dtype=DTYPE) for m in subset])
        mean = torch.cat([self.offsets[m] for m in subset])
        marginal = torch.distributions.MultivariateNormal(mean, loading @ loading.T + noise.diag())
        return marginal.log_prob(torch.cat([x[m] for m in subset], -1))

    def log_conditional(self, x: dict[str, Tensor], target, given) -> Tensor:
        """`log p(x_T | x_S)` of each row, `(rows,)`, nats."""
        return self.log_evidence(x, {*target, *given}) - self.log_evidence(x, given)

    def posterior(self, x: dict[str, Tensor], subset=None) -> torch.distributions.MultivariateNormal:
        """`p(z | x_S)`, batch `(rows,)`; the prior for an empty subset."""
        precision = torch.eye(self.latent_dim, dtype=DTYPE)
        shift = torch.zeros(len(next(iter(x.values()))), self.latent_dim, dtype=DTYPE)
        for m in x if subset is None else subset:
            precision = precision + self.loadings[m].T @ self.loadings[m] / self.scales[m] ** 2
            shift = shift + (x[m] - self.offsets[m]) @ self.loadings[m] / self.scales[m] ** 2
        mean = torch.linalg.solve(precision, shift.T).T
        return torch.distributions.MultivariateNormal(mean, precision_matrix=precision)

    def best_diagonal(self, x: dict[str, Tensor], subset=None) -> dist.Distribution:
        """The diagonal normal closest to the posterior in `KL(q || p)`: its mean, and its precisions' diagonal."""
        posterior = self.posterior(x, subset)
        scale = posterior.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        return dist.Normal(posterior.mean, scale.expand_as(posterior.mean)).to_event(1)

    def diagonal_gap(self, x: dict[str, Tensor], subset=None) -> Tensor:
        """`KL(best diagonal || posterior)`, equal in every row; 0 with orthogonal loadings."""
        precision = self.posterior(x, subset).precision_matrix[0]
        return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))

    def expert(self, name: str, values: Tensor) -> dist.Distribution:
        """`p(z | x_m) / p(z)`, normalized over z (orthogonal loadings)."""
        return self.expert_encoder(name)(values)

    def expert_encoder(self, name: str) -> LinearEncoder:
        """The encoder that gives `p(z | x_m) / p(z)`."""
        gram = self.loadings[name].T @ self.loadings[name]
        matrix = torch.linalg.solve(gram, self.loadings[name].T)
        return LinearEncoder(matrix, -matrix @ self.offsets[name], self.scales[name] * gram.diagonal().rsqrt())

    def posterior_encoder(self, name: str) -> LinearEncoder:
        """The encoder that gives the diagonal `p(z | x_m)`."""
        gram = self.loadings[name].T @ self.loadings[name] / self.scales[name] ** 2
        precision = torch.eye(self.latent_dim, dtype=DTYPE) + gram
        matrix = torch.linalg.solve(precision, self.loadings[name].T) / self.scales[name] ** 2
        return LinearEncoder(matrix, -matrix @ self.offsets[name], precision.diagonal().rsqrt())

    def model(self) -> MultimodalModel:
        """The generative program with the true parameters."""
        likelihoods = {}
        for name in self.modalities:
            network = nn.Linear(self.latent_dim, len(self.offsets[name]), dtype=DTYPE)
            network.weight.data.copy_(self.loadings[name])
            network.bias.data.copy_(self.offsets[name])
            likelihoods[name] = NormalLikelihood(network, scale=self.scales[name]).double()
            likelihoods[name].log_scale.fill_(math.log(self.scales[name]))
        return MultimodalModel(self.latent_dim, likelihoods).double()

    def product_guide(self, shift: float = 0.0, stretch: float = 1.0) -> ProductOfExperts:
        """Exact at `shift=0, stretch=1` (orthogonal loadings), else every expert moved and widened."""
        encoders = {name: _moved(self.expert_encoder(name), shift, stretch) for name in self.modalities}
        return ProductOfExperts(self.latent_dim, encoders).double()

    def mixture_guide(self, shift: float = 0.0, stretch: float = 1.0) -> MixtureOfExperts:
        """The mixture of the `p(z | x_m)`, which no shift makes exact with several modalities."""
        encoders = {name: _moved(self.posterior_encoder(name), shift, stretch) for name in self.modalities}
        return MixtureOfExperts(self.latent_dim, encoders).double()


def _moved(encoder: LinearEncoder, shift: float, stretch: float) -> LinearEncoder:
    with torch.no_grad():
        encoder.bias.add_(shift)
        encoder.log_scale.add_(math.log(stretch))
    return encoder


def kl_normal(left: dist.Distribution, right: dist.Distribution) -> Tensor:
    """KL(left || right) of diagonal normals by the formula of the textbooks, `(rows,)`."""
    m1, v1 = left.mean, left.variance
    m2, v2 = right.mean, right.variance
    return 0.5 * ((v2 / v1).log() + (v1 + (m1 - m2) ** 2) / v2 - 1).sum(-1)


def repeated(x: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The first row of `x`, `rows` times: one call of a loss is then `rows` independent draws."""
    return {name: values[:1].repeat(rows, *[1] * (values.dim() - 1)) for name, values in x.items()}


def mean_and_se(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first dimension and its standard error."""
    return samples.mean(0), samples.std(0) / math.sqrt(len(samples))


def gradient_samples(loss, model, guide, x, parameters, calls: int) -> Tensor:
    """Gradient of the bound per row of `x`, one independent estimate a call, `(calls, number of entries)`."""
    rows = len(next(iter(x.values())))
    estimates = []
    for seed in range(calls):
        torch.manual_seed(seed)
        gradients = torch.autograd.grad(-loss.differentiable_loss(model, guide, x) / rows, parameters)
        estimates.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(estimates)


def exact_bound(
    model: MultimodalModel, guide: Guide, x: dict[str, Tensor], num_particles: int, bound: str, nodes: int = 24
) -> Tensor:
    """The expectation of a K-sample bound at the first row of `x`, by Gauss-Hermite quadrature (`latent_dim` 1).

    Differentiable in every parameter of model and guide. The experts must be normal, equally weighted.

    Args:
        model: The generative program.
        guide: `MixtureOfExperts` or a guide of one expert.
        x: Modality name -> values.
        num_particles: `K`, samples of each expert.
        bound: `"stratified"` (mean over experts of the log of a mean) or `"tight"` (one log of one mean).
        nodes: Quadrature nodes a dimension.
    """
    x = {name: values[:1] for name, values in x.items()}
    experts = list(guide.experts(x).values())
    loc = torch.stack([expert.mean[0, 0] for expert in experts])
    scale = torch.stack([expert.base_dist.scale[0, 0] for expert in experts])
    abscissae, weights = _hermite(nodes)
    z = loc[:, None] + scale[:, None] * abscissae  # (experts, nodes)
    log_joint = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    for name, values in x.items():
        log_joint = log_joint + model.likelihoods[name](z.unsqueeze(-1)).log_prob(values)
    log_mixture = dist.Normal(loc, scale).log_prob(z.unsqueeze(-1)).logsumexp(-1) - math.log(len(experts))
    log_w = log_joint - log_mixture
    if bound == "stratified":
        return torch.stack([_expected_log_mean([row] * num_particles, weights) for row in log_w]).mean()
    return _expected_log_mean([row for row in log_w for _ in range(num_particles)], weights)


def _hermite(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the expectation under `N(0, 1)`, from the eigenvalues of the Jacobi matrix."""
    off = torch.arange(1, nodes, dtype=DTYPE).sqrt()
    values, vectors = torch.linalg.eigh(off.diag(1) + off.diag(-1))
    return values, vectors[0] ** 2


def _expected_log_mean(log_ws: list[Tensor], weights: Tensor) -> Tensor:
    """`E log mean_i w_i` over independent samples, each with its own values at the quadrature nodes."""
    count = len(log_ws)
    grids = [w.reshape([-1 if i == j else 1 for j in range(count)]) for i, w in enumerate(log_ws)]
    total, weight = grids[0], torch.ones((), dtype=DTYPE)
    for i, grid in enumerate(grids):
        total = total if i == 0 else torch.logaddexp(total, grid)
        weight = weight * weights.reshape([-1 if i == j else 1 for j in range(count)])
    return ((total - math.log(count)) * weight).sum()
