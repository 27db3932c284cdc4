r"""JNF: a joint VAE, then a flow a modality drawn to the frozen joint encoder; subsets by the product of the flows.

.. math:: \mathrm{ELBO}(m \| g), \qquad\text{then}\qquad
    \sum_a \mathrm{ELBO}(g_a \| \mathrm{frozen}\ g) = -\sum_a \mathrm{KL}(q(z|x) \| q_a(z|x_a))

The second stage maximizes :math:`E_{q(z|x)} \log q_a(z|x_a)`, so each flow becomes the aggregate of the joint
posteriors, as AGG's `q_agg` does. A product of several flows has no ELBO: it has a sampler of its own (`FlowExperts`).

Departures: real-NVP steps that see the features of the modality, in place of masked autoregressive ones that do not; as
in the paper each starts from a Gaussian encoder. The released code takes 100 steps of 10 leapfrogs of size 0.01 (here
options, the size adapted by default) and divides by the prior once however many flows there are (`divide_once=True`).

References:
    Improving Multimodal Joint Variational Autoencoders through Normalizing Flows and Correlation Analysis (Senellart et
    al., 2023).
"""

from collections.abc import Mapping

from multipyro.guides import ConditionalFlow, FlowExperts, NormalEncoder
from multipyro.inference.handlers import Program, frozen, restrict
from multipyro.inference.objectives.terms import Term, WeightedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["JNF"]

# draws of the joint encoder a row and step: cheap, and the flows' gradient is steadier
_TEACHER_DRAWS = 8


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    flow_steps: int = 2,
    sampler_steps: int = 20,
    leapfrogs: int = 5,
    step_size: float | None = None,
    divide_once: bool = False,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    sites, schedules = site_weights(networks, beta, warmup, weights)
    model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
    flows = {
        name: ConditionalFlow(branch, latent_dim, flow_steps, base=NormalEncoder(branch, latent_dim))
        for name, branch in networks.branches().items()
    }
    sampler = (sampler_steps, leapfrogs, step_size, divide_once)
    guide = FlowExperts(latent_dim, networks.branches(), flows, networks.joint_features, *sampler)

    def unimodal(m: Program, g: Program, modalities: tuple[str, ...]) -> list[Term]:
        teacher, student = frozen(g), frozen(g, (guide.encoders,))
        return [Term(restrict(student, [a]), teacher, name=a) for a in modalities]

    joint = WeightedELBO(lambda m, g, _: [Term(m, g, sites=sites)], schedules=schedules)
    stages = (
        Stage(joint, train=(model, guide.joint), name="joint"),
        Stage(WeightedELBO(unimodal, num_particles=_TEACHER_DRAWS), train=(guide.encoders,), name="flows"),
    )
    return Recipe("jnf", model, guide, stages, latent_dim)


JNF = MethodInfo(
    name="jnf",
    title="joint encoder, unimodal flows, their products sampled",
    paper="Senellart et al., 2023",
    programs="ELBO(m || g), then sum_a ELBO(g|a || frozen g)",
    stages=2,
    subsets="every subset, several by Hamiltonian Monte Carlo",
    needs_complete_rows=True,
    networks="1 joint encoder, M encoders with a flow",
    options={"flow_steps": 2, "sampler_steps": 20, "leapfrogs": 5, "step_size": None, "divide_once": False},
    build=_build,
)
