"""Runs that are moved, exported, continued and fine-tuned, and new data that is read by what a run remembers."""

import csv
import json
import os
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from multipyro.data import from_tensors
from multipyro.data.storage.images import decode_images
from multipyro.inference import build, fit_recipe, load, networks_for
from multipyro.inference.cli.parser import main, parse
from multipyro.inference.cli.saved_runs import open_run

SMALL = ["--latent-dim", "2", "--hidden", "8", "--batch-size", "16", "--epochs", "1", "--no-figure"]
DESCRIPTION = """
table = "cells.csv"
ids = "cell"
labels = "sort"
[modalities.size]
columns = ["width", "height"]
[modalities.genes]
file = "genes.npy"
kind = "counts"
exposure = "sum"
[modalities.sort]
column = "sort"
[modalities.photo]
column = "photo"
size = [4, 4]
channels = 1
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with data, some of it missing, and a run on it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data" / "photos").mkdir(parents=True)
    generator = np.random.default_rng(0)
    np.save(folder / "data" / "genes.npy", generator.poisson(3, (60, 5)) + 1)
    with (folder / "data" / "cells.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["cell", "width", "height", "sort", "photo"])
        for row in range(60):
            photo = f"photos/{row}.png" if row % 4 else ""
            if photo:
                Image.new("L", (4, 4), 80 * (row % 3)).save(folder / "data" / photo)
            cells = [1000 + row, "" if row % 5 == 0 else 3 * row]
            table.writerow([f"c{row}", *cells, "abc"[row % 3] if row % 7 else "a", photo])
    (folder / "data" / "cells.toml").write_text(DESCRIPTION)
    assert (
        main(["train", "mvae", "--data", str(folder / "data" / "cells.toml"), "--out", str(folder / "run"), *SMALL])
        == 0
    )
    return folder


def rows_of(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def test_a_run_has_no_absolute_path_and_moves_with_its_data(project, tmp_path):
    for file in project.glob("run/*.json"):
        assert str(project) not in file.read_text()
    shutil.copytree(project, tmp_path / "elsewhere")
    run = tmp_path / "elsewhere" / "run"
    assert main(["evaluate", str(run), "--num-samples", "2"]) == 0
    assert main(["predict", str(run), "--file", str(tmp_path / "a.csv"), "--num-samples", "3"]) == 0
    assert main(["embed", str(run), "--file", str(tmp_path / "z.csv")]) == 0
    assert main(["figures", str(run), "--rows", "1"]) == 0
    assert str(project) not in (run / "metrics.json").read_text()


def test_data_that_was_moved_alone_is_known_by_its_content(project, tmp_path, capsys):
    shutil.copytree(project / "run", tmp_path / "run")
    shutil.copytree(project / "data", tmp_path / "a" / "b")
    assert main(["embed", str(tmp_path / "run"), "--file", str(tmp_path / "z.csv")]) == 2
    error = capsys.readouterr().err
    assert "the data of" in error and "pass --data FILE" in error and error.count("\n") == 1
    data = ["--data", str(tmp_path / "a" / "b" / "cells.toml")]
    assert main(["embed", str(tmp_path / "run"), *data, "--file", str(tmp_path / "z.csv")]) == 0
    assert {row["part"] for row in rows_of(tmp_path / "z.csv")} == {"test"}
    assert not open_run(parse(["embed", str(tmp_path / "run"), *data, "--file", "z.csv"])).is_other


def test_only_missing_values_are_predicted_in_their_units(project, tmp_path):
    arguments = ["predict", str(project / "run"), "--part", "all", "--num-samples", "20"]
    assert main([*arguments, "--file", str(tmp_path / "a.npz")]) == 0
    arrays = np.load(tmp_path / "a.npz")
    row = {cell: number for number, cell in enumerate(arrays["id"])}
    assert set(row) == {f"c{n}" for n in range(60) if n % 5 == 0 or n % 4 == 0}
    assert np.isnan(arrays["size/mean"][row["c5"]]).tolist() == [True, False]
    assert -500 < arrays["size/mean"][row["c5"], 1] < 700  # heights are 0 to 177
    assert np.isnan(arrays["size/mean"][row["c4"]]).all() and not np.isnan(arrays["photo/mean"][row["c4"]]).any()
    assert np.isnan(arrays["photo/mean"][row["c5"]]).all()


def test_images_are_written_to_a_folder(project, tmp_path, capsys):
    out = tmp_path / "imputed"
    assert main(["predict", str(project / "run"), "--part", "all", "--num-samples", "5", "--file", str(out)]) == 0
    assert {file.stem for file in (out / "photo").iterdir()} == {f"c{n}" for n in range(0, 60, 4)}
    assert decode_images([out / "photo" / "c4.png"], ["c4"], (1, 4, 4)).shape == (1, 1, 4, 4)
    filled = {row["id"]: row["height mean"] for row in rows_of(out / "predictions.csv")}
    assert filled["c5"] and not filled["c4"]
    capsys.readouterr()
    assert main(["predict", str(project / "run"), "--file", str(out)]) == 2
    assert "is a folder with files" in capsys.readouterr().err


def test_tables_in_parquet(project, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for command in ("predict", "embed"):
        assert main([command, str(project / "run"), "--part", "all", "--file", str(tmp_path / "a.parquet")]) == 0
        table = parquet.read_table(tmp_path / "a.parquet").to_pydict()
        assert table["id"][0].startswith("c") and any(isinstance(values[0], float) for values in table.values())


def test_new_data_in_any_file_is_mapped_by_names(project, tmp_path):
    """A table without one class, its columns in another order, and arrays: the same codes as the run's own data has."""
    saved = open_run(parse(["embed", str(project / "run"), "--file", "z.csv"]))
    run, known = ["embed", str(project / "run"), "--given", "size", "sort"], saved.recipe.networks.modalities
    rows = [n for n in range(60) if n % 7 and "abc"[n % 3] == "c"][:6]
    lines = ["sort,height,cell,width", *(f"c,{'' if n % 5 == 0 else 3 * n},new{n},{1000 + n}" for n in rows)]
    (tmp_path / "new.csv").write_text("\n".join(lines))
    assert main([*run, "--data", str(tmp_path / "new.csv"), "--file", str(tmp_path / "z.csv")]) == 0
    assert main([*run, "--part", "all", "--file", str(tmp_path / "all.csv")]) == 0
    own = {row["id"]: row for row in rows_of(tmp_path / "all.csv")}
    new = rows_of(tmp_path / "z.csv")
    assert [row["id"] for row in new] == [f"new{n}" for n in rows] and {row["part"] for row in new} == {"test"}
    for row, n in zip(new, rows, strict=True):
        assert [row["z0"], row["class"]] == [own[f"c{n}"]["z0"], "2"]
    assert known["sort"].class_names == ("a", "b", "c")
    genes = np.load(project / "data" / "genes.npy")[:7]
    np.savez(tmp_path / "new.npz", genes=genes, ids=[f"n{n}" for n in range(7)])
    embed = ["embed", str(project / "run"), "--given", "genes"]
    assert main([*embed, "--data", str(tmp_path / "new.npz"), "--file", str(tmp_path / "z.csv")]) == 0
    assert main([*embed, "--part", "all", "--file", str(tmp_path / "all.csv")]) == 0
    own = {row["id"]: row for row in rows_of(tmp_path / "all.csv")}
    assert [row["z0"] for row in rows_of(tmp_path / "z.csv")] == [own[f"c{n}"]["z0"] for n in range(7)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sort,width,height\nd,1,2\n", "unknown class 'd'"),
        ("width,sort\n1,a\n", "only some columns of modality 'size': 1 are missing (first: 'height')"),
        ("a,b\n1,2\n", "has none of the columns"),
    ],
)
def test_new_data_that_means_something_else_is_refused_by_name(project, text, message, tmp_path, capsys):
    (tmp_path / "new.csv").write_text(text)
    data = ["--data", str(tmp_path / "new.csv"), "--file", str(tmp_path / "z.csv")]
    assert main(["embed", str(project / "run"), *data]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_new_data_is_evaluated_with_the_classifiers_of_the_old(project, tmp_path):
    shutil.copytree(project, tmp_path / "a")
    lines = (tmp_path / "a" / "data" / "cells.csv").read_text().splitlines()
    (tmp_path / "new.csv").write_text("\n".join([lines[0].replace("photo", "file"), *lines[1:9]]))
    assert (
        main(["evaluate", str(tmp_path / "a" / "run"), "--data", str(tmp_path / "new.csv"), "--num-samples", "2"]) == 0
    )
    metrics = json.loads((tmp_path / "a" / "run" / "metrics.json").read_text())
    assert metrics["data"]["rows"]["test"] == 8 and metrics["coherence"]["conditional"]["size->sort"] is not None


def test_what_a_killed_process_left_is_removed_when_a_run_is_opened(project, tmp_path):
    shutil.copytree(project, tmp_path / "a")
    left = [tmp_path / "a" / "run" / f".a.{'0' * 16}.part", *(tmp_path / "a" / "run" / "checkpoints").iterdir()]
    left[1] = left[1] / f".best.ckpt.{'1' * 16}.part"
    for file in left:
        file.write_bytes(b"half")
        os.utime(file, (0, 0))
    assert main(["embed", str(tmp_path / "a" / "run"), "--file", str(tmp_path / "z.csv")]) == 0
    assert not any(file.exists() for file in left)


def test_an_exported_run_is_used_without_its_data(project, tmp_path, capsys):
    pytest.importorskip("safetensors")
    assert main(["export", str(project / "run"), "--out", str(tmp_path / "cells.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "cells.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "cells"
    card = (folder / "README.md").read_text()
    assert (
        "mvae on cells" in card
        and "classes a, b, c" in card
        and "data/cells" not in card + (folder / "run.json").read_text()
    )
    first, again = load(project / "run").model.state_dict(), load(folder).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    new = ["--data", str(project / "data" / "cells.csv"), "--file", str(tmp_path / "a.csv"), "--num-samples", "2"]
    assert main(["predict", str(folder), *new]) == 0
    capsys.readouterr()
    assert main(["embed", str(folder), "--file", str(tmp_path / "z.csv")]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["train", "--out", str(folder), "--resume", "--epochs", "3"]) == 2
    assert main(["export", str(project / "run"), "--out", str(tmp_path / "cells.zip")]) == 2
    assert "already exists" in capsys.readouterr().err


DAMAGES = {
    "guide_class": lambda name: "X; touch pwned",
    "data": lambda data: {},
    "stages": lambda stages: [{"name": stage["name"], "epochs": stage["epochs"]} for stage in stages],
}


@pytest.mark.parametrize("part", DAMAGES)
def test_nothing_of_a_damaged_run_is_exported(project, tmp_path, capsys, part):
    pytest.importorskip("safetensors")
    shutil.copytree(project / "run", tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    content[part] = DAMAGES[part](content[part])
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "exported")]) == 2
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()


def test_names_in_a_model_card_are_no_markup(tmp_path):
    pytest.importorskip("safetensors")
    name, word = "<img src=x onerror=y> | [a](b) `c` &lt; *d*", "<script>alert(1)</script>|_e_"
    splits = from_tensors({name: torch.randn(40, 2), "sort": ["x", word] * 20}, name="# <b>data</b>")
    recipe = build("mvae", networks_for(splits.train.modalities, (4,)), latent_dim=2)
    fit_recipe(recipe, splits, epochs=1, out=tmp_path / "run", progress=False)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "card")]) == 0
    card = (tmp_path / "card" / "README.md").read_text()
    outside = re.sub(r"(`+).*?\1|^---.*?^---", "", card, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"(?<!\\)[<&\[]", outside) and "script" in outside and "onerror" in outside
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows[:4]} == {6}


