"""The estimators behind the papers' tables, under the names of their methods."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from multipyro.batch import Values, batch_rows, modalities_in
from multipyro.inference.evaluation._inputs import select_given
from multipyro.inference.evaluation.estimates import PairedDifference
from multipyro.inference.evaluation.likelihoods.bounds import (
    bound_log_weights,
    conditional_terms,
    guide_predictive_log_likelihood,
    importance_weighted_bound,
)
from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood
from multipyro.inference.evaluation.likelihoods.proposals import ImportanceSampling
from multipyro.inference.programs import Program

__all__ = [
    "BridgedLikelihoods",
    "MMVAELikelihoods",
    "bridged_log_likelihoods",
    "jmvae_log_likelihood",
    "mmvae_log_likelihoods",
    "mopoe_log_likelihood",
    "vlvae_log_likelihood",
]


class BridgedLikelihoods(NamedTuple):
    """The columns of Bridged VAE's tables: two bounds on the log-likelihood of one modality, and their difference.

    Attributes:
        joint: With the guide given all modalities.
        alone: With the guide given the modality alone.
        difference: `joint - alone`, paired over data points.
    """

    joint: LogLikelihood
    alone: LogLikelihood
    difference: PairedDifference


class MMVAELikelihoods(NamedTuple):
    """The columns of MMVAE's Table 3, `m` the target and `n` the other modality.

    All but the first are bounds on the same `log p(x_m)` with different proposals: they are no conditionals.

    Attributes:
        joint: `log p(x_m, x_n)`.
        both: The column `log p(x_m | x_m, x_n)`: the guide is given both.
        alone: The column `log p(x_m | x_m)`: the guide is given the target.
        cross: The column `log p(x_m | x_n)`: the guide is given the other modality.
    """

    joint: LogLikelihood
    both: LogLikelihood
    alone: LogLikelihood
    cross: LogLikelihood


def mopoe_log_likelihood(
    model: Program,
    guide: Program,
    x: Values,
    given: Sequence[str],
    target: Sequence[str] | None = None,
    num_samples: int = 15,
    mix_data_points: bool = False,
    batch_size: int = 64,
) -> LogLikelihood:
    r"""MoPoE's Table 4: a bound on `log p(x)` with samples of the product of experts `q_A`, not of the mixture.

    .. math:: \log \tfrac1K \sum_k \frac{p(z_k) \prod_{m} p(x_m | z_k)}{q_A(z_k | x_A)}, \qquad z_k \sim q_A(z | x_A)

    It is `importance_weighted_bound`: the guide's `conditional` given `A` is `q_A`, with the prior's expert for all
    modalities where the guide has it.

    The released code stores its samples with the data points as the fast dimension and reads them with the samples as
    the fast one, so each of its averages is over `K` different data points. The result is near the best of `K` data
    points, many nats above the likelihood, and no estimate of it. `mix_data_points` does the same, to compare with
    published numbers; it is off by default. (That code also uses 12 samples, the paper 15.)

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Table 4.

    Args:
        model: The generative program.
        guide: The guide.
        x: Modality name -> values `(batch, *event)`.
        given: The subset `A`.
        target: The modalities scored; all of `x` by default.
        num_samples: Number `K` of samples of each data point.
        mix_data_points: Whether to average over the wrong dimension, as the released code does.
        batch_size: Number of data points that are mixed with one another; a smaller last batch is left out.

    Returns:
        A `LogLikelihood`; with `mix_data_points` only of the data points in full batches, and with a warning.

    Raises:
        ValueError: As in `importance_weighted_bound`; or if data points are to be mixed and no batch is full.

    Example:
        >>> from multipyro.guides import MixtureOfProducts, NormalEncoder
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 4)) for name in "ab"})
        >>> guide = MixtureOfProducts(2, {name: NormalEncoder(MLP(4, 8), 2) for name in "ab"})
        >>> x = {name: 3 * torch.randn(8, 4) for name in "ab"}
        >>> right = mopoe_log_likelihood(model, guide, x, given=["a"])
        >>> wrong = mopoe_log_likelihood(model, guide, x, given=["a"], mix_data_points=True, batch_size=8)
        >>> right.mean < wrong.mean
        True
    """
    if not mix_data_points:
        return importance_weighted_bound(model, guide, x, given, target, num_samples)
    number = batch_rows(x) // batch_size * batch_size
    if not number:
        raise ValueError(f"data points are mixed within full batches of {batch_size}, got {batch_rows(x)} data points")
    parts = []
    for start in range(0, number, batch_size):
        part = {name: values[start : start + batch_size] for name, values in x.items()}
        log_weights = bound_log_weights(model, guide, part, given, target, num_samples)
        parts.append(log_weights.reshape(batch_size, num_samples).logsumexp(1) - math.log(num_samples))
    values = torch.cat(parts)
    note = "each value is an average over different data points, as in the released code: it is not a likelihood"
    return LogLikelihood(values, torch.zeros_like(values), None, method="released code of MoPoE", notes=(note,))


def mmvae_log_likelihoods(
    model: Program,
    guide: Program,
    x: Values,
    target: str,
    num_samples: int = 1000,
    weights: Mapping[str, float] | None = None,
) -> MMVAELikelihoods:
    r"""MMVAE's Table 3, for two modalities: bounds with samples of the mixture of experts or of one expert.

    The first two average over `K` samples of each expert, with the density of the mixture (the tight bound); the
    other two over `K` samples of one expert, with the density of that expert. The names of the table's columns
    mislead: see `MMVAELikelihoods`.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), Table 3.
        Its released code keeps the weights of training in the joint likelihood alone: 3.918 for MNIST next to SVHN.

    Args:
        model: The generative program.
        guide: The guide.
        x: Two modalities, name -> values `(batch, *event)`.
        target: The modality `m`.
        num_samples: Number `K` of samples of each data point and expert.
        weights: Factors of the log-likelihoods in the first column, as in the released code; 1 by default.

    Returns:
        The four columns.

    Raises:
        ValueError: If there are not two modalities, or as in `importance_weighted_bound`.

    Example:
        >>> from multipyro.guides import MixtureOfExperts, NormalEncoder
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 4)) for name in "ab"})
        >>> guide = MixtureOfExperts(2, {name: NormalEncoder(MLP(4, 8), 2) for name in "ab"})
        >>> table = mmvae_log_likelihoods(model, guide, {name: torch.zeros(8, 4) for name in "ab"}, "a", 20)
        >>> table.cross.values.shape
        torch.Size([8])
    """
    both = modalities_in(x)
    if len(both) != 2:
        raise ValueError(f"the table is about two modalities, got {list(both)}")
    scored = select_given(target, x, "target")
    other = tuple(name for name in both if name not in scored)

    def bound(given: Sequence[str], target: Sequence[str], factors: Mapping[str, float] | None = None) -> LogLikelihood:
        return importance_weighted_bound(model, guide, x, given, target, len(given) * num_samples, weights=factors)

    columns = [bound(both, both, weights), *(bound(given, scored) for given in (both, scored, other))]
    return MMVAELikelihoods(*columns)


def bridged_log_likelihoods(
    model: Program, guide: Program, x: Values, target: str, num_samples: int = 5000
) -> BridgedLikelihoods:
    r"""Bridged VAE's Tables 1 to 3: the loss from giving the guide one modality instead of all.

    Both columns are bounds on `log p(x_m)` with `K` samples; no other modality is scored.

    References:
        Bridged Variational Autoencoders (Yadav et al.), Tables 1 to 3, `K = 5000`.

    Args:
        model: The generative program.
        guide: The guide.
        x: Modality name -> values `(batch, *event)`.
        target: The modality `m`.
        num_samples: Number `K` of samples of each data point.

    Returns:
        Both bounds and their paired difference.

    Raises:
        ValueError: As in `importance_weighted_bound`.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 4)) for name in "ab"})
        >>> guide = ProductOfExperts(2, {name: NormalEncoder(MLP(4, 8), 2) for name in "ab"})
        >>> table = bridged_log_likelihoods(model, guide, {name: torch.zeros(8, 4) for name in "ab"}, "a", 20)
        >>> table.difference.values.shape
        torch.Size([8])
    """
    joint, alone = (
        importance_weighted_bound(model, guide, x, given, target, num_samples) for given in (modalities_in(x), target)
    )
    return BridgedLikelihoods(joint, alone, joint.difference(alone))


def jmvae_log_likelihood(
    model: Program,
    guide: Program,
    x: Values,
    given: Sequence[str],
    target: Sequence[str],
    num_samples: int = 10,
    channels: int = 1,
) -> LogLikelihood:
    r"""JMVAE's Table 1: the mean over samples of `log p(x_T | z)`, a lower bound on the guide's predictive density.

    .. math:: \tfrac1N \sum_i \log p(x_T \mid z_i), \qquad z_i \sim q(z \mid x_G)

    The authors' library sums the log-densities of an image over height and width and averages them over its three
    channels, and only that fits the paper's numbers for CelebA: -6852, where the constant of a sum over 12,288 unit
    normals alone is -11,292. `channels=3` divides by three as well.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), eq. 5 and 6, Table 1.

    Args:
        model: The generative program.
        guide: The guide whose `conditional` distribution is sampled.
        x: Modality name -> values `(batch, *event)`.
        given: The modalities `G`.
        target: The modalities `T`.
        num_samples: Number `N` of samples of each data point; for JMVAE-h `N^2` terms count.
        channels: Divisor of the log-densities.

    Returns:
        A `LogLikelihood` without k-hat, as nothing is weighted.

    Raises:
        ValueError: As in `guide_conditional_log_likelihood`, or if `channels` is below 1.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 4)) for name in "ab"})
        >>> guide = ProductOfExperts(2, {name: NormalEncoder(MLP(4, 8), 2) for name in "ab"})
        >>> jmvae_log_likelihood(model, guide, {name: torch.zeros(8, 4) for name in "ab"}, ["a"], ["b"]).values.shape
        torch.Size([8])
    """
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    terms = conditional_terms(model, guide, x, given, target, num_samples, None) / channels
    errors = terms.std(0) / math.sqrt(len(terms))
    samples = torch.full((terms.shape[1],), len(terms))
    return LogLikelihood(terms.mean(0), errors, None, num_samples=samples, method="mean of log-likelihoods")


def vlvae_log_likelihood(
    model: Program,
    guide: Program,
    x: Values,
    given: Sequence[str],
    target: Sequence[str],
    num_samples: int = 1,
) -> LogLikelihood:
    r"""VLVAE's conditional bound on the likelihood of an image under the prediction from text.

    .. math:: \log \tfrac1K \sum_k \frac{q_\phi(z_k \mid x_G)\, p(x_T \mid z_k)}{q(z_k \mid x_T)},
        \qquad z_k \sim q(z \mid x_T)

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), eq. 6, with one sample. The marginals of its Table 2 are `importance_weighted_bound` with ten.

    Args:
        model: The generative program.
        guide: The guide.
        x: Modality name -> values `(batch, *event)`.
        given: The modalities `G`, such as the text.
        target: The modalities `T`, such as the image.
        num_samples: Number `K` of samples of each data point.

    Returns:
        A `LogLikelihood`. `guide_predictive_log_likelihood` estimates the limit of many samples.

    Raises:
        ValueError: As in `guide_predictive_log_likelihood`.
        TypeError: As in `guide_predictive_log_likelihood`.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 4)) for name in "ab"})
        >>> guide = ProductOfExperts(2, {name: NormalEncoder(MLP(4, 8), 2) for name in "ab"})
        >>> vlvae_log_likelihood(model, guide, {name: torch.zeros(8, 4) for name in "ab"}, ["a"], ["b"]).values.shape
        torch.Size([8])
    """
    target_alone = ImportanceSampling(scales=[1], prior=0, max_samples=num_samples)
    return guide_predictive_log_likelihood(model, guide, x, given, target, num_samples, method=target_alone)
