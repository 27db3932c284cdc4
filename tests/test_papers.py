"""Every script behind a published table or figure runs on noise, beside the published values, and can be continued."""

import ast
import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import experiment
import pytest
from experiment import Experiment, Run

from multipyro.inference.presets import PRESETS

PAPERS = Path(experiment.__file__).parent
# script -> what its table must contain
SCRIPTS = {
    "bridged_table_4_mnist_fashion.py": r"\| Bridged \| parameters \| 72141450 \| \d+ \(1\) \|",
    "bridged_table_5_celeba.py": r"\| Bridged \| Wearing Hat \| 30\.0 \| \d+\.\d \(1\) \|",
    "bridged_tables_1_2_mnist.py": r"\| Bridged \| difference \| 0\.210 \| -?\d\.\d+ \(1\) \|",
    "jmvae_figures_3_to_5_mnist.py": r"\| JMVAE, 2-D \| accuracy of a probe.* \| – \| 0\.\d+ \(1\) \|",
    "jmvae_h_digits.py": r"\| batch norm \| KL of the top layer \| – \| \d\.\d+ \(1\) \|",
    "jmvae_table_1_celeba.py": r"\| CMMA \| -6920\.0 \| -\d+\.\d \(1\) \| -44\.6 \| -\d+\.\d \(1\) \|",
    "jmvae_table_1_mnist.py": r"\| JMVAE-kl \| -422\.4 \| -\d+\.\d \(1\) \| -0\.263 \| -\d\.\d+ \(1\) \|",
    "mopoe_figure_1_polymnist.py": r"\| MoPoE, beta 2\.5 \| – \| [01]\.\d+ \(1\) \| – \| -\d+ \(1\) \|",
    "mmvae_table_4_cub.py": r"\| MMVAE \| joint \| 0\.263 \| -?[01]\.\d+ \(1\) \|",
    "mopoe_likelihoods_digits.py": r"\| MoPoE \| released code, word given \| – \| -?\d+\.\d+ \(1\) \|",
    "mmvae_gradients_digits.py": r"\| dreg \(paper\), K = 50 \| joint coherence \| – \| [01]\.\d+ \(1\) \|",
    "mopoe_figure_3_polymnist.py": r"\| MoPoE \| coherence, 4 given \| 0\.830 \| [01]\.\d+ \(1\) \|",
    "mmvae_tables_1_to_3_mnist_svhn.py": r"\| MMVAE, scale 0\.1 \| log p\(mnist\), both \| 868\.8 \| -\d",
    "mopoe_table_5_celeba.py": r"\| MoPoE \| image to text \| 0\.150 \| [01]\.\d+ \(1\) \|",
    "mopoe_tables_2_to_4_mnist_svhn_text.py": r"\| MoPoE \| coherence, M,S to T \| 0\.930 \| [01]\.\d+ \(1\) \|",
    "vlvae_aggregates_digits.py": r"\| MoPoE \| joint coherence, aggregate prior \| – \| [01]\.\d+ \(1\) \|",
    "vlvae_figure_1_one_object.py": r"\| VLVAE \| – \| 0\.\d+ \(1\) \| – \| 0\.\d+ \(1\) \|",
    "vlvae_tables_1_2_celeba.py": r"\| VLVAE \| correctness, q_agg \| 0\.803 \| [01]\.\d+ \(1\) \|",
    "vlvae_tables_1_2_two_objects.py": r"\| VLVAE \| correctness, q_true \| 0\.728 \| [01]\.\d+ \(1\) \|",
}
# what several scripts share
SHARED = {"experiment.py", "vlvae_flows.py"}
# those that take more than a few seconds
SLOW = (
    *("mopoe_figure_1_polymnist.py", "mopoe_figure_3_polymnist.py", "mopoe_table_5_celeba.py"),
    *("jmvae_figures_3_to_5_mnist.py", "jmvae_table_1_celeba.py", "mmvae_tables_1_to_3_mnist_svhn.py"),
    *("mmvae_gradients_digits.py", "vlvae_aggregates_digits.py"),
)


def scripts():
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SCRIPTS]


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(PAPERS / script), *arguments])
    return runpy.run_path(str(PAPERS / script), run_name="__main__")


def test_every_script_is_listed():
    files = {path.name for path in PAPERS.glob("*.py")} - SHARED
    assert files == {*SCRIPTS}
    readme = (PAPERS / "README.md").read_text(encoding="utf-8")
    assert [name for name in files if f"({name})" not in readme] == []


