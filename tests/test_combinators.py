"""`restrict`, `frozen`, `generative`: what a combined program sees, what trains, what stays."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian, mean_and_se
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from multipyro.guides import JointGuide, MixtureOfProducts, NormalEncoder, ProductOfExperts, StratifiedMixture
from multipyro.guides._once import encoders_run_once
from multipyro.inference import (
    StratifiedELBO,
    SubsetELBO,
    Term,
    WeightedELBO,
    cross_generate,
    embed,
    frozen,
    generative,
    restrict,
)
from multipyro.inference._modules import modules_of
from multipyro.inference.combinators import conditional
from multipyro.inference.prediction import answers
from multipyro.ppl_models import MLP, Categorical, LaplacePrior, MultimodalModel, Normal, OneHotMLP

ROWS = 5


def batch():
    return {"image": torch.randn(ROWS, 4), "label": torch.randint(3, (ROWS,))}


def programs(normalised=False):
    network = MLP(4, 6, (8,))
    if normalised:
        network = nn.Sequential(network, nn.BatchNorm1d(6))
        network.out_features = 6
    model = MultimodalModel(
        2, {"image": Normal(MLP(2, 4, (8,)), learn_scale=True), "label": Categorical(MLP(2, 3, (8,)))}
    )
    guide = ProductOfExperts(2, {"image": NormalEncoder(network, 2), "label": NormalEncoder(OneHotMLP(3, 6, (8,)), 2)})
    return model, guide


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module, before):
    after = module.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def elbo(*terms):
    return WeightedELBO(lambda m, g, _: [Term(m, g)] if not terms else terms)


# restrict


def test_restrict_sees_and_scores_only_its_modalities():
    model, guide = programs()
    x = batch()
    trace = poutine.trace(restrict(model, ["label"])).get_trace(x)
    assert set(trace.observation_nodes) == {"label"} and "image" not in trace.nodes
    other = {**x, "image": torch.full_like(x["image"], float("nan"))}
    mask = {"image": torch.zeros(ROWS, dtype=torch.bool), "label": torch.ones(ROWS, dtype=torch.bool)}
    torch.manual_seed(0)
    expected = guide({"label": x["label"]})["z"]
    for given, observed in ((x, None), (other, None), (other, mask)):
        torch.manual_seed(0)
        assert torch.equal(restrict(guide, "label")(given, observed)["z"], expected)
    assert restrict(model, ["label"])(batch()).keys() == {"z", "label"}


def test_restrict_nests_and_takes_plain_functions():
    seen = []

    def program(x, observed=None):
        seen.append((set(x), None if observed is None else set(observed)))

    rows = torch.ones(2, dtype=torch.bool)
    x = dict.fromkeys("abc", torch.zeros(2))
    restrict(restrict(program, ["a", "b"]), ["b", "c"])(x, dict.fromkeys("abc", rows))
    restrict(program, ["c"])({"a": torch.zeros(2)})
    assert seen == [({"b"}, {"b"}), (set(), None)]


def test_restrict_keeps_the_parameters_names_and_trains_them():
    model, guide = programs()
    svi = SVI(restrict(model, ["label"]), restrict(guide, ["label"]), Adam({"lr": 0.1}), Trace_ELBO())
    before_model, before_guide = state_of(model), state_of(guide)
    svi.step(batch())
    changed = [name for name, value in before_model.items() if not torch.equal(value, model.state_dict()[name])]
    changed += [name for name, value in before_guide.items() if not torch.equal(value, guide.state_dict()[name])]
    assert changed and all("label" in name for name in changed)


# frozen


@pytest.mark.parametrize("loss", (Trace_ELBO(), elbo(), StratifiedELBO(3), StratifiedELBO(3, "dreg"), SubsetELBO()))
def test_frozen_is_bit_for_bit_the_same_afterwards(loss):
    x = batch()
    for which in ("model", "guide"):
        model, guide = programs(normalised=True)
        held, moving = (model, guide) if which == "model" else (guide, model)
        before, modes = state_of(held), [part.training for part in held.modules()]
        leaves = {name: parameter for name, parameter in held.named_parameters()}
        ends = (frozen(model), guide) if which == "model" else (model, frozen(guide))
        moved = state_of(moving)
        svi = SVI(*ends, Adam({"lr": 0.1}), loss)
        for _ in range(3):
            svi.step(x)
        assert unchanged(held, before) and not unchanged(moving, moved)
        assert [part.training for part in held.modules()] == modes
        assert all(parameter is leaves[name] for name, parameter in held.named_parameters())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in held.parameters())
    svi = SVI(model, guide, Adam({"lr": 0.1}), loss)
    before = state_of(model), state_of(guide)
    svi.step(x)
    assert not unchanged(model, before[0]) and not unchanged(guide, before[1])  # thawed


def test_the_gradient_passes_through_a_frozen_model_to_the_guide():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(4), problem.model(), problem.product_guide(0.3)
    wanted = torch.autograd.grad(_seeded(elbo(), model, guide, x), list(guide.parameters()))
    loss = _seeded(elbo(), frozen(model), guide, x)
    found = torch.autograd.grad(loss, list(guide.parameters()), retain_graph=True)
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right)
    missing = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in missing)


def _seeded(loss, *args):
    torch.manual_seed(0)
    return loss.differentiable_loss(*args)


def test_the_gradient_passes_through_a_frozen_guide_on_the_models_side():
    """The teacher scores the student's draws: the student learns, the teacher stays."""
    _, teacher = programs()
    _, student = programs()
    x = batch()
    loss = elbo(Term(frozen(teacher), student)).differentiable_loss(None, None, x)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in student.parameters())


