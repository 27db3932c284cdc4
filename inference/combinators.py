"""Combinators: programs made from programs."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from multipyro.guides import Guide
from multipyro.ppl_models._batch import rows_of_latent

__all__ = ["Program", "conditional", "frozen", "generative", "modules_of", "program_key", "proposal", "restrict"]

Program = Callable[..., Any]


def restrict(program: Program, modalities: Sequence[str]) -> nn.Module:
    """The same program, seeing and scoring only some modalities.

    Args:
        program: A model or a guide, called as `program(x, observed=None)`.
        modalities: The modalities it still sees; those that a batch does not hold are ignored.

    Example:
        >>> from multipyro.ppl_models import MLP, Categorical, MultimodalModel, Normal
        >>> model = MultimodalModel(2, {"image": Normal(MLP(2, 4)), "label": Categorical(MLP(2, 3))})
        >>> sorted(restrict(model, ["label"])({"image": torch.zeros(5, 4), "label": torch.zeros(5).long()}))
        ['label', 'z']
    """
    return _Restricted(program, (modalities,) if isinstance(modalities, str) else tuple(modalities))


def frozen(program: Program, train: Iterable[nn.Module] = ()) -> nn.Module:
    """The same program, with nothing in it trained or moved, except the modules named in `train`.

    During each call, and only then, its modules are in evaluation mode, their parameters are replaced by detached
    views, `param` statements are hidden and their values detached. Gradients still pass through it to whatever it is
    applied to. Afterwards everything is bit for bit as before, batch-norm statistics included.

    Args:
        program: A model or a guide; of a plain function, the modules it refers to are frozen.
        train: Submodules of the program that keep training.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, Normal
        >>> model = MultimodalModel(2, {"image": Normal(MLP(2, 4))})
        >>> frozen(model)({"image": torch.zeros(5, 4)})["z"].requires_grad
        False
    """
    return _Frozen(program, tuple(train))


def generative(model: Program, targets: Sequence[str]) -> nn.Module:
    """The model with `targets` as unobserved sample sites, whatever `x` holds: the program of a prediction.

    `Predictive(generative(model, ["image"]), guide=guide, num_samples=S)(x)` is a posterior predictive check. A row
    of which `x` holds nothing draws its latents from the model's prior, whatever the guide drew.

    Args:
        model: A model, called as `model(x, observed=None)`; it must sample a site whose value in `x` is None.
        targets: Modalities to sample.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, Normal
        >>> model = MultimodalModel(2, {"image": Normal(MLP(2, 4))})
        >>> generative(model, ["image"])({}, num_rows=3)["image"].shape
        torch.Size([3, 4])
    """
    return _Generative(model, (targets,) if isinstance(targets, str) else tuple(targets))


def conditional(guide: Program) -> Program:
    """The program that samples from a guide's `conditional` distribution; a plain function is its own."""
    return _Conditional(guide) if isinstance(guide, Guide) else guide


def proposal(guide: Program) -> Program:
    """The program that samples from a guide's `proposal` distribution; a plain function is its own."""
    return _Proposal(guide) if isinstance(guide, Guide) else guide


def program_key(program: Program) -> tuple:
    """What makes two programs the same: the combinators around them and the identity of what is inside."""
    return program.key() if isinstance(program, _Combinator) else (id(program),)


def modules_of(program: Program) -> tuple[nn.Module, ...]:
    """The modules a program is made of: itself, or those that a plain function's code refers to."""
    if isinstance(program, nn.Module):
        return (program,)
    if isinstance(program, functools.partial):
        inside = [program.func, *program.args, *program.keywords.values()]
    elif inspect.ismethod(program):
        inside = [program.__self__, program.__func__]
    elif inspect.isfunction(program):
        names = inspect.getclosurevars(program)
        inside = [*names.nonlocals.values(), *names.globals.values()]
    elif hasattr(program, "__wrapped__"):
        inside = [program.__wrapped__]
    else:
        inside = []
    found: dict[int, nn.Module] = {}
    for thing in inside:
        if isinstance(thing, nn.Module) or inspect.ismethod(thing) or isinstance(thing, functools.partial):
            found.update({id(module): module for module in modules_of(thing)})
        elif thing is getattr(program, "func", None) or thing is getattr(program, "__func__", None):
            found.update({id(module): module for module in modules_of(thing)})
    return tuple(found.values())


class _Combinator(nn.Module):
    """A program around a program, which may be a module or a plain function."""

    def __init__(self, program: Program, detail: tuple) -> None:
        super().__init__()
        self.program = program
        self.detail = detail

    def key(self) -> tuple:
        return (type(self).__name__, *(item if isinstance(item, str) else id(item) for item in self.detail)) + (
            program_key(self.program)
        )


