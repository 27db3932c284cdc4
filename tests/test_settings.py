"""Training settings: what is accepted, what is refused, and with which words."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from multipyro.inference.training.settings import TrainingSettings

REFUSED = {
    "no epochs": ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    "a fraction": ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number, got 2.5"),
    "a truth value": ({"epochs": True}, TypeError, "epochs must be a whole number, got True"),
    "text": ({"lr": "0.1"}, TypeError, "lr must be a number, got '0.1'"),
    "not finite": ({"lr": float("nan")}, ValueError, "lr must be a finite number"),
    "negative": ({"lr": -1.0}, ValueError, "lr must be at least 0, got -1.0"),
    "optimizer": ({"optimizer": "lion"}, ValueError, "optimizer must be one of adam, .*, got lion"),
    "schedule": ({"lr_schedule": 3}, TypeError, "lr_schedule must be a name or a function, got 3"),
    "two warm-ups": (
        {"lr_schedule": "one-cycle", "lr_warmup": 2},
        ValueError,
        "lr_warmup is for schedules without a built-in warm-up",
    ),
    "device": ({"device": "gpu:first"}, ValueError, "device must be auto, cpu"),
    "precision": ({"precision": "8-bit"}, ValueError, "precision must be one of 32-true, bf16-mixed"),
    "logger": ({"logger": ["csv", "paper"]}, ValueError, "logger must be one of csv, tensorboard, got csv, paper"),
    "not a logger": ({"logger": object()}, TypeError, "has no method log_metrics"),
    "events nowhere": ({"logger": "tensorboard"}, ValueError, "pass out"),
    "callback": ({"callbacks": [object()]}, TypeError, "has none of the methods on_fit_start"),
    "resume nowhere": ({"resume": True}, ValueError, "resume needs the folder of the run: pass out"),
    "an empty folder": ({"out": ""}, ValueError, "out must name a folder"),
    "config": ({"config": {"x": torch.ones(1)}}, TypeError, "config must be plain values"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_are_refused(case):
    settings, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        TrainingSettings(**settings)


def test_values_are_converted_to_their_types(tmp_path):
    settings = TrainingSettings(
        epochs=np.int64(3), lr=np.float64(0.5), lr_warmup=1, device=torch.device("cuda", 1), out=tmp_path
    )
    values = (settings.epochs, settings.lr, settings.lr_warmup, settings.device, settings.out)
    assert values == (3, 0.5, 1.0, "cuda:1", str(tmp_path))
    assert [type(value) for value in values] == [int, float, float, str, str]


def test_a_callback_of_the_trainer_of_lightning_is_refused():
    callback = type("Callback", (), {"on_fit_start": print, "__module__": "lightning.pytorch.callbacks"})()
    with pytest.raises(TypeError, match="needs the Trainer of Lightning"):
        TrainingSettings(callbacks=[callback])


def test_every_setting_is_described_for_the_command_line():
    assert all(setting.metadata["help"] for setting in dataclasses.fields(TrainingSettings))


def test_the_settings_need_no_heavy_package():
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print('torch' in sys.modules)"
    file = sys.modules[TrainingSettings.__module__].__file__
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
