"""Networks chosen by what a data set's modalities are: the parts a recipe is built from."""

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from multipyro.data import Modality
from multipyro.data.modality import SCALED
from multipyro.guides import JointEncoder, LaplaceEncoder, NormalEncoder
from multipyro.inference.recipes.architectures import (
    LARGE,
    checked_family,
    has_sides,
    picked_families,
    preferred_families,
)
from multipyro.ppl_models import (
    MLP,
    BernoulliLikelihood,
    BetaLikelihood,
    CategoricalLikelihood,
    CharacterDecoder,
    CharacterEncoder,
    ContinuousBernoulliLikelihood,
    ConvDecoder,
    ConvEncoder,
    DiscretisedLogistic,
    Discriminator,
    InstanceNormDecoder,
    InstanceNormEncoder,
    LaplaceLikelihood,
    NormalisedMLP,
    NormalLikelihood,
    OneHotMLP,
    ResidualDecoder,
    ResidualEncoder,
    ResidualTextDecoder,
    ResidualTextEncoder,
    SentenceDecoder,
    SentenceEncoder,
    StridedDecoder,
    StridedEncoder,
    TokenGRU,
)
from multipyro.ppl_models.networks.heads import chain, trunk

__all__ = ["Networks", "networks_for"]

_LIKELIHOODS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bernoulli": BernoulliLikelihood,
    "beta": BetaLikelihood,
    "categorical": CategoricalLikelihood,
    "continuous_bernoulli": ContinuousBernoulliLikelihood,
    "discretized_logistic": DiscretisedLogistic,
    "laplace": LaplaceLikelihood,
    "normal": NormalLikelihood,
}
_ENCODERS = {"laplace": LaplaceEncoder, "normal": NormalEncoder}
# standard deviation of a pixel of such an image, in units of [0, 1]: JMVAE has 1 on standardized pixels
_PIXEL_SCALE = 0.27
# what a discriminator is made of: batch norm and ReLUs as in the paper, or neither as in its code
_DISCRIMINATORS = {"normalized": (True, 0.0), "leaky": (False, 0.2)}


