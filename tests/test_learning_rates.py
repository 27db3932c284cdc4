"""Optimizers and learning-rate schedules: their shapes, against those of torch, and what they need."""

import pytest
import torch
from pyro.infer import Trace_ELBO
from toy import assert_same, parameters, toy_data, toy_programs

from multipyro.inference import TrainingSettings, fit
from multipyro.inference.training.optimizers import ScheduledOptimizer, lr_factor

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
QUICK = {"epochs": 2, "batch_size": 16, "seed": 5, "progress": False}


def factors(steps=40, epochs=4, **settings):
    factor = lr_factor(TrainingSettings(**settings), epochs, steps // epochs)
    return [factor(step) for step in range(steps)]


def rates_of_torch(schedule, steps=40):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = schedule(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules_have_the_shapes_of_torch():
    schedules = torch.optim.lr_scheduler
    one_cycle = rates_of_torch(lambda optimizer: schedules.OneCycleLR(optimizer, 1.0, 40))
    assert factors(lr_schedule="one-cycle") == pytest.approx(one_cycle)
    cosine = rates_of_torch(lambda optimizer: schedules.CosineAnnealingLR(optimizer, 40, eta_min=0.1))
    assert factors(lr_schedule="cosine", lr_final=0.1) == pytest.approx(cosine)
    exponential = rates_of_torch(lambda optimizer: schedules.ExponentialLR(optimizer, 0.03 ** (1 / 40)))
    assert factors(lr_schedule="exponential", lr_final=0.03) == pytest.approx(exponential)


def test_a_warm_up_comes_before_a_schedule():
    constant = factors(lr_warmup=0.5)
    assert constant[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
    assert set(constant[5:]) == {1.0}
    cosine = factors(lr_schedule="cosine", lr_warmup=1)
    assert cosine[10] == 1.0 and max(cosine[:10]) < 1.0
    assert cosine[10:] == pytest.approx(factors(30, 3, lr_schedule="cosine"))
    assert lr_factor(TrainingSettings(), 4, 10)(0) is None


def test_the_history_has_the_learning_rate_of_the_last_step():
    settings = {**QUICK, "lr": 0.5, "lr_schedule": "exponential", "lr_final": 0.01}
    history = fit(*toy_programs(), Trace_ELBO(), toy_data(), **settings).history
    assert [row["learning_rate"] for row in history] == pytest.approx([0.5 * 0.01 ** (2 / 6), 0.5 * 0.01 ** (5 / 6)])


def test_a_scheduler_of_torch_is_stepped_once_per_epoch():
    def tenth(optimizer):
        return torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.1)

    history = fit(*toy_programs(), Trace_ELBO(), toy_data(), lr_schedule=tenth, **QUICK).history
    assert [row["learning_rate"] for row in history] == pytest.approx([1e-3, 1e-4])


def test_a_schedule_needs_to_know_the_number_of_steps():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(list(toy_data().batches(16)))

    loader = torch.utils.data.DataLoader(Endless(), batch_size=None)
    assert fit(*toy_programs(), Trace_ELBO(), loader, **QUICK).epochs == 2
    with pytest.raises(ValueError, match="lr_schedule 'cosine' needs the number of steps"):
        fit(*toy_programs(), Trace_ELBO(), loader, lr_schedule="cosine", **QUICK)


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "sgd", "rmsprop"])
def test_optimizers_by_name_are_those_of_torch(name):
    make = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "amsgrad": lambda p, lr: torch.optim.Adam(p, lr=lr, amsgrad=True),
        "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
        "rmsprop": torch.optim.RMSprop,
    }[name]
    mine, plain = toy_programs(), toy_programs()
    settings = {**QUICK, "lr": 1e-4}
    fit(*mine, Trace_ELBO(), toy_data(), optimizer=name, **settings)
    fit(*plain, Trace_ELBO(), toy_data(), optimizer=lambda p: make(p, lr=1e-4), **settings)
    assert_same(parameters(*mine), parameters(*plain), atol=1e-6)


@pytest.mark.skipif(TORCH < (2, 4), reason="torch has a fused Adam on the CPU since 2.4")
def test_adam_is_fused():
    scheduled = ScheduledOptimizer("adam", [torch.zeros(1, requires_grad=True)], TrainingSettings())
    assert scheduled.optimizer.param_groups[0]["fused"] is True


def test_the_gradient_norm_is_that_before_clipping():
    norms = []
    for clip in (None, 1e-3):
        history = fit(
            *toy_programs(), Trace_ELBO(), toy_data(), gradient_clip=clip, optimizer=frozen_rate, **QUICK
        ).history
        norms.append([row["gradient_norm"] for row in history])
    assert norms[0] == pytest.approx(norms[1]) and min(norms[0]) > 1.0


def frozen_rate(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def test_bfloat16_is_used_where_asked_for():
    kinds = set()

    class Watched(Trace_ELBO):
        def loss_and_grads(self, model, guide, x, observed=None):
            kinds.add((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
            return super().loss_and_grads(model, guide, x, observed)

    result = fit(*toy_programs(), Watched(), toy_data(), precision="bf16-mixed", **QUICK)
    assert kinds == {torch.bfloat16} and result.epochs == 2
