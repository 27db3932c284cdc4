"""Training: agreement with plain SVI, what is logged, what stops it, and what stays as it was."""

import csv
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from toy import NET, KillAt, Killed, assert_same, encode, parameters, toy_data, toy_networks, toy_programs

from multipyro.inference import build, fit, fit_recipe
from multipyro.inference.objectives import GUIDE, MODEL, LinearWarmup, StratifiedELBO, elbo, schedules_of, subset_elbo
from multipyro.inference.recipes import Recipe, Stage
from multipyro.inference.runs import load_state
from multipyro.inference.runs.checkpoints import read_checkpoint
from multipyro.inference.training import NonFiniteLossError, step_seed

QUICK = {"epochs": 3, "batch_size": 16, "seed": 5, "progress": False}


def weighted(schedule):
    """The joint ELBO with a warm-up, and a label-only one of half the weight."""
    return elbo(MODEL, GUIDE, {"z": schedule}) + 0.5 * elbo(MODEL | "label", GUIDE | "label")


LOSSES = {
    "Trace_ELBO": Trace_ELBO,
    "Trace_ELBO, particles": lambda: Trace_ELBO(3, max_plate_nesting=1, vectorize_particles=True),
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "RenyiELBO": lambda: RenyiELBO(alpha=0.0, num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    "subset_elbo": lambda: subset_elbo(sites={"label": 2.0}),
    "StratifiedELBO": lambda: StratifiedELBO(2),
    "sum, warmed up by epoch": lambda: weighted(LinearWarmup(3)),
    "sum, warmed up by step": lambda: weighted(LinearWarmup(5, "step")),
}


def fit_quickly(*args):
    fit(*args, **QUICK)


def plain_loop(model, guide, loss, data, epochs=3, seed=5, lr=1e-3):
    """The loop that `fit` is to agree with."""
    svi = SVI(model, guide, pyro.optim.Adam({"lr": lr}), loss)
    step = 0
    for epoch in range(epochs):
        for batch, (x, observed) in enumerate(data.batches(16, shuffle=True, seed=seed, epoch=epoch)):
            for schedule in schedules_of(loss):
                schedule.set(epoch=epoch, step=step)
            torch.manual_seed(step_seed(seed, epoch, batch))
            svi.step(x, observed)
            step += 1


@pytest.mark.parametrize("name", LOSSES)
def test_fit_agrees_with_plain_svi(name):
    data, mine, plain = toy_data(), toy_programs(), toy_programs()
    before = parameters(*mine)
    fit(*mine, LOSSES[name](), data, **QUICK)
    plain_loop(*plain, LOSSES[name](), data)
    assert_same(parameters(*mine), parameters(*plain), atol=1e-5)
    assert any(not torch.equal(value, before[key]) for key, value in parameters(*mine).items())


def test_rows_that_are_missing_reach_the_programs():
    mask = torch.arange(40) % 3 > 0
    data, mine, plain = toy_data(observed={"signal": mask}), toy_programs(), toy_programs()
    data.x["signal"][~mask] = float("nan")
    fit(*mine, Trace_ELBO(), data, **QUICK)
    plain_loop(*plain, Trace_ELBO(), data)
    assert_same(parameters(*mine), parameters(*plain), atol=1e-5)


def test_batches_and_loaders_are_data_too():
    batches = list(toy_data().batches(16))
    left, right = toy_programs(), toy_programs()
    fit(*left, Trace_ELBO(), batches, validation=batches, **QUICK)
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    fit(*right, Trace_ELBO(), loader, **QUICK)
    assert_same(parameters(*left), parameters(*right))


@pytest.mark.parametrize(
    "optimizer",
    [lambda trained: torch.optim.SGD(trained, lr=1e-3), pyro.optim.SGD({"lr": 1e-3})],
    ids=["torch", "pyro"],
)
def test_optimizers_of_torch_and_of_pyro(optimizer):
    mine, plain = toy_programs(), toy_programs()
    fit(*mine, Trace_ELBO(), toy_data(), optimizer=optimizer, gradient_clip=5.0, **QUICK)
    trained = [*plain[0].parameters(), *plain[1].parameters()]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    for epoch in range(3):
        for batch, (x, observed) in enumerate(toy_data().batches(16, shuffle=True, seed=5, epoch=epoch)):
            torch.manual_seed(step_seed(5, epoch, batch))
            optimizer.zero_grad()
            Trace_ELBO().loss_and_grads(*plain, x, observed)
            nn.utils.clip_grad_norm_(trained, 5.0)
            optimizer.step()
    assert_same(parameters(*mine), parameters(*plain), atol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-3}, "gamma": 0.9}),
        pyro.optim.Adam(lambda name: {"lr": 1e-3}),
        pyro.optim.Adam({"lr": 1e-3}, {"clip_norm": 1.0}),
        torch.optim.LBFGS,
    ],
    ids=["scheduler", "function of arguments", "clipping", "closure"],
)
def test_optimizers_that_cannot_be_used_are_refused(optimizer):
    with pytest.raises(TypeError, match="not supported: .* optimizer"):
        fit(*toy_programs(), Trace_ELBO(), toy_data(), optimizer=optimizer, **QUICK)


