"""The command line evaluates a run on the very data it was trained and validated on, or on other data by name."""

import json

import fake_mnist
import pytest
import torch
from PIL import Image
from toy import toy_data, toy_networks

from multipyro.data import Splits, load_dataset
from multipyro.data.sets import load_mnist
from multipyro.inference import build, fit_recipe, networks_for
from multipyro.inference.cli.jobs import load_data, training_job
from multipyro.inference.cli.parser import main, parse
from multipyro.inference.cli.saved_runs import open_run

SETTINGS = {"epochs": 1, "batch_size": 64, "progress": False}


def data_of(run, *arguments):
    """The data that `multipyro evaluate` evaluates a run on."""
    return open_run(parse(["evaluate", str(run), *arguments])).splits


def job_of(method, *arguments, out=None):
    """What `multipyro train` trains."""
    parsed = parse(["train", method, *arguments])
    return training_job(parsed, method, load_data(parsed), 3, out)


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
    again = data_of(run, *root)
    assert again.test.modalities == splits.test.modalities
    assert [getattr(again, name).content_hash for name in again.NAMES] == [
        getattr(splits, name).content_hash for name in splits.NAMES
    ]


def test_other_pixels_are_refused_where_the_stored_values_are_the_same(gray, capsys):
    run, root, splits = gray
    binarized = load_mnist(root[1], word=True)
    assert binarized.train.content_hash == splits.train.content_hash
    changed(run, options={"binarize": "dynamic", "word": True})
    assert main(["evaluate", str(run), *root]) == 2
    assert "other examples (validation, test)" in capsys.readouterr().err


@pytest.mark.parametrize("name", Splits.NAMES)
def test_every_part_must_be_the_same(gray, name):
    run, root, splits = gray
    hashes = {part: getattr(splits, part).content_hash for part in Splits.NAMES}
    changed(run, content_hash={**hashes, name: "0" * 64})
    with pytest.raises(ValueError, match=f"other examples .{name}. of mnist"):
        data_of(run, *root)


@pytest.mark.parametrize("method", ["vae", "mvae"])
def test_incomplete_data_is_reproduced_whatever_modalities_the_method_takes(method, tmp_path):
    small = ["--epochs", "1", "--latent-dim", "2", "--batch-size", "256"]
    job_of(method, "--missing", "image=0.6,label=0.7", *small, out=tmp_path / "run").train()
    assert data_of(tmp_path / "run").train.observed is None
    changed(tmp_path / "run", content_hash={"train": load_dataset("digits").train.content_hash})
    with pytest.raises(ValueError, match="other examples"):
        data_of(tmp_path / "run")


def test_only_the_modalities_that_a_method_takes_must_be_complete():
    assert job_of("cvae", "--missing", "word=0.5").recipe.name == "cvae"
    with pytest.raises(ValueError, match="cvae needs complete examples"):
        job_of("cvae", "--missing", "label=0.5")


def test_user_defined_data_must_be_passed(tmp_path, capsys):
    for name, data in (("rows", toy_data()), ("batches", list(toy_data().batches(16)))):
        with torch.random.fork_rng():
            recipe = build("mvae", toy_networks(), 2)
        fit_recipe(recipe, data, out=tmp_path / name, **SETTINGS)
        assert main(["evaluate", str(tmp_path / name)]) == 2
        assert "user-defined" in capsys.readouterr().err
    assert toy_data().options is None


def test_options_stay_with_the_rows():
    splits = load_dataset("digits", seed=3)
    assert dict(splits.test.options) == {"seed": 3}
    assert isinstance(splits, Splits) and splits.head(5).select(["label"]).train.with_split("test").options == {
        "seed": 3
    }


