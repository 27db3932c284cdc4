"""User-defined tables: kinds of columns, missing cells, errors with their lines, texts of characters."""

import numpy as np
import pytest
import torch

from multipyro.data import from_tensors, load_toml
from multipyro.data.custom.tables import read_table
from multipyro.inference.recipes.networks import networks_for

ROWS = 60


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes a table of one column `a` (the first 40 rows train) and what is said of it; gives the description."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(cells, said=""):
        parts = ["train"] * 40 + ["validation"] * 10 + ["test"] * 10
        rows = "".join(f'"{cell}",{part}\n' for cell, part in zip(cells, parts, strict=True))
        (tmp_path / "t.csv").write_text(f"a,part\n{rows}", encoding="utf-8")
        text = f'table = "t.csv"\nsplit = "part"\n[modalities.a]\ncolumn = "a"\n{said}\n'
        (tmp_path / "t.toml").write_text(text)
        return tmp_path / "t.toml"

    return write


KINDS = {
    "fractions": ([i / 7 for i in range(ROWS)], "vector", "normal"),
    "few fractions": ([i % 2 + 0.5 for i in range(ROWS)], "vector", "normal"),
    "many whole numbers": (list(range(ROWS)), "vector", "normal"),
    "few whole numbers": ([i % 20 for i in range(ROWS)], "label", "categorical"),
    "whole numbers written as others": ([f"{i % 4}.0" for i in range(ROWS)], "label", "categorical"),
    "words": ([f"species {i % 19}" for i in range(ROWS)], "label", "categorical"),
    "identifiers": ([f"{i % 3}_1" for i in range(ROWS)], "label", "categorical"),
}


@pytest.mark.parametrize("cells, kind, likelihood", KINDS.values(), ids=KINDS)
def test_the_kind_of_a_column_is_inferred_from_its_cells(table, cells, kind, likelihood):
    found = load_toml(table(cells)).train.modalities["a"]
    assert (found.kind, found.likelihood) == (kind, likelihood)


def test_a_column_of_texts_is_a_label_only_if_declared(table):
    captions = [f"bird number {i} sings" for i in range(ROWS)]
    message = (
        r"modalities.a: the 40 training rows .* column 'a' have 40 different .* declare kind = \"text\", or \"label\""
    )
    with pytest.raises(ValueError, match=message):
        load_toml(table(captions))
    assert load_toml(table(captions, 'kind = "label"')).train.modalities["a"].num_classes == ROWS
    assert load_toml(table(captions, 'kind = "text"')).train.modalities["a"].shape == (4,)
    # 21 of 40 differ, then half of them
    assert load_toml(table([f"c{min(i, 19)}" for i in range(ROWS)])).train.modalities["a"].num_classes == 20
    with pytest.raises(ValueError, match="have 21 different"):
        load_toml(table([f"c{min(i, 20)}" for i in range(ROWS)]))


SCALING = {"vector": '\nscaling = "none"', "label": "", "text": ""}


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "-nan"])
@pytest.mark.parametrize("kind", ["vector", "label", "text"])
def test_missing_cells_are_masked(table, missing, kind):
    part = load_toml(
        table([missing if i % 5 == 0 else i % 3 for i in range(ROWS)], f'kind = "{kind}"{SCALING[kind]}')
    ).train
    assert part.observed["a"].tolist() == [i % 5 != 0 for i in range(40)]
    modality = part.modalities["a"]
    known = {"label": modality.class_names, "text": modality.vocabulary and modality.vocabulary[2:]}
    assert known.get(kind, ("0", "1", "2")) == ("0", "1", "2")
    held = part.x["a"][part.observed["a"]].flatten()
    first = {"vector": 0, "label": 0, "text": 2}[kind]
    assert held.tolist() == [first + i % 3 for i in range(40) if i % 5 != 0]


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e400", "1e39", "2,5", "1_0"])
def test_cells_that_are_not_numbers_are_named_with_their_line(table, cell):
    cells = [i / 7 for i in range(ROWS)]
    cells[43] = cell
    with pytest.raises(ValueError, match=rf"t.toml: modalities.a.*column 'a' of .*t.csv has '{cell}' on line 45"):
        load_toml(table(cells, 'kind = "vector"'))


def array_of(tmp_path, values, more=""):
    np.save(tmp_path / "values.npy", values)
    (tmp_path / "values.toml").write_text(f'[modalities.a]\nfile = "values.npy"\n{more}\n')
    return load_toml(tmp_path / "values.toml")


