"""`multipyro check`: whether the guide of a run can be trusted."""

import argparse

import torch

from multipyro.batch import Rows
from multipyro.data import MultimodalData
from multipyro.data.storage import write_atomically
from multipyro.inference.cli.console import say
from multipyro.inference.cli.saved_runs import check_writable, open_run, write_json
from multipyro.inference.evaluation import check_guide
from multipyro.inference.evaluation.figures import save_figure

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Checks the guide on test data, prints the verdicts and writes `check.json` and `check.png`."""
    saved = open_run(arguments)
    check_writable(arguments.run)
    x, _ = saved.splits.test.rows(_complete(saved.splits.test, arguments.rows))
    torch.manual_seed(arguments.seed)
    check = check_guide(
        saved.recipe.model,
        saved.recipe.guide,
        x,
        num_simulated=arguments.num_simulated,
        num_samples=arguments.num_samples,
        progress=True,
    )
    write_json(arguments.run / "check.json", {"method": saved.config["method"], **check.to_dict()})
    figure = check.figure()
    write_atomically(arguments.run / "check.png", lambda file: save_figure(figure, file, format="png"))
    say(check.summary())
    say(f"written to {arguments.run / 'check.json'} and {arguments.run / 'check.png'}")


def _complete(data: MultimodalData, number: int) -> torch.Tensor:
    """The first examples that have every modality."""
    rows = Rows(data.x, data.observed).all_of(tuple(data.modalities))
    rows = torch.arange(len(data)) if rows is None else rows.nonzero()[:, 0]
    if not len(rows):
        raise ValueError("no test example has all modalities, which a check needs")
    return rows[:number]
