"""Training settings: what is accepted, what is refused, and with which words."""

import dataclasses

import numpy as np
import pytest
import torch

from multipyro.inference.training.settings import TrainingSettings

REFUSED = {
    "no epochs": ({"epochs": 0}, ValueError, r"epochs must be an integer \(at least 1\), got 0"),
    "a fraction": ({"batch_size": 2.5}, ValueError, r"batch_size must be an integer \(at least 1\), got 2.5"),
    "a truth value": ({"epochs": True}, ValueError, r"epochs must be an integer \(at least 1\), got True"),
    "text": ({"lr": "0.1"}, ValueError, r"lr must be a number \(at least 0\), got '0.1'"),
    "not finite": ({"lr": float("nan")}, ValueError, r"lr must be a number \(at least 0\), got nan"),
    "negative": ({"lr": -1.0}, ValueError, r"lr must be a number \(at least 0\), got -1.0"),
    "optimizer": ({"optimizer": "lion"}, ValueError, "optimizer must be 'adam' or .* or a function, got 'lion'"),
    "schedule": ({"lr_schedule": 3}, ValueError, "lr_schedule must be 'constant' or .* or a function, got 3"),
    "two warm-ups": (
        {"lr_schedule": "one-cycle", "lr_warmup": 2},
        ValueError,
        "lr_warmup is for schedules without a built-in warm-up",
    ),
    "compile": ({"compile": "always"}, ValueError, "compile must be 'auto' or True or False, got 'always'"),
    "device": ({"device": "gpu:first"}, ValueError, "device must be auto, cpu"),
    "a second CPU": ({"device": "cpu:1"}, ValueError, "device must be auto, cpu, cuda, cuda:1 or mps, got 'cpu:1'"),
    "precision": ({"precision": "8-bit"}, ValueError, "precision must be '32-true' or 'bf16-mixed', got '8-bit'"),
    "logger": ({"logger": ["csv", "paper"]}, TypeError, "logger must be csv or tensorboard, .*, got 'paper'"),
    "not a logger": ({"logger": object()}, TypeError, r"or an object with log_metrics\(metrics, step\), got"),
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