def test_nothing_global_changes(tmp_path):
    pyro.param("stray", torch.ones(2))
    model, guide = toy_programs()
    guide.eval()
    modes = [part.training for part in guide.modules()]
    rng, store, filters = torch.get_rng_state(), dict(pyro.get_param_store().items()), list(warnings.filters)
    handler = signal.getsignal(signal.SIGINT)
    fit(model, guide, Trace_ELBO(), toy_data(), validation=toy_data(16, 1, "validation"), out=tmp_path, **QUICK)
    assert torch.equal(torch.get_rng_state(), rng)
    assert pyro.get_param_store().keys() == store.keys()
    assert warnings.filters == filters
    assert [part.training for part in guide.modules()] == modes
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_last_smaller_batch_can_be_left_out():
    sizes = []

    class Counting(Trace_ELBO):
        def loss_and_grads(self, model, guide, x, observed=None):
            sizes.append(len(x["label"]))
            return super().loss_and_grads(model, guide, x, observed)

    held_out = toy_data(20, 1, "validation")
    for drop_last, expected in ((False, [16, 16, 8]), (True, [16, 16])):
        fit(*toy_programs(), Counting(), toy_data(), validation=held_out, drop_last=drop_last, **QUICK)
        assert sizes == 3 * expected
        sizes.clear()
    with pytest.raises(ValueError, match="drop_last leaves no batch: 8 examples are fewer than 16"):
        fit(*toy_programs(), Trace_ELBO(), toy_data(8), drop_last=True, **QUICK)


def test_history_and_log(tmp_path):
    model, guide = toy_programs()
    loss, held_out = Trace_ELBO(), toy_data(24, 1, "validation")
    result = fit(model, guide, loss, toy_data(), validation=held_out, out=tmp_path, **QUICK)
    assert result.epochs == 3
    names = ["stage", "epoch", "train/bound", "validation/bound", "validation/kl/z"]
    names += ["learning_rate", "gradient_norm", "seconds", "examples_per_second"]
    names += ["validation/reconstruction/signal", "validation/reconstruction/label"]
    assert sorted(result.history[0]) == sorted(names)
    model.eval(), guide.eval()
    total = 0.0
    for batch, (x, observed) in enumerate(held_out.batches(16)):
        torch.manual_seed(step_seed(5, -1, batch))
        total -= loss.loss(model, guide, x, observed)
    last = result.history[-1]
    assert last["validation/bound"] == pytest.approx(total / 24, rel=1e-5)
    parts = last["validation/reconstruction/signal"] + last["validation/reconstruction/label"]
    # the parts come from another draw of the latents
    assert parts - last["validation/kl/z"] == pytest.approx(last["validation/bound"], rel=0.2)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation/bound"]) for row in rows] == [row["validation/bound"] for row in result.history]
    assert result.best.parent == result.last.parent == tmp_path / "checkpoints" / "stage-1-main"


def test_without_validation_the_parts_come_from_training_rows():
    row = fit(*toy_programs(), subset_elbo(), toy_data(), **QUICK).history[0]
    assert {"train/kl/z", "train/reconstruction/signal", "train/label/kl/z"} <= row.keys()


class Recorder:
    """A logger and a callback that records its calls."""

    def __init__(self):
        self.logged, self.called = [], []

    def log_metrics(self, metrics, step):
        self.logged.append((step, metrics))

    def finalize(self, status):
        self.status = status

    def on_fit_start(self, state):
        self.called.append("start")

    def on_step_end(self, state):
        self.called.append((state.stage_name, state.epoch, state.batch, state.step, state.examples))

    def on_epoch_end(self, state):
        self.called.append(state.history[-1]["epoch"])

    def on_fit_end(self, state):
        self.called.append("end")


