"""Gradients of the bounds: against finite differences under the same noise, and against the exact bound."""

import pytest
import torch
from linear_gaussian import exact_bound, gradient_samples, mean_and_se, repeated

from multipyro.guides import MixtureOfProducts
from multipyro.inference.objectives import GUIDE, MODEL, StratifiedELBO, elbo, subset_elbo
from multipyro.testing import LinearGaussian

BOUNDS = ("stratified", "tight")
ROWS, CALLS = 2000, 16


def guide_of(problem, family):
    if family == "mixture":
        return problem.mixture_guide(0.3, 1.3)
    if family == "product":
        return problem.product_guide(0.3, 1.3)
    encoders = {name: problem.expert_encoder(name) for name in problem.modalities}
    return MixtureOfProducts(problem.latent_dim, encoders).double()


LOSSES = {
    "elbo, analytic": elbo(MODEL, GUIDE),
    "elbo, sampled": elbo(MODEL, GUIDE, num_particles=2, kl="sampled"),
    "elbo, components": elbo(MODEL, GUIDE, {"z": 0.5, "image": 2.0}, kl="components"),
    "subsets": subset_elbo(),
    "stratified": StratifiedELBO(3),
    "tight": StratifiedELBO(3, bound="tight"),
    "stratified, weighted": StratifiedELBO(2, sites={"z": 0.5, "image": 2.0}),
}


@pytest.mark.parametrize("family", ("product", "mixture", "mixture of products"))
@pytest.mark.parametrize("name", LOSSES)
def test_reparametrized_gradients_match_finite_differences(name, family):
    problem = LinearGaussian(2, latent_dim=2)
    x, model, guide, loss = problem.sample(5), problem.model(), guide_of(problem, family), LOSSES[name]
    observed = {"label": torch.tensor([True, False, True, True, False])}
    parameters = [*model.parameters(), *guide.parameters()]

    def value():
        torch.manual_seed(11)
        return loss.differentiable_loss(model, guide, x, observed)

    gradients = torch.autograd.grad(value(), parameters)
    step = 1e-5
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            start, direction = parameter.clone(), torch.randn_like(parameter)
            ends = []
            for sign in (1, -1):
                parameter.copy_(start + sign * step * direction)
                ends.append(value())
            parameter.copy_(start)
            torch.testing.assert_close(
                (gradient * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6
            )
            assert (gradient != 0).any()


def compare(count, particles, gradient, bound):
    """Bias of the gradient in standard errors, and as a share of the exact gradient: for decoders and for encoders."""
    problem = LinearGaussian(count, latent_dim=1)
    x, model, guide = repeated(problem.sample(1), ROWS), problem.model(), problem.mixture_guide(1.0, 0.7)
    decoders, encoders = list(model.parameters()), list(guide.parameters())
    exact = torch.autograd.grad(exact_bound(model, guide, x, particles, bound), [*decoders, *encoders])
    exact = torch.cat([part.flatten() for part in exact])
    loss = StratifiedELBO(particles, gradient, bound)
    found, error = mean_and_se(gradient_samples(loss, model, guide, x, [*decoders, *encoders], CALLS))
    split = sum(parameter.numel() for parameter in decoders)
    errors = ((found - exact).abs() / (error + 1e-12)).split([split, len(exact) - split])
    shares = [
        (f - e).norm() / e.norm()
        for f, e in zip(found.split([split, len(exact) - split]), exact.split([split, len(exact) - split]), strict=True)
    ]
    return [part.max().item() for part in errors], [share.item() for share in shares]


SETTINGS = [
    (1, 1, "stratified"),
    (1, 3, "stratified"),
    (2, 1, "stratified"),
    (2, 3, "stratified"),
    (3, 2, "stratified"),
    (2, 1, "tight"),
    (2, 2, "tight"),
    (3, 1, "tight"),
]


@pytest.mark.parametrize("count, particles, bound", SETTINGS)
def test_the_reparametrized_gradient_is_unbiased(count, particles, bound):
    errors, shares = compare(count, particles, "reparam", bound)
    assert max(errors) < 4 and max(shares) < 0.05


@pytest.mark.parametrize("gradient", ("dreg", "stl"))
@pytest.mark.parametrize("count, particles, bound", SETTINGS)
def test_decoder_gradients_are_exact_under_every_estimator(count, particles, bound, gradient):
    errors, _ = compare(count, particles, gradient, bound)
    assert errors[0] < 4


@pytest.mark.parametrize(
    "count, particles, gradient",
    [(1, 1, "dreg"), (1, 3, "dreg"), (2, 1, "dreg"), (3, 1, "dreg"), (1, 1, "stl"), (2, 1, "stl")],
)
def test_encoder_gradients_that_are_exact(count, particles, gradient):
    """DReG with one expert or one particle a stratum; dropping the score is harmless at one particle."""
    errors, _ = compare(count, particles, gradient, "stratified")
    assert errors[1] < 4
    if count == 1 and gradient == "dreg":
        assert compare(1, particles, gradient, "tight")[0][1] < 4


@pytest.mark.parametrize("count, particles, gradient, bound", [
    (1, 3, "stl", "stratified"), (2, 3, "stl", "stratified"), (2, 2, "stl", "tight"),
    (2, 3, "dreg", "stratified"), (2, 1, "dreg", "tight"),
])  # fmt: skip
def test_encoder_gradients_that_are_biased(count, particles, gradient, bound):
    errors, shares = compare(count, particles, gradient, bound)
    assert errors[1] > 6 and shares[1] > 0.01


FACES = {
    "plain": elbo(MODEL, GUIDE),
    "particles": LOSSES["elbo, sampled"],
    "subsets": subset_elbo(1),
    "stratified": StratifiedELBO(3),
    "tight": StratifiedELBO(3, bound="tight"),
    "stl": StratifiedELBO(3, "stl"),
    "dreg": StratifiedELBO(3, "dreg"),
    "tight dreg": StratifiedELBO(3, "dreg", "tight"),
}


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize("family", ("product", "mixture"))
def test_the_three_faces_of_a_loss_agree_under_one_seed(name, family):
    problem = LinearGaussian(3)
    x, model, loss = problem.sample(7), problem.model(), FACES[name]
    guide = problem.product_guide(0.2) if family == "product" else problem.mixture_guide(0.2)
    parameters = [*model.parameters(), *guide.parameters()]
    torch.manual_seed(0)
    value = loss.loss_and_grads(model, guide, x)
    found = [parameter.grad.clone() for parameter in parameters]
    torch.manual_seed(0)
    assert isinstance(value, float) and loss.loss(model, guide, x) == pytest.approx(value, rel=1e-12)
    torch.manual_seed(0)
    tensor = loss.differentiable_loss(model, guide, x)
    assert tensor.shape == () and tensor.item() == pytest.approx(value, rel=1e-12)
    for left, right in zip(torch.autograd.grad(tensor, parameters), found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FACES)
def test_the_report_adds_up_to_the_elbo(name):
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(7), problem.model(), problem.product_guide()
    report = FACES[name].report(model, guide, x)
    assert {"reconstruction/image", "reconstruction/label", "kl/z"} <= report.keys()
    if name in ("particles", "stratified", "tight", "stl", "dreg", "tight dreg"):
        total = report["reconstruction/image"] + report["reconstruction/label"] - report["kl/z"]
        assert total.item() == pytest.approx(problem.log_evidence(x).sum().item(), rel=1e-10)
    if name == "subsets":
        assert {"image/reconstruction/image", "label/kl/z"} <= report.keys()
        assert "image/reconstruction/label" not in report
