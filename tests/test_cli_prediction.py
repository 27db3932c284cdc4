"""`multipyro predict` and `embed`: tables and arrays of what a run predicts."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from multipyro.data import Modality, load_dataset
from multipyro.data.scaling import Scaling
from multipyro.inference import cross_generate, embed, load
from multipyro.inference.cli.parser import main
from multipyro.inference.cli.predictions import columns_of, only_missing, summarize_samples


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mopoe"
    small = ["--epochs", "15", "--lr", "3e-3", "--latent-dim", "4", "--hidden", "64", "--no-figure"]
    assert main(["train", "mopoe", "--weights", "label=10", "--out", str(folder), *small]) == 0
    return folder


def read(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def test_predictions_as_a_table(run, tmp_path):
    file = tmp_path / "a.csv"
    arguments = ["predict", str(run), "--given", "image", "--file", str(file), "--num-samples", "50"]
    assert main(arguments) == 0
    rows = read(file)
    assert len(rows) == 300 and [row["id"] for row in rows] == list(map(str, load_dataset("digits").test.ids))
    names = "zero one two three four five six seven eight nine".split()
    shares = np.array([[float(row[f"label p({name})"]) for name in names] for row in rows])
    assert np.allclose(shares.sum(1), 1, atol=1e-4)
    assert [names.index(row["label"]) for row in rows] == shares.argmax(1).tolist()
    right = load_dataset("digits").test.labels.numpy() == shares.argmax(1)
    assert right.mean() > 0.5  # a tenth by chance
    assert all(0 < float(row["word probability"]) <= 1 for row in rows)


def test_predictions_as_arrays_agree_with_the_library(run, tmp_path):
    file = tmp_path / "a.npz"
    arguments = ["predict", str(run), "--given", "label", "--target", "image", "--keep-samples", "--num-samples", "20"]
    assert main([*arguments, "--quantiles", "0.1", "0.5", "--seed", "3", "--file", str(file)]) == 0
    arrays = np.load(file)
    assert set(arrays) == {"part", "id", *(f"image/{name}" for name in ("mean", "sd", "q10", "q50", "samples"))}
    loaded = load(run)
    x, _ = load_dataset("digits").test.select(["label"]).rows(torch.arange(300))
    torch.manual_seed(3)
    samples = cross_generate(loaded.model, loaded.guide, x, ["image"], 20)["image"].numpy()
    assert np.allclose(arrays["image/samples"], samples.swapaxes(0, 1))
    assert np.allclose(arrays["image/mean"], samples.mean(0), atol=1e-6)
    assert np.allclose(arrays["image/q10"], np.quantile(samples, 0.1, axis=0), atol=1e-6)


def test_only_missing_modalities_are_predicted_by_default(run, tmp_path, capsys):
    file = tmp_path / "a.csv"
    assert main(["predict", str(run), "--file", str(file)]) == 2
    assert "nothing is missing in the data: name what to predict with --target" in capsys.readouterr().err
    small = ["--epochs", "1", "--latent-dim", "2", "--hidden", "8", "--no-figure", "--out", str(tmp_path / "run")]
    assert main(["train", "mvae", "--missing", "label=0.5", *small]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["missing"]["label"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--given", "sound"], "--given names sound: choose from image, label, word"),
        (["--target", "sound"], "--target names sound"),
        (["--target", "image", "label", "word"], "nothing is left to predict image, label, word from"),
        (["--given", "image", "--keep-samples"], "--keep-samples needs a .npz file"),
        (["--given", "image", "--data", "no-such"], "unknown data set 'no-such'"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(run, arguments, message, tmp_path, capsys):
    assert main(["predict", str(run), *arguments, "--file", str(tmp_path / "a.csv")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_the_ending_of_a_file_is_checked_before_anything_is_computed(run, capsys):
    for command in ("predict", "embed"):
        assert main([command, str(run), "--file", "a.txt"]) == 2
        assert "a.txt must end in .csv, .parquet, .npz" in capsys.readouterr().err
    assert main(["generate", str(run), "--given", "label", "--target", "image", "--file", "a.gif"]) == 2
    assert "a.gif must end in .pdf, .png or .svg" in capsys.readouterr().err


def test_embeddings_as_a_table_and_as_arrays(run, tmp_path):
    assert main(["embed", str(run), "--given", "image", "--file", str(tmp_path / "z.csv")]) == 0
    assert main(["embed", str(run), "--given", "image", "--part", "all", "--file", str(tmp_path / "z.npz")]) == 0
    rows, arrays = read(tmp_path / "z.csv"), np.load(tmp_path / "z.npz")
    x, _ = load_dataset("digits").test.select(["image"]).rows(torch.arange(300))
    z = embed(load(run).guide, x, ["image"]).numpy()
    assert np.allclose([[float(row[f"z{i}"]) for i in range(4)] for row in rows], z, rtol=1e-4, atol=1e-5)
    assert [int(row["class"]) for row in rows] == load_dataset("digits").test.labels.tolist()
    assert arrays["z"].shape == (1797, 4) and list(dict.fromkeys(arrays["part"])) == ["train", "validation", "test"]
    assert np.allclose(arrays["z"][arrays["part"] == "test"], z, atol=1e-6)


def test_summaries_of_numbers_classes_and_texts():
    numbers = torch.arange(5.0)[:, None, None].expand(5, 1, 2)
    summary = summarize_samples(
        numbers, Modality("age", (2,), "vector", "normal", scaling=Scaling((1.0, 1.0), (2.0, 2.0))), [0.25]
    )
    assert {name: value.tolist() for name, value in summary.items()} == {
        "mean": [[5.0, 5.0]],
        "sd": [[pytest.approx(2 * 2**0.5)] * 2],
        "q25": [[3.0, 3.0]],
    }
    angles = torch.tensor([3.0, -3.0])[:, None, None]
    wind = Modality("wind", (1,), "angles", "von_mises")
    summary = summarize_samples(angles, wind, [0.5])
    assert abs(summary["mean"].item()) == pytest.approx(math.pi) and summary["sd"].item() == pytest.approx(
        0.14, abs=0.01
    )
    classes = Modality("color", (), "label", "categorical", 2, class_names=("red", "blue"))
    summary = summarize_samples(torch.tensor([[0, 1], [1, 1], [1, 1], [1, 1]]), classes, [])
    columns = columns_of(summary, classes)
    assert columns["color"].tolist() == ["blue", "blue"] and columns["color p(red)"].tolist() == [0.25, 0.0]
    columns = columns_of(only_missing(summary, np.array([True, False]), classes), classes)
    assert columns["color"].tolist() == ["blue", ""] and np.isnan(columns["color p(red)"][1])
    text = Modality("word", (2,), "text", "categorical", 3, alphabet=" ab")
    summary = summarize_samples(torch.tensor([[[1, 2]], [[1, 2]], [[2, 0]]]), text, [])
    columns = columns_of(summary, text)
    assert columns["word"].tolist() == ["ab"] and columns["word probability"] == [pytest.approx(2 / 3)]
    summary = summarize_samples(torch.tensor([3.1, -3.1, 3.0, 3.0])[:, None, None], wind, [0.0, 1.0])
    assert summary["q0"].item() == pytest.approx(3.0, abs=0.01) and summary["q100"].item() == pytest.approx(
        -3.1, abs=0.01
    )
    wide = Modality("genes", (3000,), "vector", "normal")
    with pytest.raises(ValueError, match="'genes' needs 9,000 columns: write a .npz file"):
        columns_of(summarize_samples(torch.zeros(2, 1, 3000), wide, [0.5]), wide)
