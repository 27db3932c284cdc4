"""A table with empty cells and missing modalities through every command: nothing is conditioned on a filler."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from multipyro.data import Splits, load_toml
from multipyro.inference import evaluate, load
from multipyro.inference.cli.parser import main
from multipyro.inference.evaluation import Report
from multipyro.inference.evaluation.figures import figures_of, rows_of_each_class

TOML = """
table = "clinic.csv"
ids = "patient"
labels = "ward"

[modalities.xray]
column = "xray"
size = [8, 8]

[modalities.labs]
columns = ["crp", "saturation", "fever"]

[modalities.note]
column = "note"
kind = "text"
tokens = "words"

[modalities.diagnosis]
column = "diagnosis"
"""
ROWS = 60


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """The description of 120 patients; every modality is missing in some of them, and single numbers are too."""
    folder = tmp_path_factory.mktemp("clinic")
    generator, names = np.random.default_rng(0), ("flu", "cold", "covid")
    rows = [["patient", "ward", "xray", "crp", "saturation", "fever", "note", "diagnosis"]]
    for number in range(2 * ROWS):
        kind = number % 3
        there = generator.random(6) < 0.7
        there[1:4] &= generator.random() < 0.75
        there[5] |= not there.any()
        pixels = np.full((8, 8), 20, np.uint8)
        pixels[2 * kind : 2 * kind + 3, 1:6] = 220
        Image.fromarray(pixels).save(folder / f"{number}.png")
        cells = [f"{number}.png", *generator.normal(10.0 * kind, 1.0, 3).round(2)]
        cells += [f"patient has {names[kind]}", names[kind]]
        shown = [cell if is_there else "" for cell, is_there in zip(cells, there, strict=True)]
        rows.append([f"p{number}", f"ward {kind}", *shown])
    with (folder / "clinic.csv").open("w", newline="") as opened:
        csv.writer(opened).writerows(rows)
    (folder / "clinic.toml").write_text(TOML)
    return folder / "clinic.toml"


@pytest.fixture(scope="module")
def run(clinic, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "clinic"
    small = ["--epochs", "2", "--latent-dim", "3", "--hidden", "8", "--networks", "xray=mlp"]
    assert main(["train", "mopoe", "--data", str(clinic), "--out", str(folder), *small]) == 0
    return folder


def fillers(data, shift):
    """The data with other values wherever a modality is not observed."""
    x = {}
    for name, values in data.x.items():
        values = values[torch.arange(len(data))].clone()
        missing = ~(data.observed or {}).get(name, torch.ones(len(data), dtype=torch.bool))
        if data.modalities[name].is_discrete:
            values[missing] = shift
        else:
            values[missing] = values.new_tensor(200 if values.dtype == torch.uint8 else 0.9) * shift
        x[name] = values
    return replace(data, x=x)


def test_every_command_goes_through(run, clinic, capsys):
    assert main(["evaluate", str(run), "--num-samples", "5"]) == 0
    assert main(["figures", str(run), "--rows", "2", "--format", "svg"]) == 0
    assert main(["check", str(run), "--num-simulated", "30", "--num-samples", "20"]) == 0
    assert main(["embed", str(run), "--file", str(run / "embedding.csv")]) == 0
    assert main(["predict", str(run), "--num-samples", "5", "--file", str(run / "predicted.csv")]) == 0
    assert "no figure" not in capsys.readouterr().err and (run / "xray-to-labs+note+diagnosis.png").is_file()
    test = load_toml(clinic).test
    with (run / "embedding.csv").open() as opened:
        assert [row["id"] for row in csv.DictReader(opened)] == list(test.ids)
    with (run / "predicted.csv").open() as opened:
        predicted = list(csv.DictReader(opened))
    complete = torch.stack(list(test.observed.values())).all(0) & ~test.x["labs"].isnan().any(-1)
    assert [row["id"] for row in predicted] == list(test.ids[~complete.numpy()])
    assert {"crp mean", "xray[0] mean", "xray[191] q95", "diagnosis p(flu)"} <= set(predicted[0])
    examples = Report.load_examples(run / "examples.npz")["log_likelihood/labs"]
    assert torch.equal(~examples.isnan(), test.observed["labs"])
    reconstructions = (run / "figures" / "reconstructions.svg").read_text()
    assert ">missing<" in reconstructions


def test_what_is_missing_is_shown_as_missing(run, tmp_path):
    file = tmp_path / "figure.svg"
    command = ["generate", str(run), "--target", "diagnosis", "--rows", "6", "--num-samples", "2", "--file", str(file)]
    assert main([*command, "--given", "labs"]) == 0
    assert ">missing<" not in file.read_text()  # of an example without anything given there is nothing to show
    assert main([*command, "--given", "labs", "xray", "note"]) == 0
    assert ">missing<" in file.read_text()


def test_nothing_depends_on_what_fills_the_gaps(run, clinic):
    recipe, splits = load(run).recipe, load_toml(clinic)
    shown, reports = [], []
    for shift in (0, 1):
        filled = Splits(*(fillers(getattr(splits, name), shift) for name in Splits.NAMES))
        figures = list(figures_of(recipe.model, recipe.guide, filled, num_rows=2))
        shown.append({name: pixels_of(figure) for name, _, figure in figures})
        report = evaluate(recipe.model, recipe.guide, filled, num_samples=5, coherence_samples=20).to_dict()
        reports.append({name: report[name] for name in report if name not in ("data", "seconds")})
    assert {"reconstructions", "traversals", "latent-map", "labs-to-xray+note+diagnosis"} <= set(shown[0])
    assert shown[0] == shown[1]
    assert reports[0] == reports[1]


def pixels_of(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return bytes(canvas.buffer_rgba())


def test_rows_have_some_of_what_is_given_and_every_class(clinic):
    test = load_toml(clinic).train
    rows = rows_of_each_class(test, 9, ["note"])
    assert test.observed["note"][rows].all() and test.labels[rows].tolist() == [0, 1, 2] * 3
    none = replace(test, observed={**test.observed, "note": torch.zeros(len(test), dtype=torch.bool)})
    assert len(rows_of_each_class(none, 9, ["note"])) == 0
