"""The projects under examples/: every command of each, on little data for one epoch."""

import csv
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from multipyro.inference.cli.parser import main

PROJECTS = Path(__file__).parents[1] / "examples" / "projects"
SMALL = {"$ROWS": "60", "$EPOCHS": "1", "$SAMPLES": "2"}


def commands_of(project):
    """The commands of a script, with its variables replaced."""
    for line in (PROJECTS / project / "commands.sh").read_text().splitlines():
        tokens = shlex.split(line, comments=True)
        if tokens and tokens[:2] != ["set", "-e"] and "=" not in tokens[0]:
            yield [SMALL.get(token, token) for token in tokens]


@pytest.mark.parametrize("project", ["cells", "clinic", "robot"])
def test_project(project, tmp_path, monkeypatch, capsys):
    pytest.importorskip("safetensors")
    monkeypatch.setattr("multipyro.inference.evaluation.likelihoods.proposals._BUDGET", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(PROJECTS, tmp_path / "projects", ignore=shutil.ignore_patterns("*.csv", "*.npy", "scans", "runs"))
    monkeypatch.chdir(tmp_path / "projects" / project)
    printed = {}
    for tokens in commands_of(project):
        if tokens[0] == "multipyro":
            assert main(tokens[1:]) == 0, shlex.join(tokens)
        elif tokens[0] == "python":
            monkeypatch.setattr(sys, "argv", tokens[1:])
            runpy.run_path(tokens[1], run_name="__main__")
            printed[Path(tokens[1]).name] = capsys.readouterr().out
        else:
            subprocess.run(tokens, check=True)
    lines = [line for line in printed["measure.py"].splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[0] for line in lines] == [
        *("| mvtcae", "| mopoe", "| mvae"),
        *("| mean", "| 10 nearest neighbors", "| ridge regression"),
    ]
    assert all(np.isfinite(float(line.split(" | ")[1])) for line in lines)
    with open("embedding.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 60
    assert Path("moved/mopoe.zip").is_file()


def test_every_project_is_tested():
    assert {path.parent.name for path in PROJECTS.glob("*/commands.sh")} == {"cells", "clinic", "robot"}
