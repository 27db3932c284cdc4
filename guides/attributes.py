"""An encoder of attribute vectors with missing entries: a product of one expert per attribute."""

import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from multipyro.guides.algebra.products import product_of_experts

__all__ = ["AttributeExperts"]


class AttributeExperts(nn.Module):
    r"""A Gaussian for each value of each attribute, multiplied over the attributes that are present.

    .. math:: q(z \mid y_O) \propto N(z; 0, I) \prod_{k \in O} N(z; m_{k, y_k}, s_{k, y_k}^2)

    An entry that is NaN is missing and has no expert, so that "smiling, with glasses" is a query of two entries. The
    universal expert `N(0, I)` is always present; without any entry it is the result. A network of a binary value could
    only distinguish two inputs, so the experts are a table.

    References:
        Generative Models of Visually Grounded Imagination (Vedantam et al., 2018), section 3.2.

    Args:
        num_attributes: Number `A` of attributes.
        latent_dim: Size of the latent.

    Args (when called):
        values: Attributes 0 or 1, NaN where missing, `(batch, num_attributes)`.

    Returns (when called):
        An independent normal of batch shape `(batch,)` and event shape `(latent_dim,)`.

    Raises:
        ValueError: If `values` have another shape, or entries other than 0, 1 and NaN (checked with validation).

    Example:
        >>> experts = AttributeExperts(3, latent_dim=2)
        >>> experts(torch.tensor([[1.0, torch.nan, 0.0], [torch.nan] * 3])).mean[1]
        tensor([0., 0.], grad_fn=<SelectBackward0>)
    """

    def __init__(self, num_attributes: int, latent_dim: int) -> None:
        super().__init__()
        self.num_attributes, self.latent_dim = num_attributes, latent_dim
        self.loc = nn.Parameter(0.1 * torch.randn(num_attributes, 2, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_attributes, 2, latent_dim))

    def forward(self, values: Tensor) -> dist.Distribution:
        if values.dim() != 2 or values.shape[1] != self.num_attributes:
            raise ValueError(f"attributes must have shape (batch, {self.num_attributes}), got {tuple(values.shape)}")
        present = ~values.isnan()
        if is_validation_enabled() and not ((values == 0) | (values == 1) | ~present).all():
            raise ValueError(f"attributes must be 0, 1 or NaN (missing), got {values[present].unique().tolist()[:5]}")
        entries = torch.where(present, values, 0.0).long()
        index = torch.arange(self.num_attributes, device=values.device)
        loc, scale = self.loc[index, entries], self.log_scale[index, entries].exp()
        experts = {str(k): dist.Normal(loc[:, k], scale[:, k]).to_event(1) for k in range(self.num_attributes)}
        universal = dist.Normal(torch.zeros_like(loc[:, 0]), torch.ones_like(loc[:, 0])).to_event(1)
        return product_of_experts(experts, universal, {str(k): present[:, k] for k in range(self.num_attributes)})