def test_a_run_that_is_continued_by_its_folder_alone_keeps_its_epochs(project):
    assert parse(["train", "--resume", "--out", str(project / "run")]).epochs == 1


def test_a_finished_run_gets_more_epochs_by_its_folder_alone(project, tmp_path):
    shutil.copytree(project, tmp_path / "a")
    run = tmp_path / "a" / "run"
    assert main(["train", "--resume", "--out", str(run), "--epochs", "3", "--no-figure"]) == 0
    assert len((run / "log.csv").read_text().splitlines()) == 4
    config = json.loads((run / "run.json").read_text())
    assert (
        config["stages"][0]["epochs"] == 3
        and config["options"] == json.loads((project / "run" / "run.json").read_text())["options"]
    )


def test_fine_tuning_takes_parameters_over_and_a_new_modality_starts_anew(project, tmp_path, capsys):
    shutil.copytree(project / "data", tmp_path / "data")
    file = tmp_path / "data" / "cells.toml"
    lines = (tmp_path / "data" / "cells.csv").read_text().splitlines()
    (tmp_path / "data" / "cells.csv").write_text(
        "\n".join(f"{line},{n if n else 'age'}" for n, line in enumerate(lines))
    )
    file.write_text(f'{DESCRIPTION}[modalities.age]\ncolumns = ["age"]\n')
    capsys.readouterr()
    tuned = ["train", "--init-from", str(project / "run"), "--data", str(file), "--out", str(tmp_path / "run")]
    assert main([*tuned, "--lr", "1e-12", "--batch-size", "16", "--epochs", "1", "--no-figure"]) == 0
    assert "likelihoods.age" in capsys.readouterr().out
    before, after = (load(run).model.state_dict() for run in (project / "run", tmp_path / "run"))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before) and len(after) > len(before)
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    assert config["method"] == "mvae" and config["config"]["init_from"]["tensors"] > 10
    shift = config["modalities"]["size"]["scaling"]["shift"]
    assert shift == json.loads((project / "run" / "run.json").read_text())["modalities"]["size"]["scaling"]["shift"]
    assert main(["train", "mopoe", *tuned[1:-1], str(tmp_path / "other"), "--no-figure"]) == 2
    assert "was trained by mvae, not by mopoe" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_incomplete_examples_are_left_out_where_a_method_needs_complete_ones(project, tmp_path, capsys):
    data = ["--data", str(project / "data" / "cells.toml"), "--out", str(tmp_path / "run"), *SMALL]
    assert main(["train", "telbo", *data]) == 2
    assert "--drop-incomplete" in capsys.readouterr().err
    assert main(["train", "telbo", *data, "--drop-incomplete"]) == 0
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    assert config["data"]["size"]["train"] < 48 and config["config"] == {"drop_incomplete": True}
    assert (
        main(["embed", str(tmp_path / "run"), "--part", "test", "--given", "size", "--file", str(tmp_path / "z.csv")])
        == 0
    )


