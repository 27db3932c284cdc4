"""Likelihoods of classes: binary, nominal and ordinal data."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from multipyro.ppl_models.likelihoods._numerics import bounded_log
from multipyro.ppl_models.likelihoods.base import Likelihood, check_class_ids

__all__ = ["BernoulliLikelihood", "CategoricalLikelihood", "OrdinalLikelihood"]


class BernoulliLikelihood(Likelihood):
    r"""Binary pixels or attributes; the network outputs logits.

    Args:
        network: Module from latents to logits `(..., batch, *event)`.
        soft_targets: Whether values between 0 and 1 are accepted. The result is no density of gray values (it is not
            normalized); `ContinuousBernoulliLikelihood` is.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Example:
        >>> BernoulliLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).event_shape
        torch.Size([5])
    """

    interval = (0, 1)

    def __init__(self, network: nn.Module, soft_targets: bool = False, missing_entries: bool = False) -> None:
        super().__init__(network, missing_entries)
        self.soft_targets = soft_targets

    def distribution(self, outputs: Tensor) -> dist.Distribution:
        # soft targets are outside the support that torch would check
        return dist.Bernoulli(logits=outputs, validate_args=False if self.soft_targets else None)

    def check_values(self, values: Tensor, name: str) -> None:
        super().check_values(values, name)
        if not self.soft_targets and not ((values == 0) | (values == 1)).all():
            raise ValueError(
                f"modality {name!r} contains gray values but BernoulliLikelihood accepts 0 and 1 only: binarize the "
                "data, use ContinuousBernoulliLikelihood or NormalLikelihood, or pass soft_targets=True"
            )


class CategoricalLikelihood(Likelihood):
    r"""Class ids: one for a label, one per position for a text; the network outputs logits.

    Args:
        network: Module from latents to logits `(..., batch, *event, num_classes)`.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Example:
        >>> label = CategoricalLikelihood(nn.Linear(2, 10))(torch.zeros(3, 2))
        >>> label.batch_shape, label.event_shape
        (torch.Size([3]), torch.Size([]))
    """

    parameter_dims = 1

    def distribution(self, outputs: Tensor) -> dist.Distribution:
        return dist.Categorical(logits=outputs)

    def check_values(self, values: Tensor, name: str) -> None:
        out_shape = getattr(self.network, "out_shape", None)
        check_class_ids(values, name, None if out_shape is None else out_shape[-1])


class OrdinalLikelihood(Likelihood):
    r"""Ordered classes, such as grades: the network outputs a location, which learned cutpoints divide into classes.

    .. math:: P(x \le k) = \sigma(c_k - f(z)), \qquad c_0 < c_1 < \dots < c_{K - 2}

    Class probabilities are differences of sigmoids, computed in log space so that no digit is lost in the tails.

    References:
        Regression Models for Ordinal Data (McCullagh, 1980), section 2: the proportional-odds model.

    Args:
        network: Module from latents to locations `(..., batch, *event)`. If it has an attribute `out_shape`, each entry
            has separate cutpoints; otherwise all entries share them.
        num_classes: Number of classes `K`. The cutpoints start where location 0 makes all classes equally probable.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Raises:
        ValueError: If there are fewer than two classes.

    Example:
        >>> OrdinalLikelihood(nn.Linear(2, 1), 4)(torch.zeros(3, 2)).sample().shape
        torch.Size([3, 1])
    """

    def __init__(self, network: nn.Module, num_classes: int, missing_entries: bool = False) -> None:
        super().__init__(network, missing_entries)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        start = (torch.arange(1, num_classes) / num_classes).logit()
        entries = self.event_shape or ()
        self.first_cutpoint = nn.Parameter(start[0].expand(entries).clone())
        self.log_gaps = nn.Parameter(start.diff().log().expand(*entries, num_classes - 2).clone())

    def distribution(self, outputs: Tensor) -> dist.Distribution:
        gaps = bounded_log(self.log_gaps).exp()
        first = self.first_cutpoint.unsqueeze(-1)
        margins = torch.cat([first, first + gaps.cumsum(-1)], -1) - outputs.unsqueeze(-1)
        below, above = logsigmoid(margins), logsigmoid(-margins)
        # sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a))
        inner = below[..., 1:] + above[..., :-1] + torch.log(-torch.expm1(-gaps))
        return dist.Categorical(logits=torch.cat([below[..., :1], inner, above[..., -1:]], -1))

    def check_values(self, values: Tensor, name: str) -> None:
        check_class_ids(values, name, self.num_classes)
