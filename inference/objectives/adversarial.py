"""Adversarial objectives: the decoder of one modality as a generator, against a discriminator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import softplus

from multipyro._modes import batch_norms, batch_statistics
from multipyro.batch import Masks, Values, batch_rows, covariates_in
from multipyro.inference.handlers import frozen, frozen_modules, generative
from multipyro.inference.objectives._base import Evaluation, Objective, replayed, trace_of
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.objectives.weights import check_choice
from multipyro.inference.programs import GUIDE, MODEL, Binding, Program, ProgramExpression
from multipyro.ppl_models import point_estimate

__all__ = ["AdversarialLoss", "DiscriminatorLoss", "GeneratorLoss"]

Prior = Literal["model", "uniform"]


class Generated(NamedTuple):
    """The inputs of both sides of adversarial training, for one batch.

    Args:
        real: The observed values of the modality `(observed rows, *event)`.
        reconstructed: The decoder's means at samples of the posteriors of the same rows.
        sampled: The decoder's means at samples of the prior, one for each row of the batch.
        log_likelihood: Log-likelihood of the real values at the samples of the posteriors, summed.
    """

    real: Tensor
    reconstructed: Tensor
    sampled: Tensor
    log_likelihood: Tensor

    def sums(self, fake: Tensor) -> dict[str, Tensor]:
        """The sums of the discriminator's values of all that is generated, by kind."""
        reconstructed, sampled = fake.detach().split([len(self.reconstructed), len(self.sampled)])
        return {"reconstructed": reconstructed.sum(), "sampled": sampled.sum()}


@dataclass(eq=False, repr=False)
class AdversarialLoss(Objective):
    """Base of both sides: generates what the discriminator classifies.

    It has the interface of an ELBO, so that `SVI` and `fit` can use it; the guide is frozen in both.

    Args:
        discriminator: Module from values `(batch, *event)` to logits `(batch,)` of being real.
        modality: The modality whose decoder is the generator; its likelihood must have a mean that can be
            differentiated.
        prior: Source of the latents of samples: `"model"`, its own prior; or `"uniform"`, uniform on `[-1, 1]` as
            in the released code, where the generator never gets samples from the tails of its prior.

    Raises:
        ValueError: If `prior` is neither; when called, if the modality is discrete.
    """

    discriminator: nn.Module
    modality: str
    prior: Prior = "model"

    def __post_init__(self) -> None:
        super().__init__()
        check_choice("prior", self.prior, Prior)

    def generate(
        self,
        model: Program,
        guide: Program,
        x: Values,
        observed: Masks = None,
        generator: ProgramExpression = MODEL,
    ) -> Generated:
        """Real values, reconstructions and samples of a batch; rows without the modality are in the samples alone.

        Args:
            model: The generative program.
            guide: The variational program.
            x: Modality name -> values `(batch, *event)`.
            observed: Modality name -> rows that are observed, bool `(batch,)`.
            generator: The program that decodes, `MODEL` or an expression of it.
        """
        binding = self._binding(model, guide)
        name, rows = self.modality, (observed or {}).get(self.modality)
        sampled = _mean(self._prior_trace(binding, generator, covariates_in(x), batch_rows(x)), name)
        if x.get(name) is None or (rows is not None and not rows.any()):
            return Generated(sampled[:0].detach(), sampled[:0].detach(), sampled, sampled.new_zeros(()))
        posterior = trace_of(binding[frozen(GUIDE)], 1, x, observed)
        trace = replayed(binding[generator | name], posterior, 1, x, observed)
        site, reconstructed = trace.nodes[name], _mean(trace, name)
        real, density = site["value"], site["fn"].log_prob(site["value"])
        if rows is not None:  # fill values of missing entries must not reach a network that normalizes over its batch
            real, reconstructed, density = real[rows], reconstructed[rows], density[rows]
        return Generated(real, reconstructed, sampled, density.sum())

    def _prior_trace(
        self, binding: Binding, generator: ProgramExpression, covariates: Mapping[str, Tensor], num_rows: int
    ) -> poutine.Trace:
        program = binding[generative(generator, (self.modality,))]
        if self.prior == "uniform":
            samples = poutine.trace(binding[frozen(MODEL)]).get_trace(covariates, num_rows=num_rows)
            for site in sample_sites(samples).values():
                site["value"] = torch.rand_like(site["value"]) * 2.0 - 1.0
            program = poutine.replay(program, trace=samples)
        return poutine.trace(program).get_trace(covariates, num_rows=num_rows)


