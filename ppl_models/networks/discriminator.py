"""The discriminator of adversarial training."""

from torch import Tensor, nn

__all__ = ["Discriminator"]


class Discriminator(nn.Module):
    r"""The log-odds that data are real rather than generated: `D(x)` is the sigmoid of its output.

    Args:
        features: Module from values `(batch, *event)` to features `(batch, out_features)`; its attribute
            `out_features` is their number.

    Returns (when called):
        Logits `(batch,)`.

    Example:
        >>> import torch
        >>> from multipyro.ppl_models.networks import BatchNormConvEncoder
        >>> Discriminator(BatchNormConvEncoder((3, 64, 64), base_channels=8))(torch.zeros(5, 3, 64, 64)).shape
        torch.Size([5])
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(features.out_features, 1)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.features(values)).squeeze(-1)
