"""Statistics of images for posterior predictive checks: the width of strokes, the histogram of colors."""

import torch
from torch import Tensor

__all__ = ["color_histogram", "stroke_width"]


def stroke_width(images: Tensor) -> Tensor:
    r"""The mean width of the strokes of an image, in pixels: twice their area over their perimeter.

    .. math:: T(x) = \frac{2 \sum_{ij} x_{ij}}{\sum_{ij} |\nabla x_{ij}|}

    The perimeter is the total variation, which soft edges do not change. Averaged over channels.

    Args:
        images: `(..., channels, height, width)`, strokes at 1 on a ground at 0.

    Returns:
        `(...)`; 0 for an empty image, NaN for one with missing pixels.

    Example:
        >>> image = torch.zeros(1, 20, 20)
        >>> image[:, :, 8:11] = 1.0  # a line of three pixels
        >>> round(stroke_width(image).item(), 2)
        3.0
    """
    # the border is repeated: where a stroke leaves the image it has no edge
    padded = torch.nn.functional.pad(
        images.flatten(0, -4) if images.dim() > 3 else images[None], (0, 1, 0, 1), "replicate"
    )
    across, down = padded.diff(dim=-1)[..., :-1, :], padded.diff(dim=-2)[..., :, :-1]
    perimeter = (across.square() + down.square()).sqrt().sum((-2, -1)).reshape(images.shape[:-2])
    area = images.sum((-2, -1))
    return torch.where(perimeter > 0, 2 * area / perimeter.clamp(min=1e-12), area * 0).mean(-1)


def color_histogram(images: Tensor, num_bins: int = 8) -> Tensor:
    """The share of pixels in each of several equal bins of brightness, channel by channel.

    Args:
        images: `(..., channels, height, width)` in `[0, 1]`.
        num_bins: Number of bins of a channel.

    Returns:
        `(..., channels * num_bins)`, the bins of the first channel first; NaN for an image with missing pixels.

    Example:
        >>> color_histogram(torch.tensor([[[0.1, 0.2], [0.9, 1.0]]]), num_bins=4)
        tensor([0.5000, 0.0000, 0.0000, 0.5000])
    """
    bins = (images * num_bins).floor().clamp(0, num_bins - 1)
    shares = torch.stack([(bins == number).to(images.dtype).mean((-2, -1)) for number in range(num_bins)], -1)
    missing = images.isnan().flatten(-3).any(-1)
    return shares.flatten(-2).masked_fill(missing.unsqueeze(-1), torch.nan)
