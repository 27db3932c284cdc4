"""Data in tables: data frames of several libraries, files, new rows for a trained model, single-cell formats."""

import csv
import importlib.util

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from multipyro.data import from_anndata, from_table, load_examples

ROWS = 120
SPECS = {
    "labs": {"columns": ["hb", "weight"]},
    "sex": {"column": "sex"},
    "stage": {"column": "stage", "kind": "ordinal", "classes": ["I", "II", "III"]},
    "visits": {"column": "visits", "kind": "counts"},
    "note": {"column": "note", "kind": "text", "length": 6},
}


@pytest.fixture(scope="module")
def frame():
    """A table of a clinic: numbers with holes, classes, counts and notes, patients with several rows each."""
    generator = np.random.default_rng(0)
    hemoglobin = generator.normal(13, 2, ROWS)
    hemoglobin[::4] = np.nan
    weight = generator.normal(3_000, 500, ROWS)
    weight[::6] = np.nan
    return pandas.DataFrame(
        {
            "hb": hemoglobin,
            "weight": weight,
            "sex": [None if row % 10 == 0 else "fm"[row % 2] for row in range(ROWS)],
            "stage": [("III", "I", "II")[row % 3] for row in range(ROWS)],
            "visits": generator.poisson(4, ROWS),
            "note": [f"case {row % 7} is stable." for row in range(ROWS)],
            "patient": [f"p{row // 3}" for row in range(ROWS)],
        },
        index=[f"row {row}" for row in range(ROWS)],
    )


def test_a_table_becomes_modalities(frame):
    splits = from_table(frame, SPECS, labels="stage", groups="patient")
    train = splits.train
    assert {name: modality.kind for name, modality in train.modalities.items()} == {
        "labs": "vector",
        "sex": "label",
        "stage": "ordinal",
        "visits": "counts",
        "note": "text",
    }
    rows = frame.loc[train.ids]
    # single holes stay, an example without any number lacks the modality
    numbers = torch.tensor(rows[["hb", "weight"]].to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(train.modalities["labs"].to_units(train.x["labs"]), numbers, equal_nan=True)
    assert torch.equal(train.observed["labs"], ~numbers.isnan().all(1))
    # both columns are of a size that a network can learn from
    scaled = train.x["labs"]
    torch.testing.assert_close(scaled.nanmean(0), torch.zeros(2), atol=1e-4, rtol=0)
    assert train.observed["sex"].tolist() == rows["sex"].notna().tolist()
    assert train.modalities["stage"].decode(train.x["stage"]) == rows["stage"].tolist()
    assert train.x["visits"][:, 0].tolist() == rows["visits"].tolist()
    assert train.modalities["note"].decode(train.x["note"])[0] == rows["note"].iloc[0].replace(".", " .")
    patients = [set(frame.loc[getattr(splits, name).ids, "patient"]) for name in splits.NAMES]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])


def test_columns_are_modalities_by_default(frame):
    splits = from_table(frame.drop(columns="note"), labels="stage", ids="patient")
    assert list(splits.train.modalities) == ["hb", "weight", "sex", "visits"]
    assert splits.train.modalities["visits"].kind == "label"  # whole numbers below 20: a hint says so
    assert 'visits: whole numbers; declare kind "ordinal"' in splits.describe()
    assert set(splits.train.ids) <= set(frame["patient"])


def test_ordered_categories_are_ordinal(frame):
    stage = pandas.Categorical(frame["stage"], categories=["III", "I", "II", "IV"], ordered=True)
    train = from_table({"stage": pandas.Series(stage), "hb": frame["hb"].to_numpy()}).train
    assert train.modalities["stage"].kind == "ordinal"
    assert train.modalities["stage"].class_names == ("III", "I", "II", "IV")


