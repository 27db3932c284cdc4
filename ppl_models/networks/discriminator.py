"""The discriminator of adversarial training."""

from torch import Tensor, nn

__all__ = ["Discriminator"]


class Discriminator(nn.Module):
    r"""The log-odds that a value is real, from a feature network: `D(x) = sigmoid` of what this gives.

    Args:
        features: Module from values `(batch, *event)` to features `(batch, out_features)`; its attribute
            `out_features` gives their size.

    Returns (when called):
        Logits `(batch,)`.

    Example:
        >>> import torch
        >>> from multipyro.ppl_models.networks import BatchNormConvEncoder
        >>> Discriminator(BatchNormConvEncoder((3, 64, 64), width=8))(torch.zeros(5, 3, 64, 64)).shape
        torch.Size([5])
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(features.out_features, 1)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.features(values)).squeeze(-1)
