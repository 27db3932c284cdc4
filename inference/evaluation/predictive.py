"""How likely the truth is under what a guide predicts: the third of the conditional likelihoods."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyro import poutine
from torch import Tensor, nn

from multipyro.batch import private_modality
from multipyro.guides import IterativeSampling
from multipyro.inference.evaluation.likelihoods import LogLikelihood, importance_sampled, mean_of_rows
from multipyro.inference.evaluation.prediction import check_known, check_values, chosen, conditions_of
from multipyro.inference.handlers import Program, conditional, core, restrict

__all__ = ["guide_predictive_log_likelihood"]


def guide_predictive_log_likelihood(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    given: Sequence[str],
    target: Sequence[str],
    num_samples: int = 1000,
    observed: Mapping[str, Tensor] | None = None,
    defensive: float = 0.1,
) -> LogLikelihood:
    r"""How likely the truth is under what the guide predicts, by importance sampling from what the truth says of `z`.

    .. math:: \log \int q(z | x_G)\, p(x_T | z)\, dz \approx
        \log \tfrac1K \sum_k \frac{q(z_k | x_G)\, p(x_T | z_k)}{r(z_k)}, \qquad
        r(z) = (1 - \delta)\, q(z | x_T) + \delta\, q(z | x_G)

    With `K = 1` and `delta = 0` it is AGG's bound. The log-mean-exp of `guide_conditional_log_likelihood` estimates the
    same integral with draws of `q(z | x_G)` alone, few of which fit one image out of a class. It is the model's own
    `log p(x_T | x_G)` if `q(z | x_G)` is the exact posterior, and falls short of it in the mean over such data by the
    divergence of the two predictions else. Private latents of the targets are drawn from the model.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), eq. 6.

    Args:
        model: The generative program.
        guide: The guide whose `conditional` distribution given `given` is judged, and whose proposal given `target`
            is drawn from. An `AggregateGuide` answers with its flow where it has one.
        x: Modality name -> values `(batch, *event)`.
        given: The modalities `G`.
        target: The modalities `T`.
        num_samples: Number `K` of samples a row.
        observed: Rows that are observed; every row must hold all of `given` and `target`.
        defensive: The share `delta`.

    Returns:
        A `LogLikelihood` in nats, likelihoods unweighted.

    Raises:
        ValueError: If a modality is unknown or its values are bad, `given` and `target` overlap, a row lacks one of
            them, or the guide does not answer one of the two.
        TypeError: If the model is conditional, so that there is no `q(z | x_T)`, or the guide completes what is missing
            (`IterativeSampling`), so that its `q(z | x_G)` has no density.

    Example:
        >>> import torch
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, OneHotMLP
        >>> model = MultimodalModel(2, {name: CategoricalLikelihood(MLP(2, 3)) for name in ("a", "b")})
        >>> guide = ProductOfExperts(2, {name: NormalEncoder(OneHotMLP(3, 8), 2) for name in ("a", "b")})
        >>> x = {"a": torch.tensor([0, 2]), "b": torch.tensor([1, 1])}
        >>> guide_predictive_log_likelihood(model, guide, x, ["a"], ["b"], num_samples=10).rows.shape
        torch.Size([2])
    """
    if conditions_of(model) or isinstance(core(guide), IterativeSampling):
        what = "the model is conditional" if conditions_of(model) else "the guide completes what is missing"
        raise TypeError(f"{what}: its prediction has no density over latents; use guide_conditional_log_likelihood")
    given, target = chosen(given, x, "given"), chosen(target, x, "target")
    if set(given) & set(target):
        raise ValueError(f"given and target must not overlap, got {list(given)} and {list(target)}")
    scored = (*given, *target)
    check_known(model, scored)
    x = {name: x[name] for name in scored}
    check_values(model, x, observed)
    lacking = {name: int((~mask).sum()) for name, mask in (observed or {}).items() if name in x and not mask.all()}
    if lacking:
        raise ValueError(f"every row must hold all of {list(scored)}, but rows lack them: {lacking}")
    prediction = _Prediction(restrict(model, target), restrict(conditional(guide), given))
    return mean_of_rows(*importance_sampled(prediction, guide, x, None, num_samples, defensive, scored, target))


class _Prediction(nn.Module):
    """A model whose latents come from what a guide says, in place of its prior."""

    def __init__(self, model: Program, latents: Program) -> None:
        super().__init__()
        self.model, self.latents = model, latents

    def forward(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None) -> Any:
        # private latents of what is given do not reach the target, and its own are the model's to draw
        with poutine.block(hide_fn=lambda site: private_modality(site["name"]) is not None):
            with poutine.trace() as drawn:  # sees the values that handlers outside decide on
                self.latents(x, observed)
        with poutine.block(hide=list(drawn.trace.nodes)):
            return poutine.replay(self.model, trace=drawn.trace)(x, observed)