def test_named_submodules_of_a_frozen_program_train():
    model, guide = programs(normalised=True)
    kept = guide.encoders["label"]
    before = state_of(guide)
    svi = SVI(frozen(model), frozen(guide, train=[kept]), Adam({"lr": 0.1}), elbo())
    for _ in range(2):
        svi.step(batch())
    changed = {name for name, value in before.items() if not torch.equal(value, guide.state_dict()[name])}
    assert changed == {f"encoders.label.{name}" for name, _ in kept.named_parameters()}


def test_a_kept_submodule_stays_in_its_own_mode():
    _, guide = programs(normalised=True)
    guide.train()
    modes = {}
    for name, part in guide.named_modules():
        part.register_forward_pre_hook(lambda module, _, name=name: modes.__setitem__(name, module.training))
    frozen(guide, train=[guide.encoders["label"]])(batch())
    assert modes["encoders.label.network"] and not modes["encoders.image.network"]


def test_frozen_nests():
    model, guide = programs()
    before, x = state_of(guide), batch()
    inner = frozen(restrict(frozen(guide), ["image"]))
    loss = elbo().differentiable_loss(model, inner, x)
    loss.backward()
    assert unchanged(guide, before) and all(parameter.grad is None for parameter in guide.parameters())
    outer = frozen(frozen(guide, train=[guide.encoders["image"]]))
    elbo().differentiable_loss(model, outer, x).backward()
    assert all(parameter.grad is None for parameter in guide.parameters())  # the outer one freezes all
    assert all(parameter.requires_grad for parameter in guide.parameters())


def test_a_model_frozen_and_free_in_one_objective():
    """TELBO's second part: the decoders learn from the joint term alone."""
    model, guide = programs()
    x = batch()
    alone = _seeded(elbo(), model, guide, x)
    wanted = torch.autograd.grad(alone, list(model.parameters()))
    terms = WeightedELBO(
        lambda m, g, _: [Term(m, g), *[Term(restrict(frozen(m), (s,)), restrict(g, (s,))) for s in ("image", "label")]]
    )
    found = torch.autograd.grad(_seeded(terms, model, guide, x), list(model.parameters()))
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right)


def test_raw_learned_parameters_of_distributions_get_no_gradient():
    """A leaf handed to a distribution as it is: the prior's logits, a learned log-scale, a raw location."""

    class RawPrior(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc, self.scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))

        def forward(self):
            return dist.Normal(self.loc, self.scale).to_event(1)

    for prior in (RawPrior(), LaplacePrior(2)):
        model = MultimodalModel(2, {"image": Normal(MLP(2, 4, (8,)), learn_scale=True)}, prior)
        guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 6, (8,)), 2)})
        for loss in (elbo(), StratifiedELBO(2, "dreg"), Trace_ELBO()):
            loss.loss_and_grads(frozen(model), guide, {"image": torch.randn(ROWS, 4)})
            assert all(parameter.grad is None for parameter in model.parameters())