def test_callbacks(tmp_path):
    recorder = Recorder()

    class Stop:
        def on_epoch_end(self, state):
            state.stop = state.epoch == 1

    settings = {**QUICK, "epochs": 5, "out": tmp_path, "callbacks": [recorder, Stop()]}
    assert fit(*toy_programs(), Trace_ELBO(), toy_data(), **settings).epochs == 2
    first = [("main", 0, 0, 1, 16), ("main", 0, 1, 2, 16), ("main", 0, 2, 3, 8), 0]
    second = [("main", 1, 0, 4, 16), ("main", 1, 1, 5, 16), ("main", 1, 2, 6, 8), 1]
    assert recorder.called == ["start", *first, *second, "end"]
    recorder.called.clear()
    assert fit(*toy_programs(), Trace_ELBO(), toy_data(), resume=True, **settings).epochs == 2
    assert recorder.called == ["start", "end"]


def test_loggers(tmp_path):
    own = Recorder()
    for logger in (["csv", "tensorboard"], [own, "csv"], None):
        out = tmp_path / str(logger)[:10]
        result = fit(*toy_programs(), Trace_ELBO(), toy_data(), out=out, logger=logger, **QUICK)
        files = {path.name.partition(".")[0] for path in out.rglob("*") if path.is_file()}
        expected = (
            {"run", "last"} | ({"log"} if logger else set()) | ({"events"} if logger and logger[-1] != "csv" else set())
        )
        assert files == expected
    assert [step for step, _ in own.logged] == [0, 1, 2]
    assert [metrics["train/bound"] for _, metrics in own.logged] == [row["train/bound"] for row in result.history]
    assert own.status == "success"


def test_progress_is_shown_when_asked_for(capsys):
    fit(*toy_programs(), Trace_ELBO(), toy_data(), **QUICK)
    assert capsys.readouterr() == ("", "")
    fit(*toy_programs(), Trace_ELBO(), toy_data(), **{**QUICK, "progress": True})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"main, epoch 2 of 3: train/bound -[\d.]+, [\d,]+ examples/s, 0:00:0\d left", lines[1])


def test_early_stopping():
    settings = {**QUICK, "epochs": 20, "lr": 0.0, "validation": toy_data(16, 1, "validation")}
    assert fit(*toy_programs(), Trace_ELBO(), toy_data(), early_stopping=2, **settings).epochs == 3
    with pytest.raises(ValueError, match="validation data"):
        fit(*toy_programs(), Trace_ELBO(), toy_data(), early_stopping=2, **QUICK)


def test_an_epoch_whose_validation_bound_is_nan_is_not_the_best(tmp_path):
    class Undefined(StratifiedELBO):
        validations = 0

        def evaluate(self, *args):
            result = super().evaluate(*args)
            if not torch.is_grad_enabled():
                Undefined.validations += 1
                result.bound = result.bound * (torch.nan if Undefined.validations == 1 else 1.0)
            return result

    settings = {**QUICK, "epochs": 20, "lr": 0.0, "validation": toy_data(16, 1, "validation"), "out": tmp_path}
    result = fit(*toy_programs(), Undefined(), toy_data(), early_stopping=2, **settings)
    assert [math.isnan(row["validation/bound"]) for row in result.history] == [True, False, False, False]
    assert len(read_checkpoint(result.best, {"history": list})["history"]) == 2


def test_warm_up_moves_and_is_over_in_validation():
    beta, seen = LinearWarmup(3), []

    class Watched(StratifiedELBO):
        def evaluate(self, *args):
            seen.append(beta.current.item())
            return super().evaluate(*args)

    loss = Watched(sites={"z": beta})
    fit(*toy_programs(), loss, toy_data(32), validation=toy_data(16, 1, "validation"), **QUICK)
    # two steps and a validation batch per epoch, and no further evaluation
    assert seen == [0.0, 0.0, 1.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]


class Poison:
    """A logger that makes a parameter NaN after an epoch, once its checkpoint is written."""

    def __init__(self, parameter):
        self.parameter = parameter

    def log_metrics(self, metrics, step):
        self.parameter.data.fill_(float("nan"))


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("loss", [Trace_ELBO, subset_elbo])
def test_a_loss_that_is_not_finite_names_the_site(tmp_path, validate, loss):
    model, guide = toy_programs()
    poison = Poison(next(iter(model.likelihoods["signal"].parameters())))
    pattern = "in epoch 1, step 0; not finite: the log-probability of site 'signal' in the model"
    with pyro.validation_enabled(validate), pytest.raises(NonFiniteLossError, match=pattern):
        fit(model, guide, loss(), toy_data(), logger=poison, out=tmp_path, **QUICK)
    kept = read_checkpoint(tmp_path / "checkpoints" / "stage-1-main" / "last.ckpt")
    assert len(kept["history"]) == 1
    assert all(torch.isfinite(value).all() for value in kept["state_dict"].values())


