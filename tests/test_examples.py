"""Every example and benchmark runs, does nothing when imported, and none is forgotten. `test_papers` has the papers."""

import ast
import contextlib
import io
import re
import runpy
import sys
from pathlib import Path
from unittest import mock

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

from multipyro.guides import Guide
from multipyro.inference import METHODS
from multipyro.inference.cli.plugins import guide_class

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# script -> what its report must hold
SCRIPTS = {
    "aggregates.py": r"jmvae-kl after +[01]\.\d+ ",
    "benchmarks/fit_against_svi.py": r"ratio \d+\.\d+",
    "benchmarks/growth.py": r"samples of MMVAE +2 +\d+\.\d ms +\d+\.\d ms +\d\.\d+",
    "benchmarks/gradient_bias.py": r"stratified +2 +4 +encoders +\d+\.\d+",
    "benchmarks/loading.py": r"digits +\d+\.\d+ ms +\d+\.\d+ ms +0\.\d+",
    "benchmarks/memory.py": r"ours +1 +all +\d\.\d+ +\d\.\d+",
    "benchmarks/one_trace_per_step.py": r"joint encoder runs 1 time.*\n.*ratio \d+\.\d+",
    "benchmarks/likelihoods.py": r"one likelihood, same proposal +\d+\.\d+ s +ratio \d+\.\d+",
    "benchmarks/startup.py": r"multipyro --help +\d+\.\d+ s +[+-]\d+\.\d+ s",
    "benchmarks/training_steps.py": r"mopoe +\d+\.\d+ +\d+\.\d+ +\d+\.\d+",
    "benchmarks/subset_products.py": r"31 subsets of 5 experts(.|\n)*ratio \d+\.\d+",
    "benchmarks/whole_steps.py": r"W2 +8 +\d+\.\d +\d+\.\d",
    "birds.py": r"both generated from the prior +-?\d\.\d+ ± \d\.\d+ ",
    "contact_sheets.py": r"digits +6 of 300 examples of test: image, label, word",
    "faces.py": r"sharpness, reconstruction +\d+\.\d+ ± \d+\.\d+ +\d.* ± (.|\n)*generated faces, Smiling right +[01]\.",
    "faces_from_text.py": r"faces from text +[01]\.\d+ ± [01]\.\d+ (.|\n)*accuracy of the classifier +[01]\.\d+ +[01]",
    "geometric_mean.py": r"coherence image -> label: [01]\.\d+",
    "guide_checks.py": r"image\+label: \w+, calibration(.|\n)*\| mvae \| image \|(.|\n)*sandwich",
    "orderings.py": r"jmvae-kl +-?\d+\.\d+ ± nan(.|\n)*given\n(.|\n)*mvae +-?\d+\.\d+ ± nan +-?\d",
    "likelihood_errors.py": r"default: \d\.\d+ of \d+ within two stated errors",
    "peer_coherence.py": r"\| mvae \| ours \| [01]\.\d+(.|\n)*accuracy of the classifier",
    "own_guide.py": r"powers: \{'image': 0\.\d+.*\n(.|\n)*coherence image -> label: [01]\.\d+",
    "plain_svi.py": r"test set after RenyiELBO: .*\nimage -> label: [01]\.\d+ of 300 test ex.*\n.*\(5, 10, 1, 8, 8\)",
    "true_or_aggregate.py": r"correctness +[01]\.\d+ ± nan +[01]\.\d+",
    "two_objects.py": r"image -> text, by the scene +[01]\.\d+ ± [01]\.\d+ (.|\n)*all nine words true +[01]\.\d+",
    "word_order.py": r"marginal, q\(z\|x\) +\d\.\d+ ",
}
# scripts whose shortest run takes long: they start many processes or build large models
SLOW = {"benchmarks/startup.py", "benchmarks/growth.py", "benchmarks/memory.py", "benchmarks/whole_steps.py"}
# notebook -> what its settings are in a short run, and how many figures it draws
NOTEBOOKS = {
    "notebooks/1_train_and_cross_generate.ipynb": ("EPOCHS = 1", 2),
    "notebooks/2_write_your_own_guide.ipynb": ("EPOCHS, FURTHER_EPOCHS, SAMPLES = 1, 1, 128", 2),
    "notebooks/3_posterior_predictive_checks.ipynb": ("EPOCHS, ROWS, DRAWS = 1, 20, 50", 4),
    "notebooks/4_can_i_trust_it.ipynb": (
        "EPOCHS, ROWS, SIMULATED, SAMPLES, CHAINS, TEMPERATURES = 1, 20, 40, 40, 2, 4",
        1,
    ),
    "notebooks/5_your_own_table.ipynb": ("ROWS, EPOCHS, SAMPLES = 200, 1, 5", 2),
    "notebooks/6_genes_and_proteins.ipynb": ("CELLS, GENES, EPOCHS, SAMPLES = 200, 40, 1, 5", 2),
    "notebooks/7_choosing_weights.ipynb": (
        "LABEL_WEIGHTS, BETAS, EPOCHS, ROWS, SAMPLES = (1.0, 10.0), (1.0, 4.0), 1, 10, 5",
        2,
    ),
    "notebooks/8_a_new_method.ipynb": ("EPOCHS, ROWS, SAMPLES = 1, 10, 5", 1),
    "notebooks/9_from_multivae.ipynb": ("EPOCHS, SAMPLES = 1, 5", 1),
}
MACHINE = re.compile(r"/(home|root|tmp|opt|usr|work|Users)/|site-packages")