def test_a_recurrent_network_freezes_and_thaws():
    class Recurrent(nn.Module):
        out_features = 6

        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(1, 6, batch_first=True)

        def forward(self, values):
            return self.gru(values.unsqueeze(-1))[1][0]

    model = MultimodalModel(2, {"image": Normal(MLP(2, 4, (8,)))})
    guide = ProductOfExperts(2, {"image": NormalEncoder(Recurrent(), 2)})
    before, x = state_of(guide), {"image": torch.randn(ROWS, 4, requires_grad=True)}
    elbo().differentiable_loss(model, frozen(guide), x).backward()
    assert unchanged(guide, before) and all(parameter.grad is None for parameter in guide.parameters())
    assert x["image"].grad.abs().sum() > 0
    elbo().differentiable_loss(model, guide, x).backward()
    assert all(parameter.grad is not None for parameter in guide.parameters())
    gru = guide.encoders["image"].network.gru
    assert all(weight is parameter for weight, parameter in zip(gru._flat_weights, gru.parameters(), strict=True))


def test_plain_functions_freeze_with_their_param_statements_and_their_modules():
    model, _ = programs()
    network = nn.Linear(4, 2)

    def guide(x, observed=None):
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x["image"]), dim=-1):
            return pyro.sample("z", dist.Normal(network(x["image"]), scale).to_event(1))

    x = batch()
    guide(x)
    before = pyro.param("scale").detach().clone(), state_of(network)
    model_before = state_of(model)
    for program in (frozen(guide), frozen(functools.partial(guide))):
        trace = poutine.trace(program).get_trace(x)
        assert "scale" not in trace.nodes
        svi = SVI(model, program, Adam({"lr": 0.1}), Trace_ELBO())
        svi.step(x)
        assert torch.equal(pyro.param("scale"), before[0]) and unchanged(network, before[1])
        assert network.weight.grad is None and pyro.get_param_store()._params["scale"].grad is None
    assert not unchanged(model, model_before)
    SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    assert not torch.equal(pyro.param("scale"), before[0])


def test_a_frozen_program_is_restored_after_an_error():
    model, _ = programs()
    modes = [part.training for part in model.modules()]
    with pytest.raises(ValueError, match="unknown modality"):
        frozen(model)({"sound": torch.zeros(3)})
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())
    assert [part.training for part in model.modules()] == modes and len(list(model.parameters())) == 9


def test_combinators_can_be_copied_and_carry_their_parameters():
    model, _ = programs()
    for program in (restrict(model, ["image"]), frozen(model), generative(model, ["image"])):
        assert not isinstance(program, pyro.nn.PyroModule)
        assert len(list(program.parameters())) == len(list(model.parameters()))
        copy.deepcopy(program)({"label": torch.zeros(3).long()} if program.detail != ("image",) else batch())


# generative


@pytest.mark.parametrize("parallel", (False, True))
def test_pyros_predictive(parallel):
    model, guide = programs()
    x = batch()
    program = generative(model, ["image"])
    samples = Predictive(program, guide=restrict(guide, ["label"]), num_samples=7, parallel=parallel)(x)
    assert samples["image"].shape == (7, ROWS, 4) and samples["z"].reshape(7, ROWS, 2).shape == (7, ROWS, 2)
    assert not torch.equal(samples["image"], x["image"].expand(7, -1, -1))
    both = Predictive(generative(model, ["image", "label"]), guide=guide, num_samples=3, parallel=parallel)(x)
    assert both["label"].shape == (3, ROWS) and both["label"].dtype == torch.int64


def test_predictive_samples_follow_the_exact_conditional():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(3), problem.model(), problem.product_guide()
    given = {"label": x["label"]}
    samples = Predictive(generative(model, ["image"]), guide=guide, num_samples=8000, parallel=True)(given)["image"]
    posterior = problem.posterior(x, ["label"])
    mean = posterior.mean @ problem.loadings["image"].T + problem.offsets["image"]
    found, error = mean_and_se(samples)
    assert ((found - mean).abs() < 4 * error).all()
    covariance = problem.loadings["image"] @ posterior.covariance_matrix[0] @ problem.loadings["image"].T
    variance = covariance.diagonal() + problem.scales["image"] ** 2
    found, error = mean_and_se((samples - mean) ** 2)
    assert ((found - variance).abs() < 4 * error).all()


