"""The command line judges a run on the very data it was trained and chosen on, or not at all."""

import json

import fake_mnist
import pytest
import torch
from PIL import Image
from toy import toy_data, toy_networks

from multipyro.data import Splits, load_dataset
from multipyro.data.sets import load_mnist
from multipyro.inference import build, fit_recipe, networks_for
from multipyro.inference.cli import commands
from multipyro.inference.cli.parser import main, parser

SETTINGS = {"epochs": 1, "batch_size": 64, "progress": False}


def found(run, *arguments):
    """The data that `multipyro evaluate` would judge a run on."""
    return commands._loaded(parser().parse_args(["evaluate", str(run), *arguments]))[1]


@pytest.fixture
def gray(monkeypatch, tmp_path):
    """The folder of a small MNIST, and a run on its gray levels."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    files = fake_mnist.contents()
    fake_mnist.expect(monkeypatch, files)
    fake_mnist.write_mnist(tmp_path / "data", files, packed=False)
    splits = load_dataset("mnist", tmp_path / "data", binarize="none", word=True)
    recipe = build("mvae", networks_for(splits.train.modalities, (8,)), 2)
    fit_recipe(recipe, splits, out=tmp_path / "run", **SETTINGS)
    return tmp_path / "run", ("--data-root", str(tmp_path / "data")), splits


def changed(run, **data):
    config = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**config, "data": {**config["data"], **data}}))


def test_data_comes_with_the_options_it_was_loaded_with(gray):
    run, root, splits = gray
    options = {"seed": 0, "binarize": "none", "word": True, "num_rows": None}
    assert json.loads((run / "run.json").read_text())["data"]["options"] == options
    again = found(run, *root)
    assert again.test.modalities == splits.test.modalities
    assert [getattr(again, name).content_hash for name in again.NAMES] == [
        getattr(splits, name).content_hash for name in splits.NAMES
    ]


def test_other_pixels_are_refused_where_the_stored_values_are_the_same(gray, capsys):
    run, root, splits = gray
    drawn = load_mnist(root[1], word=True)
    assert drawn.train.content_hash == splits.train.content_hash
    changed(run, options={"binarize": "dynamic", "word": True})
    assert main(["evaluate", str(run), *root]) == 2
    assert "other rows (validation_hash, test_hash)" in capsys.readouterr().err
    # a run of an earlier version keeps neither options nor further hashes
    hashes = {f"{name}_hash": getattr(drawn, name).content_hash for name in ("validation", "test")}
    changed(run, options=None, **hashes)
    with pytest.raises(ValueError, match="rows of another description of mnist"):
        found(run, *root)


@pytest.mark.parametrize("name", ["content_hash", "validation_hash", "test_hash"])
def test_every_part_must_be_the_same(gray, name):
    run, root, _ = gray
    changed(run, **{name: "0" * 64})
    with pytest.raises(ValueError, match=f"other rows .{name}. of mnist"):
        found(run, *root)


@pytest.mark.parametrize("method", ["vae", "mvae"])
def test_thinned_rows_are_found_again_whatever_the_method_takes(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--epochs", "1", "--latent-dim", "2", "--batch-size", "256"]
    arguments = parser().parse_args(["train", method, "--missing", "image=0.6,label=0.7", *small])
    splits = commands._load("digits", None, None)
    commands._fit(arguments, commands._work(arguments, method, splits, 3), tmp_path / "run", False)
    assert found(tmp_path / "run").train.observed is None
    changed(tmp_path / "run", content_hash=splits.train.select(splits.train.modalities).content_hash)
    with pytest.raises(ValueError, match="other rows"):
        found(tmp_path / "run")


def test_complete_rows_are_those_of_the_modalities_that_a_method_takes():
    splits = commands._load("digits", None, None)
    arguments = parser().parse_args(["train", "cvae", "--missing", "word=0.5"])
    assert commands._work(arguments, "cvae", splits, 0).recipe.name == "cvae"
    arguments = parser().parse_args(["train", "cvae", "--missing", "label=0.5"])
    with pytest.raises(ValueError, match="cvae needs complete rows"):
        commands._work(arguments, "cvae", splits, 0)


def test_data_of_ones_own_is_named(tmp_path, capsys):
    for name, data in (("rows", toy_data()), ("batches", list(toy_data().batches(16)))):
        with torch.random.fork_rng():
            recipe = build("mvae", toy_networks(), 2)
        fit_recipe(recipe, data, out=tmp_path / name, **SETTINGS)
        assert main(["evaluate", str(tmp_path / name)]) == 2
        assert "of one's own: use multipyro.inference.load" in capsys.readouterr().err
    assert toy_data().options is None


def test_options_stay_with_the_rows():
    splits = load_dataset("digits", seed=3)
    assert dict(splits.test.options) == {"seed": 3}
    assert isinstance(splits, Splits) and splits.head(5).select(["label"]).train.with_split("test").options == {
        "seed": 3
    }


@pytest.fixture
def described(tmp_path, monkeypatch):
    """A description of sixty rows of a gray picture, its class and a caption."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    lines = ["file,sort,caption"]
    for row in range(60):
        Image.new("L", (6, 6), 80 * (row % 3)).save(tmp_path / "mine" / f"{row}.png")
        lines.append(f"{row}.png,{'abc'[row % 3]},this is {'abc'[row % 3]}")
    (tmp_path / "mine" / "rows.csv").write_text("\n".join(lines))
    (tmp_path / "mine" / "my.toml").write_text(
        'table = "rows.csv"\nlabels = "sort"\n[modalities.picture]\ncolumn = "file"\nsize = [6, 6]\nchannels = 1\n'
        '[modalities.sort]\ncolumn = "sort"\n[modalities.caption]\ncolumn = "caption"\nkind = "text"\n'
    )
    return tmp_path / "mine" / "my.toml"


def test_a_described_data_set_is_trained_judged_and_drawn(described, tmp_path, capsys):
    run = tmp_path / "run"
    small = ["--epochs", "2", "--latent-dim", "2", "--batch-size", "16", "--out", str(run)]
    assert main(["train", "mopoe", "--data", str(described), *small]) == 0
    assert (run / "picture-to-sort+caption.png").is_file()
    assert main(["evaluate", str(run), "--particles", "5"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["data"]["name"] == "my" and metrics["coherence"]["conditional"]["picture->sort"]["value"] >= 0
    assert (
        main(["generate", str(run), "--given", "sort", "--target", "picture", "--file", str(tmp_path / "a.png")]) == 0
    )
    Image.new("L", (6, 6), 7).save(described.parent / "0.png")
    assert main(["evaluate", str(run), "--particles", "5"]) == 2
    assert "other rows" in capsys.readouterr().err


def test_a_data_set_takes_its_options_from_the_command_line(tmp_path, monkeypatch, capsys):
    files = fake_mnist.contents()
    fake_mnist.no_data(monkeypatch, tmp_path)
    fake_mnist.expect(monkeypatch, files)
    fake_mnist.write_mnist(tmp_path / "data", files, packed=False)
    place = ["--data", "mnist", "--data-root", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--epochs", "1"]
    options = ["--data-option", "binarize=fixed", "--data-option", "num_rows=7"]
    assert main(["train", "mvae", *place, *options]) == 0
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert data["rows"] == 7 and data["options"]["binarize"] == "fixed"
    assert main(["train", "mvae", *place, "--data-option", "rows=7"]) == 2
    assert "mnist has no option rows: it has binarize, word, num_rows" in capsys.readouterr().err
    assert main(["train", "mvae", *place, "--data-option", "rows"]) == 2
    assert "--data-option must be KEY=VALUE" in capsys.readouterr().err
