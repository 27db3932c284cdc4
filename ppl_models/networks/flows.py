"""Real-NVP flows: distributions over the latent from a base and affine half couplings, conditional or not."""

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import ConditionalAffineCoupling, Permute
from pyro.nn import ConditionalDenseNN
from torch import Tensor, nn
from torch.func import functional_call

from multipyro.ppl_models import StandardNormalPrior
from multipyro.ppl_models.networks.heads import _features

__all__ = ["ConditionalFlow", "FlowDistribution", "FlowPrior", "RealNVP"]

# one half coupling scales by 1/e to e, so that six steps reach e^6. Looser bounds gain nothing (measured); with e^3 and
# one hidden layer, whose outputs grow with what it sees, gradients of 1e9 have undone a training
_MAX_LOG_SCALE = 1.0
_MEAN_POINTS = 64
# not zero, so that the hidden layers have a gradient from the first step on
_FIRST_WEIGHTS = 1e-3


class FlowDistribution(dist.TransformedDistribution):
    r"""A base distribution pushed through a flow, with a mean by quasi-Monte Carlo.

    Example:
        >>> RealNVP(2)(StandardNormalPrior(2)()).mean.shape
        torch.Size([2])
    """

    @property
    def mean(self) -> Tensor:
        """The mean over 64 scrambled Sobol points of the base, the same ones at every call: `(..., latent_dim)`.

        There is no closed form. The error is a few hundredths of the standard deviation.
        """
        base = self.base_dist
        engine = torch.quasirandom.SobolEngine(self.event_shape[-1], scramble=True, seed=0)
        # the points of a scrambled sequence may touch 0, where a quantile is infinite
        points = engine.draw(_MEAN_POINTS, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
        independent = getattr(base, "base_dist", base)
        total = torch.zeros(())
        for point in points.to(base.mean):  # one at a time: memory stays that of one sample
            value = independent.icdf(point.expand(base.batch_shape + base.event_shape))
            for transform in self.transforms:
                value = transform(value)
            total = total + value
        return total / _MEAN_POINTS


class RealNVP(nn.Module):
    r"""A real-NVP flow of several steps, each of which moves both halves of the latent in turn.

    .. math:: z_1' = z_1 \odot \sigma_1(z_2, c) + \mu_1(z_2, c), \qquad
        z_2' = z_2 \odot \sigma_2(z_1', c) + \mu_2(z_1', c)

    The halves are others in every step (odd coordinates first, then even ones, over and over), so that six steps part
    every two of up to 64 coordinates. With the same halves throughout, two coordinates of one half only meet by way of
    the other, and for a latent whose two active coordinates lay in one half 30 epochs gained nothing (measured).

    It starts close to the identity. Each scale lies between :math:`e^{-1}` and :math:`e`, a smooth bound that keeps
    clear of the clamp in Pyro's coupling, whose gradient is wrong where it bites.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1.1, eq. 7 and 8 (read with the moved `z_1` in eq. 8, which the determinant given with them
        needs); Density estimation using Real NVP (Dinh et al., 2017). Departures: changing halves, where the paper
        names none; the released scales are sigmoids, which only contract, its networks one layer of 50 tanh units.

    Args:
        latent_dim: Size of the latent, at least 2.
        context_dim: Number of features `c` that every half coupling sees; 0 for an unconditional flow.
        steps: Number of steps, two half couplings each.
        hidden_features: Widths of the hidden layers of each half coupling.

    Raises:
        ValueError: If `latent_dim` is below 2, so that there are no halves, or `steps` below 1.

    Example:
        >>> flow = RealNVP(3, context_dim=4)
        >>> flow(StandardNormalPrior(3)(), torch.zeros(5, 4)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self, latent_dim: int, context_dim: int = 0, steps: int = 6, hidden_features: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"a flow of half couplings needs a latent of size 2 or more, got {latent_dim}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        first = latent_dim // 2
        # (size of the half that is looked at, size of the half that moves) of each coupling
        self.sizes = [(latent_dim - first, first), (first, latent_dim - first)] * steps
        self.orders = _orders(latent_dim, first, steps)
        self.couplings = nn.ModuleList(
            ConditionalDenseNN(seen, context_dim, list(hidden_features), [moved, moved], nn.SiLU())
            for seen, moved in self.sizes
        )
        for coupling in self.couplings:
            last = coupling.layers[-1]
            nn.init.normal_(last.weight, std=_FIRST_WEIGHTS)
            nn.init.zeros_(last.bias)

    @property
    def is_trained(self) -> bool:
        """Whether the biases of the outputs have left the zero that they are at before the first step of training."""
        return any(bool(coupling.layers[-1].bias.any()) for coupling in self.couplings)

    def forward(self, base: dist.Distribution, context: Tensor | None = None) -> FlowDistribution:
        """The base pushed through the flow.

        Args:
            base: A distribution of event shape `(latent_dim,)`.
            context: Features `(batch, context_dim)`; None for an unconditional flow.
        """
        context = base.mean.new_zeros(0) if context is None else context
        base = base.expand(torch.broadcast_shapes(base.batch_shape, context.shape[:-1]))
        *before, last = [Permute(torch.tensor(order, device=context.device)) for order in self.orders]
        transforms = []
        for order, (seen, _), network in zip(before, self.sizes, self.couplings, strict=True):
            transforms += [order, ConditionalAffineCoupling(seen, _captured(network)).condition(context)]
        transforms.append(last)
        return FlowDistribution(base, transforms)


class ConditionalFlow(nn.Module):
    r"""An encoder that gives a flow: a base pushed through couplings that all see the features of `x_m`.

    .. math:: q(z \mid x_m) = N(f^{-1}(z; c); 0, I)\,
        \left| \det \frac{\partial f^{-1}(z; c)}{\partial z} \right|, \qquad c = h(x_m)

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1.1. The released code's last version is a Gaussian whose moments come from the text and
        two couplings that do not see it; a `base` encoder allows the former.

    Args:
        network: Feature network `h`; its attribute `out_features` gives their number.
        latent_dim: Size of the latent, at least 2.
        steps: As in `RealNVP`.
        hidden_features: As in `RealNVP`.
        base: Encoder from `x_m` to a base of independent components, `N(0, I)` if None.

    Returns (when called):
        A `FlowDistribution` of batch shape `(batch,)` and event shape `(latent_dim,)`.

    Example:
        >>> from multipyro.ppl_models import MLP
        >>> ConditionalFlow(MLP(16, 8), latent_dim=3)(torch.zeros(5, 16)).rsample((2,)).shape
        torch.Size([2, 5, 3])
    """

    def __init__(
        self,
        network: nn.Module,
        latent_dim: int,
        steps: int = 6,
        hidden_features: Sequence[int] = (64, 64),
        base: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.couplings = RealNVP(latent_dim, _features(network), steps, hidden_features)
        self.standard = StandardNormalPrior(latent_dim)
        self.base = base

    @property
    def is_trained(self) -> bool:
        """As that of its `RealNVP`."""
        return self.couplings.is_trained

    def forward(self, values: Tensor) -> FlowDistribution:
        base = self.standard() if self.base is None else self.base(values)
        return self.couplings(base, self.network(values))


class FlowPrior(nn.Module):
    r"""A prior that a flow can take the place of: its base until the flow has been trained, the flow from then on.

    .. math:: p(z) = p_0(f^{-1}(z))\, \left| \det \frac{\partial f^{-1}(z)}{\partial z} \right|

    Before the flow has trained, calling it gives the base itself, so that whatever trains before the flow has the
    prior, the closed-form divergences and the random numbers of a model without it. `flow` gives the flow at all times
    and is what is trained.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), sections 4.2 and 5.1.1.

    Args:
        latent_dim: Size of the latent, at least 2.
        steps: As in `RealNVP`.
        hidden_features: As in `RealNVP`.
        base: Module that returns a base of independent components when called; `N(0, I)` if None.

    Returns (when called):
        A distribution of batch shape `()` and event shape `(latent_dim,)`.

    Example:
        >>> prior = FlowPrior(3)
        >>> type(prior().base_dist).__name__, type(prior.flow()).__name__
        ('Normal', 'FlowDistribution')
    """

    def __init__(
        self,
        latent_dim: int,
        steps: int = 6,
        hidden_features: Sequence[int] = (64, 64),
        base: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.couplings = RealNVP(latent_dim, 0, steps, hidden_features)
        self.base = StandardNormalPrior(latent_dim) if base is None else base

    def flow(self) -> FlowDistribution:
        """The flow, trained or not."""
        return self.couplings(self.base())

    def forward(self) -> dist.Distribution:
        return self.flow() if self.couplings.is_trained else self.base()


def _orders(latent_dim: int, first: int, steps: int) -> list[list[int]]:
    """The permutation before each coupling, which moves what comes last, and one that puts everything back."""
    arrangements, shuffled = [], list(range(latent_dim))
    for _ in range(steps):
        arrangements += [shuffled[first:] + shuffled[:first], shuffled]
        shuffled = shuffled[1::2] + shuffled[::2]
    now, found = list(range(latent_dim)), []
    for wanted in [*arrangements, list(range(latent_dim))]:
        found.append([now.index(coordinate) for coordinate in wanted])
        now = wanted
    return found


def _captured(network: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    """The network with the parameters it has now, its scale bounded.

    A flow runs its networks when it is scored, perhaps after a frozen program's call has ended.
    """
    parameters = dict(network.named_parameters())

    def shift_and_log_scale(values: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = functional_call(network, parameters, (values, context))
        return shift, _MAX_LOG_SCALE * (raw / _MAX_LOG_SCALE).tanh()

    return shift_and_log_scale