@pytest.mark.parametrize("parallel", (False, True))
def test_rows_without_evidence_are_drawn_from_the_models_prior(parallel):
    class Shifted(nn.Module):
        def forward(self):
            return dist.Normal(torch.full((2,), 5.0), torch.full((2,), 3.0)).to_event(1)

    decoder = nn.Linear(2, 4)
    model = MultimodalModel(2, {"image": Normal(decoder, scale=0.1), "label": Categorical(MLP(2, 3, (8,)))}, Shifted())
    _, guide = programs()
    rows = torch.tensor([True, False, True, False, True])
    x, number = {"label": torch.randint(3, (ROWS,))}, 3000 if parallel else 200
    predictive = Predictive(generative(model, ["image"]), guide=guide, num_samples=number, parallel=parallel)
    image = predictive(x, {"label": rows})["image"]
    posterior = guide.posterior(x)
    for row in range(ROWS):
        mean, scale = (
            (posterior.mean[row], posterior.stddev[row])
            if rows[row]
            else (torch.full((2,), 5.0), torch.full((2,), 3.0))
        )
        exact = decoder(mean).detach()
        variance = (decoder.weight**2 @ scale**2 + 0.01).detach()
        assert ((image[:, row].mean(0) - exact).abs() < 4 * (variance / number).sqrt()).all()
        assert ((image[:, row].var(0) / variance - 1).abs() < 4 * (2 / number) ** 0.5).all()
    torch.manual_seed(0)
    trace = poutine.trace(guide).get_trace(x, {"label": rows})
    values = poutine.replay(generative(model, ["image"]), trace=trace)(x, {"label": rows})
    drawn = trace.nodes["z"]["value"]
    assert torch.equal(values["z"][rows], drawn[rows]) and (values["z"][~rows] != drawn[~rows]).all()


def test_generative_ignores_whatever_x_holds_of_its_targets():
    model, _ = programs()
    x = {**batch(), "image": torch.full((ROWS, 4), float("nan"))}
    torch.manual_seed(0)
    first = generative(model, ["image"])(x, {"image": torch.zeros(ROWS, dtype=torch.bool)})
    torch.manual_seed(0)
    second = generative(model, ["image"])({"label": x["label"]})
    assert torch.isfinite(first["image"]).all() and torch.equal(first["image"], second["image"])
    everything = generative(model, ["image", "label"])({}, num_rows=9)
    assert everything["image"].shape == (9, 4) and everything["label"].shape == (9,)
    assert everything["z"].shape == (9, 2)


# one step


def test_every_encoder_runs_once_a_step():
    problem = LinearGaussian(3)
    x, model = problem.sample(6), problem.model()
    observed = {"label": torch.tensor([True, False] * 3)}
    subsets = problem.subsets()
    losses = {
        "plain": elbo(),
        "particles": WeightedELBO(lambda m, g, _: [Term(m, g)], num_particles=4),
        "subsets": SubsetELBO(1),
        "jmvae-kl": WeightedELBO(lambda m, g, _: [Term(m, g), *[Term(restrict(g, s), g) for s in subsets[:-1]]]),
        "all subsets": WeightedELBO(lambda m, g, _: [Term(m, restrict(g, s)) for s in subsets]),
        "telbo": WeightedELBO(
            lambda m, g, _: [Term(m, g), *[Term(restrict(frozen(m), s), restrict(g, s)) for s in subsets]]
        ),
        "stratified": StratifiedELBO(5, "dreg"),
    }
    for make in (problem.product_guide, problem.mixture_guide):
        guide = make()
        for name, loss in losses.items():
            if name == "jmvae-kl" and make is problem.mixture_guide:
                continue
            for mask in (None, observed):
                for encoder in guide.encoders.values():
                    encoder.calls = 0
                loss.loss_and_grads(model, guide, x, mask)
                calls = {m: guide.encoders[m].calls for m in problem.modalities}
                assert set(calls.values()) == {1}, (name, calls)


def test_every_guide_is_traced_once_a_step():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(6), problem.model(), problem.product_guide(0.2)
    runs = []
    guide.register_forward_hook(lambda *_: runs.append(1))
    parts = WeightedELBO(
        lambda m, g, _: [Term(restrict(m, ["image"]), g), Term(restrict(m, ["label"]), g, sites={"z": 0.0})]
    )
    whole = _seeded(elbo(), model, guide, x).item()
    assert _seeded(parts, model, guide, x).item() == pytest.approx(whole, rel=1e-10) and runs == [1, 1]


@pytest.mark.parametrize("frozen_first", (True, False))
def test_a_frozen_guide_and_the_same_guide_in_training_share_no_encoder_result(frozen_first):
    """Whoever comes first: the training one keeps its gradient, the frozen one gives it none."""
    model, guide = programs()
    x = batch()
    terms = [Term(model, guide), Term(restrict(model, ["image"]), frozen(restrict(guide, ["image"])))]
    torch.manual_seed(0)
    elbo(*terms[:1]).loss_and_grads(model, guide, x)
    expected = {name: p.grad.clone() for name, p in guide.named_parameters()}
    guide.zero_grad()
    torch.manual_seed(0)
    both = [Term(model, guide), Term(model, frozen(guide), 0.0)]
    elbo(*(both[::-1] if frozen_first else both)).loss_and_grads(model, guide, x)
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        if not frozen_first:  # with the same draw
            torch.testing.assert_close(parameter.grad, expected[name])
    guide.zero_grad()
    elbo(Term(frozen(guide), frozen(guide)), Term(model, guide, 0.0)).loss_and_grads(model, guide, x)
    assert all(p.grad is None or (p.grad == 0).all() for p in guide.parameters())


