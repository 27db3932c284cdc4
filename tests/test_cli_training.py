"""What `multipyro train` is given, by flags or by a file, and what it says before it trains."""

import json

import pytest

from multipyro.inference.cli.commands import train
from multipyro.inference.cli.jobs import load_data, training_job
from multipyro.inference.cli.parser import main, parse

YAML = """
method: mopoe
latent-dim: 3
epochs: 4
hidden: [8, 8]
weights: {label: 10}
beta: 0.5
option: {private: {image: 2}}
lr_schedule: cosine
early_stopping: 2
drop_last: true
figure: false
networks: {image: shallow}
likelihood: {image: "laplace:0.1"}
"""
TOML = """
method = "mopoe"
latent_dim = 3
epochs = 4
hidden = [8, 8]
beta = 0.5
lr-schedule = "cosine"
early-stopping = 2
drop-last = true
figure = false
[weights]
label = 10
[option.private]
image = 2
[networks]
image = "shallow"
[likelihood]
image = "laplace:0.1"
"""


def job_of(*arguments):
    parsed = parse(["train", *arguments])
    return training_job(parsed, parsed.method, load_data(parsed), parsed.seed)


@pytest.mark.parametrize(("name", "text"), [("a.yaml", YAML), ("a.toml", TOML)])
def test_a_file_sets_any_argument_and_flags_win(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    job = job_of("--config", str(file))
    assert (job.settings.epochs, job.settings.lr_schedule, job.settings.early_stopping) == (4, "cosine", 2)
    assert job.settings.drop_last and not parse(["train", "--config", str(file)]).figure
    assert job.recipe.name == "mopoe" and job.recipe.latent_dim == 3
    assert job.recipe.networks.hidden_features == (8, 8) and job.recipe.networks.architectures["image"] == "shallow"
    assert job.splits.train.modalities["image"].scale == 0.1
    options = {"weights": {"label": 10.0}, "beta": 0.5, "private": {"image": 2}}
    assert options.items() <= job.recipe.options.items()

    job = job_of(
        "mvae", "--config", str(file), "--epochs", "2", "--beta", "2", "--option", "private=3", "--no-drop-last"
    )
    assert (job.recipe.name, job.settings.epochs, job.settings.drop_last) == ("mvae", 2, False)
    assert {"weights": {"label": 10.0}, "beta": 2.0, "private": 3}.items() <= job.recipe.options.items()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "method: mvae\nepoch: 3", "unknown argument epoch: choose from"),
        ("a.yaml", "method: mvae\nepochs: many", "epochs must be an integer (at least 1), got 'many'"),
        ("a.yaml", "- mvae", "must be a mapping"),
        ("a.yaml", "a: [", "a.yaml"),
        ("a.toml", "a = ", "a.toml"),
        ("a.json", "{}", "must be a .yaml or .toml file"),
        ("a.yaml", "epochs: 3", "METHOD"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(tmp_path, name, text, message, capsys):
    (tmp_path / name).write_text(text)
    assert main(["train", "--config", str(tmp_path / name), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_every_setting_of_a_training_has_a_flag(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Callback:\n    def on_epoch_end(self, state): pass\n"
        "def sgd(parameters): return torch.optim.SGD(parameters, lr=0.1)\n"
    )
    mine = f"{tmp_path / 'mine.py'}:"
    flags = {
        **{"optimizer": "adamw", "lr": "0.5", "lr-schedule": "one-cycle", "gradient-clip": "3", "early-stopping": "4"},
        **{"device": "cpu", "devices": "2", "strategy": "ddp", "precision": "bf16-mixed", "logger": "none"},
    }
    settings = job_of("mvae", *(part for name, value in flags.items() for part in (f"--{name}", value))).settings
    assert (settings.optimizer, settings.lr, settings.lr_schedule) == ("adamw", 0.5, "one-cycle")
    assert (settings.gradient_clip, settings.early_stopping, settings.logger) == (3.0, 4, ())
    assert (settings.device, settings.devices, settings.strategy, settings.precision) == ("cpu", 2, "ddp", "bf16-mixed")
    settings = job_of("mvae", "--optimizer", f"{mine}sgd", "--callbacks", f"{mine}Callback", "--no-progress").settings
    assert settings.optimizer.__name__ == "sgd" and not settings.progress
    assert [type(callback).__name__ for callback in settings.callbacks] == ["Callback"]
    with pytest.raises(ValueError, match="does not define adam"):
        job_of("mvae", "--optimizer", f"{mine}adam")


def test_a_dry_run_says_what_would_be_trained_and_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "telbo", "--dry-run", "--epochs", "3", "--hidden", "8", "--latent-dim", "2"]) == 0
    output = capsys.readouterr().out
    assert "digits, train: 1,297 examples" in output and "examples: 1,297 train, 200 validation, 300 test" in output
    assert "continuous_bernoulli" in output and "10 classes: zero, one" in output
    assert "  image: architecture mlp, encoder 520, decoder 600 parameters" in output
    assert "stage joint, 3 epochs of 21 steps: maximizes ELBO(m || g)" in output
    assert "3 epochs of 21 steps: maximizes sum_{A proper} ELBO(frozen(m)|A || g|A)" in output
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_fails_does_not_fail_the_training(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **settings):
        raise RuntimeError("no ink")

    monkeypatch.setattr(train, "draw_cross_generation", fail)
    out = tmp_path / "run"
    assert main(["train", "mvae", "--epochs", "1", "--hidden", "8", "--latent-dim", "2", "--out", str(out)]) == 0
    assert "no figure was drawn: no ink" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["state"] == "finished"
