"""Networks chosen by what a data set's modalities are: the parts a recipe is built from."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from multipyro.data import Modality
from multipyro.guides import JointEncoder, LaplaceEncoder, NormalEncoder
from multipyro.guides.encoders import trunk
from multipyro.ppl_models import (
    MLP,
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    ConvDecoder,
    ConvEncoder,
    DiscretisedLogistic,
    Discriminator,
    Laplace,
    Normal,
    NormalisedMLP,
    OneHotMLP,
    StridedDecoder,
    StridedEncoder,
)

__all__ = ["Networks", "networks_for"]

_LIKELIHOODS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bernoulli": Bernoulli,
    "beta": Beta,
    "categorical": Categorical,
    "continuous_bernoulli": ContinuousBernoulli,
    "discretised_logistic": DiscretisedLogistic,
    "laplace": Laplace,
    "normal": Normal,
}
_ENCODERS = {"laplace": LaplaceEncoder, "normal": NormalEncoder}
# the smallest side of the images that get the networks of JMVAE for CelebA
_LARGE = 64
# standard deviation of a pixel of such an image, in units of [0, 1]: JMVAE has 1 on standardised pixels
_PIXEL_SCALE = 0.27
# what a discriminator is made of: batch norm and ReLUs as in the paper, or neither as in its code
_DISCRIMINATORS = {"normalised": (True, 0.0), "leaky": (False, 0.2)}


class Networks:
    r"""Decoders, encoders and joint branches for the modalities of a data set, made anew at each call.

    Colour images get the PolyMNIST networks of MoPoE (section 4.7 of its appendix), everything else two hidden
    layers each way, as JMVAE has them on MNIST. Colour images of 64x64 and more (sides divisible by 16) get the
    networks that JMVAE has on CelebA, and so do the vectors beside them, such as attributes; there the last hidden
    width `h` sets all others: `h / 8` channels in the first convolution, `2 h` features after joining, so 512 is the
    paper's size.

    Args:
        modalities: Modality name -> its description.
        hidden_features: Widths of the hidden layers.
        normalised: Whether all parts are those for CelebA, which have batch norm; None for whether there is a large
            colour image.

    Attributes:
        joint_features: Widths of the layers after joined branches, for `JointGuide` and `JointEncoder`.

    Example:
        >>> from multipyro.data import load_dataset
        >>> networks = Networks(load_dataset("digits").train.modalities, (64, 64))
        >>> sorted(networks.encoders(latent_dim=8))
        ['image', 'label', 'word']
    """

    def __init__(
        self, modalities: Mapping[str, Modality], hidden_features: Sequence[int], normalised: bool | None = None
    ) -> None:
        if not modalities:
            raise ValueError("modalities is empty: a model needs at least one")
        self.modalities = dict(modalities)
        self.hidden_features = tuple(hidden_features)
        self.normalised = any(map(_is_large, modalities.values())) if normalised is None else normalised
        self.joint_features = (2 * self.hidden_features[-1],) if self.normalised else ()

    def likelihoods(self, latent_dim: int) -> dict[str, nn.Module]:
        """Modality name -> likelihood over latents `(..., batch, latent_dim)`."""
        found = {}
        for name, modality in self.modalities.items():
            scale = {"scale": _PIXEL_SCALE} if _is_large(modality) and modality.likelihood == "normal" else {}
            found[name] = _LIKELIHOODS[modality.likelihood](self._decoder(modality, latent_dim), **scale)
        return found

    def encoders(self, latent_dim: int, family: str = "normal") -> dict[str, nn.Module]:
        """Modality name -> encoder of the family `"normal"` or `"laplace"`."""
        made = {}
        for name, branch in self.branches().items():
            deep = nn.Sequential(branch, trunk(branch.out_features, self.joint_features))
            deep.out_features = deep[1].out_features
            made[name] = _ENCODERS[family](deep if self.joint_features else branch, latent_dim)
        return made

    def subset_encoders(self, latent_dim: int) -> dict[tuple[str, ...], nn.Module]:
        """Proper subset -> encoder: of a single modality its own, of a larger subset a joint one."""
        names = tuple(self.modalities)
        found: dict[tuple[str, ...], nn.Module] = {(name,): net for name, net in self.encoders(latent_dim).items()}
        for size in range(2, len(names)):
            for subset in itertools.combinations(names, size):
                found[subset] = JointEncoder(self.select(subset).branches(), latent_dim, self.joint_features)
        return found

    def discriminator(self, modality: str, kind: str = "normalised") -> nn.Module:
        """A network from values of one modality to logits of being real.

        Args:
            modality: Its name.
            kind: Of large colour images: `"normalised"` has batch norm and ReLUs as the paper on JMVAE, `"leaky"` leaky
                ReLUs and no batch norm as its code. Other modalities have no batch norm either way.

        Raises:
            ValueError: If the kind is unknown or the modality is discrete.
        """
        if kind not in _DISCRIMINATORS:
            raise ValueError(f"discriminator must be one of {tuple(_DISCRIMINATORS)}, got {kind!r}")
        described = self.modalities[modality]
        if described.likelihood == "categorical":
            raise ValueError(f"modality {modality!r} is discrete: no gradient of a discriminator passes through it")
        if not _is_large(described):
            return Discriminator(self._features(described))
        features = StridedEncoder(described.shape, self._width, *_DISCRIMINATORS[kind])
        deep = nn.Sequential(features, trunk(features.out_features, self.joint_features))
        deep.out_features = deep[1].out_features
        return Discriminator(deep)

    def branches(self) -> dict[str, nn.Module]:
        """Modality name -> feature network."""
        return {name: self._features(modality) for name, modality in self.modalities.items()}

    def select(self, modalities: Sequence[str]) -> "Networks":
        """The same networks for some of the modalities."""
        unknown = [name for name in modalities if name not in self.modalities]
        if unknown or not modalities:
            raise ValueError(f"modalities must be some of {list(self.modalities)}, got {list(modalities)}")
        chosen = {name: self.modalities[name] for name in modalities}
        return Networks(chosen, self.hidden_features, self.normalised)

    def _features(self, modality: Modality) -> nn.Module:
        *before, out = self.hidden_features
        if modality.likelihood == "categorical":
            length = math.prod(modality.shape) if modality.shape else None
            return OneHotMLP(modality.num_classes, out, before, length, activate_output=True)
        if _is_large(modality):
            return StridedEncoder(modality.shape, self._width)
        if _is_colour(modality):
            return ConvEncoder(modality.shape)
        if self.normalised and modality.kind == "vector":
            return NormalisedMLP(modality.shape, out)
        return MLP(modality.shape, out, before, activate_output=True)

    def _decoder(self, modality: Modality, latent_dim: int) -> nn.Module:
        if _is_large(modality):
            return StridedDecoder(latent_dim, modality.shape, self._width)
        if _is_colour(modality):
            return ConvDecoder(latent_dim, modality.shape)
        if self.normalised and modality.kind == "vector":
            return MLP(latent_dim, modality.shape, (self.hidden_features[-1], 8 * self.hidden_features[-1]))
        classes = (modality.num_classes,) if modality.likelihood == "categorical" else ()
        return MLP(latent_dim, (*modality.shape, *classes), self.hidden_features)

    @property
    def _width(self) -> int:
        """Channels of the first strided convolution."""
        return max(1, self.hidden_features[-1] // 8)


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


def _is_large(modality: Modality) -> bool:
    return _is_colour(modality) and all(side >= _LARGE and side % 16 == 0 for side in modality.shape[1:])
