"""Covariates, such as a batch, a site or an age: what decoders and encoders are conditioned on."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from multipyro.batch import Values, covariate_entry, covariates_in, is_missing, modalities_in
from multipyro.ppl_models.networks._layers import OneHot, checks_values, leading_shape

__all__ = ["Covariates", "WithCovariates", "encoder_input"]


class Covariates(nn.Module):
    """The features of covariates, side by side: classes one-hot, numbers as they are.

    A model takes it as `covariates` and concatenates the features with the input of its decoders; a guide uses it in
    its encoders, see `WithCovariates`. Numbers should be standardized, as the library's data sets do.

    Args:
        sizes: Name -> number of classes of class ids `(batch,)`, or the shape `(numbers,)` of real numbers
            `(batch, numbers)`.

    Attributes:
        out_features: Number of features.

    Raises:
        ValueError: When called, if a covariate is missing in the batch, or in a row (which is checked while Pyro
            validates).

    Example:
        >>> covariates = Covariates({"site": 3, "age": (1,)})
        >>> covariates({"site.covariate": torch.tensor([2]), "age.covariate": torch.tensor([[0.5]])}, torch.float32)
        tensor([[0.0000, 0.0000, 1.0000, 0.5000]])
    """

    def __init__(self, sizes: Mapping[str, int | Sequence[int]]) -> None:
        super().__init__()
        if not sizes:
            raise ValueError("sizes is empty: name at least one covariate")
        self.shapes = {name: None if isinstance(size, int) else tuple(size) for name, size in sizes.items()}
        self.classes = nn.ModuleDict({name: OneHot(size) for name, size in sizes.items() if isinstance(size, int)})
        self.out_features = sum(size if isinstance(size, int) else sum(size) for size in sizes.values())

    def forward(self, x: Values, dtype: torch.dtype) -> Tensor:
        missing = [covariate_entry(name) for name in self.shapes if x.get(covariate_entry(name)) is None]
        if missing:
            raise ValueError(f"x must contain the covariates {missing}, it has {list(x)}")
        features = []
        for name, shape in self.shapes.items():
            values = x[covariate_entry(name)]
            _check_present(name, values)
            if shape is None:
                features.append(self.classes[name](values, dtype))
            else:
                leading_shape(values, shape)
                features.append(values.to(dtype))
        return torch.cat(features, -1)


def _check_present(name: str, values: Tensor) -> None:
    if checks_values() and (missing := is_missing(values)).any():
        row = int(missing.reshape(len(values), -1).any(1).nonzero()[0])
        raise ValueError(f"covariate {name!r} is missing in row {row}: every data point needs its value")


class WithCovariates(nn.Module):
    r"""A feature network whose features are scaled and shifted depending on the covariates.

    .. math:: h(x_m, c) = f(x_m) \odot (1 + A\, e(c)) + B\, e(c)

    At initialization it equals the network without covariates. It is called with a dict, `{modality: x_m,
    "site.covariate": ...}`, see `encoder_input`.

    References:
        FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018), eq. 1.

    Args:
        network: Feature network `f` with an attribute `out_features`.
        covariates: The features `e` of the covariates.

    Example:
        >>> from multipyro.ppl_models import MLP
        >>> network = WithCovariates(MLP(16, 8), Covariates({"site": 3}))
        >>> network({"image": torch.zeros(5, 16), "site.covariate": torch.zeros(5).long()}).shape
        torch.Size([5, 8])
    """

    takes_covariates = True

    def __init__(self, network: nn.Module, covariates: Covariates) -> None:
        super().__init__()
        self.network, self.covariates, self.out_features = network, covariates, network.out_features
        self.modulation = nn.Linear(covariates.out_features, 2 * network.out_features, bias=False)
        nn.init.zeros_(self.modulation.weight)

    def forward(self, inputs: Mapping[str, Tensor] | Tensor) -> Tensor:
        x = inputs if isinstance(inputs, Mapping) else {}
        codes = self.covariates(x, self.modulation.weight.dtype)
        (modality,) = modalities_in(x)
        features = self.network(x[modality])
        scale, shift = self.modulation(codes).chunk(2, -1)
        return features * (1 + scale) + shift


def encoder_input(encoder: nn.Module, x: Values, modality: str) -> Tensor | dict[str, Tensor]:
    """The input of the encoder of a modality.

    Args:
        encoder: The encoder, or a feature network. It takes covariates if a module in it has the attribute
            `takes_covariates`.
        x: The batch, entry -> values.
        modality: Name of the modality.

    Returns:
        The values of the modality; a dict of them and of the covariates of the batch if the encoder takes covariates.
    """
    covariates = covariates_in(x)
    if covariates and any(getattr(part, "takes_covariates", False) for part in encoder.modules()):
        return {modality: x[modality], **covariates}
    return x[modality]