def test_an_encoder_in_another_mode_gives_a_result_of_its_own():
    _, guide = programs(normalised=True)
    x = batch()
    with encoders_run_once():
        training, evaluating = guide.posterior(x), frozen(guide)(x)
        assert guide.posterior(x).mean.equal(training.mean)
        with torch.no_grad():
            assert not guide.posterior(x).mean.requires_grad
    assert not evaluating["z"].requires_grad


class Holder:
    """An object of a user's that is called as a program."""

    def __init__(self, net):
        self.parts = {"encoder": [net]}

    def __call__(self, x, observed=None):
        return self.parts["encoder"][0](x)


LISTED, HELPED, BOUND, CALLED, NESTED = (nn.Linear(2, 2) for _ in range(5))
NETS = {"a": [LISTED]}


def helper(x):
    return HELPED(x)


def listed(x, observed=None):
    return NETS["a"][0](x)


def helped(x, observed=None):
    return helper(x)


def nested(x, observed=None):
    return [(lambda v: NESTED(v))(value) for value in (x,)]


def with_default(x, observed=None, net=BOUND):
    return net(x)


@pytest.mark.parametrize(
    "program, module",
    [
        (listed, LISTED),
        (helped, HELPED),
        (nested, NESTED),
        (with_default, BOUND),
        (Holder(CALLED), CALLED),
        (functools.partial(listed, observed=None), LISTED),
        (functools.partial(lambda net, x: net(x), CALLED), CALLED),
    ],
)
def test_a_frozen_plain_function_trains_none_of_its_modules_wherever_it_keeps_them(program, module):
    assert modules_of(program) == (module,)
    assert not torch.as_tensor(frozen(program)(torch.ones(1, 2))[0]).requires_grad
    assert all(p.requires_grad for p in module.parameters())


def test_what_is_around_a_guide_hides_neither_its_conditional_nor_its_subsets():
    model, _ = programs()
    experts = {"image": NormalEncoder(MLP(4, 6, (8,)), 2), "label": NormalEncoder(OneHotMLP(3, 6, (8,)), 2)}
    guide, x = MixtureOfProducts(2, experts), batch()
    for wrapped in (frozen(guide), restrict(guide, ["image", "label"]), frozen(restrict(guide, ["image", "label"]))):
        assert torch.equal(embed(wrapped, x), embed(guide, x))
        assert not isinstance(poutine.trace(conditional(wrapped)).get_trace(x).nodes["z"]["fn"], StratifiedMixture)
        torch.manual_seed(0)
        found = cross_generate(frozen(model), wrapped, {"image": x["image"]}, ["label"])
        torch.manual_seed(0)
        assert torch.equal(found["label"], cross_generate(model, guide, {"image": x["image"]}, ["label"])["label"])
    assert answers(guide, ["label"]) and not answers(restrict(guide, ["image"]), ["label"])
    joint = JointGuide(2, {"image": MLP(4, 6), "label": OneHotMLP(3, 6)})
    assert answers(frozen(joint), ["image", "label"]) and not answers(frozen(joint), ["image"])
    with pytest.raises(ValueError, match="cannot generate them|unknown modality"):
        cross_generate(frozen(model), guide, {"image": x["image"]}, ["sound"])


def test_proper_parts_count_in_rows_that_hold_all_of_them_and_more():
    model, _ = programs()
    x = batch()
    image, label = torch.tensor([1, 1, 0, 0, 1]).bool(), torch.tensor([1, 0, 1, 0, 1]).bool()
    trace = poutine.trace(restrict(model, ["image"], proper=True)).get_trace(x, {"image": image, "label": label})
    trace.compute_log_prob()
    counted = [bool(value) for value in trace.nodes["image"]["log_prob"] != 0]
    assert counted == [True, False, False, False, True]
    alone = poutine.trace(restrict(model, ["image"], proper=True)).get_trace(x)
    alone.compute_log_prob()
    assert (alone.nodes["image"]["log_prob"] != 0).all()
