"""What a method is made of: model, guide, stages, and the program that predicts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro.infer import ELBO
from torch import nn

from multipyro.inference._program_modules import modules_of
from multipyro.inference.handlers import Program
from multipyro.inference.objectives.schedules import LinearWarmup
from multipyro.inference.objectives.terms import SiteWeights
from multipyro.inference.recipes.networks import Networks

__all__ = ["MethodInfo", "Recipe", "Stage", "Update", "site_weights"]


@dataclass(frozen=True)
class Update:
    """One of several updates of each batch, with an objective, modules and an optimizer of its own.

    Args:
        loss: The objective. Everything that is not in `train` is frozen while it is computed, batch-norm statistics
            included; gradients pass through it.
        train: The modules that train, of the model, the guide and the recipe's others.
        optimizer: Called with their parameters, returns a torch optimizer; None for that of the training call.
        name: Its name in logs.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from torch import nn
        >>> Update(Trace_ELBO(), (nn.Linear(2, 3),), name="decoder").name
        'decoder'
    """

    loss: ELBO
    train: tuple[nn.Module, ...]
    optimizer: Callable[..., Any] | None = None
    name: str = "update"


@dataclass(frozen=True)
class Stage:
    """One run of SVI within a recipe, or of several updates of each batch in turn, as adversarial training needs.

    Args:
        loss: The objective; of a stage with updates it is not minimized as such, but gives the validation bound.
        epochs: Number of epochs; None for what the training call says.
        train: The modules that train, everything else frozen; None for all of model and guide.
        optimizer: Called with the parameters, returns a torch optimizer; None for Adam.
        name: Name of the stage in checkpoints and logs.
        updates: What each batch does in this order, in place of one step on `loss`; they say themselves what trains
            and by which optimizer. The training bound is minus the loss of the first.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> Stage(Trace_ELBO(), epochs=5, name="joint").epochs
        5
    """

    loss: ELBO
    epochs: int | None = None
    train: tuple[nn.Module, ...] | None = None
    optimizer: Callable[..., Any] | None = None
    name: str = "main"
    updates: tuple[Update, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A method as data: the programs and the stages that train them.

    Args:
        name: Name of the method.
        model: The generative program.
        guide: The variational program.
        stages: What is trained, in order.
        latent_dim: Size of the shared latent.
        options: The options it was built with.
        networks: What its parts were made by; None for parts of one's own.
        guide_class: Name of the guide class of one's own that it was built with.
        teacher: The subset whose posteriors aggregates are of by default; None for all modalities of the model.
        others: Modules beside model and guide that train and are kept with them, such as a discriminator. A stage
            without updates trains those that it names.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> Recipe("mine", model, guide, (Stage(Trace_ELBO()),), latent_dim=2).stages[0].name
        'main'
    """

    name: str
    model: Program
    guide: Program
    stages: tuple[Stage, ...]
    latent_dim: int
    options: dict[str, Any] = field(default_factory=dict)
    networks: Networks | None = None
    guide_class: str | None = None
    teacher: tuple[str, ...] | None = None
    others: tuple[nn.Module, ...] = ()

    @property
    def num_parameters(self) -> int:
        """Number of parameters of model, guide and others, each counted once."""
        roots = modules_of((self.model, self.guide, *self.others))
        return sum({id(p): p.numel() for root in roots for p in root.parameters()}.values())


@dataclass(frozen=True)
class MethodInfo:
    """A row of the table of methods.

    Args:
        name: Name on the command line.
        title: What it is, in a few words.
        paper: Authors and year of the source.
        programs: The objective in terms of programs, `m` the model and `g` the guide.
        stages: Number of stages.
        subsets: Which subsets the guide answers.
        needs_complete_rows: Whether every training row must hold every modality.
        networks: Number of encoders as the number `M` of modalities grows.
        options: Option name -> default, besides the ones of all methods.
        build: Called as `build(networks, latent_dim, **options)`.
        takes: The modalities it takes by default of those there are, and what it predicts from what.
        architectures: Architectures of its paper's networks, of which a modality gets the first that suits it with
            `--networks paper`.

    Example:
        >>> from multipyro.inference import METHODS
        >>> METHODS["mvae"].stages, METHODS["telbo"].needs_complete_rows
        (1, True)
    """

    name: str
    title: str
    paper: str
    programs: str
    stages: int
    subsets: str
    needs_complete_rows: bool
    networks: str
    options: dict[str, Any]
    build: Callable[..., Recipe]
    takes: str = "all; any to any"
    architectures: tuple[str, ...] = ()


def site_weights(
    networks: Networks, beta: float, warmup: int, weights: Mapping[str, float] | str | None
) -> tuple[SiteWeights, tuple[LinearWarmup, ...]]:
    """Weights of the sites, and the schedules among them.

    Args:
        networks: Tells the modalities and their dimensions.
        beta: Weight of the KL of `z`.
        warmup: Number of epochs over which that weight grows from 0.
        weights: Modality -> weight of its likelihood; `"dimension"` weighs each by the largest modality's number of
            elements over its own, as MMVAE and MoPoE do; None for 1.

    Returns:
        Site name -> weight, and the schedules that move some of them.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import networks_for
        >>> networks = networks_for(load_dataset("digits").train.modalities)
        >>> sites, schedules = site_weights(networks, beta=0.5, warmup=0, weights={"label": 10.0})
        >>> sites["label"], sites["z"].value
        (10.0, tensor(0.5000))
    """
    if weights == "dimension":
        sizes = {name: modality.dim for name, modality in networks.modalities.items()}
        weights = {name: max(sizes.values()) / size for name, size in sizes.items()}
    elif isinstance(weights, str):
        raise ValueError(f"weights must be a dict of modality -> number or 'dimension', got {weights!r}")
    unknown = [name for name in weights or {} if name not in networks.modalities]
    if unknown:
        raise ValueError(f"weights name unknown modalities {unknown}: there are {list(networks.modalities)}")
    schedule = LinearWarmup(warmup, peak=beta)
    return {**(weights or {}), "z": schedule}, (schedule,)