def test_a_last_step_that_spoils_the_parameters_is_not_kept(tmp_path):
    def spoiling(trained):
        return torch.optim.SGD(trained, lr=float("inf"))

    with pytest.raises(NonFiniteLossError, match="epoch 0, step 0"):
        fit(*toy_programs(), Trace_ELBO(), toy_data(8), optimizer=spoiling, out=tmp_path, **QUICK)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_plain_function_is_a_guide(tmp_path):
    with torch.no_grad():
        NET.weight.fill_(0.1), NET.bias.fill_(0.0)
    model, start = toy_programs()[0], NET.weight.clone()
    fit(model, encode, Trace_ELBO(), toy_data(), out=tmp_path, **QUICK)
    trained = {name: pyro.param(name).detach().clone() for name in ("loc", "scale")}
    assert not torch.equal(NET.weight, start)
    assert (trained["loc"] != 0).all() and (trained["scale"] != 1).all()
    expected = parameters(model, NET)
    pyro.clear_param_store()
    with torch.no_grad():
        NET.weight.copy_(start)
    other = toy_programs(1)[0]
    load_state(tmp_path / "checkpoints" / "stage-1-main" / "last.ckpt", other, encode)
    assert_same(parameters(other, NET), expected)
    assert_same({name: pyro.param(name).detach() for name in trained}, trained)
    encode(*next(iter(toy_data().batches(8))))
    assert torch.equal(pyro.param("scale"), trained["scale"])


def test_a_plain_function_agrees_with_plain_svi():
    with torch.no_grad():
        NET.weight.fill_(0.1), NET.bias.fill_(0.0)
    mine = toy_programs()[0]
    fit(mine, encode, Trace_ELBO(), toy_data(), **QUICK)
    found = {**parameters(mine, NET), "scale": pyro.param("scale").detach()}
    pyro.clear_param_store()
    with torch.no_grad():
        NET.weight.fill_(0.1), NET.bias.fill_(0.0)
    plain = toy_programs()[0]
    plain_loop(plain, encode, Trace_ELBO(), toy_data())
    assert_same(found, {**parameters(plain, NET), "scale": pyro.param("scale").detach()}, atol=1e-5)


FEATURES = nn.Linear(4, 2)


def test_a_module_that_a_function_merely_calls_stays_as_it_is():
    """SVI does not train it either, and leaves its mode alone."""

    def guide(x, observed=None):
        net, dropped = pyro.module("net", NET), nn.functional.dropout(x["signal"], 0.5, FEATURES.training)
        with pyro.plate("data", len(x["label"]), dim=-1):
            pyro.sample("z", dist.Normal(net(x["signal"]) + FEATURES(dropped), 1.0).to_event(1))

    found = []
    for train in (fit_quickly, plain_loop):
        with torch.no_grad():
            NET.weight.fill_(0.1), NET.bias.fill_(0.0), FEATURES.weight.fill_(0.2)
        FEATURES.eval()
        model, start = toy_programs()[0], parameters(FEATURES)
        train(model, guide, Trace_ELBO(), toy_data())
        assert_same(parameters(FEATURES), start)
        assert not FEATURES.training
        found.append(parameters(model, NET))
    assert_same(*found, atol=1e-4)


def test_statements_that_come_up_late_train_from_then_on_as_under_svi(tmp_path):
    def guide(x, observed=None):
        loc = pyro.param("loc", torch.zeros(2))
        if len(x["label"]) < 16:  # the last batch of an epoch
            loc = loc + pyro.param("late", torch.full((2,), 0.5))
        with pyro.plate("data", len(x["label"]), dim=-1):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    def trained(train):
        pyro.clear_param_store()
        train(toy_programs()[0], guide, Trace_ELBO(), toy_data())
        return {name: pyro.param(name).detach().clone() for name in ("loc", "late")}

    expected = trained(plain_loop)
    assert (expected["late"] != 0.5).all()
    assert_same(trained(fit_quickly), expected, atol=1e-6)

    def interrupted(*programs):
        with pytest.raises(Killed):
            fit(*programs, out=tmp_path, callbacks=[KillAt(steps=5)], **QUICK)
        pyro.clear_param_store()
        fit(toy_programs()[0], *programs[1:], out=tmp_path, resume=True, **QUICK)

    assert_same(trained(interrupted), trained(fit_quickly))


