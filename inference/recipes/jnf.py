r"""JNF: a joint VAE, then one flow per modality fitted to its frozen encoder; subsets by the product of the flows.

.. math:: \mathrm{ELBO}(m \| g), \qquad\text{then}\qquad
    \sum_a \mathrm{ELBO}(g_a \| \mathrm{frozen}\ g) = -\sum_a \mathrm{KL}(q(z|x) \| q_a(z|x_a))

The second stage maximizes :math:`E_{q(z|x)} \log q_a(z|x_a)`, so each flow becomes the aggregate of the joint
posteriors, as AGG's `q_agg` does. A product of several flows has no ELBO: it has its own sampler (`FlowExperts`).

Departures: real-NVP steps conditioned on the features, in place of unconditional masked autoregressive ones; as
in the paper each starts from a Gaussian encoder. The released code takes 100 steps of 10 leapfrogs of size 0.01 (here
options, the size adapted by default) and divides by the prior once however many flows there are (`divide_once=True`).

References:
    Improving Multimodal Joint Variational Autoencoders through Normalizing Flows and Correlation Analysis (Senellart et
    al., 2023).
"""

from multipyro.guides import FlowExperts, HamiltonianSampler, NormalEncoder
from multipyro.inference.handlers import frozen
from multipyro.inference.objectives import GUIDE, MODEL, SINGLES, SUBSET, elbo, sum_over
from multipyro.inference.options import Count, Weight
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models.networks.flows import ConditionalFlow

__all__ = ["jnf"]

# samples of the joint encoder per data point and step: cheap, and the flows' gradient is less noisy
_TEACHER_SAMPLES = 8


@method(
    "jnf",
    title="joint encoder, unimodal flows, their products sampled",
    paper="Senellart et al., 2023",
    subsets="every subset, several by Hamiltonian Monte Carlo",
    networks="1 joint encoder, M encoders with a flow",
    needs_complete_rows=True,
)
def jnf(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    flow_steps: Count = 2,
    sampler_steps: Count = 20,
    leapfrogs: Count = 5,
    step_size: Weight | None = None,
    divide_once: bool = False,
) -> Recipe:
    """JNF.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        flow_steps: Number of steps of each flow.
        sampler_steps: Number of steps of the sampler of a product.
        leapfrogs: Number of leapfrog steps in each of them.
        step_size: Size of a leapfrog step; adapted by default.
        divide_once: Whether a product of flows is divided by the prior once, as in the released code.
    """
    model = networks.model(latent_dim)
    flows = {
        name: ConditionalFlow(branch, latent_dim, flow_steps, base=NormalEncoder(branch, latent_dim))
        for name, branch in networks.branches().items()
    }
    sampler = HamiltonianSampler(sampler_steps, leapfrogs, step_size)
    guide = FlowExperts(latent_dim, networks.branches(), flows, networks.joint_features, sampler, divide_once)
    m, g, a = MODEL, GUIDE, SUBSET
    flow = frozen(g, train=[g.part("encoders")]) | a
    stages = (
        Stage(elbo(m, g, weighting.sites), train=(model, guide.joint), name="joint"),
        Stage(
            sum_over(SINGLES, elbo(flow, frozen(g), num_particles=_TEACHER_SAMPLES)),
            train=(guide.encoders,),
            name="flows",
        ),
    )
    return Recipe(model, guide, stages)
