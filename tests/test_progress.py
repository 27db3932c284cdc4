"""Progress: a bar in a terminal, a line that changes in a notebook, finished lines elsewhere."""

import re
import sys

import pytest

from multipyro.inference.evaluation import _memory, check_guide
from multipyro.inference.progress import Progress
from multipyro.testing.linear_gaussian import LinearGaussian


def run(progress, steps=3):
    for step in range(1, steps + 1):
        progress.update(step, steps, lambda step=step: f"step {step}")
    progress.finish_line("done")
    progress.close()


@pytest.fixture
def hurried(monkeypatch):
    """Every step is shown, however soon after the last one."""
    monkeypatch.setattr("multipyro.inference.progress._REFRESH", 0.0)


def test_only_finished_lines_reach_a_pipe(capsys, hurried):
    run(Progress())
    assert capsys.readouterr() == ("done\n", "")


def test_a_line_changes_in_a_notebook(capsys, hurried, monkeypatch):
    monkeypatch.setattr("multipyro.inference.progress._in_notebook", lambda: True)
    run(Progress())
    *running, last = capsys.readouterr().out.split("\r")
    assert [line.split(",")[0] for line in running] == ["step 1", "step 2", "step 3"]
    assert last.rstrip() == "done" and len(last) > len("done\n")


def test_a_bar_in_a_terminal_takes_no_markup(capsys, hurried, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress()
    progress.update(1, 2, lambda: "[bold]name")
    out = capsys.readouterr().out
    progress.close()
    assert "[bold]name" in out


def test_nothing_is_shown_unless_asked_for(capsys, hurried, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run(Progress(show=False))
    assert capsys.readouterr() == ("", "")


def test_steps_in_between_cost_nothing():
    progress, texts = Progress(), []
    for step in range(100):
        progress.update(step, 100, lambda: texts.append("") or "")
    assert len(texts) <= 1


def test_the_time_left_is_estimated_from_what_was_done_here(monkeypatch):
    clock = iter([0.0, 10.0, 20.0, 30.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress = Progress()
    assert progress.time_left(5, 10) == ", 0:00:10 left"
    progress.restart(8)
    assert progress.time_left(9, 10) == ", 0:00:10 left"
    assert progress.time_left(8, 10) == progress.time_left(9, None) == ""


def test_an_evaluation_shows_its_loops_and_the_time_left_only_if_asked_to(capsys, hurried, monkeypatch):
    monkeypatch.setattr("multipyro.inference.progress._in_notebook", lambda: True)
    monkeypatch.setattr(_memory, "MAX_ELEMENTS", 1000)
    problem = LinearGaussian(1, 2)
    x, arguments = problem.sample(20), {"num_simulated": 20, "num_samples": 30}
    check_guide(problem.model(), problem.product_guide(), x, **arguments)
    assert capsys.readouterr().out == ""
    check_guide(problem.model(), problem.product_guide(), x, **arguments, progress=True)
    lines = [line.strip() for line in capsys.readouterr().out.split("\r")]
    assert any(re.fullmatch(r"likelihoods, 20 data points, 0:00:\d\d left", line) for line in lines)
    assert any(line.startswith("calibration, 20 data points") for line in lines)