@pytest.fixture
def described(tmp_path, monkeypatch):
    """A description of sixty examples of a gray image, its class and a caption."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    lines = ["file,sort,caption"]
    for row in range(60):
        Image.new("L", (6, 6), 80 * (row % 3)).save(tmp_path / "mine" / f"{row}.png")
        lines.append(f"{row}.png,{'abc'[row % 3]},this is {'abc'[row % 3]}")
    (tmp_path / "mine" / "rows.csv").write_text("\n".join(lines))
    (tmp_path / "mine" / "my.toml").write_text(
        'table = "rows.csv"\nlabels = "sort"\n[modalities.photo]\ncolumn = "file"\nsize = [6, 6]\nchannels = 1\n'
        '[modalities.sort]\ncolumn = "sort"\n[modalities.caption]\ncolumn = "caption"\nkind = "text"\n'
    )
    return tmp_path / "mine" / "my.toml"


def test_data_described_by_toml_by_every_command(described, tmp_path, capsys):
    run = tmp_path / "run"
    small = ["--epochs", "2", "--latent-dim", "2", "--batch-size", "16", "--out", str(run)]
    assert main(["train", "mopoe", "--data", str(described), *small]) == 0
    assert (run / "photo-to-sort+caption.png").is_file()
    assert main(["evaluate", str(run), "--num-samples", "5"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["data"]["name"] == "my" and metrics["coherence"]["conditional"]["photo->sort"]["value"] >= 0
    assert main(["generate", str(run), "--given", "sort", "--target", "photo", "--file", str(tmp_path / "a.png")]) == 0
    other = described.parent / "unlabeled.toml"
    other.write_text(described.read_text().replace('labels = "sort"\n', "").split("[modalities.sort]")[0])
    assert main(["predict", str(run), "--data", str(other), "--file", str(tmp_path / "a.csv")]) == 0
    header, *rows = (tmp_path / "a.csv").read_text().splitlines()
    assert header == "part,id,sort,sort p(a),sort p(b),sort p(c),caption,caption probability" and len(rows) == 60
    assert {row.split(",")[2] for row in rows} <= {"a", "b", "c"}
    assert main(["embed", str(run), "--data", str(other), "--file", str(tmp_path / "z.csv")]) == 0
    assert len((tmp_path / "z.csv").read_text().splitlines()) == 61
    lines = (described.parent / "rows.csv").read_text().splitlines()
    (described.parent / "few.csv").write_text("\n".join([lines[0], *lines[3::3]]))  # of one class, the last
    other.write_text(described.read_text().replace("rows.csv", "few.csv"))
    assert main(["predict", str(run), "--data", str(other), "--given", "photo", "--file", str(tmp_path / "a.csv")]) == 0
    assert (tmp_path / "a.csv").read_text().startswith("part,id,sort,sort p(a),sort p(b),sort p(c),")
    (described.parent / "few.csv").write_text("\n".join(lines).replace(",c,", ",d,"))
    assert main(["predict", str(run), "--data", str(other), "--given", "photo", "--file", str(tmp_path / "a.csv")]) == 2
    assert "'d'" in capsys.readouterr().err
    Image.new("L", (6, 6), 7).save(described.parent / "0.png")
    assert main(["evaluate", str(run), "--num-samples", "5"]) == 2
    assert "other examples" in capsys.readouterr().err


def test_a_data_set_takes_its_options_from_the_command_line(tmp_path, monkeypatch, capsys):
    files = fake_mnist.contents()
    fake_mnist.no_data(monkeypatch, tmp_path)
    fake_mnist.expect(monkeypatch, files)
    fake_mnist.write_mnist(tmp_path / "data", files, packed=False)
    place = ["--data", "mnist", "--data-root", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--epochs", "1"]
    options = ["--data-option", "binarize=fixed", "--data-option", "num_rows=7"]
    assert main(["train", "mvae", *place, *options]) == 0
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert data["size"]["train"] == 7 and data["options"]["binarize"] == "fixed"
    assert main(["train", "mvae", *place, "--data-option", "rows=7"]) == 2
    assert "mnist has no option rows: it has binarize, word, num_rows" in capsys.readouterr().err
    assert main(["train", "mvae", *place, "--data-option", "rows"]) == 2
    assert "--data-option: must be KEY=VALUE" in capsys.readouterr().err
