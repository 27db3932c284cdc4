"""The sub-sampled objective of MVAE: a sum of ELBOs over subsets of the modalities."""

import math
from collections.abc import Sequence

import torch

from multipyro.inference.handlers import Program, restrict
from multipyro.inference.objectives.terms import SiteWeights, Term, TermsELBO, schedules_in

__all__ = ["SubsetELBO"]


class SubsetELBO(TermsELBO):
    r"""The joint ELBO, one of every single modality, and those of random subsets.

    .. math:: L = \sum_{S} \mathrm{ELBO}(m|_S \,\|\, g|_S), \qquad
        S = \{1..M\}, \{1\}, \ldots, \{M\}, \text{ and } k \text{ random subsets}

    Each ELBO has its own sample and reconstructs only the modalities of its subset. The sum is no bound on
    `log p(x_1, ..., x_M)`; it is one on `sum_S log p(x_S)`. Random subsets have from 2 to `M - 1` members: a size is
    drawn uniformly, then a subset of this size, without repetition. Of rows with missing modalities the subsets count
    that are proper parts of what a row holds, beside the ELBO of all it holds.

    Departure: the released 19-modality code applies likelihood weights to the joint and the image term only; here
    they apply to all.

    References:
        Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu and Goodman, 2018), eq. 3-5;
        Bridged Variational Autoencoders (Yadav et al.), eq. 5.

    Args:
        num_random_subsets: Number `k` of random subsets a step, drawn from torch's global generator.
        sites: Site name -> weight, the same in every term.
        num_particles: Number of samples of the latents a row.
        kl: As in `TermsELBO`.

    Example:
        >>> elbo = SubsetELBO(num_random_subsets=1, sites={"label": 10.0})
    """

    def __init__(
        self,
        num_random_subsets: int = 0,
        sites: SiteWeights | None = None,
        num_particles: int = 1,
        kl: str = "analytic",
    ) -> None:
        sites = dict(sites or {})
        super().__init__(num_particles, kl, schedules_in(sites))
        if num_random_subsets < 0:
            raise ValueError(f"num_random_subsets must not be negative, got {num_random_subsets}")
        self.num_random_subsets, self.sites = num_random_subsets, sites

    def terms(self, model: Program, guide: Program, modalities: tuple[str, ...]) -> Sequence[Term]:
        terms = [Term(model, guide, sites=self.sites)]
        singles = [(name,) for name in modalities] if len(modalities) > 1 else []
        for subset in singles + self._random_subsets(modalities):
            name = "+".join(subset)
            parts = restrict(model, subset, proper=True), restrict(guide, subset, proper=True)
            terms.append(Term(*parts, sites=self.sites, name=name))
        return terms

    def _random_subsets(self, modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
        left = {size: math.comb(len(modalities), size) for size in range(2, len(modalities))}
        drawn: list[tuple[str, ...]] = []
        while len(drawn) < self.num_random_subsets and any(left.values()):
            sizes = [size for size, number in left.items() if number]
            size = sizes[torch.randint(len(sizes), ()).item()]
            members = torch.randperm(len(modalities))[:size].sort().values.tolist()
            subset = tuple(modalities[member] for member in members)
            if subset not in drawn:  # drawn anew rather than listed: 19 modalities have half a million subsets
                drawn.append(subset)
                left[size] -= 1
        return drawn
