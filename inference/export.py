"""Encoders and decoders as graphs of tensor operations, which run without multipyro, Pyro and Python."""

from collections.abc import Mapping, Sequence

import pyro
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from multipyro._modes import evaluation_mode
from multipyro.batch import covariates_in, is_input, selected
from multipyro.guides import Guide
from multipyro.inference.evaluation._inputs import as_names, check_known, select_given
from multipyro.inference.programs import Program, unwrap
from multipyro.ppl_models import MultimodalModel
from multipyro.ppl_models._generative import concatenated

__all__ = ["export_decoder", "export_encoder"]


class _Encoder(nn.Module):
    """Values of modalities, by name, to the mean and the standard deviation of the latent."""

    def __init__(self, guide: Guide) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        posterior = self.guide.conditional(x)
        latent = posterior[getattr(self.guide, "embedding", "z")] if isinstance(posterior, Mapping) else posterior
        try:
            return {"mean": latent.mean, "sd": latent.variance.sqrt()}
        except NotImplementedError:
            given = [name for name in x if not is_input(name)]
            kind = type(latent).__name__
            raise TypeError(f"the latent given {given} has no mean in closed form, as it is a {kind}") from None


class _Decoder(nn.Module):
    """Latents and covariates, by name, to the means of the modalities or the probabilities of their classes."""

    def __init__(self, model: MultimodalModel, target: Sequence[str]) -> None:
        super().__init__()
        self.model, self.target = model, target

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        model, shared, results = self.model, self.model.trunk(inputs["z"]), {}
        for name in self.target:
            latents = [shared, inputs[f"z_{name}"]] if name in model.private else [shared]
            if model.covariates is not None:
                latents.append(model.covariates(inputs, shared.dtype))
            results[name] = _expectation(model.likelihoods[name](concatenated(*latents)))
        return results


def _expectation(distribution: torch.distributions.Distribution) -> Tensor:
    entry = distribution
    while hasattr(entry, "base_dist"):
        entry = entry.base_dist
    return entry.probs if isinstance(entry, torch.distributions.Categorical) else distribution.mean


def export_encoder(guide: Program, x: Mapping[str, Tensor], given: Sequence[str] | None = None) -> ExportedProgram:
    """The encoder of a subset of the modalities as a graph, for any batch size.

    Its arguments are the modalities by name, with all their examples observed, and the covariates, such as
    `"site.covariate"`; its result is a dict with the `"mean"` and the standard deviation `"sd"` of the latent,
    `(batch, latent_dim)`, those of `guide.conditional`. A guide that completes missing modalities samples them in each
    call. Needs PyTorch 2.6 or newer.

    Args:
        guide: The guide.
        x: An example batch of at least two data points, with covariates.
        given: The modalities that are conditioned on; all of `x` by default.

    Raises:
        TypeError: If the guide is a plain function, or the latent has no mean in closed form, as that of a flow.
        ValueError: If `given` is empty or not in `x`, or the guide does not support it.
        RuntimeError: If PyTorch is older than 2.6.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> encoder = export_encoder(guide, {"image": torch.zeros(5, 16)})
        >>> encoder.module()({"image": torch.zeros(7, 16)})["mean"].shape
        torch.Size([7, 2])
    """
    inner = unwrap(guide)
    if not isinstance(inner, Guide):
        raise TypeError(f"export_encoder needs a Guide, got {type(inner).__name__}")
    x = dict(x) if given is None else selected(x, select_given(given, x, "given"))
    return _exported(_Encoder(inner), inner.validate_inputs(x))


def export_decoder(
    model: Program, target: Sequence[str] | None = None, x: Mapping[str, Tensor] | None = None
) -> ExportedProgram:
    """The decoders of some modalities as one graph, for any batch size.

    Its arguments are the latent `z` `(batch, latent_dim)`, the private latents `z_<modality>` of the targets, and the
    covariates; its result is a dict from target to the mean `(batch, *event)`, or to the probabilities of the classes
    `(batch, *event, classes)` of labels and texts. Counts are those of the exposure 1. Needs PyTorch 2.6 or newer.

    Args:
        model: The generative program.
        target: The modalities; all of the model's by default.
        x: An example batch of at least two data points, of a model with covariates.

    Raises:
        TypeError: If the program is not a `MultimodalModel`.
        ValueError: If the model has no such modality, or needs covariates that `x` does not contain.
        RuntimeError: If PyTorch is older than 2.6.

    Example:
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood
        >>> model = MultimodalModel(2, {"label": CategoricalLikelihood(MLP(2, 10))})
        >>> export_decoder(model).module()({"z": torch.zeros(7, 2)})["label"].shape
        torch.Size([7, 10])
    """
    inner = unwrap(model)
    if not isinstance(inner, MultimodalModel):
        raise TypeError(f"export_decoder needs a MultimodalModel, got {type(inner).__name__}")
    target = inner.modalities if target is None else as_names(target)
    check_known(inner, target)
    covariates = covariates_in(x or {})
    rows = len(next(iter(covariates.values()), torch.empty(2)))
    shapes = {"z": (inner.latent_dim,)}
    shapes |= {f"z_{name}": inner.private[name]().event_shape for name in target if name in inner.private}
    like = next(inner.parameters(), torch.empty(()))
    latents = {site: like.new_zeros(rows, *shape) for site, shape in shapes.items()}
    return _exported(_Decoder(inner, target), latents | covariates)


def _exported(module: nn.Module, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    if not hasattr(Dim, "DYNAMIC"):
        raise RuntimeError(f"exporting graphs for any batch size needs PyTorch 2.6 or newer, got {torch.__version__}")
    shapes = {name: {0: Dim.DYNAMIC} for name in inputs}
    with evaluation_mode(module), torch.no_grad(), pyro.validation_enabled(False):
        program = torch.export.export(module, (dict(inputs),), dynamic_shapes=(shapes,), strict=False)
    # later training changes no copy, and a copy lacks the weak references that Pyro adds and older PyTorch cannot save
    for name, value in program.state_dict.items():
        copied = value.detach().clone()
        is_parameter = isinstance(value, nn.Parameter)
        program.state_dict[name] = nn.Parameter(copied, value.requires_grad) if is_parameter else copied
    return program
