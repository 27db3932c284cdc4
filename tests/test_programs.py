"""The interface of programs: sites, plates and shapes, priors, likelihoods, networks and encoders."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from multipyro.guides import (
    Guide,
    JointGuide,
    LaplaceEncoder,
    MixtureOfExperts,
    MixtureOfProducts,
    NormalEncoder,
    ProductOfExperts,
    product_of_experts,
)
from multipyro.inference.objectives import GUIDE, MODEL, StratifiedELBO, elbo, subset_elbo
from multipyro.ppl_models import (
    MLP,
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    ConvDecoder,
    ConvEncoder,
    LaplaceLikelihood,
    LaplacePrior,
    MultimodalModel,
    NormalLikelihood,
    OneHotMLP,
    StandardNormalPrior,
    point_estimate,
)

ROWS = 4
NAMES = ("a", "b", "c", "d", "e")
COUNTS = (1, 2, 3, 5)


def model_and_guide(count, guide_class=ProductOfExperts):
    names = NAMES[:count]
    model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 3, (8,))) for name in names})
    if guide_class is JointGuide:
        return model, JointGuide(2, {name: MLP(3, 6, (8,)) for name in names})
    return model, guide_class(2, {name: NormalEncoder(MLP(3, 6, (8,)), 2) for name in names})


def batch(count):
    return {name: torch.randn(ROWS, 3) for name in NAMES[:count]}


def sites(trace):
    return {name for name, site in trace.nodes.items() if site["type"] == "sample"}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("guide_class", (ProductOfExperts, MixtureOfExperts, MixtureOfProducts, JointGuide))
def test_sites_and_plates(count, guide_class):
    model, guide = model_and_guide(count, guide_class)
    x = batch(count)
    trace = poutine.trace(guide).get_trace(x)
    assert sites(trace) == {"data", "z"}
    assert [frame.name for frame in trace.nodes["z"]["cond_indep_stack"]] == ["data"]
    assert trace.nodes["z"]["fn"].batch_shape == (ROWS,) and trace.nodes["z"]["fn"].event_shape == (2,)
    trace = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x)
    assert sites(trace) == {"data", "z", *NAMES[:count]}
    for name in ("z", *NAMES[:count]):
        (frame,) = trace.nodes[name]["cond_indep_stack"]
        assert frame.name == "data" and frame.dim == -1 and frame.size == ROWS
        assert trace.nodes[name]["is_observed"] == (name != "z")
    trace.compute_log_prob()
    assert all(trace.nodes[name]["log_prob"].shape == (ROWS,) for name in ("z", *NAMES[:count]))


def test_an_absent_modality_has_no_site_and_none_is_sampled():
    model, _ = model_and_guide(3)
    trace = poutine.trace(model).get_trace({"b": torch.zeros(ROWS, 3), "c": None})
    assert sites(trace) == {"data", "z", "b", "c"}
    assert trace.nodes["b"]["is_observed"] and not trace.nodes["c"]["is_observed"]
    assert model({}, num_rows=7)["z"].shape == (7, 2)
    assert model({"a": None}, num_rows=7)["a"].shape == (7, 3)


def test_attributes_of_programs():
    model, guide = model_and_guide(3)
    assert model.modalities == guide.modalities == NAMES[:3]
    assert model.latent_dim == guide.latent_dim == 2 and guide.subsets is None
    assert isinstance(model.prior, StandardNormalPrior) and isinstance(model.likelihoods["a"], NormalLikelihood)
    joint = JointGuide(2, {name: MLP(3, 6) for name in "ab"}, encoders={"b": NormalEncoder(MLP(3, 6), 2)})
    assert joint.subsets == (("b",), ("a", "b"))


def test_a_trunk_runs_once_for_all_likelihoods():
    calls = []
    trunk = nn.Linear(2, 6)
    trunk.register_forward_hook(lambda *_: calls.append(1))
    model = MultimodalModel(2, {name: NormalLikelihood(MLP(6, 3, (8,))) for name in "ab"}, trunk=trunk)
    model({"a": torch.zeros(ROWS, 3), "b": torch.zeros(ROWS, 3)})
    assert calls == [1]


LIKELIHOODS = {
    "bernoulli": (BernoulliLikelihood(MLP(2, (1, 3, 3), (8,))), (1, 3, 3)),
    "gray bernoulli": (BernoulliLikelihood(MLP(2, (5,), (8,)), soft_targets=True), (5,)),
    "continuous bernoulli": (ContinuousBernoulliLikelihood(MLP(2, 5, (8,))), (5,)),
    "label": (CategoricalLikelihood(MLP(2, 5, (8,))), ()),
    "word": (CategoricalLikelihood(MLP(2, (4, 5), (8,))), (4,)),
    "normal": (NormalLikelihood(MLP(2, 3, (8,)), scale=0.5), (3,)),
    "laplace": (LaplaceLikelihood(ConvDecoder(2, (3, 9, 12), (8, 4)), learn_scale=True), (3, 9, 12)),
}


@pytest.mark.parametrize("lead", ((), (ROWS,), (6, ROWS), (2, 6, ROWS)))
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_accept_any_leading_dims(name, lead):
    likelihood, event = LIKELIHOODS[name]
    z = torch.randn(*lead, 2)
    distribution = likelihood(z)
    assert distribution.batch_shape == lead and distribution.event_shape == event
    value = distribution.sample()
    assert value.shape == (*lead, *event) and distribution.log_prob(value).shape == lead
    flat = likelihood(z.reshape(-1, 2)).log_prob(value.reshape(-1, *event))
    torch.testing.assert_close(distribution.log_prob(value).reshape(-1), flat, rtol=1e-4, atol=1e-4)
    estimate = point_estimate(distribution)
    assert estimate.shape == (*lead, *event)
    if name in ("label", "word"):
        assert estimate.dtype == torch.int64
        assert torch.equal(
            estimate, distribution.base_dist.logits.argmax(-1) if event else distribution.logits.argmax(-1)
        )
    else:
        torch.testing.assert_close(estimate, distribution.mean)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_pass_the_check_of_their_likelihood(name):
    likelihood, _ = LIKELIHOODS[name]
    likelihood.check(likelihood(torch.randn(ROWS, 2)).sample(), name)


def test_scales_of_likelihoods():
    fixed, learned = NormalLikelihood(MLP(2, 3), scale=0.3), LaplaceLikelihood(MLP(2, 3), learn_scale=True)
    assert fixed(torch.zeros(1, 2)).base_dist.scale.unique().item() == pytest.approx(0.3)
    assert learned(torch.zeros(1, 2)).base_dist.scale.unique().item() == pytest.approx(0.75)
    assert "log_scale" in dict(learned.named_parameters()) and "log_scale" not in dict(fixed.named_parameters())
    for scale in (0.0, -1.0):
        with pytest.raises(ValueError, match="positive"):
            NormalLikelihood(MLP(2, 3), scale=scale)


def test_a_learned_scale_converges_to_the_noise_of_the_data():
    likelihood = NormalLikelihood(nn.Linear(1, 50), learn_scale=True)
    nn.init.zeros_(likelihood.network.weight), nn.init.zeros_(likelihood.network.bias)
    values = 0.2 * torch.randn(200, 50)
    optimizer = torch.optim.Adam([likelihood.log_scale], lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        (-likelihood(torch.zeros(200, 1)).log_prob(values).mean()).backward()
        optimizer.step()
    assert likelihood.log_scale.exp().item() == pytest.approx(0.2, abs=4 * 0.2 / math.sqrt(2 * 10_000))


@pytest.mark.parametrize("size", (1, 4, 30))
def test_laplace_scales_sum_to_the_latent_size(size):
    prior = LaplacePrior(size)
    nn.init.normal_(prior.logits, std=3.0)
    distribution = prior()
    assert distribution.batch_shape == () and distribution.event_shape == (size,)
    assert distribution.base_dist.scale.sum().item() == pytest.approx(size, rel=1e-5)
    encoder = LaplaceEncoder(MLP(3, 6, (8,)), size)
    scale = encoder(torch.randn(ROWS, 3)).base_dist.scale
    torch.testing.assert_close(scale.sum(-1), torch.full((ROWS,), float(size)), rtol=1e-4, atol=1e-4)


def test_the_laplace_prior_learns():
    model = MultimodalModel(2, {"a": NormalLikelihood(MLP(2, 3, (8,)))}, LaplacePrior(2))
    guide = ProductOfExperts(2, {"a": NormalEncoder(MLP(3, 6, (8,)), 2)}, prior_expert=False)
    Trace_ELBO().loss_and_grads(model, guide, batch(1))
    assert model.prior.logits.grad.abs().sum() > 0


def test_the_standard_normal_prior():
    distribution = StandardNormalPrior(3)()
    assert distribution.event_shape == (3,) and not list(StandardNormalPrior(3).parameters())
    assert distribution.log_prob(torch.zeros(3)).item() == pytest.approx(-1.5 * math.log(2 * math.pi))
    assert StandardNormalPrior(3).double()().mean.dtype == torch.float64


@pytest.mark.parametrize("lead", ((), (ROWS,), (6, ROWS)))
def test_networks_accept_any_leading_dims(lead):
    assert MLP((1, 3, 3), (2, 4), (8,))(torch.randn(*lead, 1, 3, 3)).shape == (*lead, 2, 4)
    assert OneHotMLP(5, 6, (8,))(torch.zeros(lead, dtype=torch.int64)).shape == (*lead, 6)
    assert OneHotMLP(5, 6, (8,), length=3)(torch.zeros((*lead, 3), dtype=torch.int64)).shape == (*lead, 6)
    assert ConvEncoder((3, 9, 12), 6, (4, 8))(torch.randn(*lead, 3, 9, 12)).shape == (*lead, 6)
    assert ConvDecoder(2, (3, 28, 28), (8, 4, 4))(torch.randn(*lead, 2)).shape == (*lead, 3, 28, 28)


@pytest.mark.parametrize("shape", [(2, 12, 9, 3), (1, 9, 12), (3, 10, 12), (12,)], ids=str)
def test_a_convolution_names_the_shape_it_expects(shape):
    with pytest.raises(ValueError, match=r"expected inputs of shape \(..., 3, 9, 12\), got"):
        ConvEncoder((3, 9, 12), 6, (4, 8))(torch.zeros(shape))


@pytest.mark.parametrize("scale, function", (("softplus", nn.functional.softplus), ("exp", torch.exp)))
def test_normal_encoders(scale, function):
    encoder = NormalEncoder(MLP(3, 6, (8,)), 2, scale)
    values = torch.randn(ROWS, 3)
    distribution = encoder(values)
    loc, raw = encoder.heads(encoder.network(values)).chunk(2, -1)
    assert distribution.batch_shape == (ROWS,) and distribution.event_shape == (2,)
    torch.testing.assert_close(distribution.mean, loc)
    torch.testing.assert_close(distribution.base_dist.scale, function(raw), atol=2e-6, rtol=1e-5)


class PrecisionWeightedExperts(Guide):
    """A guide of one method, as in the documentation."""

    def posterior(self, x, observed=None):
        return product_of_experts(self.experts(x, observed), prior=self.prior)


def test_a_custom_guide_is_one_method():
    encoders = {name: NormalEncoder(MLP(3, 6, (8,)), 2) for name in NAMES[:3]}
    custom, builtin = PrecisionWeightedExperts(2, encoders), ProductOfExperts(2, encoders)
    x, observed = batch(3), {"b": torch.tensor([True, False, False, True])}
    assert torch.equal(custom.posterior(x, observed).mean, builtin.posterior(x, observed).mean)
    torch.manual_seed(0)
    first = custom(x, observed)["z"]
    torch.manual_seed(0)
    assert torch.equal(first, builtin(x, observed)["z"])
    with pytest.raises(TypeError, match="abstract"):
        Guide(2, encoders)


class TwoLatents(Guide):
    """A guide that returns a dict of sites instead of one distribution."""

    def posterior(self, x, observed=None):
        z = product_of_experts(self.experts(x, observed), prior=self.prior)
        return {"z1": z, "z2": dist.Normal(torch.zeros_like(z.mean), 1.0).to_event(1)}


def test_a_guide_can_return_a_dict_of_sites():
    guide = TwoLatents(2, {"a": NormalEncoder(MLP(3, 6, (8,)), 2)})
    trace = poutine.trace(guide).get_trace(batch(1))
    assert sites(trace) == {"data", "z1", "z2"} and trace.nodes["z2"]["value"].shape == (ROWS, 2)


@pytest.mark.parametrize("loss", (Trace_ELBO(), RenyiELBO(num_particles=2), StratifiedELBO(2), subset_elbo()))
def test_a_plain_function_is_accepted_wherever_a_guide_is(loss):
    model, _ = model_and_guide(1)

    def guide(x, observed=None):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x["a"]), dim=-1):
            pyro.sample("z", dist.Normal(loc.expand(len(x["a"]), 2), torch.ones(2)).to_event(1))

    svi = SVI(model, guide, Adam({"lr": 0.1}), loss)
    assert math.isfinite(svi.step(batch(1))) and (pyro.param("loc") != 0).all()


@pytest.mark.parametrize("guide_class", (ProductOfExperts, MixtureOfExperts, MixtureOfProducts))
@pytest.mark.parametrize("count", COUNTS)
def test_every_parameter_gets_a_finite_gradient(count, guide_class):
    model, guide = model_and_guide(count, guide_class)
    StratifiedELBO(2).loss_and_grads(model, guide, batch(count))
    for parameter in (*model.parameters(), *guide.parameters()):
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0


def test_double_precision_stays_double_precision():
    for guide_class in (ProductOfExperts, MixtureOfExperts, MixtureOfProducts, JointGuide):
        model, guide = (program.double() for program in model_and_guide(2, guide_class))
        x = {name: values.double() for name, values in batch(2).items()}
        observed = None if guide_class is JointGuide else {"a": torch.tensor([True, False, True, True])}
        for loss in (StratifiedELBO(2), subset_elbo()) if guide_class is not JointGuide else (StratifiedELBO(2),):
            assert loss.differentiable_loss(model, guide, x, observed).dtype == torch.float64
            assert guide(x, observed)["z"].dtype == torch.float64


def test_many_models_train_side_by_side_with_plain_svi():
    x, pairs = batch(2), [model_and_guide(2) for _ in range(4)]
    for step in range(2):
        for model, guide in pairs:
            before = [{name: p.clone() for name, p in program.named_parameters()} for program in (model, guide)]
            SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO()).step(x)
            for module, state in ((model, before[0]), (guide, before[1])):
                for name, parameter in module.named_parameters():
                    assert not torch.equal(parameter, state[name]), (step, name)
    assert len(pyro.get_param_store()) == sum(len(list(m.parameters())) + len(list(g.parameters())) for m, g in pairs)


def test_named_programs_keep_their_names():
    model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4, (8,)))}, name="mine")
    trace = poutine.trace(model).get_trace({"image": torch.zeros(2, 4)})
    assert all(name.startswith("mine.") for name in trace.param_nodes) and trace.param_nodes


def test_a_joint_encoder_runs_once_for_all_terms():
    calls = []
    branches = {name: MLP(3, 6, (8,)) for name in "ab"}
    guide = JointGuide(2, branches, encoders={"a": NormalEncoder(MLP(3, 6, (8,)), 2)})
    guide.joint.register_forward_hook(lambda *_: calls.append("joint"))
    model, _ = model_and_guide(2)
    loss = elbo(MODEL, GUIDE) + elbo(GUIDE | "a", GUIDE) + 0.5 * elbo(MODEL, GUIDE)
    loss.loss_and_grads(model, guide, batch(2))
    assert calls == ["joint"]
