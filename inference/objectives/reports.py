"""The value of any ELBO, ours or Pyro's, on a batch, and which sites are not finite."""

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO

from multipyro.batch import Masks, Values
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference.objectives._base import Evaluation, Objective
from multipyro.inference.objectives.expressions import elbo
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import GUIDE, MODEL, Program

__all__ = ["evaluation_of", "non_finite_sites"]


@torch.no_grad()
def evaluation_of(
    objective: ELBO,
    model: Program,
    guide: Program,
    x: Values,
    observed: Masks = None,
) -> Evaluation:
    """The bound of a batch and the sums by site behind it.

    The sums of an ELBO of Pyro come from separate samples. There are none where the programs have plates or latents
    that the objectives here do not support, such as a latent that is summed out.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> sorted(evaluation_of(Trace_ELBO(), model, guide, {"image": torch.zeros(5, 4)}).sites)
        ['kl/z', 'reconstruction/image']
    """
    if isinstance(objective, Objective):
        with encoders_run_once():
            return objective.evaluate(model, guide, x, observed)
    bound = torch.as_tensor(-objective.loss(model, guide, x, observed))
    report = getattr(objective, "report", elbo(MODEL, GUIDE).report)
    try:
        with pyro.validation_enabled():
            return Evaluation(bound, report(model, guide, x, observed))
    except (NotImplementedError, ValueError):
        return Evaluation(bound)


@torch.no_grad()
def non_finite_sites(model: Program, guide: Program, x: Values, observed: Masks = None) -> list[str]:
    """The sites of a new trace whose value or log-probability is not finite.

    Returns:
        Such as `"the log-probability of site 'image' in the model"`.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> with torch.no_grad():
        ...     for parameter in model.parameters():
        ...         _ = parameter.fill_(torch.inf)
        >>> non_finite_sites(model, guide, {"image": torch.zeros(5, 4)})
        ["the log-probability of site 'image' in the model"]
    """
    with pyro.validation_enabled(False), torch.random.fork_rng([]):
        guide_trace = poutine.trace(guide).get_trace(x, observed)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x, observed)
    places = []
    for trace, side in ((guide_trace, "guide"), (model_trace, "model")):
        for name, site in sample_sites(trace).items():
            tensors = {"value": site["value"], "log-probability": site["fn"].log_prob(site["value"])}
            kind = next((kind for kind, values in tensors.items() if not torch.isfinite(values).all()), None)
            places += [] if kind is None else [f"the {kind} of site {name!r} in the {side}"]
    return places