class Networks:
    r"""Decoders, encoders and joint branches for the modalities of a data set, made anew at each call.

    Each modality has the networks of a family:

    | family | of | is picked for |
    | --- | --- | --- |
    | `mlp` | JMVAE on MNIST, two hidden layers each way | everything else |
    | `shallow` | MMVAE and MoPoE on MNIST, one hidden layer each way | MNIST beside a plain image |
    | `tapered` | MMVAE on CUB's features, three layers with ELUs | vectors of 2048 numbers |
    | `convolutional` | MoPoE on PolyMNIST (section 4.7 of its appendix) | color images |
    | `plain` | MoPoE on SVHN, MMVAE on pictures of CUB, no batch norm | color images of 32x32 |
    | `strided` | JMVAE on CelebA | color images of 64x64 and more, sides divisible by 16 |
    | `residual` | MoPoE on CelebA | on request: images of 64x64, texts of 256 characters |
    | `instance` | VLVAE, with instance norm | on request: images with sides divisible by 4 |
    | `characters` | MoPoE on MNIST-SVHN-Text | texts of characters whose length is a power of 2 from 8 on |
    | `sentence` | MMVAE on CUB | texts of words whose length is divisible by 8 and at least 16 |
    | `gru` | VLVAE's encoder of texts | on request: texts |

    The last hidden width `h` sets the others, so that 512 is the papers' size: `h / 8` channels in the first strided
    convolution, `h / 4` in those of MoPoE for CelebA and for texts, `2 h` features after joining, 400/512 of `h` in a
    shallow network. Tapered ones have `2 h`, `h` and `h / 2` units, mirrored in the decoder. Plain ones suit images
    with sides divisible by 8: MoPoE's three convolutions (`h / 16`, `h / 8` twice) and `h / 4` features, or of sides
    from 64 on that are divisible by 16 MMVAE's four (`h / 8` to `h`), flattened. So MNIST-SVHN-Text at its default
    widths has the networks of MoPoE. Beside a strided image, vectors such as attributes have batch norm too, as JMVAE
    has them on CelebA.

    Args:
        modalities: Modality name -> its description.
        hidden_features: Widths of the hidden layers.
        normalized: Whether vectors and what follows joined branches are those of JMVAE for CelebA, with batch norm;
            None for whether there is a strided image.
        families: Modality name -> family; the one that is picked for those that it does not name.

    Raises:
        ValueError: If there are no modalities, or a family is unknown or does not suit its modality.

    Attributes:
        families: Modality name -> family.
        joint_features: Widths of the layers after joined branches, for `JointGuide` and `JointEncoder`.

    Example:
        >>> from multipyro.data import load_dataset
        >>> networks = Networks(load_dataset("digits").train.modalities, (64, 64))
        >>> sorted(networks.encoders(latent_dim=8))
        ['image', 'label', 'word']
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        hidden_features: Sequence[int],
        normalized: bool | None = None,
        families: Mapping[str, str] | None = None,
    ) -> None:
        if not modalities:
            raise ValueError("modalities is empty: a model needs at least one")
        self.modalities = dict(modalities)
        self.hidden_features = tuple(hidden_features)
        unknown = [name for name in families or {} if name not in modalities]
        if unknown:
            raise ValueError(f"families name unknown modalities {unknown}: there are {list(modalities)}")
        picked = {**picked_families(modalities), **(families or {})}
        self.families = {name: checked_family(modality, picked[name]) for name, modality in modalities.items()}
        self.normalized = "strided" in self.families.values() if normalized is None else normalized
        self.joint_features = (2 * self.hidden_features[-1],) if self.normalized else ()

    def likelihoods(self, latent_dim: int) -> dict[str, nn.Module]:
        """Modality name -> likelihood over latents `(..., batch, latent_dim)`."""
        found = {}
        for name, modality in self.modalities.items():
            scaled = self._scale(name) if modality.likelihood in SCALED else {}
            found[name] = _LIKELIHOODS[modality.likelihood](self._decoder(name, latent_dim), **scaled)
        return found

    def encoders(self, latent_dim: int, family: str = "normal") -> dict[str, nn.Module]:
        """Modality name -> encoder of the family `"normal"` or `"laplace"`."""
        return {name: _ENCODERS[family](self._deep(net), latent_dim) for name, net in self.branches().items()}

    def subset_encoders(self, latent_dim: int) -> dict[tuple[str, ...], nn.Module]:
        """Proper subset -> encoder: of a single modality its own, of a larger subset a joint one."""
        names = tuple(self.modalities)
        found: dict[tuple[str, ...], nn.Module] = {(name,): net for name, net in self.encoders(latent_dim).items()}
        for size in range(2, len(names)):
            for subset in itertools.combinations(names, size):
                found[subset] = JointEncoder(self.select(subset).branches(), latent_dim, self.joint_features)
        return found

    def discriminator(self, modality: str, kind: str = "normalized") -> nn.Module:
        """A network from values of one modality to logits of being real.

        Args:
            modality: Its name.
            kind: Of large color images: `"normalized"` has batch norm and ReLUs as the paper on JMVAE, `"leaky"` leaky
                ReLUs and no batch norm as its code. Other modalities have no batch norm either way.

        Raises:
            ValueError: If the kind is unknown or the modality is discrete.
        """
        if kind not in _DISCRIMINATORS:
            raise ValueError(f"discriminator must be one of {tuple(_DISCRIMINATORS)}, got {kind!r}")
        described = self.modalities[modality]
        if described.likelihood == "categorical":
            raise ValueError(f"modality {modality!r} is discrete: no gradient of a discriminator passes through it")
        if self.families[modality] != "strided":
            return Discriminator(self._features(modality))
        return Discriminator(self._deep(StridedEncoder(described.shape, self._width(8), *_DISCRIMINATORS[kind])))

    def branches(self, features: int | None = None) -> dict[str, nn.Module]:
        """Modality name -> feature network, each with so many features, by a linear layer where it has others."""
        found = {name: self._features(name, features) for name in self.modalities}
        if features is None:
            return found
        return {
            name: net if net.out_features == features else chain(net, nn.Linear(net.out_features, features))
            for name, net in found.items()
        }

    def select(self, modalities: Sequence[str]) -> "Networks":
        """The same networks for some of the modalities."""
        unknown = [name for name in modalities if name not in self.modalities]
        if unknown or not modalities:
            raise ValueError(f"modalities must be some of {list(self.modalities)}, got {list(modalities)}")
        chosen = {name: self.modalities[name] for name in modalities}
        families = {name: self.families[name] for name in modalities}
        return Networks(chosen, self.hidden_features, self.normalized, families)

    def _scale(self, name: str) -> dict[str, Any]:
        """The arguments that the scale of a modality gives its likelihood."""
        modality = self.modalities[name]
        if isinstance(modality.scale, int | float):
            return {"scale": modality.scale, "learn_scale": False}
        strided = self.families[name] == "strided" and modality.likelihood == "normal"
        own = inspect.signature(_LIKELIHOODS[modality.likelihood]).parameters["scale"].default
        scale = _PIXEL_SCALE if strided else own
        if modality.scale == "channels":
            channels, *sides = modality.shape
            return {"scale": torch.full((channels, *[1] * len(sides)), scale), "learn_scale": True}
        return {"scale": scale, **({"learn_scale": True} if modality.scale == "learned" else {})}

    def _deep(self, features: nn.Module) -> nn.Module:
        """A feature network and the layers that follow joined branches, where there are any."""
        if not self.joint_features:
            return features
        return chain(features, trunk(features.out_features, self.joint_features))

    def _features(self, name: str, features: int | None = None) -> nn.Module:
        *before, out = self.hidden_features
        out = out if features is None else features
        modality = self.modalities[name]
        tokens = (modality.num_classes, math.prod(modality.shape))
        match self.families[name]:
            case "strided":
                return StridedEncoder(modality.shape, self._width(8))
            case "convolutional":
                return ConvEncoder(modality.shape)
            case "plain":
                channels, features = self._plain(modality)
                return ConvEncoder(modality.shape, features, channels, kernel=4)
            case "shallow":
                return MLP(modality.shape, self._shallow, (), activate_output=True)
            case "tapered":
                *wide, narrow = self._tapered
                return MLP(modality.shape, narrow, wide, nn.ELU, activate_output=True)
            case "instance":
                return InstanceNormEncoder(modality.shape, out, self._width(8))
            case "residual" if modality.kind == "image":
                return ResidualEncoder(modality.shape, self._width(4))
            case "residual":
                return ResidualTextEncoder(*tokens, self._width(4))
            case "characters":
                return CharacterEncoder(*tokens, self._width(4))
            case "sentence":
                return SentenceEncoder(*tokens, self._embedding, modality.pad)
            case "gru":
                return TokenGRU(*tokens, out)
        if modality.likelihood == "categorical":
            return OneHotMLP(modality.num_classes, out, before, tokens[1] if modality.shape else None, True)
        if self.normalized and modality.kind == "vector":
            return NormalisedMLP(modality.shape, out)
        return MLP(modality.shape, out, before, activate_output=True)

    def _decoder(self, name: str, latent_dim: int) -> nn.Module:
        modality = self.modalities[name]
        tokens = (modality.num_classes, math.prod(modality.shape))
        match self.families[name]:
            case "strided":
                return StridedDecoder(latent_dim, modality.shape, self._width(8))
            case "convolutional":
                return ConvDecoder(latent_dim, modality.shape)
            case "plain":
                channels, features = self._plain(modality)
                return ConvDecoder(latent_dim, modality.shape, channels[::-1], 4, features)
            case "shallow":
                return MLP(latent_dim, modality.shape, (self._shallow,))
            case "tapered":
                return MLP(latent_dim, modality.shape, self._tapered[::-1], nn.ELU)
            case "instance":
                return InstanceNormDecoder(latent_dim, modality.shape, self._width(8))
            case "residual" if modality.kind == "image":
                return ResidualDecoder(latent_dim, modality.shape, self._width(4))
            case "residual":
                return ResidualTextDecoder(latent_dim, *tokens, self._width(4))
            case "characters":
                return CharacterDecoder(latent_dim, *tokens, self._width(4))
            case "sentence":
                return SentenceDecoder(latent_dim, *tokens, self._embedding)
        if self.normalized and modality.kind == "vector":
            return MLP(latent_dim, modality.shape, (self.hidden_features[-1], 8 * self.hidden_features[-1]))
        classes = (modality.num_classes,) if modality.likelihood == "categorical" else ()
        return MLP(latent_dim, (*modality.shape, *classes), self.hidden_features)

    def _width(self, share: int) -> int:
        """Channels that are the last hidden width over `share`."""
        return max(1, self.hidden_features[-1] // share)

    def _plain(self, modality: Modality) -> tuple[tuple[int, ...], int | None]:
        """Channels of the plain convolutions of an image, and the width of the layer beyond them, if there is one."""
        if has_sides(modality, 16, LARGE):
            return tuple(map(self._width, (8, 4, 2, 1))), None
        return tuple(map(self._width, (16, 8, 8))), self._width(4)

    @property
    def _shallow(self) -> int:
        """Units of the only hidden layer."""
        return max(1, 400 * self.hidden_features[-1] // 512)

    @property
    def _tapered(self) -> tuple[int, ...]:
        """Units of the three layers of an encoder of features."""
        return (2 * self.hidden_features[-1], self.hidden_features[-1], self._width(2))

    @property
    def _embedding(self) -> int:
        """Numbers a word, divisible by 32."""
        return 32 * max(1, self._width(4) // 32)


def networks_for(
    modalities: Mapping[str, Modality],
    hidden_features: Sequence[int] | None = None,
    families: Mapping[str, str] | str | None = None,
) -> Networks:
    """The networks for a data set's modalities.

    Args:
        modalities: Modality name -> its description.
        hidden_features: Widths of the hidden layers: 512-512 by default, 256-256 when everything is small (8x8 digits).
        families: Modality name -> family, or one family for all modalities that it suits; see `Networks`.

    Returns:
        The networks, made anew at each call of their methods.

    Raises:
        ValueError: If a family is unknown, or suits none of the modalities.

    Example:
        >>> from multipyro.data import load_dataset
        >>> networks_for(load_dataset("digits").train.modalities).hidden_features
        (256, 256)
    """
    if hidden_features is None:
        small = all(math.prod(modality.shape) <= 64 for modality in modalities.values())
        hidden_features = (256, 256) if small else (512, 512)
    if isinstance(families, str):
        suited = preferred_families(modalities, [families])
        if not suited:
            raise ValueError(f"the networks {families!r} suit none of the modalities {list(modalities)}")
        families = suited
    return Networks(modalities, hidden_features, families=families)
