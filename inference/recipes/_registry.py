"""The table of methods, and the function that builds one by name."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from multipyro.data import Modality
from multipyro.inference.objectives.expressions import Expression
from multipyro.inference.objectives.spec import instances_in
from multipyro.inference.options import Option, check_options, options_of
from multipyro.inference.programs import Binding, Part, Program
from multipyro.inference.recipes._aggregate import with_aggregates
from multipyro.inference.recipes._base import PRIVATE_OPTIONS, MethodInfo, Recipe, Weighting
from multipyro.inference.recipes.bivcca import bivcca
from multipyro.inference.recipes.bridged import bridged
from multipyro.inference.recipes.conditional import cmma, cvae
from multipyro.inference.recipes.jmvae import jmvae, jmvae_kl
from multipyro.inference.recipes.jmvae_gan import jmvae_gan
from multipyro.inference.recipes.jmvae_h import jmvae_h
from multipyro.inference.recipes.jnf import jnf
from multipyro.inference.recipes.mmjsd import mmjsd
from multipyro.inference.recipes.mmvae import mmvae
from multipyro.inference.recipes.mmvae_plus import mmvae_plus
from multipyro.inference.recipes.mopoe import mopoe
from multipyro.inference.recipes.mvae import mvae
from multipyro.inference.recipes.mvtcae import mvtcae
from multipyro.inference.recipes.networks import Networks
from multipyro.inference.recipes.telbo import telbo
from multipyro.inference.recipes.vae import vae
from multipyro.inference.recipes.vlvae import vlvae
from multipyro.ppl_models.networks.heads import NormalEncoder, Scale

__all__ = ["COMMON_OPTIONS", "METHODS", "build", "equations", "options_for", "register"]

_BUILT_IN = (
    *(vae, bivcca, bridged, jmvae, jmvae_kl, jmvae_gan, jmvae_h, jnf, mvae, mmvae, mmvae_plus, mmjsd, mopoe),
    *(mvtcae, telbo, cvae, cmma, vlvae),
)
METHODS: dict[str, MethodInfo] = {info.name: info for info in _BUILT_IN}


def with_scales(recipe: Recipe, *, encoder_scale: Scale | None = None) -> Recipe:
    """The recipe with another function from the outputs of its normal encoders to positive scales.

    Args:
        recipe: What a method built; its encoders are changed in place.
        encoder_scale: As in `NormalEncoder`, for every normal encoder of the method, such as `variance` in JMVAE; None
            for that of the method, softplus.
    """
    for program in (recipe.model, recipe.guide) if encoder_scale is not None else ():
        for module in program.modules():
            if isinstance(module, NormalEncoder):
                module.scale = encoder_scale
    return recipe


#: The options that every method takes.
COMMON_OPTIONS: dict[str, Option] = {
    name: option
    for function in (Weighting, with_scales, with_aggregates)
    for name, option in options_of(function).items()
    if name not in PRIVATE_OPTIONS
}


def options_for(method: str) -> dict[str, Option]:
    """All options of a method by name, the common ones first, with the defaults that the method gives them.

    Example:
        >>> options_for("vlvae")["aggregate"].default, options_for("mopoe")["aggregate"].default
        (True, None)
    """
    info = METHODS[method]
    defaults = {name: replace(COMMON_OPTIONS[name], default=default) for name, default in info.defaults.items()}
    return {**COMMON_OPTIONS, **defaults, **info.options}


def register(info: MethodInfo) -> MethodInfo:
    """Registers a user-defined method for `build`, `load` and the command line in this process; returns it.

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
    if any(info.name == known.name for known in _BUILT_IN):
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
        guide: A user-defined guide class, called as `guide(latent_dim, encoders)`, in place of the method's.
        **options: Options of the method (`METHODS[method].options`) and those of all methods (`COMMON_OPTIONS`).

    Returns:
        The recipe, with programs of fresh parameters.

    Raises:
        ValueError: If the method or an option is unknown; the message lists those available. If the method trains parts
            that only its own guide has, and another is given. If there are covariates and the method ignores them.
        TypeError: If `guide` is not a class.

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
    values = check_options(options_for(method), options, method)
    weights = {name: values[name] for name in options_of(Weighting) if name in values}
    weighting = Weighting(networks.modalities, **weights)
    recipe = info(networks, latent_dim, weighting, **{name: values[name] for name in options_of(info.build)})
    if networks.covariates and getattr(recipe.model, "covariates", None) is None:
        raise ValueError(
            f"{method} does not pass the covariates {list(networks.covariates)} to its model: make it with "
            "covariates=networks.covariate_features()"
        )
    recipe = replace(recipe, name=method, latent_dim=latent_dim, options=values, networks=networks)
    if guide is not None:
        if not isinstance(guide, type):  # `load` takes it by its name
            raise TypeError(f"guide must be a class, got {guide!r}: write a subclass that passes what it needs")
        encoders = networks.select(recipe.model.modalities).encoders(latent_dim)
        original, recipe = recipe.guide, replace(recipe, guide=guide(latent_dim, encoders), guide_class=guide.__name__)
        _check_trainable(recipe, original)
    recipe = with_scales(recipe, **{name: values[name] for name in options_of(with_scales)})
    return with_aggregates(recipe, networks, **{name: values[name] for name in options_of(with_aggregates)})


def equations(method: str, modalities: Sequence[str] = ("image", "text"), **options: Any) -> tuple[str, ...]:
    """What each stage of a method maximizes, printed from its objectives.

    Args:
        method: A key of `METHODS`.
        modalities: Names of the modalities to print it for.
        **options: As in `build`.

    Returns:
        One equation for each stage.

    Example:
        >>> equations("jmvae-kl", alpha=0.1)
        ('ELBO(m || g) + alpha sum_{A proper} ELBO(g|A || g)',)
    """
    descriptions = {name: Modality(name, (2,), "vector", "normal") for name in modalities}
    return build(method, Networks(descriptions, (2,)), 2, **options).equations


def _check_trainable(recipe: Recipe, original: Program) -> None:
    """Raises if a stage trains, or its objective refers to, parts that a user-defined guide does not have."""
    if getattr(recipe.model, "conditions", ()):
        raise ValueError(
            f"{recipe.name} takes no guide but its own, which is the prior that predicts, given the conditions alone"
        )
    parts = {id(part) for program in (recipe.model, recipe.guide) for part in program.modules()}
    lost = {id(part) for part in original.modules()} - parts
    for stage in recipe.stages:
        trained = [*(stage.train or ()), *(part for update in stage.updates for part in update.train)]
        if any(id(module) in lost for module in trained):
            raise ValueError(
                f"{recipe.name} takes no guide but its own, parts of which its stage {stage.name!r} trains: "
                f"{recipe.guide_class} has none of them"
            )
        modalities = tuple(recipe.model.modalities)
        sums = [o.terms(modalities) if isinstance(o, Expression) else o for o in stage.objectives]
        for part in instances_in(sums, Part):
            try:
                part.resolve(Binding(recipe.model, recipe.guide))
            except ValueError as error:
                raise ValueError(f"{recipe.name} takes no guide but its own: {error}") from error
