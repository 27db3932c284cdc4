"""Plain Pyro models beside the guides of the library: subsamples, shared latents, discrete latents."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import nn

from multipyro.guides import (
    Guide,
    MixtureOfExperts,
    MixtureOfProducts,
    NormalEncoder,
    ProductOfExperts,
    product_of_experts,
)
from multipyro.inference import cross_generate, embed, fit, joint_samples, log_likelihood
from multipyro.inference.evaluation import (
    Annealing,
    ImportanceSampling,
    check_guide,
    guide_conditional_log_likelihood,
    to_inference_data,
)
from multipyro.inference.objectives import (
    GUIDE,
    MODEL,
    JensenShannonELBO,
    LinearMixtureELBO,
    StratifiedELBO,
    elbo,
    subset_elbo,
)
from multipyro.ppl_models import MLP

ROWS, ALL = 20, 150
X = {name: torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate("ab")}


def encoders():
    return {name: NormalEncoder(MLP(3, 8, (8,)), 2) for name in X}


def plain_model(number=None):
    """A model whose data points are all there are, or a subsample of `number`."""
    decoders = {name: nn.Linear(2, 3) for name in X}

    def model(x, observed=None, num_rows=None):
        rows = num_rows or len(next(iter(values for values in x.values() if values is not None)))
        subsample = None if number is None else torch.arange(rows)
        with pyro.plate("data", number or rows, subsample=subsample, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return {
                name: pyro.sample(name, dist.Normal(pyro.module(name, decoders[name])(z), 1.0).to_event(1), obs=x[name])
                for name in x
            }

    return model


def both(function):
    """What a function of a model returns for a model of all data points and for the same one with a subsample."""
    results = []
    for number in (None, ALL):
        torch.manual_seed(0)
        with pyro.get_param_store().scope():
            model = plain_model(number)
            torch.manual_seed(1)
            results.append(function(model))
    return results


OBJECTIVES = {
    "elbo": (ProductOfExperts, lambda: elbo(MODEL, GUIDE)),
    "sampled": (MixtureOfProducts, lambda: elbo(MODEL, GUIDE, kl="components")),
    "subsets": (ProductOfExperts, lambda: subset_elbo(0)),
    "stratified": (MixtureOfExperts, lambda: StratifiedELBO(3)),
    "tight": (MixtureOfExperts, lambda: StratifiedELBO(3, bound="tight")),
    "linear": (MixtureOfExperts, lambda: LinearMixtureELBO(1)),
    "mmjsd": (MixtureOfExperts, JensenShannonELBO),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_subsample_scales_the_whole_objective(name):
    kind, objective = OBJECTIVES[name]
    guide = kind(2, encoders())
    whole, part = both(lambda model: objective().loss(model, guide, X))
    assert part == pytest.approx(ALL / ROWS * whole, rel=1e-5)


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO])
def test_num_data_scales_the_guide_for_the_objectives_of_pyro(objective):
    guides = {number: ProductOfExperts(2, encoders()) for number in (None, ALL)}
    guides[ALL].load_state_dict(guides[None].state_dict())
    guides[ALL].num_data = ALL
    losses = iter(guides.values())
    whole, part = both(lambda model: objective().loss(model, next(losses), X))
    assert part == pytest.approx(ALL / ROWS * whole, rel=1e-5)


def test_a_subsample_does_not_change_likelihoods():
    guide = ProductOfExperts(2, encoders())
    whole, part = both(lambda model: log_likelihood(model, guide, X, list(X), num_samples=30).values)
    torch.testing.assert_close(whole, part)


def shared_model(x, observed=None, num_rows=None):
    """Weights with a prior, outside the plate."""
    rows = num_rows or len(next(iter(values for values in x.values() if values is not None)))
    weights = pyro.sample("weights", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
    with pyro.plate("data", rows, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        for name in x:
            pyro.sample(name, dist.Normal(z @ weights.T, 1.0).to_event(1), obs=x[name])


def shared_guide():
    local = ProductOfExperts(2, encoders())

    def guide(x, observed=None):
        loc = pyro.param("loc", torch.zeros(3, 2))
        pyro.sample("weights", dist.Normal(loc, 0.1).to_event(2))
        return local(x, observed)

    return guide


def test_shared_latents_train_with_the_objectives_of_pyro():
    guide = shared_guide()
    history = fit(shared_model, guide, Trace_ELBO(), [(X, None)] * 20, epochs=3, progress=False).history
    assert history[-1]["train/bound"] > history[0]["train/bound"]


@pytest.mark.parametrize(
    "use",
    [
        lambda model, guide: elbo(MODEL, GUIDE).loss(model, guide, X),
        lambda model, guide: StratifiedELBO(2).loss(model, guide, X),
        lambda model, guide: cross_generate(model, guide, {"a": X["a"]}, ["b"], 2),
        lambda model, guide: joint_samples(model, 3, ["a"]),
        lambda model, guide: log_likelihood(model, guide, X, ["a", "b"], num_samples=20),
        lambda model, guide: log_likelihood(model, guide, X, ["a", "b"], method=Annealing()),
        lambda model, guide: guide_conditional_log_likelihood(model, guide, X, ["a"], ["b"], num_samples=20),
        lambda model, guide: to_inference_data(model, guide, X, 3),
        lambda model, guide: check_guide(model, guide, X, num_simulated=20, num_samples=20),
    ],
    ids=["elbo", "stratified", "cross", "joint", "importance", "ais", "conditional", "arviz", "check"],
)
def test_shared_latents_are_refused_by_name(use):
    with pytest.raises(ValueError, match="latent 'weights'.* is outside the plate 'data'"):
        use(shared_model, shared_guide())


@config_enumerate
def discrete_model(x, observed=None, num_rows=None):
    """A class and a real latent for each data point."""
    rows = num_rows or len(next(iter(values for values in x.values() if values is not None)))
    with pyro.plate("data", rows, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7])))
        loc = z.sum(-1, keepdim=True) + torch.tensor([-2.0, 2.0])[kind].unsqueeze(-1) + torch.zeros(3)
        for name in x:
            pyro.sample(name, dist.Normal(loc, 1.0).to_event(1), obs=x[name])


class WithKind(Guide):
    """A guide with the discrete latent, too."""

    def posterior(self, x, observed=None):
        shared = product_of_experts(self.experts(x, observed), prior=self.prior())
        rows = len(next(iter(x.values())))
        return {"z": shared, "kind": dist.Categorical(torch.full((rows, 2), 0.5))}


def test_discrete_latents_are_enumerated_beside_our_guides():
    """The value of the bound is that with the class summed out by hand."""
    guide = ProductOfExperts(2, encoders())
    torch.manual_seed(0)
    enumerated = TraceEnum_ELBO(max_plate_nesting=1).loss(discrete_model, guide, X)
    torch.manual_seed(0)
    z = guide(X)["z"]
    posterior, prior = guide.posterior(X), dist.Normal(torch.zeros(2), 1.0).to_event(1)
    log_likelihoods = torch.stack(
        [
            sum(dist.Normal(z.sum(-1, keepdim=True) + shift, 1.0).log_prob(values).sum(-1) for values in X.values())
            for shift in (-2.0, 2.0)
        ]
    )
    expected = torch.logsumexp(log_likelihoods + torch.tensor([[0.3], [0.7]]).log(), 0)
    bound = (expected + prior.log_prob(z) - posterior.log_prob(z)).sum()
    assert enumerated == pytest.approx(-bound.item(), rel=1e-4)
    assert fit(discrete_model, guide, TraceEnum_ELBO(max_plate_nesting=1), [(X, None)], epochs=1, progress=False)


def test_the_likelihood_of_a_model_with_a_discrete_latent_that_the_guide_leaves_out():
    guide = ProductOfExperts(2, encoders())
    # without refinement, for which latents must be real
    estimate = log_likelihood(
        discrete_model, guide, X, ["a", "b"], num_samples=4_000, method=ImportanceSampling(max_samples=4_000)
    )
    covariance = torch.eye(6) + 2.0  # the two latents, added to every element
    values = torch.cat(list(X.values()), -1)
    parts = [dist.MultivariateNormal(torch.full((6,), shift), covariance).log_prob(values) for shift in (-2.0, 2.0)]
    exact = torch.logsumexp(torch.stack(parts) + torch.tensor([[0.3], [0.7]]).log(), 0)
    assert (estimate.values - exact).abs().mean() < 0.1


@pytest.mark.parametrize("make", [lambda: ProductOfExperts(2, encoders()), lambda: WithKind(2, encoders())])
def test_discrete_latents_are_sampled_in_predictions_and_refused_in_likelihoods(make):
    guide = make()
    assert cross_generate(discrete_model, guide, {"a": X["a"]}, ["b"], 4)["b"].shape == (4, ROWS, 3)
    assert embed(guide, X).shape == (ROWS, 2)
    assert "kind" in to_inference_data(discrete_model, guide, X, 3).posterior
    for method in (ImportanceSampling(), Annealing()):
        if isinstance(method, ImportanceSampling) and isinstance(guide, ProductOfExperts):
            continue  # the model samples what the guide leaves out
        with pytest.raises(ValueError, match="the latent 'kind' must be a real vector"):
            log_likelihood(discrete_model, guide, X, ["a", "b"], method=method, num_samples=20)
    with pytest.raises(ValueError, match="the latent 'kind' must be a real vector"):
        check_guide(discrete_model, guide, X, num_simulated=20, num_samples=20)
    if isinstance(guide, ProductOfExperts):
        with pytest.raises(ValueError, match=r"samples \['kind'\], which the guide does not"):
            elbo(MODEL, GUIDE).loss(discrete_model, guide, X)
