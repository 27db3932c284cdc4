"""Adversarial objectives: their formulas, what their gradients reach, the best discriminator in closed form."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from multipyro.data import Modality
from multipyro.guides import JointGuide, NormalEncoder, ProductOfExperts
from multipyro.inference import METHODS, build, networks_for
from multipyro.inference.handlers import frozen
from multipyro.inference.objectives import DiscriminatorLoss, GeneratorLoss
from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood, OneHotMLP
from multipyro.ppl_models.networks import Discriminator

MODALITIES = {
    "label": Modality("label", (), "label", "categorical", 3),
    "image": Modality("image", (1, 4, 4), "image", "bernoulli"),
}
# 1-D: real values N(0, 4); the decoder z + 1/2; the posterior N(0.3 x, 0.8^2), so that reconstructions of real values
# are N(1/2, 1) as the samples of the prior are
REAL, MADE = dist.Normal(0.0, 2.0), dist.Normal(0.5, 1.0)


class Linear(nn.Module):
    """A fixed slope and offset, and a scale for an encoder."""

    def __init__(self, slope, offset, scale=None):
        super().__init__()
        self.slope, self.offset, self.scale = slope, nn.Parameter(torch.tensor(offset)), scale

    def forward(self, values):
        loc = self.slope * values + self.offset
        return loc if self.scale is None else dist.Normal(loc, self.scale).to_event(1)


class Quadratic(nn.Module):
    """A discriminator whose logit is a polynomial of degree 2."""

    def __init__(self, *coefficients):
        super().__init__()
        self.coefficients = nn.Parameter(torch.tensor(coefficients))

    def forward(self, values):
        return torch.cat([values**0, values, values**2], -1) @ self.coefficients


def line(decoder=(1.0, 0.5)):
    model = MultimodalModel(1, {"image": NormalLikelihood(Linear(*decoder), scale=0.5)})
    return model, ProductOfExperts(1, {"image": Linear(0.3, 0.0, 0.8)}, prior_expert=False)


def best():
    """Coefficients of log p - log(q + s), with q = s."""
    p, q = REAL, MADE
    constant = math.log(q.scale / p.scale) - math.log(2.0) + 0.5 * (q.loc / q.scale) ** 2
    return torch.tensor([constant, -q.loc / q.scale**2, 0.5 / q.scale**2 - 0.5 / p.scale**2])


def programs(normalized=False):
    torch.manual_seed(3)
    model = MultimodalModel(
        2, {"image": NormalLikelihood(MLP(2, 4, (8,))), "label": CategoricalLikelihood(MLP(2, 3, (8,)))}
    )
    branches = {"image": MLP(4, 8, (8,)), "label": OneHotMLP(3, 8, (8,))}
    encoders = {"image": NormalEncoder(MLP(4, 8, (8,)), 2), "label": NormalEncoder(OneHotMLP(3, 8, (8,)), 2)}
    features = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)) if normalized else MLP(4, 8, (8,))
    features.out_features = 8
    return model, JointGuide(2, branches, encoders=encoders), Discriminator(features)


def batch(rows=6):
    return {"image": torch.randn(rows, 4), "label": torch.arange(rows) % 3}


def seeded(function, *args):
    torch.manual_seed(7)
    return function(*args)


def test_a_discriminator_that_cannot_tell_has_the_textbook_loss():
    """Where real values, reconstructions and samples are alike, D = 1/3: log 3 + 2 log(3/2) a row."""
    loss = DiscriminatorLoss(Quadratic(-math.log(2.0), 0.0, 0.0), "image").loss(*line(), {"image": torch.randn(9, 1)})
    assert loss == pytest.approx(9 * (math.log(3.0) + 2 * math.log(1.5)), rel=1e-6)
    loss = DiscriminatorLoss(Quadratic(0.0, 0.0, 0.0), "image").loss(*line(), {"image": torch.randn(9, 1)})
    assert loss == pytest.approx(9 * 3 * math.log(2.0), rel=1e-6)


def test_the_best_discriminator_has_the_loss_of_quadrature_and_no_gradient():
    torch.manual_seed(0)
    rows, grid = 200_000, torch.linspace(-25.0, 25.0, 20_001, dtype=torch.float64)
    p, q = REAL.log_prob(grid).exp(), MADE.log_prob(grid).exp()
    integrand = -p * (p / (p + 2 * q)).log() - 2 * q * (2 * q / (p + 2 * q)).log()
    expected = torch.trapezoid(torch.nan_to_num(integrand), grid).item()
    values = []
    for shift in (0.0, 0.3, -0.3):
        coefficients = best() + torch.tensor([shift, 0.0, 0.0])
        loss = DiscriminatorLoss(Quadratic(*coefficients.tolist()), "image")
        values.append(seeded(loss.loss_and_grads, *line(), {"image": REAL.sample((rows, 1))}) / rows)
        gradient = loss.discriminator.coefficients.grad / rows
        # each row's part is below 3 in size, x and x^2 below some 30: four standard errors
        assert (gradient.abs() < 4 * torch.tensor([1.0, 1.5, 6.0]) / math.sqrt(rows)).all() == (shift == 0.0)
    assert values[0] == pytest.approx(expected, abs=4 * 2.0 / math.sqrt(rows))
    assert values[0] < min(values[1:])


def test_training_finds_the_best_discriminator():
    torch.manual_seed(0)
    loss, (model, guide) = DiscriminatorLoss(Quadratic(0.0, 0.0, 0.0), "image"), line()
    optimizer = torch.optim.Adam(loss.discriminator.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 200)
    for _ in range(200):
        optimizer.zero_grad()
        loss.loss_and_grads(model, guide, {"image": REAL.sample((512, 1))})
        optimizer.step()
        schedule.step()
    assert (loss.discriminator.coefficients.detach() - best()).abs().max() < 0.06 < best().abs().min()


def test_both_losses_are_those_of_the_textbook():
    (model, guide, judge), x = programs(), batch()
    loss = DiscriminatorLoss(judge, "image")
    drawn = seeded(loss.generate, model, guide, x)
    real, fake = judge(drawn.real), judge(torch.cat([drawn.reconstructed, drawn.sampled]))
    expected = F.binary_cross_entropy_with_logits(real, torch.ones(6), reduction="sum")
    expected += F.binary_cross_entropy_with_logits(fake, torch.zeros(12), reduction="sum")
    assert seeded(loss.loss, model, guide, x) == pytest.approx(expected.item(), rel=1e-5)
    for weight in (0.0, 1.0, 0.25):
        loss = GeneratorLoss(judge, "image", reconstruction=weight)
        expected = F.binary_cross_entropy_with_logits(fake, torch.ones(12), reduction="sum")
        expected -= weight * dist.Normal(drawn.reconstructed, 1.0).log_prob(x["image"]).sum()
        assert seeded(loss.loss, model, guide, x) == pytest.approx(expected.item(), rel=1e-5)


def test_the_generator_meets_the_discriminator_as_it_trains():
    """With batch norm: among real values, by the statistics of the batch, frozen or not."""
    (model, guide, judge), x = programs(normalized=True), batch()
    loss = GeneratorLoss(judge, "image", reconstruction=0.0)
    drawn = seeded(loss.generate, model, guide, x)
    fake = copy.deepcopy(judge)(torch.cat(drawn[:3]))[6:]
    expected = F.binary_cross_entropy_with_logits(fake, torch.ones(12), reduction="sum").item()
    for mode in (True, False):
        judge.train(mode)
        assert seeded(loss.loss, model, guide, x) == pytest.approx(expected, rel=1e-5)


def test_the_three_faces_of_a_loss_agree():
    (model, guide, judge), x = programs(), batch()
    for loss in (DiscriminatorLoss(judge, "image"), GeneratorLoss(judge, "image", "uniform")):
        found = [seeded(f, model, guide, x) for f in (loss.loss, loss.loss_and_grads, loss.differentiable_loss)]
        assert found[0] == found[1] == found[2].item()


def test_each_gradient_reaches_its_modules_alone():
    model, guide, judge = programs(normalized=True)
    modules = {"decoder": model.likelihoods["image"], "rest": model.likelihoods["label"], "guide": guide, "D": judge}
    before = {name: [b.clone() for b in module.buffers()] for name, module in modules.items()}
    for loss, reached in ((GeneratorLoss(judge, "image"), "decoder"), (DiscriminatorLoss(judge, "image"), "D")):
        for module in modules.values():
            module.zero_grad()
        loss.loss_and_grads(model, guide, batch())
        for name, module in modules.items():
            there = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters()]
            assert there == [name == reached] * len(there), (reached, name)
        moved = [name for name in modules if not all(map(torch.equal, before[name], modules[name].buffers()))]
        assert moved == (["D"] if reached == "D" else [])


def test_the_encoders_learn_through_the_frozen_decoder():
    recipe = build("jmvae-gan", networks_for(MODALITIES, (8,)), 2)
    encoders = recipe.stages[0].updates[0]
    model, guide = (frozen(program, encoders.train) for program in (recipe.model, recipe.guide))
    torch.manual_seed(0)
    x = {"image": torch.rand(5, 1, 4, 4).round(), "label": torch.arange(5) % 3}
    encoders.objective.loss_and_grads(model, guide, x)
    image = recipe.guide.joint.branches["image"].layers[0].weight
    assert image.grad.abs().max() > 0
    assert all(p.grad is None for p in recipe.model.likelihoods["image"].parameters())
    assert encoders.objective is recipe.stages[0].objective and METHODS["jmvae-gan"].options["alpha"].default == 0.1


def test_samples_come_from_the_prior_of_the_model_or_a_uniform_one():
    model, guide = line(decoder=(1.0, 0.0))
    x = {"image": torch.randn(20_000, 1)}
    own, uniform = (
        seeded(GeneratorLoss(Quadratic(0.0, 0.0, 0.0), "image", prior).generate, model, guide, x).sampled.detach()
        for prior in ("model", "uniform")
    )
    assert own.var().item() == pytest.approx(1.0, abs=0.04) and own.abs().max() > 3
    assert uniform.var().item() == pytest.approx(1 / 3, abs=0.01) and uniform.abs().max() <= 1


@pytest.mark.parametrize("side", [GeneratorLoss, DiscriminatorLoss])
def test_a_missing_row_has_no_part_but_its_sample(side):
    model, guide, judge = programs(normalized=True)
    x, rows = batch(), torch.tensor([True, False, True, True, False, True])
    losses = []
    for fill in (0.0, 1e30, math.nan):
        filled = {**x, "image": torch.where(rows[:, None], x["image"], torch.tensor(fill))}
        judge.zero_grad()
        losses.append(seeded(side(judge, "image").loss_and_grads, model, guide, filled, {"image": rows}))
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in judge.parameters())
    drawn = seeded(side(judge, "image").generate, model, guide, x, {"image": rows})
    assert losses[0] == losses[1] == losses[2] and math.isfinite(losses[0])
    assert [len(part) for part in drawn[:3]] == [4, 4, 6]
    for alone, masks in (({"label": x["label"]}, None), (x, {"image": torch.zeros(6, dtype=torch.bool)})):
        drawn = seeded(side(judge, "image").generate, model, guide, alone, masks)
        assert [len(part) for part in drawn[:3]] == [0, 0, 6]
        assert math.isfinite(seeded(side(judge, "image").loss_and_grads, model, guide, alone, masks))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_sure_discriminators_leave_finite_losses(size):
    for side in (GeneratorLoss, DiscriminatorLoss):
        loss = side(Quadratic(size, 0.0, 0.0), "image")
        value = loss.loss_and_grads(*line(), {"image": torch.randn(3, 1)})
        assert math.isfinite(value) and value < 7e4


def test_what_cannot_be_is_refused():
    model, guide, judge = programs()
    with pytest.raises(ValueError, match="prior must be 'model' or 'uniform', got 'normal'"):
        GeneratorLoss(judge, "image", "normal")
    with pytest.raises(ValueError, match="modality 'label' is discrete"):
        DiscriminatorLoss(judge, "label").loss(model, guide, batch())
    networks = networks_for(MODALITIES, (8,))
    with pytest.raises(ValueError, match="adversarial must be one of .*, got 'sound'"):
        build("jmvae-gan", networks, 2, adversarial="sound")
    with pytest.raises(ValueError, match="modality 'label' is discrete"):
        build("jmvae-gan", networks, 2, adversarial="label")
    discrete = networks_for({name: Modality(name, (), "label", "categorical", 3) for name in ("label", "other")}, (8,))
    with pytest.raises(ValueError, match="jmvae-gan needs a continuous modality, got .'label', 'other'."):
        build("jmvae-gan", discrete, 2)
    with pytest.raises(ValueError, match="discriminator must be .*, got 'convolutional'"):
        build("jmvae-gan", networks, 2, discriminator="convolutional")
    with pytest.raises(ValueError, match="jmvae-gan takes no guide but its own"):
        build("jmvae-gan", networks, 2, guide=ProductOfExperts)
