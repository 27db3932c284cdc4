"""Features of images by a network that was trained on ImageNet."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from multipyro._optional import optional_imports
from multipyro.data.storage.images import read_rgb

__all__ = ["resnet_features", "weights_digest"]

_SHORTER = 224
_FEATURES = 2_048


def resnet_features(
    images: Tensor | Sequence[Path],
    weights: str | os.PathLike,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> Tensor:
    """The output of torchvision's ResNet-101 before its last layer.

    An image is resized (bilinear, with antialiasing) so that its shorter side has 224 pixels; values in `[0, 1]` are
    passed as they are, without the mean and standard deviation of ImageNet, and uncropped, as in the released code.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), section
        4.3.

    Args:
        images: uint8 `(rows, 3, height, width)`, or files.
        weights: File with the state of torchvision's `resnet101`, such as `resnet101-63fe2227.pth` from
            https://download.pytorch.org/models.
        batch_size: Images per batch; those of files are processed one by one, because their sizes differ.
        device: Where the network runs.

    Returns:
        Features float32 `(rows, 2048)`, on the CPU.

    Raises:
        FileNotFoundError: If the file of weights is missing.
        ValueError: If it is damaged or has other weights, or an image cannot be read.
    """
    network = _network(weights).to(device).eval()
    features = []
    with torch.inference_mode():
        for batch in _batches(images, batch_size):
            height, width = batch.shape[-2:]
            scale = _SHORTER / min(height, width)
            size = (_SHORTER, int(width * scale)) if height <= width else (int(height * scale), _SHORTER)
            x = batch.to(device).float() / 255
            x = nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
            features.append(network(x).flatten(1).cpu())
    # unlike the tensors of inference mode, a clone may take part in training
    return torch.cat(features).clone() if features else torch.empty(0, _FEATURES)


def weights_digest(weights: str | os.PathLike) -> str:
    """SHA-256 of a file of weights.

    Raises:
        FileNotFoundError: If it is missing; the message says where to get it.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"the weights of ResNet-101 are missing: {path}; download resnet101-63fe2227.pth from "
            "https://download.pytorch.org/models and name the file"
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _network(weights: str | os.PathLike) -> nn.Module:
    # torchvision takes seconds to import, and only features need it
    with optional_imports("ResNet-101"):
        from torchvision.models import resnet101

    weights_digest(weights)
    # without initial values, which would take seconds to draw and then be replaced
    with torch.device("meta"):
        network = resnet101(weights=None)
    try:
        state = torch.load(Path(weights).expanduser(), map_location="cpu", weights_only=True)
        network.load_state_dict(state, assign=True)
    except Exception as error:  # on a file of another format the readers may raise any exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{weights} is damaged or not the weights of ResNet-101 ({reason})") from error
    return nn.Sequential(*list(network.children())[:-1])


def _batches(images: Tensor | Sequence[Path], batch_size: int) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        yield from images.split(batch_size) if len(images) else ()
        return
    for path in images:
        yield torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None]
