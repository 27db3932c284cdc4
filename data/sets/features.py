"""Features of pictures by a network trained on others."""

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
    pictures: Tensor | Sequence[Path],
    weights: str | os.PathLike | None,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> Tensor:
    """What torchvision's ResNet-101 computes before its last layer.

    A picture is resized (bilinear, with antialiasing) so that its shorter side has 224 pixels; values in `[0, 1]` go in
    as they are, without the mean and deviation of ImageNet, and uncropped, as in the released code.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), section
        4.3.

    Args:
        pictures: uint8 `(rows, 3, height, width)`, or files.
        weights: File with the state of torchvision's `resnet101`, such as `resnet101-63fe2227.pth` from
            https://download.pytorch.org/models; None for random weights, for tests of what comes after.
        batch_size: Pictures a batch; those of files go in one by one, for their sizes differ.
        device: Where the network runs.

    Returns:
        Features float32 `(rows, 2048)`, on the CPU.

    Raises:
        FileNotFoundError: If the file of weights is not there.
        ValueError: If it is damaged or holds other weights, or a picture cannot be read.

    Example:
        >>> resnet_features(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), weights=None).shape
        torch.Size([0, 2048])
    """
    network = _network(weights).to(device).eval()
    found = []
    with torch.inference_mode():
        for batch in _batches(pictures, batch_size):
            height, width = batch.shape[-2:]
            scale = _SHORTER / min(height, width)
            size = (_SHORTER, int(width * scale)) if height <= width else (int(height * scale), _SHORTER)
            x = batch.to(device).float() / 255
            x = nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
            found.append(network(x).flatten(1).cpu())
    # a clone is no tensor of inference mode, so it may take part in training
    return torch.cat(found).clone() if found else torch.empty(0, _FEATURES)


def weights_digest(weights: str | os.PathLike) -> str:
    """SHA-256 of a file of weights.

    Raises:
        FileNotFoundError: If it is not there; the message says where to get it.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"the weights of ResNet-101 are not there: {path}; fetch resnet101-63fe2227.pth from "
            "https://download.pytorch.org/models and name the file"
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _network(weights: str | os.PathLike | None) -> nn.Module:
    # torchvision takes seconds to import, and only features need it
    with optional_imports("ResNet-101"):
        from torchvision.models import resnet101

    if weights is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = resnet101(weights=None)
    else:
        weights_digest(weights)
        # without values, which would take seconds to draw and then be replaced
        with torch.device("meta"):
            network = resnet101(weights=None)
        try:
            state = torch.load(Path(weights).expanduser(), map_location="cpu", weights_only=True)
            network.load_state_dict(state, assign=True)
        except Exception as error:  # of a foreign file the readers raise what they stumble over
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{weights} is damaged or not the weights of ResNet-101 ({reason})") from error
    return nn.Sequential(*list(network.children())[:-1])


def _batches(pictures: Tensor | Sequence[Path], batch_size: int) -> Iterator[Tensor]:
    if isinstance(pictures, Tensor):
        yield from pictures.split(batch_size) if len(pictures) else ()
        return
    for path in pictures:
        yield torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None]