def test_a_module_with_a_param_statement_of_its_own_trains_it():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)

        def forward(self, x, observed=None):
            loc = self.net(x["signal"]) + pyro.param("shift", torch.zeros(2))
            with pyro.plate("data", len(x["label"]), dim=-1):
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    guide = Shifted()
    start = parameters(guide)
    fit_quickly(toy_programs()[0], guide, Trace_ELBO(), toy_data())
    assert (pyro.param("shift") != 0).all()
    assert not any(torch.equal(value, start[name]) for name, value in parameters(guide).items())


def test_a_stage_trains_what_it_names_and_nothing_else():
    recipe = build("mvae", toy_networks(), 2)
    model, guide = recipe.model, recipe.guide
    part = guide.encoders["label"]
    stages = (Stage(subset_elbo(), 1, name="all"), Stage(Trace_ELBO(), 2, train=(part,), name="label"))
    middle = {}

    class Snapshot:
        def on_epoch_end(self, state):
            if state.stage_name == "all":
                middle.update(parameters(model, guide))

    result = fit_recipe(
        Recipe(model, guide, stages, name="own"), toy_data(), **{**QUICK, "callbacks": [Snapshot()], "epochs": 7}
    )
    assert [row["stage"] for row in result.history] == [0, 1, 1]
    moved = {name for name, value in parameters(model, guide).items() if not torch.equal(value, middle[name])}
    trained = {f"1.{name}" for name, value in guide.named_parameters() if any(value is p for p in part.parameters())}
    assert moved == trained
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_interrupt_stays_one(tmp_path):
    class Interrupt:
        def on_epoch_end(self, state):
            if state.epoch == 1:
                raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(*toy_programs(), Trace_ELBO(), toy_data(), out=tmp_path, callbacks=[Interrupt()], **QUICK)
    assert signal.getsignal(signal.SIGINT) is handler
    assert fit(*toy_programs(), Trace_ELBO(), toy_data(), out=tmp_path, resume=True, **QUICK).epochs == 3


class WithoutSampling(ELBO):
    """A loss without random numbers, so that any number of processes must come to the same parameters."""

    def _get_trace(self, model, guide, args, kwargs):
        raise NotImplementedError

    def evaluate(self, model, guide, x, observed):
        z = guide.posterior(x, observed).mean
        trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x, observed)
        return -trace.log_prob_sum()

    def loss(self, model, guide, x, observed=None):
        with torch.no_grad():
            return self.evaluate(model, guide, x, observed).item()

    def loss_and_grads(self, model, guide, x, observed=None):
        loss = self.evaluate(model, guide, x, observed)
        loss.backward()
        return loss.item()


TWO_PROCESSES = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from test_fit import QUICK, WithoutSampling
from toy import toy_data, toy_programs
from multipyro.inference import fit
from multipyro.inference.runs import save_state
model, guide = toy_programs()
settings = {**QUICK, "batch_size": 8, "device": "cpu", "devices": 2, "strategy": "ddp"}
fit(model, guide, WithoutSampling(), toy_data(), validation=toy_data(16, 1, "validation"), out=sys.argv[2], **settings)
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    run = tmp_path / "run"
    command = [sys.executable, "-W", "error", str(script), str(Path(__file__).parent), str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    mine, one = toy_programs(), toy_programs()
    load_state(run / "checkpoints" / "stage-1-main" / "last.ckpt", *mine)
    result = fit(*one, WithoutSampling(), toy_data(), validation=toy_data(16, 1, "validation"), **QUICK)
    assert_same(parameters(*mine), parameters(*one), atol=1e-5)
    with open(run / "log.csv") as file:
        rows = list(csv.DictReader(file))
    for row, expected in zip(rows, result.history, strict=True):
        for name in ("train/bound", "validation/bound"):
            assert float(row[name]) == pytest.approx(expected[name], rel=1e-4)


def discrete(x, observed=None):
    with pyro.plate("data", len(x["label"]), dim=-1):
        pyro.sample("z", dist.Categorical(logits=pyro.param("logits", torch.zeros(2))))


def pixelwise(x, observed=None):
    """A model with a second plate."""
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x["label"]), dim=-1):
        z = pyro.sample("z", dist.Categorical(logits=torch.zeros(2)))
        with pyro.plate("pixels", 4, dim=-2):
            pyro.sample("signal", dist.Normal(loc[z], 1.0), obs=x["signal"].T)


@pytest.mark.parametrize("validate", [True, False])
def test_programs_that_only_pyros_objectives_support_are_trained_without_sums_by_site(validate):
    with pyro.validation_enabled(validate):
        held_out = toy_data(16, 1, "validation")
        row = fit(pixelwise, discrete, Trace_ELBO(), toy_data(), validation=held_out, **QUICK).history[-1]
    assert {name for name in row if name.startswith("validation/")} == {"validation/bound"}
