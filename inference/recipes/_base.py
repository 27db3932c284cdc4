"""The parts of a method: a model, a guide, and the stages that train them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pyro.infer import ELBO
from torch import nn

from multipyro.data import Modality
from multipyro.inference._program_modules import count_parameters
from multipyro.inference.objectives.weights import LinearWarmup
from multipyro.inference.options import Bounds, Count, Option, Weight, options_of
from multipyro.inference.programs import Program
from multipyro.inference.recipes.networks import Networks

__all__ = ["PRIVATE_OPTIONS", "MethodInfo", "Recipe", "Stage", "Update", "Weighting", "method"]

#: The options of methods with private latents alone.
PRIVATE_OPTIONS = ("private", "private_beta")


@dataclass(frozen=True)
class Update:
    """One of several updates per batch, with its own objective, modules and optimizer.

    Args:
        objective: What it maximizes. Everything that is not in `train` is frozen while it is computed, batch-norm
            statistics included; gradients pass through it.
        train: The modules that train, of the model, the guide and the recipe's other modules.
        optimizer: Called with their parameters, returns a torch optimizer; None for that of the training call.
        name: Its name in logs.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from torch import nn
        >>> Update(Trace_ELBO(), (nn.Linear(2, 3),), name="decoder").name
        'decoder'
    """

    objective: ELBO
    train: tuple[nn.Module, ...]
    optimizer: Callable[..., Any] | None = None
    name: str = "update"


@dataclass(frozen=True)
class Stage:
    """One run of SVI within a recipe, or of several updates per batch in turn, as adversarial training needs.

    Args:
        objective: What is maximized; of a stage with updates it is not maximized as such, but gives the validation
            bound.
        epochs: Number of epochs; None for that of the training call.
        train: The modules that train, everything else frozen; None for all of model and guide.
        optimizer: Called with the parameters, returns a torch optimizer; None for that of the training call.
        name: Name of the stage in checkpoints and logs.
        updates: The updates of each batch, in this order, in place of one step on `objective`; each defines what it
            trains and by which optimizer. The training bound is minus the loss of the first.
        activates: Parts of model and guide whose `activate()` is called when the stage starts: the flows that it
            trains, such as a `FlowPrior`, which take effect from then on.

    Example:
        >>> from multipyro.inference.objectives import GUIDE, MODEL, elbo
        >>> Stage(elbo(MODEL, GUIDE), epochs=5, name="joint").epochs
        5
    """

    objective: ELBO
    epochs: int | None = None
    train: tuple[nn.Module, ...] | None = None
    optimizer: Callable[..., Any] | None = None
    name: str = "main"
    updates: tuple[Update, ...] = ()
    activates: tuple[nn.Module, ...] = ()

    @property
    def objectives(self) -> tuple[ELBO, ...]:
        """What is maximized: the objectives of the updates, or the one of the stage."""
        return tuple(update.objective for update in self.updates) or (self.objective,)


@dataclass(frozen=True)
class Recipe:
    """A method as data: the programs, and the stages that train them.

    Args:
        model: The generative program.
        guide: The variational program.
        stages: What is trained, in order.
        name: Name of the method; empty for a recipe without one.
        latent_dim: Size of the shared latent that `build` was called with.
        options: The options that it was built with.
        networks: The networks that built its parts; None for user-defined parts.
        guide_class: Name of the user-defined guide class that it was built with.
        teacher: The subset whose posteriors aggregate posteriors are fitted to by default; None for all modalities of
            the model.
        others: Modules beside model and guide that train and are saved with them, such as a discriminator. A stage
            without updates trains those that it names.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.inference.objectives import GUIDE, MODEL, elbo
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> Recipe(model, guide, (Stage(elbo(MODEL, GUIDE)),)).equations
        ('ELBO(m || g)',)
    """

    model: Program
    guide: Program
    stages: tuple[Stage, ...]
    name: str = ""
    latent_dim: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    networks: Networks | None = None
    guide_class: str | None = None
    teacher: tuple[str, ...] | None = None
    others: tuple[nn.Module, ...] = ()

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the model, the guide and the other modules, each counted once."""
        return count_parameters(self.model, self.guide, *self.others)

    @property
    def equations(self) -> tuple[str, ...]:
        """What each stage maximizes, as text; of several updates per batch, all of them."""
        return tuple("; ".join(map(repr, stage.objectives)) for stage in self.stages)