def code_cells(content):
    return [cell for cell in content.cells if cell.cell_type == "code"]


def figures(content):
    return [out for cell in code_cells(content) for out in cell.outputs if "image/png" in out.get("data", {})]


def test_every_example_is_listed():
    files = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".ipynb")}
    files = {
        name for name in files if ".ipynb_checkpoints" not in name and not name.startswith(("papers/", "projects/"))
    }
    assert files == {*SCRIPTS, *NOTEBOOKS}
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in files if f"({name})" not in readme] == []


@pytest.mark.parametrize("script", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SCRIPTS])
def test_script_runs_and_reports(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, "--smoke", "--seed", "1"])
    with mock.patch.dict(METHODS):  # a script may register one of its own
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert re.search(SCRIPTS[script], capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_explains_itself_and_does_nothing_when_imported(script):
    tree = ast.parse((EXAMPLES / script).read_text(encoding="utf-8"))
    first, *rest = ast.get_docstring(tree).splitlines()
    assert first.endswith(("?", ".")) and len(rest) > 2
    *_, last = tree.body
    assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'"
    found = io.StringIO()
    with contextlib.redirect_stdout(found):
        names = runpy.run_path(str(EXAMPLES / script), run_name="example")
    assert found.getvalue() == "" and callable(names["main"])


def test_own_guide_is_short_and_found_by_the_command_line():
    path = EXAMPLES / "own_guide.py"
    (body,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
    assert body.end_lineno - body.lineno < 15
    assert issubclass(guide_class(f"{path}:PoweredExperts"), Guide)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_notebook_is_executed_and_shows_nothing_of_a_machine(name):
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert len(figures(notebook)) == NOTEBOOKS[name][1]
    assert (EXAMPLES / name).stat().st_size < 600_000
    outputs = [out for cell in code_cells(notebook) for out in cell.outputs]
    texts = [str(out.get("text", "")) + str(out.get("data", {}).get("text/plain", "")) for out in outputs]
    assert [text for text in texts if MACHINE.search(text)] == []
    assert [out for out in outputs if out.get("name") == "stderr"] == []


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all notebooks: each start of one imports torch."""
    manager = AsyncKernelManager(kernel_name="python3")
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name, kernel, tmp_path):
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    short, number = NOTEBOOKS[name]
    (settings,) = (cell for cell in code_cells(notebook) if cell.source.startswith("SEED"))
    settings.source += f"\n{short}"
    for cell in code_cells(notebook):
        cell.outputs = []
    first, *_ = code_cells(notebook)
    first.source = f"%reset -f\n{first.source}"  # nothing of the notebook before
    client = NotebookClient(notebook, km=kernel, timeout=300, resources={"metadata": {"path": tmp_path}})
    try:
        client.execute()
    finally:
        client.kc.stop_channels()
    assert len(figures(notebook)) == number