@pytest.mark.parametrize("kind", ["csv", "tsv", "dict", "polars", "pyarrow", "parquet"])
def test_tables_of_all_kinds_are_read_alike(frame, tmp_path, kind):
    plain = frame.reset_index(drop=True)
    expected = from_table(plain, SPECS)
    if kind in ("polars", "pyarrow", "parquet"):
        pytest.importorskip("pyarrow" if kind == "parquet" else kind)
    match kind:
        case "csv" | "tsv":
            table = tmp_path / f"clinic.{kind}"
            plain.to_csv(table, index=False, sep="," if kind == "csv" else "\t")
        case "dict":
            table = plain.to_dict("list")
        case "polars":
            table = importlib.import_module("polars").from_pandas(plain)
        case "pyarrow":
            table = importlib.import_module("pyarrow").Table.from_pandas(plain)
        case "parquet":
            table = tmp_path / "clinic.parquet"
            plain.to_parquet(table)
    splits = from_table(table, SPECS)
    for name in splits.NAMES:
        found, wanted = getattr(splits, name), getattr(expected, name)
        assert dict(found.modalities) == dict(wanted.modalities)
        assert found.ids.tolist() == wanted.ids.tolist()
        assert all(torch.allclose(found.x[m].float(), wanted.x[m].float(), equal_nan=True) for m in found.x)


def test_new_rows_are_read_by_the_names_of_columns_and_classes(frame):
    trained = from_table(frame, SPECS, labels="stage").train
    new = frame.iloc[[5, 3, 1]].drop(columns=["note"])
    data = load_examples(new[new.columns[::-1]], trained.modalities, labels="stage", label_names=trained.label_names)
    assert list(data.modalities) == ["labs", "sex", "stage", "visits"]
    assert data.ids.tolist() == ["row 5", "row 3", "row 1"]
    # classes have the ids of the training data, though one of them is not there
    assert data.modalities["stage"].decode(data.x["stage"]) == new["stage"].tolist()
    assert [trained.label_names[i] for i in data.labels] == new["stage"].tolist()
    numbers = torch.tensor(new[["hb", "weight"]].to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(data.modalities["labs"].to_units(data.x["labs"]), numbers, equal_nan=True)
    notes = load_examples({"note": ["case 2 is worse."]}, trained.modalities)
    assert notes.modalities["note"].decode(notes.x["note"]) == ["case 2 is <unk> ."]


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "a new class": (
            lambda frame: frame.assign(stage="IV"),
            r"modalities.stage.column has the unknown class 'IV' in row 0 of the table: the classes are \['I', 'II'",
        ),
        "a column less": (
            lambda frame: frame.drop(columns="hb"),
            "only some columns of modality 'labs': 1 are missing .first: 'hb'",
        ),
        "no column": (lambda frame: frame[["patient"]], "has none of the columns"),
        "a word in place of a number": (lambda frame: frame.assign(hb="high"), "must be a column of numbers"),
    }.values(),
)
def test_new_rows_that_do_not_fit_are_refused_by_name(frame, change, message):
    trained = from_table(frame, SPECS).train.modalities
    with pytest.raises(ValueError, match=message):
        load_examples(change(frame), trained)


def test_a_model_without_missing_entries_takes_incomplete_rows_as_missing(frame):
    complete = frame.dropna(subset=["hb", "weight"])
    trained = from_table(complete, {"labs": SPECS["labs"], "visits": SPECS["visits"]}).train.modalities
    assert not trained["labs"].missing_entries
    data = load_examples(frame, trained)
    assert data.observed["labs"].tolist() == frame[["hb", "weight"]].notna().all(axis=1).tolist()


def test_new_images_are_resized_as_those_of_the_training_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with (tmp_path / "birds.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file"])
        for row in range(20):
            Image.new("RGB", (9, 12), (10 * row, 0, 0)).save(tmp_path / f"{row}.png")
            table.writerow([f"{row}.png"])
    trained = from_table(tmp_path / "birds.csv", {"image": {"column": "file", "size": [4, 6]}})
    assert trained.train.modalities["image"].shape == (3, 4, 6)
    (tmp_path / "new.csv").write_text("file\n3.png\n")
    data = load_examples(tmp_path / "new.csv", trained.train.modalities)
    x, _ = data.rows(torch.tensor([0]))
    assert x["image"].shape == (1, 3, 4, 6) and x["image"][0, 0].unique().item() == pytest.approx(30 / 255)
    assert data.name == "new"


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        (3, {}, "a table must be a pandas or polars DataFrame, .* got int"),
        ({}, {}, "the table has no columns"),
        ({"a": []}, {}, "the table has no rows"),
        ({"a": [1], "b": [1, 2]}, {}, "must have the same number of rows"),
        ({0: [1]}, {}, "names of columns must be strings, the table has 0"),
        ({"a": [1.5] * 20}, {"labels": "b"}, "labels names the column 'b': the table has"),
        ({"a": [1.5] * 20}, {"modalities": {"m": {"column": "b"}}}, "modalities.m.column names the column 'b'"),
        ({"a": [1.5] * 20}, {"modalities": {"m": {"colum": "a"}}}, "modalities.m has the unknown key colum"),
        ({"a": [1.5] * 20}, {"modalities": {"m/n": {"column": "a"}}}, "the name of a modality must have"),
        ({"a": ["low", "high"] * 10}, {"modalities": {"a": {"column": "a", "kind": "ordinal"}}}, "declare classes ="),
        ({"a": [1.5] * 20, "g": [None] + [1] * 19}, {"groups": "g"}, "every row needs a group, 1 cells of 'g' are"),
        ("missing.csv", {}, "there is no table missing.csv"),
    ],
)
def test_wrong_tables_are_named(table, settings, message):
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message):
        from_table(table, **settings)