def test_a_table_and_arrays_are_trained_on_without_a_description(project, tmp_path, capsys):
    table = ["--data", str(project / "data" / "cells.csv"), "--data-option", "ids=cell", "--data-option", "labels=sort"]
    small = [*SMALL, "--modalities", "width", "height", "--out", str(tmp_path / "table")]
    assert main(["train", "mvae", *table, *small]) == 0
    data = json.loads((tmp_path / "table" / "run.json").read_text())["data"]
    assert data["options"]["ids"] == "cell" and data["label_names"] == ["a", "b", "c"]
    assert main(["embed", str(tmp_path / "table"), "--file", str(tmp_path / "z.csv")]) == 0
    assert rows_of(tmp_path / "z.csv")[0]["id"].startswith("c")
    genes = np.load(project / "data" / "genes.npy")
    np.savez(tmp_path / "a.npz", genes=genes, width=np.arange(60.0))
    arrays = ["--data", str(tmp_path / "a.npz"), "--data-option", "kinds=genes=counts", "--exposure", "genes"]
    assert main(["train", "mvae", *arrays, *SMALL, "--out", str(tmp_path / "arrays")]) == 0
    config = json.loads((tmp_path / "arrays" / "run.json").read_text())
    assert config["modalities"]["genes"]["exposure"] == "sum" and config["modalities"]["width"]["scaling"]
    assert main(["evaluate", str(tmp_path / "arrays"), "--num-samples", "2"]) == 0
    assert main(["train", "mvae", *arrays[:-1], "width", *SMALL, "--out", str(tmp_path / "b")]) == 2
    assert "kind 'counts', which are ['genes'], got 'width'" in capsys.readouterr().err
