"""The networks of a recipe: one architecture for each modality of a data set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from multipyro import ppl_models
from multipyro.batch import subsets_of
from multipyro.data import Modality
from multipyro.data.modality import SCALED
from multipyro.guides import JointEncoder, LaplaceEncoder, NormalEncoder
from multipyro.inference.recipes.architectures import (
    DISCRIMINATORS,
    Sizes,
    architecture_for,
    default_architectures,
    feature_network,
    first_suitable,
)
from multipyro.ppl_models import MultimodalModel
from multipyro.ppl_models.likelihoods import Likelihood
from multipyro.ppl_models.networks import Covariates, Discriminator, WithCovariates
from multipyro.ppl_models.networks.heads import chain, trunk

__all__ = ["Networks", "likelihood_class", "networks_for"]

_ENCODERS = {"laplace": LaplaceEncoder, "normal": NormalEncoder}


class Networks:
    r"""Decoders, encoders and joint branches for the modalities of a data set, built anew in each call.

    Each modality has one of `multipyro.inference.recipes.architectures.ARCHITECTURES`. The last hidden width sets all
    others, so that 512 is the size of the papers, `2 h` features after joining among them. If one of the architectures
    has batch norm throughout (`strided`), vectors such as attributes and what follows joined branches have it too, as
    in JMVAE on CelebA.

    Args:
        modalities: Modality name -> its description.
        hidden_features: Widths of the hidden layers.
        normalized: Whether vectors and what follows joined branches are those of JMVAE for CelebA, with batch norm;
            None if an architecture requires it.
        architectures: Modality name -> name of its architecture; the default one for modalities that are not in it.
        covariates: Name -> description, a label, an ordinal or a vector, of what decoders and encoders are conditioned
            on.

    Raises:
        ValueError: If there are no modalities, or an architecture is unknown or does not suit its modality.

    Attributes:
        architectures: Modality name -> name of its architecture.
        covariates: Name -> description of each covariate.
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
        architectures: Mapping[str, str] | None = None,
        covariates: Mapping[str, Modality] | None = None,
    ) -> None:
        if not modalities:
            raise ValueError("modalities is empty: a model needs at least one")
        unknown = [name for name in architectures or {} if name not in modalities]
        if unknown:
            raise ValueError(f"architectures name unknown modalities {unknown}: there are {list(modalities)}")
        names = {**default_architectures(modalities), **(architectures or {})}
        self._architectures = {name: architecture_for(names[name], m) for name, m in modalities.items()}
        self.modalities, self.covariates = dict(modalities), dict(covariates or {})
        self.architectures = {name: architecture.name for name, architecture in self._architectures.items()}
        if normalized is None:
            normalized = any(architecture.batch_norm for architecture in self._architectures.values())
        self._sizes = Sizes(tuple(hidden_features), normalized)

    @property
    def hidden_features(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return self._sizes.hidden_features

    @property
    def joint_features(self) -> tuple[int, ...]:
        """Widths of the layers after joined branches."""
        return self._sizes.joint_features

    def covariate_features(self) -> Covariates | None:
        """What makes the features of the covariates, the argument `covariates` of models; None without covariates."""
        sizes = {name: m.num_classes if m.is_discrete else m.shape for name, m in self.covariates.items()}
        return Covariates(sizes) if sizes else None

    def input_size(self, latent_dim: int) -> int:
        """The size of what decoders are called with: latents, and the features of the covariates."""
        covariates = self.covariate_features()
        return latent_dim if covariates is None else latent_dim + covariates.out_features

    def model(
        self,
        latent_dim: int,
        private: Mapping[str, int] | None = None,
        prior: nn.Module | None = None,
        private_priors: Mapping[str, nn.Module] | None = None,
    ) -> MultimodalModel:
        """The model of one shared latent, and of private ones.

        Args:
            latent_dim: Size of the shared latent.
            private: Modality name -> size of its private latent.
            prior: As in `MultimodalModel`.
            private_priors: Modality name -> module that returns the prior of its private latent when called; `N(0, I)`
                if None.
        """
        return MultimodalModel(
            latent_dim,
            self.likelihoods(latent_dim, private),
            prior,
            private=private if private_priors is None else private_priors,
            covariates=self.covariate_features(),
        )

    def likelihoods(self, latent_dim: int, private: Mapping[str, int] | None = None) -> dict[str, nn.Module]:
        """Modality name -> likelihood over latents `(..., batch, latent_dim)`, to which its private one is appended.

        The features of the covariates come last.

        Args:
            latent_dim: Size of the shared latent.
            private: Modality name -> size of its private latent.
        """
        likelihoods = {}
        for name, modality in self.modalities.items():
            size = self.input_size(latent_dim + (private or {}).get(name, 0))
            decoder = self._architectures[name].decoder(modality, self._sizes, size)
            likelihoods[name] = likelihood_class(modality.likelihood)(decoder, **self._likelihood_options(name))
        return likelihoods

    def encoders(self, latent_dim: int, family: str | Mapping[str, str] = "normal") -> dict[str, nn.Module]:
        """Modality name -> encoder to a distribution of the family `"normal"` or `"laplace"`.

        Args:
            latent_dim: Size of the latent.
            family: The family, or modality name -> family.
        """
        families = dict.fromkeys(self.modalities, family) if isinstance(family, str) else family
        if families.keys() != self.modalities.keys():
            raise ValueError(f"family must name each of {list(self.modalities)} once, got {dict(families)}")
        return {name: _ENCODERS[families[name]](self._deep(net), latent_dim) for name, net in self.branches().items()}

    def private_encoders(self, private: Mapping[str, int], family: str = "normal") -> dict[str, nn.Module]:
        """Modality name -> encoder of its private latent, whose size is `private[name]`."""
        return {name: self.select([name]).encoders(size, family)[name] for name, size in private.items()}

    def subset_encoders(self, latent_dim: int) -> dict[tuple[str, ...], nn.Module]:
        """Proper subset -> encoder: that of the modality for a single one, a joint encoder for a larger subset."""
        single = {(name,): encoder for name, encoder in self.encoders(latent_dim).items()}
        larger = [subset for subset in subsets_of(tuple(self.modalities), proper=True) if subset not in single]
        joint = {a: JointEncoder(self.select(a).branches(), latent_dim, self.joint_features) for a in larger}
        return {**single, **joint}

    def discriminator(self, modality: str, kind: str = "normalized") -> nn.Module:
        """A network from values of one modality to logits of being real.

        Args:
            modality: Its name.
            kind: Of the architecture `strided`: `"normalized"` has batch norm and ReLUs as the paper on JMVAE,
                `"leaky"` leaky ReLUs and no batch norm as its code. Other architectures have one kind only, without
                batch norm.

        Raises:
            ValueError: If the kind is unknown or the modality is discrete.
        """
        if kind not in DISCRIMINATORS:
            raise ValueError(f"discriminator must be one of {tuple(DISCRIMINATORS)}, got {kind!r}")
        description, architecture = self.modalities[modality], self._architectures[modality]
        if description.is_discrete:
            raise ValueError(f"modality {modality!r} is discrete: no gradient of a discriminator passes through it")
        if description.missing_entries:
            raise ValueError(f"modality {modality!r} may have missing entries, which only real data has")
        if architecture.discriminator is None:
            return Discriminator(feature_network(architecture, description, self._sizes))
        return Discriminator(architecture.discriminator(description, self._sizes, kind))

    def branches(self, features: int | None = None) -> dict[str, nn.Module]:
        """Modality name -> feature network with `features` outputs, by a linear layer where its own number differs."""
        sizes = replace(self._sizes, features=features)
        networks = {name: feature_network(self._architectures[name], m, sizes) for name, m in self.modalities.items()}
        if features is not None:
            networks = {
                name: net if net.out_features == features else chain(net, nn.Linear(net.out_features, features))
                for name, net in networks.items()
            }
        if not self.covariates:
            return networks
        return {name: WithCovariates(net, self.covariate_features()) for name, net in networks.items()}

    def select(self, modalities: Sequence[str]) -> "Networks":
        """The same networks for some of the modalities."""
        unknown = [name for name in modalities if name not in self.modalities]
        if unknown or not modalities:
            raise ValueError(f"modalities must be some of {list(self.modalities)}, got {list(modalities)}")
        descriptions = {name: self.modalities[name] for name in modalities}
        architectures = {name: self.architectures[name] for name in modalities}
        return Networks(descriptions, self.hidden_features, self._sizes.normalized, architectures, self.covariates)

    def _likelihood_options(self, name: str) -> dict[str, Any]:
        """The arguments of a modality's likelihood beside its decoder."""
        modality = self.modalities[name]
        options = {**self._scale(name), "missing_entries": modality.missing_entries}
        return {**options, "num_classes": modality.num_classes} if modality.likelihood == "ordinal" else options

    def _scale(self, name: str) -> dict[str, Any]:
        """The arguments of a modality's likelihood that set its scale, if it has one."""
        modality = self.modalities[name]
        if modality.likelihood not in SCALED:
            return {}
        if isinstance(modality.scale, int | float):
            return {"scale": modality.scale, "learn_scale": False}
        initial = self._architectures[name].normal_scale if modality.likelihood == "normal" else None
        if modality.scale == "channels":
            channels, *sides = modality.shape
            value = likelihood_class(modality.likelihood).default_scale if initial is None else initial
            initial = torch.full((channels, *[1] * len(sides)), value)
        return {"scale": initial, "learn_scale": None if modality.scale is None else True}

    def _deep(self, network: nn.Module) -> nn.Module:
        """A feature network with the layers that follow joined branches, where there are any."""
        return chain(network, trunk(network.out_features, self.joint_features)) if self.joint_features else network


def likelihood_class(name: str) -> type[Likelihood]:
    """The likelihood that a description of a modality names.

    Example:
        >>> likelihood_class("student_t").__name__
        'StudentTLikelihood'
    """
    return getattr(ppl_models, f"{name.title().replace('_', '')}Likelihood")


def networks_for(
    modalities: Mapping[str, Modality],
    hidden_features: Sequence[int] | None = None,
    architectures: Mapping[str, str] | str | None = None,
    covariates: Mapping[str, Modality] | None = None,
) -> Networks:
    """The networks for a data set's modalities.

    Args:
        modalities: Modality name -> its description.
        hidden_features: Widths of the hidden layers: 512-512 by default, 256-256 when everything is small (8x8 digits).
        architectures: Modality name -> name of its architecture, or one architecture for all modalities that it suits;
            see `Networks`.
        covariates: Name -> description of each covariate, `data.covariates` of a data set.

    Returns:
        The networks, built anew at each call of their methods.

    Raises:
        ValueError: If an architecture is unknown, or suits none of the modalities.

    Example:
        >>> from multipyro.data import load_dataset
        >>> networks_for(load_dataset("digits").train.modalities).hidden_features
        (256, 256)
    """
    if hidden_features is None:
        small = all(math.prod(modality.shape) <= 64 for modality in modalities.values())
        hidden_features = (256, 256) if small else (512, 512)
    if isinstance(architectures, str):
        suitable = first_suitable(modalities, [architectures])
        if not suitable:
            raise ValueError(f"the architecture {architectures!r} suits none of the modalities {list(modalities)}")
        architectures = suitable
    return Networks(modalities, hidden_features, architectures=architectures, covariates=covariates)