def test_groups_must_agree_with_named_parts():
    table = {"a": [0.5] * 20, "part": ["train"] * 10 + ["validation"] * 5 + ["test"] * 5, "g": [1] * 20}
    with pytest.raises(ValueError, match="the group '1' is in more than one part of 'part'"):
        from_table(table, split="part", groups="g")


def test_weights_are_a_column():
    table = {"a": [0.5] * 20, "w": [1.0] * 10 + [0.0] * 10}
    train = from_table(table, weights="w").train
    assert train.weights.tolist() == [float(row < 10) for row in train.ids]
    drawn = torch.cat([index for index in train.batches(4, shuffle=True)._parts])
    assert (torch.from_numpy(train.ids)[drawn] < 10).all()


# anndata warns of pandas' options
unwarned = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def cells():
    """Cells with counts of genes, proteins in `obsm`, a type and a donor."""
    anndata = pytest.importorskip("anndata")
    generator = np.random.default_rng(1)
    names = [f"cell{i}" for i in range(60)]
    obs = pandas.DataFrame(
        {"type": generator.choice(["B", "T", "NK"], 60), "donor": [f"d{i % 9}" for i in range(60)]}, index=names
    )
    proteins = pandas.DataFrame(generator.normal(size=(60, 3)), index=names, columns=list("xyz"))
    genes = pandas.DataFrame(index=[f"g{i}" for i in range(7)])
    return anndata.AnnData(generator.poisson(2.0, (60, 7)).astype(np.float32), obs, genes, obsm={"protein": proteins})


@unwarned
def test_annotated_data(cells):
    places = {"rna": "X", "protein": "obsm/protein", "type": "obs/type"}
    splits = from_anndata(cells, places, exposures={"rna": "sum"}, labels="type", groups="donor")
    train = splits.train
    assert [train.modalities[name].kind for name in places] == ["counts", "vector", "label"]
    assert train.modalities["rna"].columns == tuple(cells.var_names)
    assert train.modalities["protein"].columns == ("x", "y", "z")
    part = cells[train.ids]
    assert np.array_equal(train.x["rna"].numpy(), np.asarray(part.X))
    np.testing.assert_allclose(train.x["protein"].numpy(), part.obsm["protein"].to_numpy(), rtol=1e-6)
    assert [train.label_names[i] for i in train.labels] == part.obs["type"].tolist()
    with pytest.raises(KeyError, match="'layers/raw' is not in the object"):
        from_anndata(cells, {"rna": "layers/raw"})
    with pytest.raises(TypeError, match="data must be an AnnData or MuData object, got dict"):
        from_anndata({})


@unwarned
def test_cells_that_one_assay_lacks(cells):
    anndata, mudata = pytest.importorskip("anndata"), pytest.importorskip("mudata")
    names = [f"cell{i}" for i in range(40, 80)]
    proteins = anndata.AnnData(np.full((40, 2), 0.5, np.float32), pandas.DataFrame(index=names))
    proteins.var_names = ["p0", "p1"]
    train = from_anndata(mudata.MuData({"rna": cells, "protein": proteins})).train
    numbers = np.array([int(name.removeprefix("cell")) for name in train.ids])
    assert train.observed["rna"].tolist() == (numbers < 60).tolist()
    assert train.observed["protein"].tolist() == (numbers >= 40).tolist()
