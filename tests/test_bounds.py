"""Every bound against the exact evidence of the linear-Gaussian model, and against Pyro's own objectives."""

import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import exact_bound, mean_and_se, repeated
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

from multipyro.guides import JointEncoder, JointGuide, MixtureOfProducts, NormalEncoder, StratifiedMixture
from multipyro.inference import restrict
from multipyro.inference.objectives import (
    GUIDE,
    MODEL,
    PROPER_SUBSETS,
    SUBSET,
    LinearWarmup,
    StratifiedELBO,
    elbo,
    subset_elbo,
    sum_over,
)
from multipyro.ppl_models import MLP
from multipyro.testing import FixedGuide, LinearGaussian, kl_normal

DTYPE = torch.float64
COUNTS = (2, 3, 5)
BOUNDS = ("stratified", "tight")


def plain(**options):
    return elbo(MODEL, GUIDE, **options)


def values(loss, model, guide, x, observed=None, calls=16):
    """Independent estimates of the bound, per row, one a call."""
    rows = len(next(iter(x.values())))
    found = []
    for seed in range(calls):
        torch.manual_seed(seed)
        found.append(-loss.loss(model, guide, x, observed) / rows)
    return torch.tensor(found, dtype=DTYPE)


def gradients(loss, model, guide, x, seed=0):
    """Value and gradients of every parameter after `loss_and_grads`."""
    for module in (model, guide):
        module.zero_grad()
    torch.manual_seed(seed)
    value = loss.loss_and_grads(model, guide, x)
    named = [*model.named_parameters(prefix="model"), *guide.named_parameters(prefix="guide")]
    return value, {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_same_gradients(left, right, rtol=1e-9):
    assert left.keys() == right.keys() and left
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=rtol, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("count", COUNTS)
def test_the_exact_guide_gives_the_evidence_with_every_bound(count):
    problem = LinearGaussian(count)
    x, model, guide = problem.sample(9), problem.model(), problem.product_guide()
    evidence = problem.log_evidence(x).sum().item()
    losses = [plain(kl="sampled"), plain(kl="sampled", num_particles=4), Trace_ELBO(), RenyiELBO(num_particles=3)]
    losses += [
        StratifiedELBO(k, gradient, bound) for k in (1, 4) for gradient in ("reparam", "dreg") for bound in BOUNDS
    ]
    for loss in losses:
        assert -loss.loss(model, guide, x) == pytest.approx(evidence, rel=1e-10)
    for subset in problem.subsets():
        given = {name: x[name] for name in subset}
        expected = problem.log_evidence(x, subset).sum().item()
        assert -plain(kl="sampled").loss(model, guide, given) == pytest.approx(expected, rel=1e-10)
        restricted = restrict(model, subset), restrict(guide, subset)
        assert -StratifiedELBO(2).loss(*restricted, x) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_mixture_of_exact_posteriors_gives_the_evidence(bound):
    problem = LinearGaussian(3)
    x, model = problem.sample(7), problem.model()
    guide = FixedGuide(problem, lambda x, _: StratifiedMixture([problem.best_diagonal(x)] * 4))
    for particles in (1, 3):
        bound_value = -StratifiedELBO(particles, bound=bound).loss(model, guide, x)
        assert bound_value == pytest.approx(problem.log_evidence(x).sum().item(), rel=1e-10)


@pytest.mark.parametrize("kl", ("analytic", "sampled"))
def test_the_best_diagonal_guide_stays_below_the_evidence_by_its_known_gap(kl):
    problem = LinearGaussian(3, orthogonal=False)
    x = repeated(problem.sample(1), 500)
    guide = FixedGuide(problem, lambda x, _: problem.best_diagonal(x))
    gap = problem.diagonal_gap(x)
    assert gap > 0.05
    found, error = mean_and_se(values(plain(kl=kl), problem.model(), guide, x))
    assert (found - (problem.log_evidence(x)[0] - gap)).abs() < 4 * error


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("count", COUNTS)
def test_bounds_stay_below_the_evidence_and_rise_with_the_number_of_particles(count, bound):
    problem = LinearGaussian(count)
    x, model = repeated(problem.sample(1), 200), problem.model()
    evidence = problem.log_evidence(x)[0]
    for guide in (problem.product_guide(shift=0.3, stretch=1.3), problem.mixture_guide(shift=0.2, stretch=1.2)):
        levels = [values(StratifiedELBO(k, bound=bound), model, guide, x, calls=10) for k in (1, 3, 12)]
        for lower, higher in zip(levels[:-1], levels[1:], strict=True):
            rise, error = mean_and_se(higher - lower)
            assert rise > 4 * error  # the guide is inexact, so the rise is strict
        top, error = mean_and_se(levels[-1])
        assert top < evidence + 4 * error
        low, error = mean_and_se(levels[0])
        assert low < evidence - 4 * error


@pytest.mark.parametrize("count", COUNTS)
def test_elbo_below_stratified_below_tight_below_evidence(count):
    problem = LinearGaussian(count)
    x, model, guide = repeated(problem.sample(1), 300), problem.model(), problem.mixture_guide()
    elbo = values(plain(), model, guide, x)
    stratified = values(StratifiedELBO(5), model, guide, x)
    tight = values(StratifiedELBO(5, bound="tight"), model, guide, x)
    for lower, higher in ((elbo, stratified), (stratified, tight)):
        rise, error = mean_and_se(higher - lower)
        assert rise > 4 * error
    top, error = mean_and_se(tight)
    assert top < problem.log_evidence(x)[0] + 4 * error


def test_the_tight_bound_reaches_the_evidence_and_the_stratified_one_does_not():
    problem = LinearGaussian(2, latent_dim=1)
    x, model, guide = repeated(problem.sample(1), 50), problem.model(), problem.mixture_guide()
    evidence = problem.log_evidence(x)[0]
    tight, error = mean_and_se(values(StratifiedELBO(1000, bound="tight"), model, guide, x, calls=10))
    assert (tight - evidence).abs() < 4 * error + 2e-3  # the log's bias, about Var(w) / 2K
    wide = problem.mixture_guide(shift=2.0, stretch=0.6)
    tight, _ = mean_and_se(values(StratifiedELBO(1000, bound="tight"), model, wide, x, calls=10))
    loose, error = mean_and_se(values(StratifiedELBO(1000), model, wide, x, calls=10))
    assert loose < tight - 4 * error - 0.01


@pytest.mark.parametrize(
    "count, particles, bound",
    [
        (2, 1, "stratified"),
        (2, 2, "stratified"),
        (3, 3, "stratified"),
        (2, 1, "tight"),
        (2, 2, "tight"),
        (3, 1, "tight"),
    ],
)
def test_bounds_equal_their_quadrature(count, particles, bound):
    problem = LinearGaussian(count, latent_dim=1)
    x, model, guide = repeated(problem.sample(1), 2000), problem.model(), problem.mixture_guide(shift=0.4, stretch=1.2)
    exact = exact_bound(model, guide, x, particles, bound).item()
    for gradient in ("reparam", "stl", "dreg"):
        found, error = mean_and_se(values(StratifiedELBO(particles, gradient, bound), model, guide, x, calls=12))
        assert (found - exact).abs() < 4 * error


def test_stratified_bound_at_one_particle_is_the_elbo_of_the_mixture():
    problem = LinearGaussian(3)
    x, model, guide = repeated(problem.sample(1), 500), problem.model(), problem.mixture_guide(shift=0.2)
    difference = values(StratifiedELBO(1), model, guide, x) - values(Trace_ELBO(), model, guide, x)
    found, error = mean_and_se(difference)
    assert found.abs() < 4 * error
    encoders = {name: problem.expert_encoder(name) for name in problem.modalities}
    products = MixtureOfProducts(3, encoders, prior_expert="all").double()
    found, error = mean_and_se(values(StratifiedELBO(1), model, products, x) - values(plain(), model, products, x))
    assert found.abs() < 4 * error


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("particles", (2, 7))
def test_one_expert_equals_pyros_renyi_elbo_in_value_and_gradient(particles, bound):
    problem = LinearGaussian(1)
    x, model, guide = problem.sample(6), problem.model(), problem.mixture_guide(shift=0.3, stretch=1.4)
    pyros = RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    reference, expected = gradients(pyros, model, guide, x)
    value, found = gradients(StratifiedELBO(particles, bound=bound), model, guide, x)
    assert value == pytest.approx(reference, rel=1e-12)
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("particles", (2, 7))
def test_a_guide_without_a_mixture_equals_pyros_renyi_elbo(particles, bound):
    problem = LinearGaussian(3)
    x, model, guide = problem.sample(6), problem.model(), problem.product_guide(shift=0.3, stretch=1.4)
    pyros = RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    reference, expected = gradients(pyros, model, guide, x)
    value, found = gradients(StratifiedELBO(particles, bound=bound), model, guide, x)
    assert value == pytest.approx(reference, rel=1e-12)
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("gradient", ("reparam", "stl", "dreg"))
def test_particles_in_chunks_give_the_same_bound_and_gradient(gradient, bound):
    problem = LinearGaussian(3)
    x, model, guide = problem.sample(6), problem.model(), problem.mixture_guide(shift=0.3, stretch=1.4)
    reference, expected = gradients(StratifiedELBO(5, gradient, bound), model, guide, x)
    value, result = gradients(StratifiedELBO(5, gradient, bound, chunk_size=2), model, guide, x)
    assert value == pytest.approx(reference, rel=1e-12)
    assert_same_gradients(result, expected)


def test_the_decoders_see_one_chunk_of_particles_at_a_time():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(6), problem.model(), problem.mixture_guide()
    sizes = []
    model.register_forward_hook(lambda module, args, output: sizes.append(len(output["z"])))
    StratifiedELBO(5, chunk_size=2).loss(model, guide, x)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("kl, pyros", (("sampled", Trace_ELBO), ("analytic", TraceMeanField_ELBO)))
@pytest.mark.parametrize("particles", (1, 4))
def test_one_plain_term_equals_pyros_elbo_in_value_and_gradient(kl, pyros, particles):
    problem = LinearGaussian(3)
    x, model, guide = problem.sample(6), problem.model(), problem.product_guide(shift=0.3, stretch=1.4)
    settings = {"num_particles": particles, "max_plate_nesting": 1, "vectorize_particles": particles > 1}
    reference, expected = gradients(pyros(**settings), model, guide, x)
    value, found = gradients(plain(kl=kl, num_particles=particles), model, guide, x)
    assert value == pytest.approx(reference, rel=1e-12)
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("kl, pyros", (("sampled", Trace_ELBO), ("analytic", TraceMeanField_ELBO)))
def test_masked_rows_equal_pyros_elbo(kl, pyros):
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(5), problem.model(), problem.product_guide(shift=0.3)
    observed = {
        "image": torch.tensor([True, False, True, False, True]),
        "label": torch.tensor([True, True, False, False, True]),
    }
    torch.manual_seed(0)
    reference = pyros().loss(model, guide, x, observed)
    torch.manual_seed(0)
    assert plain(kl=kl).loss(model, guide, x, observed) == pytest.approx(reference, rel=1e-12)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kl", ("analytic", "sampled"))
def test_the_subset_elbo_is_below_the_sum_of_the_evidences_and_equal_with_the_exact_guide(count, kl):
    problem = LinearGaussian(count)
    x, model = problem.sample(40), problem.model()
    subsets = [problem.modalities, *[(name,) for name in problem.modalities]]
    total = sum(problem.log_evidence(x, subset).sum().item() for subset in subsets)
    exact = problem.product_guide()
    if kl == "sampled":  # every sample gives log p(x_S) exactly
        assert -subset_elbo(kl=kl).loss(model, exact, x) == pytest.approx(total, rel=1e-10)
    else:
        found, error = mean_and_se(values(subset_elbo(kl=kl), model, exact, x) * 40)
        assert (found - total).abs() < 4 * error
    inexact, error = mean_and_se(values(subset_elbo(kl=kl), model, problem.product_guide(0.5, 1.5), x, calls=10) * 40)
    assert inexact < total - 4 * error
    # no bound on log p(x): with every single modality scored again it lies far below
    assert total < problem.log_evidence(x).sum() - 10


def test_random_subsets_are_proper_and_drawn_by_size_without_repetition():
    problem = LinearGaussian(5)
    loss = subset_elbo(num_random_subsets=3)
    sizes = {2: 0, 3: 0, 4: 0}
    for _ in range(600):
        names = [term.elbo.name for term in loss.terms(problem.modalities)]
        assert names[:6] == ["", *problem.modalities]
        drawn = [tuple(name.split("+")) for name in names[6:]]
        assert len(set(drawn)) == 3
        sizes[len(drawn[0])] += 1
    for number in sizes.values():  # a third of 600, standard deviation 11.5
        assert abs(number - 200) < 4 * 11.6
    assert len(list(subset_elbo(9).terms(("a", "b")))) == 3


def test_the_subset_elbo_with_random_subsets_equals_the_evidences_of_all_subsets():
    problem = LinearGaussian(3)
    x = problem.sample(10)
    total = sum(problem.log_evidence(x, subset).sum().item() for subset in problem.subsets())
    value = -subset_elbo(num_random_subsets=3, kl="sampled").loss(problem.model(), problem.product_guide(), x)
    assert value == pytest.approx(total, rel=1e-10)


def test_a_batch_of_one_modality_has_one_term():
    problem = LinearGaussian(2)
    x = {"image": problem.sample(8)["image"]}
    value = -subset_elbo(kl="sampled").loss(problem.model(), problem.product_guide(), x)
    assert value == pytest.approx(problem.log_evidence(x).sum().item(), rel=1e-10)


def joint_guide(problem):
    """A joint encoder and one encoder for each proper subset, all arbitrary."""
    sizes = {name: len(problem.offsets[name]) for name in problem.modalities}
    encoders = {}
    for subset in problem.subsets()[:-1]:
        if len(subset) == 1:
            encoders[subset] = NormalEncoder(MLP(sizes[subset[0]], 6), problem.latent_dim)
        else:
            encoders[subset] = JointEncoder({m: MLP(sizes[m], 6) for m in subset}, problem.latent_dim)
    return JointGuide(problem.latent_dim, {m: MLP(size, 6) for m, size in sizes.items()}, encoders=encoders).double()


@pytest.mark.parametrize("count", (2, 3))
def test_the_terms_of_jmvae_kl_equal_closed_form_divergences(count):
    torch.manual_seed(3)
    problem = LinearGaussian(count)
    x, guide, model = problem.sample(12), joint_guide(problem), problem.model()
    joint = guide.posterior(x)
    for subset in guide.subsets[:-1]:
        part = guide.posterior({name: x[name] for name in subset})
        divergence = kl_normal(joint, part).sum().item()
        term = elbo(GUIDE | subset, GUIDE)
        assert term.loss(model, guide, x) == pytest.approx(divergence, rel=1e-10)  # ELBO(g|A || g) = -KL(g || g|A)
        sampled = elbo(GUIDE | subset, GUIDE, kl="sampled", num_particles=50)
        found, error = mean_and_se(-12 * values(sampled, model, guide, x, calls=10))
        assert (found - divergence).abs() < 4 * error
    weighted = elbo(MODEL, GUIDE) + 0.1 * sum_over(PROPER_SUBSETS, elbo(GUIDE | SUBSET, GUIDE))
    torch.manual_seed(1)
    whole = weighted.loss(model, guide, x)
    torch.manual_seed(1)
    joint_part = plain().loss(model, guide, x)
    total = sum(kl_normal(joint, guide.posterior({m: x[m] for m in s})).sum().item() for s in guide.subsets[:-1])
    assert whole == pytest.approx(joint_part + 0.1 * total, rel=1e-10)


def test_jmvae_kl_moves_both_sides_of_its_divergences():
    problem = LinearGaussian(2)
    guide = joint_guide(problem)
    loss = elbo(GUIDE | "image", GUIDE)
    _, found = gradients(loss, problem.model(), guide, problem.sample(5))
    assert any("joint" in name for name in found) and any("networks.image" in name for name in found)
    assert not any("networks.label" in name or name.startswith("model") for name in found)


def test_site_weights_scale_a_site_on_both_sides():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(10), problem.model(), problem.product_guide(0.2, 1.3)
    posterior = guide.posterior(x)
    standard = dist.Normal(torch.zeros(3, dtype=DTYPE), 1.0).to_event(1)
    kl = kl_normal(posterior, standard).sum().item()
    for beta in (0.0, 0.5, 3.0):
        for weights in ({"z": beta}, {"z": torch.tensor(beta)}, {"z": LinearWarmup(1, peak=beta)}):
            losses = []
            for sites in (weights, {"z": 0.0}):
                torch.manual_seed(0)
                losses.append(elbo(MODEL, GUIDE, sites).loss(model, guide, x))
            assert losses[0] - losses[1] == pytest.approx(beta * kl, rel=1e-6, abs=1e-9)
    torch.manual_seed(0)
    z = guide(x)["z"]
    image, label = (model.likelihoods[m](z).log_prob(x[m]).sum().item() for m in ("image", "label"))
    log_ratio = (standard.log_prob(z) - posterior.log_prob(z)).sum().item()
    torch.manual_seed(0)
    sites = {"z": 0.3, "image": 0.0, "label": 7.0}
    value = -(2.0 * elbo(MODEL, GUIDE, sites, kl="sampled")).loss(model, guide, x)
    assert value == pytest.approx(2 * (0.3 * log_ratio + 7 * label), rel=1e-10)
    torch.manual_seed(0)
    assert -2 * StratifiedELBO(1, sites=sites).loss(model, guide, x) == pytest.approx(value, rel=1e-10)
    assert abs(image) > 1


@pytest.mark.parametrize("bound", BOUNDS)
def test_site_weights_of_the_stratified_bounds(bound):
    problem = LinearGaussian(2)
    x, model = problem.sample(10), problem.model()
    fixed = problem.product_guide()
    # with exact experts log w is constant: the weighted objective must move off it by the site's own share
    report = StratifiedELBO(1, bound=bound).report(model, fixed, x)
    assert report["reconstruction/image"] + report["reconstruction/label"] - report["kl/z"] == pytest.approx(
        problem.log_evidence(x).sum().item(), rel=1e-10
    )
    torch.manual_seed(0)
    weighted = StratifiedELBO(1, bound=bound, sites={"image": 0.0, "z": 0.25, "label": 3.0})
    value = -weighted.loss(model, fixed, x)
    torch.manual_seed(0)
    report = weighted.report(model, fixed, x)
    assert value == pytest.approx((3 * report["reconstruction/label"] - 0.25 * report["kl/z"]).item(), rel=1e-10)


def test_a_weight_of_zero_takes_a_term_and_its_gradient_away():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(6), problem.model(), problem.product_guide(0.2)
    reference, expected = gradients(plain(), model, guide, x)
    both = elbo(MODEL, GUIDE) + 0.0 * elbo(MODEL | "image", GUIDE | "image")
    value, found = gradients(both, model, guide, x)
    assert value == pytest.approx(reference, rel=1e-12)
    assert_same_gradients(found, expected)
    warming = LinearWarmup(3)
    loss = elbo(MODEL, GUIDE, {"z": warming})
    _, cold = gradients(loss, model, guide, x)
    _, without = gradients(elbo(MODEL, GUIDE, {"z": 0.0}), model, guide, x)
    assert_same_gradients(cold, without)
    warming.step()
    warming.step()
    value, warm = gradients(loss, model, guide, x)
    assert value == pytest.approx(reference, rel=1e-12)
    assert_same_gradients(warm, expected)


def test_the_components_kl_is_an_upper_bound_and_the_mean_of_the_components():
    problem = LinearGaussian(3)
    x, model, guide = problem.sample(10), problem.model(), problem.mixture_guide()
    standard = dist.Normal(torch.zeros(3, dtype=DTYPE), 1.0).to_event(1)
    mean = sum(kl_normal(c, standard) for c in guide.posterior(x).components).sum().item() / 3
    assert plain(kl="components").report(model, guide, x)["kl/z"] == pytest.approx(mean, rel=1e-10)
    found, error = mean_and_se(torch.stack([plain().report(model, guide, x)["kl/z"] for _ in range(60)]))
    assert found < mean - 4 * error


def test_a_step_sees_parameters_and_data_that_have_moved():
    """A result remembered beyond its step would leave the loss as it was."""
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(6), problem.model(), problem.product_guide(0.2)
    losses = []
    for tensor in (None, guide.encoders["image"].bias, x["image"]):
        if tensor is not None:
            tensor.data.add_(1.0)
        losses.append(gradients(plain(), model, guide, x)[0])
    assert abs(losses[1] - losses[0]) > 0.1 and abs(losses[2] - losses[1]) > 0.1
