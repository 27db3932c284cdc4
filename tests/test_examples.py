"""Every example and benchmark runs, and none is forgotten."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = (
    "benchmarks/fit_against_svi.py",
    "benchmarks/gradient_bias.py",
    "benchmarks/one_trace_a_step.py",
    "benchmarks/subset_products.py",
    "own_guide.py",
    "plain_svi.py",
)
NOTEBOOKS = ("posterior_predictive_check.ipynb",)


def test_every_example_is_listed():
    found = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".ipynb")}
    assert found == {*SCRIPTS, *NOTEBOOKS}


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_runs(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), "--smoke"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_runs(notebook, tmp_path):
    content = nbformat.read(EXAMPLES / notebook, as_version=4)
    settings = next(cell for cell in content.cells if "EPOCHS = " in cell.source and cell.cell_type == "code")
    settings.source += "\nEPOCHS, ROWS, DRAWS = 1, 20, 50"
    NotebookClient(content, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [out for cell in content.cells for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 3