def test_the_page_names_every_script_and_shows_every_number_that_was_measured():
    page = (PAPERS.parents[1] / "docs" / "papers.md").read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f"`python examples/papers/{name}" not in page] == []
    results = sorted((PAPERS.parent / "results" / "papers").glob("*.json"))
    assert results
    for path in results:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert f"`{record['command']}`" in page and f"`{path.stem}.md`" in page
        numbers = [cell for row in record["rows"].values() for cell in row.values() if cell["value"] is not None]
        assert [cell for cell in numbers if f"| {experiment.format_number(cell['value'])}" not in page] == []


@pytest.mark.parametrize("script", scripts())
def test_script_runs_on_noise(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(script, monkeypatch, "--smoke")
    printed = capsys.readouterr().out
    assert "Not finished" not in printed
    assert re.search(SCRIPTS[script], printed), printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_explains_itself_and_does_nothing_when_imported(script):
    tree = ast.parse((PAPERS / script).read_text(encoding="utf-8"))
    first, *rest = ast.get_docstring(tree).splitlines()
    assert first.endswith(("?", ".")) and len(rest) > 2
    found = io.StringIO()
    with contextlib.redirect_stdout(found):
        names = runpy.run_path(str(PAPERS / script), run_name="example")
    assert found.getvalue() == ""
    assert names["EXPERIMENT"].preset in PRESETS
    assert set(names["EXPERIMENT"].published) <= set(names["EXPERIMENT"].rows)


def measure(trial):
    return {"examples": len(trial.splits.train), "number": trial.size(7, 5)}


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A command line that trains a small table on noise in place of MNIST; returns its record."""
    rows = {"kl": [Run("jmvae-kl")], "both": [Run("cvae"), Run("cvae", {"given": "image", "target": "label"})]}
    published = {"kl": {"examples": 12.5, "lost": 1.0}}
    settings = {"name": "small", "title": "A table", "preset": "jmvae/mnist", "unit": "Numbers"}
    small = Experiment(rows=rows, measure=measure, published=published, **settings)
    changed = {
        "latent_dim": 2,
        "hidden_features": (8, 8),
        "data": "noise",
        "training": {"epochs": 4, "batch_size": 8, "lr": 1e-3},
    }

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["small.py", "--out", str(tmp_path / "out"), *arguments])
        experiment.run(small)
        return json.loads((tmp_path / "out" / "small.json").read_text(encoding="utf-8"))

    noise = experiment.noise(PRESETS["jmvae/mnist"])
    one = experiment.replace(PRESETS["jmvae/mnist"], **changed)
    monkeypatch.setattr(type(one), "splits", lambda self, data_root=None: noise)
    monkeypatch.setitem(PRESETS, "jmvae/mnist", one)
    return command


def test_full_budget_is_that_of_the_paper_and_more_seeds_continue(table, tmp_path, capsys):
    record = table("--budget", "full", "--seeds", "1")
    assert record["plan"] == {"budget": "full", "epochs": 4, "warmup": 200, "examples": experiment.SMOKE_ROWS}
    cell = record["rows"]["kl"]["number"]
    assert cell == {"published": None, "value": 7.0, "std": None, "n": 1}
    assert record["rows"]["kl"]["examples"]["published"] == 12.5
    assert record["rows"]["kl"]["lost"] == {"published": 1.0, "value": None, "std": None, "n": 0}
    assert not any("budget" in sentence for sentence in record["departures"])
    before = (tmp_path / "out" / "kl-0-0" / "cell.json").stat().st_mtime_ns
    record = table("--budget", "full", "--seeds", "2")
    assert record["rows"]["both"]["number"] == {"published": None, "value": 7.0, "std": 0.0, "n": 2}
    assert (tmp_path / "out" / "kl-0-0" / "cell.json").stat().st_mtime_ns == before
    assert record["command"] == "python examples/papers/small.py --budget full --seeds 2"
    assert "| kl | 12.5 | 24.0 ± 0.0 (2) |" in capsys.readouterr().out


def test_limited_budget_is_planned_once_and_said(table):
    record = table("--budget", "0.0001", "--seeds", "1")
    plan = record["plan"]
    assert plan["epochs"] == 4 and plan["examples"] < experiment.SMOKE_ROWS and plan["warmup"] == 200
    assert record["rows"]["kl"]["number"]["value"] == 5.0
    assert f"Training examples: {plan['examples']:,}, to fit the budget." in record["departures"]
    assert table("--budget", "0.0001", "--seeds", "1")["plan"] == plan


def test_wrong_budget_is_refused(table, capsys):
    with pytest.raises(SystemExit):
        table("--budget", "much")
    assert "minutes or full, got 'much'" in capsys.readouterr().err