class _Restricted(_Combinator):
    def forward(self, x: Mapping[str, Any], observed: Mapping[str, Tensor] | None = None, **kwargs: Any) -> Any:
        inside = {name: values for name, values in x.items() if name in self.detail}
        masks = None if observed is None else {name: mask for name, mask in observed.items() if name in inside}
        return self.program(inside, masks, **kwargs)


class _Conditional(_Combinator):
    def __init__(self, guide: Guide) -> None:
        super().__init__(guide, ())

    def forward(self, x: Mapping[str, Any], observed: Mapping[str, Tensor] | None = None) -> Any:
        return self.program.sample_conditional(x, observed)


class _Proposal(_Combinator):
    def __init__(self, guide: Guide) -> None:
        super().__init__(guide, ())

    def forward(self, x: Mapping[str, Any], observed: Mapping[str, Tensor] | None = None) -> Any:
        return self.program.sample_proposal(x, observed)


class _Frozen(_Combinator):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        kept = {id(part) for module in self.detail for part in module.modules()}
        with ExitStack() as stack:
            for module in modules_of(self.program):
                stack.enter_context(_frozen_modules(module, kept))
            stack.enter_context(_DetachParams({id(p) for module in self.detail for p in module.parameters()}))
            return self.program(*args, **kwargs)


@contextmanager
def _frozen_modules(root: nn.Module, kept: set[int]) -> Iterator[None]:
    """Evaluation mode and detached parameters for every part of `root` that is not in `kept`, then as before."""
    parts = [part for part in root.modules() if id(part) not in kept]
    training = [part.training for part in parts]
    parameters = [dict(part._parameters) for part in parts]
    flat = [part._flat_weights if isinstance(part, nn.RNNBase) else None for part in parts]
    cudnn = torch.backends.cudnn.flags(enabled=False) if any(weights is not None for weights in flat) else nullcontext()
    try:
        for part, weights in zip(parts, flat, strict=True):
            part.training = False
            for name, parameter in part._parameters.items():
                # a plain tensor in place of the parameter: no operation and no distribution can reach the leaf
                part._parameters[name] = None if parameter is None else parameter.detach()
            if weights is not None:
                part._flat_weights = [weight.detach() for weight in weights]
        with cudnn:  # cuDNN has no backward through a recurrent network in evaluation mode
            yield
    finally:
        for part, mode, originals, weights in zip(parts, training, parameters, flat, strict=True):
            part.training = mode
            part._parameters.update(originals)
            if weights is not None:
                part._flat_weights = weights


class _DetachParams(Messenger):
    """Hides `param` statements from everything outside and detaches their values, except those of kept parameters."""

    def __init__(self, kept: set[int]) -> None:
        super().__init__()
        self.kept = kept

    def _is_kept(self, msg: dict) -> bool:
        return len(msg["args"]) > 1 and id(msg["args"][1]) in self.kept

    def _pyro_param(self, msg: dict) -> None:
        if not self._is_kept(msg):
            msg["stop"] = True

    def _pyro_post_param(self, msg: dict) -> None:
        if not self._is_kept(msg):
            msg["value"] = msg["value"].detach()


class _Generative(_Combinator):
    def forward(
        self, x: Mapping[str, Any], observed: Mapping[str, Tensor] | None = None, num_rows: int | None = None
    ) -> Any:
        targets = self.detail
        if num_rows is None:
            num_rows = next((len(values) for values in x.values() if values is not None), None)
        given = {name: values for name, values in x.items() if name not in targets}
        masks = None if observed is None else {name: mask for name, mask in observed.items() if name in given}
        prior = _PriorWithoutEvidence(x, observed, (*given, *targets)) if observed else nullcontext()
        rows = {} if num_rows is None or given else {"num_rows": num_rows}
        with prior:
            return self.program({**given, **dict.fromkeys(targets)}, masks, **rows)


class _PriorWithoutEvidence(Messenger):
    """Gives rows without evidence the model's own draw of each latent, whatever value is replayed into it."""

    def __init__(self, x: Mapping[str, Any], observed: Mapping[str, Tensor], modalities: Sequence[str]) -> None:
        super().__init__()
        self.x, self.observed = x, observed
        self.priors: dict[str, Any] = {}
        self.modalities = modalities

    def _pyro_sample(self, msg: dict) -> None:
        if not msg["is_observed"] and msg["name"] not in self.modalities and not poutine.util.site_is_subsample(msg):
            self.priors[msg["name"]] = msg["fn"]

    def _pyro_post_sample(self, msg: dict) -> None:
        prior, rows = self.priors.pop(msg["name"], None), rows_of_latent(msg["name"], self.x, self.observed)
        if prior is not None and rows is not None:
            value = msg["value"]
            rows = rows.reshape(-1, *[1] * prior.event_dim)
            lead = value.shape[: value.dim() - prior.event_dim]
            draw = prior.expand(lead)() if tuple(prior.batch_shape) != tuple(lead) else prior()
            msg["value"] = torch.where(rows, value, draw)
