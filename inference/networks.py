"""Networks chosen by what a data set's modalities are: the parts a recipe is built from."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from multipyro.data import Modality
from multipyro.guides import JointEncoder, LaplaceEncoder, NormalEncoder
from multipyro.ppl_models import (
    MLP,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    ConvDecoder,
    ConvEncoder,
    Laplace,
    Normal,
    OneHotMLP,
)

__all__ = ["Networks", "networks_for"]

_LIKELIHOODS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "continuous_bernoulli": ContinuousBernoulli,
    "laplace": Laplace,
    "normal": Normal,
}
_ENCODERS = {"laplace": LaplaceEncoder, "normal": NormalEncoder}


class Networks:
    r"""Decoders, encoders and joint branches for the modalities of a data set, made anew at each call.

    Colour images get the PolyMNIST networks of MoPoE (section 4.7 of its appendix), everything else two hidden
    layers each way, as JMVAE has them on MNIST.

    Args:
        modalities: Modality name -> its description.
        hidden_features: Widths of the hidden layers.

    Example:
        >>> from multipyro.data import load_dataset
        >>> networks = Networks(load_dataset("digits").train.modalities, (64, 64))
        >>> sorted(networks.encoders(latent_dim=8))
        ['image', 'label', 'word']
    """

    def __init__(self, modalities: Mapping[str, Modality], hidden_features: Sequence[int]) -> None:
        if not modalities:
            raise ValueError("modalities is empty: a model needs at least one")
        self.modalities = dict(modalities)
        self.hidden_features = tuple(hidden_features)

    def likelihoods(self, latent_dim: int) -> dict[str, nn.Module]:
        """Modality name -> likelihood over latents `(..., batch, latent_dim)`."""
        return {
            name: _LIKELIHOODS[modality.likelihood](self._decoder(modality, latent_dim))
            for name, modality in self.modalities.items()
        }

    def encoders(self, latent_dim: int, family: str = "normal") -> dict[str, nn.Module]:
        """Modality name -> encoder of the family `"normal"` or `"laplace"`."""
        return {name: _ENCODERS[family](branch, latent_dim) for name, branch in self.branches().items()}

    def subset_encoders(self, latent_dim: int) -> dict[tuple[str, ...], nn.Module]:
        """Proper subset -> encoder: of a single modality its own, of a larger subset a joint one."""
        names = tuple(self.modalities)
        found: dict[tuple[str, ...], nn.Module] = {(name,): net for name, net in self.encoders(latent_dim).items()}
        for size in range(2, len(names)):
            for subset in itertools.combinations(names, size):
                found[subset] = JointEncoder(self.select(subset).branches(), latent_dim)
        return found

    def branches(self) -> dict[str, nn.Module]:
        """Modality name -> feature network."""
        return {name: self._features(modality) for name, modality in self.modalities.items()}

    def select(self, modalities: Sequence[str]) -> "Networks":
        """The same networks for some of the modalities."""
        unknown = [name for name in modalities if name not in self.modalities]
        if unknown or not modalities:
            raise ValueError(f"modalities must be some of {list(self.modalities)}, got {list(modalities)}")
        return Networks({name: self.modalities[name] for name in modalities}, self.hidden_features)

    def _features(self, modality: Modality) -> nn.Module:
        *before, out = self.hidden_features
        if modality.likelihood == "categorical":
            length = math.prod(modality.shape) if modality.shape else None
            return OneHotMLP(modality.num_classes, out, before, length, activate_output=True)
        if _is_colour(modality):
            return ConvEncoder(modality.shape)
        return MLP(modality.shape, out, before, activate_output=True)

    def _decoder(self, modality: Modality, latent_dim: int) -> nn.Module:
        if _is_colour(modality):
            return ConvDecoder(latent_dim, modality.shape)
        classes = (modality.num_classes,) if modality.likelihood == "categorical" else ()
        return MLP(latent_dim, (*modality.shape, *classes), self.hidden_features)


def networks_for(modalities: Mapping[str, Modality], hidden_features: Sequence[int] | None = None) -> Networks:
    """The networks for a data set's modalities: 512-512 by default, 256-256 when everything is small (8x8 digits).

    Returns:
        The networks, made anew at each call of their methods.

    Example:
        >>> from multipyro.data import load_dataset
        >>> networks_for(load_dataset("digits").train.modalities).hidden_features
        (256, 256)
    """
    if hidden_features is None:
        small = all(math.prod(modality.shape) <= 64 for modality in modalities.values())
        hidden_features = (256, 256) if small else (512, 512)
    return Networks(modalities, hidden_features)


def _is_colour(modality: Modality) -> bool:
    return modality.kind == "image" and modality.shape[0] == 3
