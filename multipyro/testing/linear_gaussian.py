r"""A linear-Gaussian multimodal model, in which every quantity of the library has a closed form.

.. math:: z \sim N(0, I_D), \qquad x_m \mid z \sim N(W_m z + b_m, s_m^2 I)

Everything is computed in float64. If the columns of each `W_m` are orthogonal, the experts are diagonal and a product
of experts is the exact posterior; otherwise the best diagonal guide stays below the evidence by a known gap.
"""

import math
from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.batch import Values, subsets_of
from multipyro.guides import Guide, MixtureOfExperts, ProductOfExperts
from multipyro.ppl_models import MultimodalModel, NormalLikelihood

__all__ = ["DTYPE", "FixedGuide", "LinearEncoder", "LinearGaussian", "kl_normal"]

_NAMES = ("image", "label", "word", "sound", "touch")
DTYPE = torch.float64


class LinearEncoder(nn.Module):
    """The encoder `N(A x + a, diag(t^2))`, whose parameters all train.

    Args:
        matrix: `A`, `(latent_dim, size)`.
        bias: `a`, `(latent_dim,)`.
        scale: `t`, `(latent_dim,)`.

    Attributes:
        calls: How often it has been called.
    """

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
    """A guide whose posterior is computed by a function, such as the exact one.

    Args:
        problem: The model it is a guide for.
        function: Called as `function(x, observed)`, returns the posterior.

    Example:
        >>> problem = LinearGaussian()
        >>> guide = FixedGuide(problem, lambda x, observed: problem.posterior(x))
        >>> guide(problem.sample(5))["z"].shape
        torch.Size([5, 3])
    """

    def __init__(self, problem: "LinearGaussian", function: Callable[..., dist.Distribution]) -> None:
        super().__init__(problem.latent_dim, modalities=problem.modalities)
        self.function = function

    def posterior(self, x, observed=None):
        return self.function(x, observed)


class LinearGaussian:
    """The model, its closed forms, and its exact programs.

    Args:
        num_modalities: Number of modalities, 1 to 5.
        latent_dim: Size `D` of the latent.
        orthogonal: Whether the columns of each `W_m` are orthogonal.
        seed: Seed of the loadings and offsets.

    Example:
        The ELBO of the exact guide is the log-evidence:

        >>> from pyro.infer import Trace_ELBO
        >>> problem = LinearGaussian(num_modalities=2)
        >>> x = problem.sample(100)
        >>> bound = -Trace_ELBO().loss(problem.model(), problem.product_guide(), x)
        >>> torch.isclose(torch.tensor(bound), problem.log_evidence(x).sum().float())
        tensor(True)
    """

    def __init__(self, num_modalities: int = 2, latent_dim: int = 3, orthogonal: bool = True, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.modalities = _NAMES[:num_modalities]
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
        return subsets_of(self.modalities)

    def sample(self, rows: int, seed: int = 1) -> dict[str, Tensor]:
        """Samples of the model, modality name -> `(rows, size)`."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(rows, self.latent_dim, dtype=DTYPE, generator=generator)
        x = {}
        for name in self.modalities:
            mean = z @ self.loadings[name].T + self.offsets[name]
            x[name] = mean + self.scales[name] * torch.randn(mean.shape, dtype=DTYPE, generator=generator)
        return x

    def log_evidence(self, x: Values, subset=None) -> Tensor:
        """`log p(x_S)` of each example, `(rows,)`, in nats."""
        subset = [m for m in self.modalities if m in (x if subset is None else subset)]
        if not subset:
            return torch.zeros(len(next(iter(x.values()))), dtype=DTYPE)
        loading = torch.cat([self.loadings[m] for m in subset])
        noise = torch.cat([torch.full((len(self.loadings[m]),), self.scales[m] ** 2, dtype=DTYPE) for m in subset])
        mean = torch.cat([self.offsets[m] for m in subset])
        marginal = dist.MultivariateNormal(mean, loading @ loading.T + noise.diag())
        return marginal.log_prob(torch.cat([x[m] for m in subset], -1))

    def log_conditional(self, x: Values, target, given) -> Tensor:
        """`log p(x_T | x_S)` of each example, `(rows,)`, in nats."""
        return self.log_evidence(x, {*target, *given}) - self.log_evidence(x, given)

    def posterior(self, x: Values, subset=None) -> dist.MultivariateNormal:
        """`p(z | x_S)`, batch `(rows,)`; the prior for an empty subset."""
        precision = torch.eye(self.latent_dim, dtype=DTYPE)
        shift = torch.zeros(len(next(iter(x.values()))), self.latent_dim, dtype=DTYPE)
        for m in x if subset is None else subset:
            precision = precision + self.loadings[m].T @ self.loadings[m] / self.scales[m] ** 2
            shift = shift + (x[m] - self.offsets[m]) @ self.loadings[m] / self.scales[m] ** 2
        mean = torch.linalg.solve(precision, shift.T).T
        return dist.MultivariateNormal(mean, precision_matrix=precision)

    def best_diagonal(self, x: Values, subset=None) -> dist.Distribution:
        """The diagonal normal closest to the posterior in `KL(q || p)`: its mean, and its precisions' diagonal."""
        posterior = self.posterior(x, subset)
        scale = posterior.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        return dist.Normal(posterior.mean, scale.expand_as(posterior.mean)).to_event(1)

    def diagonal_gap(self, x: Values, subset=None) -> Tensor:
        """`KL(best diagonal || posterior)`, the same for every example; 0 with orthogonal loadings."""
        precision = self.posterior(x, subset).precision_matrix[0]
        return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))

    def expert(self, name: str, values: Tensor) -> dist.Distribution:
        """`p(z | x_m) / p(z)`, normalized over z (orthogonal loadings)."""
        return self.expert_encoder(name)(values)

    def expert_encoder(self, name: str) -> LinearEncoder:
        """The encoder of `p(z | x_m) / p(z)`, an expert of a product with the prior."""
        gram = self.loadings[name].T @ self.loadings[name]
        matrix = torch.linalg.solve(gram, self.loadings[name].T)
        return LinearEncoder(matrix, -matrix @ self.offsets[name], self.scales[name] * gram.diagonal().rsqrt())

    def posterior_encoder(self, name: str) -> LinearEncoder:
        """The encoder of `p(z | x_m)`, an expert of a mixture."""
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
        """The product of experts, exact with orthogonal loadings unless its experts are shifted and stretched."""
        encoders = {name: _moved(self.expert_encoder(name), shift, stretch) for name in self.modalities}
        return ProductOfExperts(self.latent_dim, encoders).double()

    def mixture_guide(self, shift: float = 0.0, stretch: float = 1.0) -> MixtureOfExperts:
        """The mixture of the `p(z | x_m)`, which is not exact with several modalities."""
        encoders = {name: _moved(self.posterior_encoder(name), shift, stretch) for name in self.modalities}
        return MixtureOfExperts(self.latent_dim, encoders).double()


def _moved(encoder: LinearEncoder, shift: float, stretch: float) -> LinearEncoder:
    with torch.no_grad():
        encoder.bias.add_(shift)
        encoder.log_scale.add_(math.log(stretch))
    return encoder


def kl_normal(left: dist.Distribution, right: dist.Distribution) -> Tensor:
    """KL(left || right) of diagonal normals from the textbook formula, `(rows,)`."""
    m1, v1 = left.mean, left.variance
    m2, v2 = right.mean, right.variance
    return 0.5 * ((v2 / v1).log() + (v1 + (m1 - m2) ** 2) / v2 - 1).sum(-1)
