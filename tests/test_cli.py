"""The command line, every command on the digits."""

import json
import shutil
import subprocess
import sys

import pytest

from multipyro import __version__
from multipyro.data import load_dataset
from multipyro.inference.cli.commands import compare, demo, train
from multipyro.inference.cli.console import say
from multipyro.inference.cli.parser import main, parse
from multipyro.inference.cli.tables import table
from multipyro.inference.evaluation import Report
from multipyro.inference.recipes import METHODS

SMALL = ["--epochs", "1", "--latent-dim", "4", "--batch-size", "256"]
GUIDE = """
from multipyro.guides import Guide, product_of_experts


class Mine(Guide):
    def posterior(self, x, observed=None):
        return product_of_experts(self.experts(x, observed), prior=self.prior)


class NotOne:
    pass
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mvae"
    assert main(["train", "mvae", "--out", str(folder), "--weights", "label=10", *SMALL]) == 0
    return folder


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("multipyro: ")
    return error


def test_train_leaves_a_run(run):
    config = json.loads((run / "run.json").read_text())
    assert config["state"] == "finished" and config["method"] == "mvae"
    assert config["options"]["weights"] == {"label": 10.0}
    assert {"train/bound", "validation/bound"} <= set((run / "log.csv").read_text().splitlines()[0].split(","))
    assert (run / "image-to-label+word.png").read_bytes().startswith(b"\x89PNG")


def test_resume_ends_with_0_when_finished_and_starts_when_nothing_is_there(run, tmp_path, capsys):
    arguments = ["train", "mvae", "--weights", "label=10", *SMALL]
    assert main([*arguments, "--out", str(run), "--resume"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "fresh"), "--resume"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--out", str(run)]) == 2
    assert "--resume" in one_line(capsys)
    assert main([*arguments, "--out", str(run), "--resume", "--lr", "0.5"]) == 2
    assert "lr" in one_line(capsys)


def test_check_says_whether_the_guide_can_be_trusted(run, capsys):
    sizes = ["--rows", "20", "--num-simulated", "40", "--num-samples", "30"]
    assert main(["check", str(run), *sizes]) == 0
    assert "calibration: " in capsys.readouterr().out
    check = json.loads((run / "check.json").read_text(), parse_constant=pytest.fail)
    assert check["method"] == "mvae" and "image+label+word" in check["subsets"]
    assert check["settings"]["num_data"] == 20 and check["subsets"]["label"]["verdicts"][0]["text"]
    assert (run / "check.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_writes_metrics(run, capsys):
    assert main(["evaluate", str(run), "--num-samples", "5"]) == 0
    assert "coherence image->label" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert set(metrics["coherence"]["joint"]) >= {"value", "se"}
    assert 0 <= metrics["coherence"]["conditional"]["image->label"]["value"] <= 1
    assert metrics["latent_accuracy"]["image+label+word"]["se"] >= 0
    assert metrics["log_likelihood"]["image"]["se"] > 0
    assert metrics["conditional_log_likelihood"]["label->image"]["value"]
    bounds = metrics["guide_conditional_log_likelihood"]["label->image"]
    assert bounds["mean"]["value"] <= bounds["logmeanexp"]["value"]
    assert (
        metrics["checkpoint"] == "best"
        and metrics["versions"]["torch"]
        and metrics["seconds"] > 0
        and "seed" in metrics
    )


def test_a_metric_that_does_not_exist_is_null_and_not_printed(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "cvae", "--out", str(out), *SMALL]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out), "--num-samples", "5"]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["coherence"]["conditional"]["image->label"] is None
    assert metrics["coherence"]["conditional"]["label->image"] is not None
    printed = capsys.readouterr().out
    assert "coherence label->image" in printed and "coherence image->label" not in printed


def test_the_parameters_of_the_last_epoch_can_be_evaluated(run, tmp_path, capsys):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "checkpoints" / "stage-1-main" / "best.ckpt").write_bytes(b"")
    assert main(["evaluate", str(other), "--num-samples", "2", "--checkpoint", "last"]) == 0
    assert json.loads((other / "metrics.json").read_text())["checkpoint"] == "last"
    grid = ["generate", str(other), "--given", "label", "--target", "word", "--rows", "1", "--num-samples", "1"]
    assert main([*grid, "--out", str(tmp_path / "a.png"), "--checkpoint", "last"]) == 0
    capsys.readouterr()
    assert main([*grid, "--out", str(tmp_path / "b.png")]) == 2
    assert "best.ckpt" in one_line(capsys)


def test_generate_draws(run, tmp_path):
    file = tmp_path / "grid.png"
    arguments = ["generate", str(run), "--given", "image", "--target", "label", "word", "--num-samples", "2"]
    assert main([*arguments, "--out", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")


def test_figures_draws_what_applies(run, tmp_path, capsys):
    arguments = ["figures", str(run), "--rows", "1", "--format", "svg", "--out", str(tmp_path)]
    assert main(arguments) == 0
    captions = (tmp_path / "captions.md").read_text()
    files = {file.name for file in tmp_path.glob("*.svg")}
    assert {"joint-samples.svg", "latent-map.svg", "training.svg"} <= files
    assert all(f"- `{name}`: " in captions for name in files)
    assert (tmp_path / "training.svg").read_text().count("<text") > 5


def test_compare_prints_one_table(tmp_path, capsys, monkeypatch):
    arguments = [
        *("compare", "mvae", "mmvae", "--seeds", "2", "--num-samples", "5", "--out", str(tmp_path)),
        *("--particles", "2", *SMALL),
    ]
    assert main(arguments) == 0
    assert "joint coherence" in capsys.readouterr().out
    results = json.loads((tmp_path / "compare.json").read_text())["methods"]
    assert set(results) == {"mvae", "mmvae"} and results["mvae"]["joint coherence"]["seeds"] == 2
    assert set(results["mvae"]["joint coherence"]) == {"value", "std", "seeds"}
    assert (tmp_path / "compare.md").read_text().startswith("| metric | mvae | mmvae |")
    options = [json.loads((tmp_path / f"{name}-digits-1" / "run.json").read_text())["options"] for name in results]
    assert [option.get("particles") for option in options] == [None, 2]
    assert results["mvae"]["training, seconds"]["value"] > 0
    differences = json.loads((tmp_path / "compare.json").read_text())["differences"]
    assert differences["from"] == "mvae" and list(differences["methods"]) == ["mmvae"]
    difference = differences["methods"]["mmvae"]["log_likelihood/image"]
    means = [results[name]["log p(image)"]["value"] for name in ("mmvae", "mvae")]
    assert difference["value"] == pytest.approx(means[0] - means[1])
    assert difference["seeds"] == 2 and difference["se"] > 0 and difference["seed_std"] > 0
    assert "| difference from mvae | mmvae |" in (tmp_path / "compare.md").read_text()

    # called again it evaluates nothing, but for a new setting
    whole = json.loads((tmp_path / "compare.json").read_text())
    evaluated = []

    def evaluate(*args, **kwargs):
        evaluated.append(kwargs)
        return Report(kept, {}, {})

    monkeypatch.setattr(compare, "evaluate", evaluate)
    kept = json.loads((tmp_path / "mvae-digits-0" / "metrics.json").read_text())
    assert main(arguments) == 0 and evaluated == []
    assert json.loads((tmp_path / "compare.json").read_text()) == whole
    assert main(["6" if value == "5" else value for value in arguments]) == 0
    assert (
        evaluated
        == [{"num_samples": 6, "likelihood_data_points": 1000, "seed": seed, "progress": True} for seed in (0, 1)] * 2
    )
    # and for other classes
    cell = json.loads((tmp_path / "mvae-digits-0" / "cell.json").read_text())
    cell["key"]["labels_hash"]["test"] = "of other classes"
    (tmp_path / "mvae-digits-0" / "cell.json").write_text(json.dumps(cell))
    evaluated.clear()
    assert main(arguments) == 0 and evaluated[0]["num_samples"] == 5


def test_compare_shows_what_is_finished_and_names_what_failed(tmp_path, capsys, monkeypatch):
    arguments = ["compare", "mvae", "mopoe", "--seeds", "2", "--num-samples", "5", "--out", str(tmp_path), *SMALL]
    whole, calls = compare.evaluate, []

    def evaluate(*args, **kwargs):
        calls.append(kwargs)
        if len(calls) == 2:
            raise RuntimeError("no luck")
        return whole(*args, **kwargs)

    monkeypatch.setattr(compare, "evaluate", evaluate)
    assert main(arguments) == 2
    assert "1 of 4 runs failed; mvae-digits-1: RuntimeError: no luck" in capsys.readouterr().err
    results = json.loads((tmp_path / "compare.json").read_text())
    assert [results["methods"][name]["joint coherence"]["seeds"] for name in ("mvae", "mopoe")] == [1, 2]
    assert results["differences"]["methods"]["mopoe"]["log_likelihood/image"]["seeds"] == 1
    assert main(arguments) == 0 and len(calls) == 5
    results = json.loads((tmp_path / "compare.json").read_text())["methods"]
    assert [results[name]["joint coherence"]["seeds"] for name in ("mvae", "mopoe")] == [2, 2]


@pytest.mark.slow
def test_compare_in_several_processes(tmp_path):
    arguments = ["compare", "mvae", "--seeds", "2", "--num-samples", "5", *SMALL]
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert main([*arguments, "--workers", "2", "--out", str(tmp_path / "two")]) == 0
    one, two = (
        json.loads((tmp_path / name / "compare.json").read_text())["methods"]["mvae"] for name in ("one", "two")
    )
    assert one["log p(image)"] == pytest.approx(two["log p(image)"])


def test_demo(tmp_path, capsys):
    arguments = parse(["demo", "--epochs", "1", "--out", str(tmp_path / "demo")])
    evaluation = arguments.steps[1][1]
    assert evaluation.num_samples == 100
    evaluation.num_samples, evaluation.rows = 5, 50  # for time
    demo.run(arguments)
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert metrics["method"] == "mopoe" and metrics["options"]["beta"] == 3.0
    assert [stage["epochs"] for stage in metrics["training"]["stages"]] == [1, 1] and metrics["checkpoint"] == "best"
    assert len(list((tmp_path / "demo").glob("*.png"))) == 3


def test_tables(capsys):
    assert main(["methods"]) == 0 and main(["datasets"]) == 0
    out = capsys.readouterr().out
    assert "jmvae-kl" in out and "polymnist" in out
    assert main(["methods", "mmvae"]) == 0
    out = capsys.readouterr().out
    assert "Shi et al., 2019" in out and "particles" in out and "aggregate_epochs" in out


def test_a_user_defined_guide_by_the_same_commands(tmp_path, capsys):
    file, out = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(GUIDE)
    place = f"{file}:Mine"
    assert main(["train", "mopoe", "--guide", place, "--out", str(out), *SMALL]) == 0
    assert json.loads((out / "run.json").read_text())["guide_class"] == "Mine"
    assert main(["evaluate", str(out), "--num-samples", "5", "--guide", place]) == 0
    figure = [
        "--given",
        "image",
        "--target",
        "word",
        "--rows",
        "2",
        "--num-samples",
        "1",
        "--out",
        str(tmp_path / "a.png"),
    ]
    assert main(["generate", str(out), "--guide", place, *figure]) == 0
    assert (tmp_path / "a.png").is_file()
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 2
    assert "Mine" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["train", "vea"], "unknown method 'vea'"),
        (["train", "vae", "--data", "minst"], "unknown data set 'minst'"),
        (["train", "vae", "--modalities", "sound"], "sound"),
        (["train", "mopoe", "--option", "alpha=1"], "no option alpha: it is an option of jmvae"),
        (["train", "mopoe", "--guide", "mine.py"], "FILE.py:CLASS"),
        (["train", "mopoe", "--guide", "nowhere.py:Mine"], "not a file"),
        (["evaluate", "nowhere"], "no run"),
        (["train", "mvae", "--given", "imge", *SMALL], "--given names imge: mvae has image, label, word"),
        (["train", "mvae", "--target", "lable", *SMALL], "--target names lable"),
        (["train", "vae", "--given", "label", *SMALL], "--given names label"),
        (["train", "cvae", "--given", "image", *SMALL], "predicts nothing from it"),
        (["train", "cvae", "--target", "label", *SMALL], "cannot generate it"),
        (["train", "mvae", "--particles", "50", *SMALL], "mvae has no option particles: it is an option of mmvae"),
        (["compare", "mvae", "mopoe", "--particles", "50", *SMALL], "mvae, mopoe has no option particles"),
        (["compare", "mvae", "mmvea", *SMALL], "unknown method 'mmvea'"),
        (["compare", "mvae", "mopoe", "--option", "alpha=1", *SMALL], "no option alpha"),
        (["compare", "mvae", "telbo", "--missing", "0.3", *SMALL], "telbo needs complete examples"),
    ),
)
def test_errors_are_one_line_and_come_before_any_training(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "runs").exists()


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"multipyro {__version__}\n"


@pytest.mark.parametrize("command", ["methods", "presets"])
def test_an_unknown_entry_of_a_catalog_is_one_line_with_those_that_exist(command, capsys):
    assert main([command, "nothing"]) == 2
    error = one_line(capsys)
    assert "unknown" in error and "'nothing'" in error and "choose from" in error


def test_a_run_folder_that_is_damaged(run, tmp_path, capsys):
    (tmp_path / "run.json").write_text("{")
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "damaged" in one_line(capsys)
    assert main(["generate", str(run), "--given", "sound", "--target", "label", "--out", str(tmp_path / "a.png")]) == 2
    assert "sound" in one_line(capsys)


def test_a_checkpoint_that_is_cut_short_or_of_another_run(run, tmp_path, capsys):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    checkpoint = other / "checkpoints" / "stage-1-main" / "best.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5_000])
    assert main(["evaluate", str(other)]) == 2
    assert "best.ckpt" in one_line(capsys)
    config = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**config, "latent_dim": 5}))
    shutil.copy(run / "checkpoints" / "stage-1-main" / "best.ckpt", checkpoint)
    assert main(["evaluate", str(other)]) == 2
    assert "best.ckpt" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ([], "COMMAND"),
        (["train"], "METHOD"),
        (["tarin"], "tarin"),
        (["train", "mvae", "--epoch", "1"], "--epoch"),
        (["train", "mvae", "--epochs", "x"], "--epochs: must be an integer (at least 1), got 'x'"),
        (["train", "mvae", "--weights", "label"], "--weights: must be a mapping from names to numbers"),
        (["train", "mvae", "--weights", "image=-3"], "--weights: must be a mapping from names to numbers (at least 0)"),
        (["train", "mvae", "--beta", "-1"], "--beta: must be a number (at least 0), got '-1'"),
        (["train", "mvae", "--latent-dim", "0"], "--latent-dim"),
        (["train", "mvae", "--seed", "-1"], "--seed"),
        (["train", "mvae", "--lr", "x"], "--lr: must be a number (at least 0), got 'x'"),
        (
            ["train", "mvae", "--modalities", "image", "image"],
            "--modalities: must be a list of texts (none of them twice)",
        ),
        (["train", "mvae", "--missing", "1.5"], "--missing: must be a number (from 0 to 1)"),
        (["train", "mvae", "--missing", "label=much"], "got 'label=much'"),
        (["train", "mvae", "--option", "beta"], "--option: must be KEY=VALUE, got 'beta'"),
        (["train", "mvae", "--out", ""], "--out: must be a path"),
        (["evaluate", "run", "--particles", "5"], "--particles"),
        (["compare", "mvae", "--seed", "1"], "--seed"),
        (["compare", "mvae", "--seeds", "0"], "--seeds"),
    ),
)
def test_arguments_that_make_no_sense_are_one_line_and_leave_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = one_line(capsys)
    assert message in error and "--help" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", [[], *([name] for name in "compare datasets demo evaluate generate methods train".split())]
)
def test_help(command, capsys):
    assert main([*command, "--help"]) == 0
    assert "usage: multipyro" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    (
        (["--epochs", "0"], "--epochs: must be an integer (at least 1), got '0'"),
        (["--lr", "-1"], "--lr: must be a number (at least 0), got '-1'"),
        (["--device", "abacus"], "device must be auto, cpu"),
        (["--optimizer", "lion"], "optimizer must be 'adam' or 'adamw'"),
        (["--beta", "2", "--option", "beta=3"], "--beta 2.0 contradicts --option beta=3"),
        (["--option", "private=-3"], "private must be an integer (at least 1) or a mapping"),
        (["--missing", "1"], "missing"),
        (["--data-root", "/no/such/folder"], "/no/such/folder"),
    ),
)
def test_values_out_of_range_are_one_line_and_leave_nothing(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "mvae", *flags]) == 2
    assert message in one_line(capsys) and list(tmp_path.iterdir()) == []


def test_pairs_are_separated_by_commas_or_spaces():
    arguments = ["--weights", "image=1,label=10", "word=5", "--missing", "image=0.1", "label=0.2,word=0.3"]
    parsed = parse(["train", "mvae", *arguments])
    assert parsed.weights == {"image": 1.0, "label": 10.0, "word": 5.0}
    assert parsed.missing == {"image": 0.1, "label": 0.2, "word": 0.3}


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    (
        (KeyboardInterrupt(), 130, "interrupted; continue with --resume"),
        (SystemExit(), 143, "terminated; continue with --resume"),
        (AttributeError("no\nsuch thing"), 2, "AttributeError: no such thing"),
        (OSError(28, "no space left"), 2, "no space left"),
    ),
)
def test_what_stops_a_command_is_one_line(raised, code, message, monkeypatch, capsys):
    def stop(arguments):
        raise raised

    monkeypatch.setattr(train, "load_data", stop)
    assert main(["train", "mvae"]) == code
    error = one_line(capsys)
    assert message in error and "Errno" not in error


def test_debugging_shows_where_an_error_comes_from(monkeypatch):
    monkeypatch.setenv("MULTIPYRO_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["evaluate", "nowhere"])


def test_as_a_process():
    code = "import sys; from multipyro.inference.cli.parser import main; sys.exit(main(['train', 'nothing']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("multipyro: unknown method")
    assert "Traceback" not in done.stderr


METHOD = """
from multipyro.inference import METHODS
from multipyro.inference.recipes import method