@dataclass(frozen=True)
class Weighting:
    r"""The weights of the KL divergences and of each modality's likelihood, and the sizes of private latents.

    A method with private latents `z_m` beside the shared one has the objective of eq. 34 of MoPoE:

    .. math:: E \sum_m \log p(x_m \mid z, z_m) - \beta\,[\mathrm{KL}(z) + \sum_m \beta_m \mathrm{KL}(z_m)]

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), eq. 34.

    Args:
        modalities: Modality name -> its description.
        beta: Weight of the KL of the latents.
        warmup: Number of epochs, or of steps, over which that weight grows from 0.
        warmup_unit: What `warmup` counts: `"epoch"` or `"step"`.
        weights: Modality -> weight of its likelihood; `"dimension"` gives each the largest modality's number of
            elements divided by its own, as in MMVAE and MoPoE; None for 1.
        private: Size of every modality's private latent, or modality -> size; None for none, in `mmvae+` for that of
            the shared latent, as in its paper.
        private_beta: Weight `beta_m` of the KLs of the private latents beside `beta`, or modality -> weight, 1 for
            those that it does not name.

    Raises:
        ValueError: If an unknown modality is named, `weights` is another string, a size is below 1, or a modality
            without a private latent has a weight.

    Example:
        >>> modalities = {name: Modality(name, (4,), "vector", "normal") for name in ("a", "b")}
        >>> Weighting(modalities, beta=0.5, weights={"b": 10.0}).sites
        {'b': 10.0, 'z': 0.5}
    """

    modalities: Mapping[str, Modality]
    _: KW_ONLY
    beta: Weight = 1.0
    warmup: Annotated[int, Bounds(0)] = 0
    warmup_unit: Literal["epoch", "step"] = "epoch"
    weights: Mapping[str, Weight] | Literal["dimension"] | None = None
    private: Count | Mapping[str, Count] | None = None
    private_beta: Weight | Mapping[str, Weight] = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.weights, str) and self.weights != "dimension":
            raise ValueError(f"weights must be a dict of modality -> number or 'dimension', got {self.weights!r}")
        for option, named in (("weights name", self.likelihoods), ("private names", self.private_dims)):
            unknown = [name for name in named if name not in self.modalities]
            if unknown:
                raise ValueError(f"{option} unknown modalities {unknown}: there are {list(self.modalities)}")
        small = {name: size for name, size in self.private_dims.items() if size < 1}
        if small:
            raise ValueError(f"sizes of private latents must be at least 1, got {small}")

    @cached_property
    def likelihoods(self) -> dict[str, float]:
        """Modality -> weight of its likelihood, without those that are 1."""
        if self.weights != "dimension":
            return dict(self.weights or {})
        sizes = {name: modality.dim for name, modality in self.modalities.items()}
        return {name: max(sizes.values()) / size for name, size in sizes.items()}

    @cached_property
    def schedule(self) -> LinearWarmup:
        """The weight of the KL, growing over the warm-up."""
        return self._growing_to(self.beta)

    @cached_property
    def private_dims(self) -> dict[str, int]:
        """Modality -> size of its private latent, for those that have one."""
        return _by_name({} if self.private is None else self.private, self.modalities)

    @cached_property
    def private_schedules(self) -> dict[str, LinearWarmup]:
        """Private latent -> weight of its KL, growing over the warm-up."""
        betas = _by_name(self.private_beta, self.private_dims)
        unknown = [name for name in betas if name not in self.private_dims]
        if unknown:
            raise ValueError(f"private_beta names {unknown}, but private latents have {list(self.private_dims)}")
        return {f"z_{name}": self._growing_to(self.beta * betas.get(name, 1.0)) for name in self.private_dims}

    @property
    def sites(self) -> dict[str, float | LinearWarmup]:
        """Site -> weight, those of the KLs growing over the warm-up."""
        return {**self.likelihoods, "z": self.schedule, **self.private_schedules}

    @property
    def sites_at_peak(self) -> dict[str, float]:
        """Site -> weight without a warm-up, as later terms and stages have it."""
        return {**self.likelihoods, "z": self.beta}

    def _growing_to(self, peak: float) -> LinearWarmup:
        return LinearWarmup(self.warmup, self.warmup_unit, peak)


