"""The table of methods and the function that builds one by name."""

from dataclasses import replace
from typing import Any

from multipyro.inference._program_modules import modules_of
from multipyro.inference.handlers import Program
from multipyro.inference.recipes._aggregate import AGGREGATE_OPTIONS, with_aggregates
from multipyro.inference.recipes._base import MethodInfo, Recipe
from multipyro.inference.recipes.bivcca import BIVCCA
from multipyro.inference.recipes.bridged import BRIDGED
from multipyro.inference.recipes.conditional import CMMA, CVAE
from multipyro.inference.recipes.jmvae import JMVAE, JMVAE_KL
from multipyro.inference.recipes.jmvae_gan import JMVAE_GAN
from multipyro.inference.recipes.jmvae_h import JMVAE_H
from multipyro.inference.recipes.jnf import JNF
from multipyro.inference.recipes.mmjsd import MMJSD
from multipyro.inference.recipes.mmvae import MMVAE
from multipyro.inference.recipes.mmvae_plus import MMVAE_PLUS
from multipyro.inference.recipes.mopoe import MOPOE
from multipyro.inference.recipes.mvae import MVAE
from multipyro.inference.recipes.mvtcae import MVTCAE
from multipyro.inference.recipes.networks import Networks
from multipyro.inference.recipes.telbo import TELBO
from multipyro.inference.recipes.vae import VAE
from multipyro.inference.recipes.vlvae import VLVAE

__all__ = ["COMMON_OPTIONS", "METHODS", "build", "register"]

METHODS: dict[str, MethodInfo] = {
    info.name: info
    for info in (
        VAE,
        BIVCCA,
        BRIDGED,
        JMVAE,
        JMVAE_KL,
        JMVAE_GAN,
        JMVAE_H,
        JNF,
        MVAE,
        MMVAE,
        MMVAE_PLUS,
        MMJSD,
        MOPOE,
        MVTCAE,
        TELBO,
        CVAE,
        CMMA,
        VLVAE,
    )
}

_OURS = frozenset(METHODS)

#: Options that every method takes, with their defaults.
COMMON_OPTIONS: dict[str, Any] = {"beta": 1.0, "warmup": 0, "weights": None, **AGGREGATE_OPTIONS}


def register(info: MethodInfo) -> MethodInfo:
    """Makes a method of one's own known to `build`, `load` and the command line of this process; returns it.

    Args:
        info: The method; registering another one of the same name replaces it.

    Returns:
        The method itself.

    Raises:
        ValueError: If the name is that of a method of the library.

    Example:
        >>> from dataclasses import replace
        >>> register(replace(METHODS["mvae"], name="mine")).name
        'mine'
        >>> del METHODS["mine"]
    """
    if info.name in _OURS:
        raise ValueError(f"{info.name!r} is the name of a method of the library: choose another one")
    METHODS[info.name] = info
    return info


def build(
    method: str,
    networks: Networks,
    latent_dim: int = 64,
    guide: type | None = None,
    **options: Any,
) -> Recipe:
    """Builds a method by name.

    Args:
        method: A key of `METHODS`.
        networks: Makes the decoders and encoders, for example `networks_for(data.modalities)`.
        latent_dim: Size of the shared latent.
        guide: A guide class of one's own, called as `guide(latent_dim, encoders)`, in place of the method's.
        **options: Options of the method (`METHODS[method].options`) and those of all methods (`COMMON_OPTIONS`).

    Returns:
        The recipe, with programs of fresh parameters.

    Raises:
        ValueError: If the method or an option is unknown; the message names what there is. If the method trains parts
            that only its own guide has, and another is given.
        TypeError: If `guide` is no class.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import networks_for
        >>> recipe = build("mopoe", networks_for(load_dataset("digits").train.modalities), latent_dim=8, beta=0.5)
        >>> recipe.model.modalities
        ('image', 'label', 'word')
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: there are {', '.join(METHODS)}")
    info = METHODS[method]
    known = {**COMMON_OPTIONS, **info.options}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"{method} has no option {', '.join(unknown)}: it has {', '.join(known)}")
    own = {name: value for name, value in options.items() if name not in AGGREGATE_OPTIONS}
    recipe = info.build(networks, latent_dim, **own)
    recipe = replace(recipe, options={**known, **options}, networks=networks)
    if guide is not None:
        if not isinstance(guide, type):  # its name is what tells `load` which one to ask for
            raise TypeError(f"guide must be a class, got {guide!r}: write a subclass that passes what it needs")
        encoders = networks.select(recipe.model.modalities).encoders(latent_dim)
        own, recipe = recipe.guide, replace(recipe, guide=guide(latent_dim, encoders), guide_class=guide.__name__)
        _check_trained(recipe, own)
    return with_aggregates(recipe, networks, recipe.options)


def _check_trained(recipe: Recipe, own: Program) -> None:
    """Raises if a stage trains, or its objective holds, parts of the method's own guide that another one took."""
    if getattr(recipe.model, "conditions", ()):
        raise ValueError(
            f"{recipe.name} takes no guide but its own, which answers the conditions with the prior that predicts"
        )
    parts = {id(part) for program in (recipe.model, recipe.guide) for part in program.modules()}
    lost = {id(part) for part in own.modules()} - parts
    for stage in recipe.stages:
        losses = [stage.loss, *(update.loss for update in stage.updates)]
        wanted = [*(stage.train or ()), *(part for update in stage.updates for part in update.train)]
        wanted += modules_of([tuple(vars(loss).values()) for loss in losses])
        if any(id(module) in lost for module in wanted):
            raise ValueError(
                f"{recipe.name} takes no guide but its own, parts of which its stage {stage.name!r} trains: "
                f"{recipe.guide_class} has none of them"
            )