@method("mine", "as MVAE", "this test")
def MINE(networks, latent_dim, weighting):
    return METHODS["mvae"](networks, latent_dim, weighting, random_subsets=0)

TAKEN = METHODS["mvae"]
"""


@pytest.fixture
def place_in(tmp_path):
    (tmp_path / "mine.py").write_text(METHOD)
    yield f"{tmp_path / 'mine.py'}:"
    METHODS.pop("mine", None)


def test_a_user_defined_method_by_the_same_commands(place_in, tmp_path, capsys):
    out, place = tmp_path / "run", f"{place_in}MINE"
    assert main(["train", place, "--out", str(out), *SMALL]) == 0
    assert json.loads((out / "run.json").read_text())["method"] == "mine"
    METHODS.pop("mine")
    assert main(["evaluate", str(out), "--num-samples", "5"]) == 2
    assert "--method FILE.py:NAME" in one_line(capsys)
    assert main(["evaluate", str(out), "--num-samples", "5", "--method", place]) == 0
    assert json.loads((out / "metrics.json").read_text())["method"] == "mine"
    for name, message in (
        ("TAKEN", "mvae"),
        ("NOTHING", "NOTHING"),
        ("METHODS", "is not a multipyro.inference.MethodInfo"),
    ):
        assert main(["train", f"{place_in}{name}", *SMALL]) == 2
        assert message in one_line(capsys)


def test_training_on_incomplete_data_and_evaluation_on_complete_data(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "mvae", "--missing", "label=0.5", "--out", str(out), *SMALL]) == 0
    config = json.loads((out / "run.json").read_text())
    assert config["config"] == {"missing": {"image": 0.0, "label": 0.5, "word": 0.0}}
    assert config["data"]["content_hash"]["train"] != load_dataset("digits").train.content_hash
    assert main(["evaluate", str(out), "--num-samples", "5"]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["config"] == config["config"]
    assert metrics["data"]["content_hash"]["test"] == load_dataset("digits").test.content_hash
    assert main(["train", "telbo", "--missing", "0.3", "--out", str(tmp_path / "b"), *SMALL]) == 2
    assert "complete examples" in one_line(capsys)
    assert main(["train", "mvae", "--missing", "label=much", "--out", str(tmp_path / "c"), *SMALL]) == 2
    assert "label=much" in one_line(capsys)


def test_names_from_data_are_not_interpreted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "mvae", "--no-figure", "--out", "[red]run[/x]", *SMALL]) == 0
    assert "the run is in [red]run[/x]" in capsys.readouterr().out
    assert main(["evaluate", "no\x1b[2Jrun"]) == 2
    assert "no\\x1b[2Jrun" in one_line(capsys)
    print_table = table("[/x] \x1b[2J", ["metric"], [["[/x]"], ["\x07"]])
    say(print_table)
    out = capsys.readouterr().out
    assert out.count("[/x]") == 2 and "\x1b" not in out and "\\x07" in out


HELP = """
import contextlib, io, time
import torch
started = time.process_time()
from multipyro.inference.cli.parser import main
with contextlib.redirect_stdout(io.StringIO()):
    main(["train", "--help"])
print(time.process_time() - started)
"""


def test_help_answers_soon_after_torch_is_imported():
    def seconds():
        return float(subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True).stdout)

    # the first start may fill the disk cache
    assert any(seconds() < 0.5 for _ in range(3))