@dataclass(frozen=True)
class MethodInfo:
    """A method in the table of methods; the decorator `method` creates it.

    Args:
        name: Name on the command line.
        title: What it is, in a few words.
        paper: Authors and year of the source.
        build: Called as `build(networks, latent_dim, weighting, **options)`, returns a `Recipe`.
        subsets: Which subsets the guide supports.
        networks: Number of encoders as the number `M` of modalities grows.
        needs_complete_rows: Whether every training row must contain every modality.
        min_modalities: The smallest number of modalities that it is defined for.
        takes: The modalities that it takes by default, and what it predicts from what.
        architectures: Architectures of its paper's networks, of which a modality gets the first that suits it with
            `--networks paper`.
        defaults: Common options whose default differs for this method.
        private_latents: Whether modalities may have private latents: the method then has the options `private` and
            `private_beta`.

    Example:
        >>> from multipyro.inference import METHODS
        >>> METHODS["telbo"].needs_complete_rows, METHODS["telbo"].options["one_stage"].default
        (True, False)
    """

    name: str
    title: str
    paper: str
    build: Callable[..., Recipe]
    subsets: str = "every subset"
    networks: str = "M encoders"
    needs_complete_rows: bool = False
    min_modalities: int = 1
    takes: str = "all; any to any"
    architectures: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    private_latents: bool = False

    @cached_property
    def options(self) -> dict[str, Option]:
        """Option name -> its default, type and choices, read from the signature of `build`."""
        private = {name: options_of(Weighting)[name] for name in PRIVATE_OPTIONS if self.private_latents}
        return {**options_of(self.build), **private}

    def __call__(self, networks: Networks, latent_dim: int, weighting: Weighting, **options: Any) -> Recipe:
        """Builds the method, also for another method that extends it.

        Raises:
            ValueError: If there are too few modalities.
        """
        names = list(networks.modalities)
        if len(names) < self.min_modalities:
            raise ValueError(f"{self.name} needs at least {self.min_modalities} modalities, got {names}")
        return self.build(networks, latent_dim, weighting, **options)


def method(name: str, title: str, paper: str, **details: Any) -> Callable[[Callable[..., Recipe]], MethodInfo]:
    """Decorator that turns a build function into a method; its keyword-only arguments are the method's options.

    Args:
        name: As in `MethodInfo`, like all further arguments.
        title: As in `MethodInfo`.
        paper: As in `MethodInfo`.
        **details: Further fields of `MethodInfo`.

    Returns:
        The decorator.

    Example:
        >>> from multipyro.guides import ProductOfExperts
        >>> from multipyro.inference.objectives import GUIDE, MODEL, elbo
        >>> from multipyro.ppl_models import MultimodalModel
        >>> @method("poe", "product of experts", "this example")
        ... def product(networks, latent_dim, weighting, *, prior_expert: bool = True):
        ...     model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
        ...     guide = ProductOfExperts(latent_dim, networks.encoders(latent_dim), prior_expert=prior_expert)
        ...     return Recipe(model, guide, (Stage(elbo(MODEL, GUIDE, weighting.sites)),))
        >>> product.options["prior_expert"].default
        True
    """
    return lambda build: MethodInfo(name, title, paper, build, **details)


def _by_name(value: Any, names: Iterable[str]) -> dict[str, Any]:
    """A value for each name: the one of all, or those of a mapping."""
    return dict(value) if isinstance(value, Mapping) else dict.fromkeys(names, value)