@dataclass(eq=False, repr=False)
class GeneratorLoss(AdversarialLoss):
    r"""The objective of one modality's decoder: explain the data, and be classified as real by the discriminator.

    .. math:: -\lambda\, E_q[\log p(x \mid z_q)] - \log D(G(z_q)) - \log D(G(z_p)), \qquad z_q \sim q(z \mid x_{1:M}),
        \; z_p \sim p(z)

    `G(z)` is the mean of `p(x | z)`. The discriminator is frozen too, so that the gradient reaches the model alone; its
    batch norm takes the statistics of the batch, as when it trains (with the running ones the generator soon exploits
    them and stops learning: measured).

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), section 6.2, which cites Autoencoding beyond pixels using a learned similarity metric (Larsen et al.,
        2015); the sum is that of the released code, which has no likelihood of learned features.

    Args:
        discriminator: As in `AdversarialLoss`.
        modality: As in `AdversarialLoss`.
        prior: As in `AdversarialLoss`.
        reconstruction: `lambda`, the weight of the log-likelihood.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> from multipyro.ppl_models.networks import Discriminator
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> discriminator = Discriminator(MLP(4, 8, activate_output=True))
        >>> loss = GeneratorLoss(discriminator, "image").loss_and_grads(model, guide, {"image": torch.zeros(5, 4)})
        >>> [part.grad is None for module in (guide, discriminator) for part in module.parameters()].count(False)
        0
    """

    reconstruction: float = 1.0

    def equation(self) -> str:
        name = self.modality
        weight = "" if self.reconstruction == 1 else f"{self.reconstruction:g} "
        return f"{weight}E_g log m({name}|z) + log D(generated {name})"

    def evaluate(self, model: Program, guide: Program, x: Values, observed: Masks = None) -> Evaluation:
        generated, discriminator = self.generate(model, guide, x, observed), self.discriminator
        fake = torch.cat([generated.reconstructed, generated.sampled])
        # the discriminator as in its own training: real and generated values in one batch, with its statistics
        values = torch.cat([generated.real, fake]) if batch_norms(discriminator) else fake
        with frozen_modules([discriminator]), batch_statistics(discriminator):
            logits = discriminator(values)
        log_real = -softplus(-logits[len(values) - len(fake) :])  # log D
        sites = {f"reconstruction/{self.modality}": generated.log_likelihood.detach(), **generated.sums(log_real)}
        return Evaluation(self.reconstruction * generated.log_likelihood + log_real.sum(), sites)


@dataclass(eq=False, repr=False)
class DiscriminatorLoss(AdversarialLoss):
    r"""The objective of the discriminator: distinguish real values from reconstructions and samples.

    .. math:: -\log D(x) - \log(1 - D(G(z_q))) - \log(1 - D(G(z_p))), \qquad z_q \sim q(z \mid x_{1:M}), \; z_p \sim
        p(z)

    Each is summed over its rows. With the densities `p`, `q` and `s` of real values, reconstructions and samples the
    smallest loss is at `D = p / (p + q + s)`; where all three are one it is `log 3 + 2 log(3/2)` per data point. Real
    and generated values form one batch for the discriminator, so that batch norm tracks their common statistics. The
    model is frozen too, so that the gradient reaches the discriminator alone.

    References:
        As for `GeneratorLoss`; Generative Adversarial Nets (Goodfellow et al., 2014), eq. 1.

    Args:
        discriminator: As in `AdversarialLoss`.
        modality: As in `AdversarialLoss`.
        prior: As in `AdversarialLoss`.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> from multipyro.ppl_models.networks import Discriminator
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> discriminator = Discriminator(MLP(4, 8, activate_output=True))
        >>> loss = DiscriminatorLoss(discriminator, "image").loss_and_grads(model, guide, {"image": torch.zeros(5, 4)})
        >>> [part.grad is None for module in (guide, model) for part in module.parameters()].count(False)
        0
    """

    def equation(self) -> str:
        return f"log D({self.modality}) + log(1 - D(generated {self.modality}))"

    def evaluate(self, model: Program, guide: Program, x: Values, observed: Masks = None) -> Evaluation:
        generated = self.generate(model, guide, x, observed, frozen(MODEL))
        logits = self.discriminator(torch.cat([generated.real, generated.reconstructed, generated.sampled]))
        real, fake = logits.split([len(generated.real), len(generated.reconstructed) + len(generated.sampled)])
        real, fake = -softplus(-real), -softplus(fake)  # log D and log(1 - D)
        return Evaluation(real.sum() + fake.sum(), {"real": real.detach().sum(), **generated.sums(fake)})


def _mean(trace: poutine.Trace, name: str) -> Tensor:
    """The mean of a modality's likelihood in a trace, through which gradients pass."""
    value = point_estimate(trace.nodes[name]["fn"])
    if not value.is_floating_point():
        raise ValueError(f"modality {name!r} is discrete: no gradient of a discriminator passes through it")
    return value