@pytest.mark.parametrize("mapped", [False, True])
def test_missing_entries_of_arrays_stay_and_empty_rows_are_masked(tmp_path, monkeypatch, mapped):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("multipyro.data.custom.kinds._CHUNK_BYTES", 80)
    if mapped:
        monkeypatch.setattr("multipyro.data.custom.mapped._MAPPED_BYTES", 0)
        monkeypatch.setattr("multipyro.data.custom.mapped._BYTES", 20)  # rows at a time
    values = np.arange(150.0).reshape(50, 3)
    values[::4, 1] = np.nan
    values[::5] = np.nan
    splits = array_of(tmp_path, values, 'scaling = "none"')
    assert splits.train.modalities["a"].missing_entries
    for part in (splits.train, splits.validation, splits.test):
        rows = torch.from_numpy(part.ids)
        observed = torch.ones(len(rows), dtype=torch.bool) if part.observed is None else part.observed["a"]
        assert torch.equal(observed, rows % 5 != 0)
        entries = torch.from_numpy(values[part.ids]).float()
        assert torch.equal(part.x["a"].nan_to_num(-1), entries.nan_to_num(-1))
        scaled = getattr(array_of(tmp_path, values), part.split)
        back = scaled.modalities["a"].to_units(scaled.x["a"])
        torch.testing.assert_close(back, entries, equal_nan=True)
    for wrong in (np.inf, 1e300):
        values[17, 2] = wrong
        with pytest.raises(ValueError, match=r"values.toml: modalities.a: row 17 of .*values.npy .* infinite"):
            array_of(tmp_path, values)


def test_arrays_of_one_number_a_row(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert array_of(tmp_path, np.arange(50.0) / 7).train.x["a"].shape == (40, 1)
    assert array_of(tmp_path, np.arange(50, dtype=np.uint8) % 4).train.modalities["a"].num_classes == 4
    with pytest.raises(ValueError, match="values.toml: modalities.a: modality 'a' has whole numbers from -1 to 48"):
        array_of(tmp_path, np.arange(50) - 1)


def test_texts_of_characters_come_back_as_they_were(table):
    texts = ["two  blanks", "Ein Übermut, oder?", "x", 'a ""quoted"" one', "ends with ∅"]
    part = load_toml(table([texts[i % 5] for i in range(ROWS)], 'kind = "text"\ntokens = "characters"')).train
    modality, plain = part.modalities["a"], [text.replace('""', '"') for text in texts]
    assert modality.vocabulary is None and modality.shape == (len(texts[1]),)
    assert modality.decode(part.x["a"][:4]) == plain[:4]
    assert modality.decode(modality.encode(plain[:4])) == plain[:4]
    assert torch.equal(modality.encode(plain[:4]), part.x["a"][:4])
    # what pads stands for nothing within a text
    assert modality.decode(part.x["a"][4:5]) == ["ends with \N{REPLACEMENT CHARACTER}"]


def test_unknown_characters_and_networks_of_texts(table):
    cells = ["red bird"] * 40 + ["red wolf"] * 20
    path = table(cells, 'kind = "text"\ntokens = "characters"\nlength = 8')
    splits = load_toml(path)
    unknown = "\N{REPLACEMENT CHARACTER}"
    assert splits.test.modalities["a"].decode(splits.test.x["a"][:1]) == [f"red {4 * unknown}"]
    assert networks_for(splits.train.modalities).architectures == {"a": "characters"}
    path.write_text(path.read_text().replace("length = 8", "length = 9"))
    assert networks_for(load_toml(path).train.modalities).architectures == {"a": "mlp"}


TABLES = {
    "empty": ("", "is empty: its first line must name the columns"),
    "blank": ("\n\n", "is empty: its first line must name the columns"),
    "header": ("a,b\n", r"has no rows, only the columns \['a', 'b'\]"),
    "twice": ("a,b,a\n1,2,3\n", r"columns of different names, got more than one called \['a'\]"),
    "blank lines": ("a,b\n\n1,2\n\n\n3\n", "2 cells in every row, .* the row on line 6 has 1"),
    "several lines": ('a,b\n"1\n1\n1",2\n"3\n3",4,5\n', "the row on line 5 has 3"),
    "open quote": ('a,b\n1,2\n"3,4\n', "is not a table .*, after line 2"),
}


@pytest.mark.parametrize("text, message", TABLES.values(), ids=TABLES)
def test_wrong_tables_are_named_with_their_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=f"t.csv .*{message}"):
        read_table(tmp_path / "t.csv")


def test_no_part_is_without_rows():
    x = {"a": torch.zeros(50, 2)}
    for split in ((0.9, 0.1, 0.0), (0.9, 0.1), (0.9, 0.2, -0.1), (float("nan"), 0.5, 0.5), ("a", 0.5, 0.5)):
        with pytest.raises(ValueError, match="three fractions above 0 that sum to 1"):
            from_tensors(x, split=split)
    with pytest.raises(ValueError, match="50 rows cannot be split .* a part would have no rows"):
        from_tensors(x, split=(0.99, 0.005, 0.005))
