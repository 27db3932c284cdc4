"""Kinds of data in memory: inferred or declared, with units, missing entries, identifiers, groups and exposures."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse

from multipyro.data import KINDS, LIKELIHOODS, Modality, from_dataset, from_tensors, infer_modality
from multipyro.inference import networks_for

ROWS = 200


def only(values, **settings):
    """The description and the training data of one modality `m`."""
    splits = from_tensors({"m": values}, **settings)
    return splits.train.modalities["m"], splits.train


INFERRED = {
    "real numbers": (torch.randn(ROWS, 3), "vector", "normal", (3,)),
    "single numbers": (torch.randn(ROWS), "vector", "normal", (1,)),
    "flags": (torch.rand(ROWS, 3) > 0.5, "vector", "bernoulli", (3,)),
    "true and false": (torch.rand(ROWS) > 0.5, "label", "categorical", ()),
    "few classes": (torch.arange(ROWS) % 4, "label", "categorical", ()),
    "small integers": ((torch.arange(ROWS) % 4).to(torch.int32), "label", "categorical", ()),
    "color": (torch.rand(ROWS, 3, 4, 4), "image", "laplace", (3, 4, 4)),
    "gray bytes": ((torch.rand(ROWS, 4, 4) * 255).to(torch.uint8), "image", "continuous_bernoulli", (1, 4, 4)),
    "spectrum": (torch.randn(ROWS, 1, 9), "grid", "normal", (1, 9)),
    "spectrogram": (torch.randn(ROWS, 1, 5, 6), "grid", "normal", (1, 5, 6)),
    "volume": (torch.rand(ROWS, 1, 4, 4, 4), "grid", "normal", (1, 4, 4, 4)),
    "numpy": (np.random.default_rng(0).normal(size=(ROWS, 2)), "vector", "normal", (2,)),
    "sparse of torch": (torch.randn(ROWS, 2).to_sparse(), "vector", "normal", (2,)),
    "sparse of scipy": (sparse.csr_matrix(np.eye(ROWS, 3) * 0.5), "vector", "normal", (3,)),
    "words": (np.array(["x", "y"] * (ROWS // 2)), "label", "categorical", ()),
}


@pytest.mark.parametrize("values, kind, likelihood, shape", INFERRED.values(), ids=INFERRED)
def test_kinds_are_inferred(values, kind, likelihood, shape):
    modality, train = only(values)
    assert (modality.kind, modality.likelihood, modality.shape) == (kind, likelihood, shape)
    x, observed = train.rows(torch.arange(3))
    assert x["m"].shape == (3, *shape) and observed is None
    assert x["m"].dtype == (torch.int64 if modality.is_discrete else torch.float32)


GENES = torch.poisson(3 * torch.rand(ROWS, 20)).long()
WHOLE = {
    "genes": (GENES, "counts, text"),
    "genes of 32 bits": (GENES.int().numpy(), "counts, text"),
    "ages": (torch.randint(20, 90, (ROWS,)), "label, ordinal, counts or vector"),
    "signed": (torch.arange(ROWS) - 3, "label, ordinal, counts or vector"),
}


@pytest.mark.parametrize("values, kinds", WHOLE.values(), ids=WHOLE)
def test_whole_numbers_are_never_taken_for_classes_silently(values, kinds):
    with pytest.raises(ValueError, match=rf"modality 'm' has whole numbers from .* can be {kinds}.*kinds=\{{'m': \"c"):
        only(values)


DECLARED = {
    "counts": (GENES, "counts", (20,)),
    "counts as floats": (GENES.float(), "counts", (20,)),
    "ages": (torch.randint(20, 90, (ROWS,)), "vector", (1,)),
    "positive": (torch.rand(ROWS, 2) + 0.1, "positive", (2,)),
    "proportions": (torch.rand(ROWS, 4).softmax(1), "proportions", (4,)),
    "angles": (math.pi * (2 * torch.rand(ROWS, 2) - 1), "angles", (2,)),
    "ordinal": (torch.arange(ROWS) % 30, "ordinal", ()),
    "many classes": (torch.arange(ROWS) % 100, "label", ()),
    "token ids": (torch.randint(50, (ROWS, 6)), "text", (6,)),
    "grid in the unit interval": (torch.rand(ROWS, 3, 8, 8), "grid", (3, 8, 8)),
}


@pytest.mark.parametrize("values, kind, shape", DECLARED.values(), ids=DECLARED)
def test_kinds_are_declared(values, kind, shape):
    modality, train = only(values, kinds={"m": kind})
    assert (modality.kind, modality.likelihood, modality.shape) == (kind, KINDS[kind][0], shape)
    expected = torch.as_tensor(values).reshape(ROWS, *shape)[torch.from_numpy(train.ids)]
    assert torch.equal(train.rows(torch.arange(len(train)))[0]["m"], expected.to(train.x["m"].dtype))


def test_every_likelihood_belongs_to_a_kind():
    assert {likelihood for suitable in KINDS.values() for likelihood in suitable} == set(LIKELIHOODS)


WRONG = {
    "negative counts": (GENES - 1, "counts", "of kind 'counts' must have whole numbers from 0, got -1"),
    "fractions": (torch.rand(ROWS, 2), "counts", "must have whole numbers from 0, got fractions"),
    "zero": (torch.zeros(ROWS, 2), "positive", "must have numbers above 0, got 0"),
    "degrees": (360 * torch.rand(ROWS), "angles", "must have radians from -pi to pi"),
    "percent": (100 * torch.rand(ROWS, 4).softmax(1), "proportions", "parts that sum to 1, got a sum of 100"),
    "one part": (torch.ones(ROWS, 1), "proportions", r"shape \(rows, parts\) with 2 parts or more"),
    "infinite": (torch.tensor([math.inf, 1.0] * 50), "vector", "must have finite numbers, got 1 to inf"),
    "pixels": (255 * torch.rand(ROWS, 3, 4, 4), "image", r"must have values in \[0, 1\] or uint8"),
    "classes as floats": (torch.rand(ROWS), "label", "label 'm' must be int64 ids or strings"),
    "two labels": (torch.ones(ROWS, 2).long(), "label", r"label 'm' must have shape \(rows,\)"),
    "a flat grid": (torch.rand(ROWS, 3), "grid", "with 1 to 3 sides"),
    "sound": (torch.rand(ROWS), "sound", "kind must be one of"),
}


@pytest.mark.parametrize("values, kind, message", WRONG.values(), ids=WRONG)
def test_values_that_a_kind_cannot_have(values, kind, message):
    with pytest.raises((TypeError, ValueError), match=message):
        only(values, kinds={"m": kind})


SUSPICIOUS = {
    "channels last": (torch.rand(ROWS, 8, 8, 3), r"channels last: pass values.permute\(0, 3, 1, 2\)"),
    "bytes with channels last": (torch.zeros(ROWS, 8, 8, 3, dtype=torch.uint8), r"values.permute\(0, 3, 1, 2\)"),
    "0 to 255": (255 * torch.rand(ROWS, 3, 8, 8), "divide by 255 or pass uint8"),
}


@pytest.mark.parametrize("values, message", SUSPICIOUS.values(), ids=SUSPICIOUS)
def test_images_in_another_layout_are_recognized(values, message):
    with pytest.raises(ValueError, match=message):
        only(values)


def test_scaling_is_learned_from_the_training_rows_and_undone():
    units = torch.randn(ROWS, 2) * torch.tensor([5e2, 1e-3]) + torch.tensor([3e3, 0.0])
    splits = from_tensors({"m": units}, scaling={"m": "standardize"})
    scaled, modality = splits.train.x["m"], splits.train.modalities["m"]
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(2))
    for part in (splits.train, splits.validation, splits.test):
        back = part.modalities["m"].to_units(part.x["m"])
        torch.testing.assert_close(back, units[torch.from_numpy(part.ids)], rtol=1e-5, atol=1e-5)
    assert splits.test.modalities["m"].scaling == modality.scaling
    # one scaling for all real vectors, and none by default
    assert from_tensors({"m": units, "b": units > 0}, scaling="robust").train.modalities["b"].scaling is None
    assert from_tensors({"m": units}).train.modalities["m"].scaling is None


def test_mean_counts_are_those_of_the_training_rows_and_positive():
    counts = torch.poisson(torch.tensor([400.0, 3.0, 0.0]).expand(ROWS, 3))
    holes = torch.where(torch.rand(ROWS, 3) < 0.2, torch.nan, counts)
    for values in (counts.long(), holes):
        splits = from_tensors({"m": values}, kinds={"m": "counts"})
        train = splits.train.x["m"].float()
        expected = (train.nansum(0) + 0.5) / train.isfinite().sum(0)
        torch.testing.assert_close(torch.tensor(splits.test.modalities["m"].mean_counts), expected, rtol=1e-3, atol=0)


def test_counts_may_have_any_shape():
    counts = torch.arange(80).reshape(20, 1, 2, 2)
    modality = from_tensors({"m": counts}, kinds={"m": "counts"}).train.modalities["m"]
    assert modality.shape == (1, 2, 2) and len(modality.mean_counts) == 4
    with torch.no_grad():
        decoder = networks_for({"m": modality}, (4,)).likelihoods(2)["m"]
        assert decoder(torch.zeros(3, 2)).mean.shape == (3, 1, 2, 2)


def test_missing_entries_stay_and_empty_examples_are_masked():
    values = torch.randn(ROWS, 3)
    values[::3, 1] = torch.nan
    values[::5] = torch.nan
    modality, train = only(values)
    rows = torch.from_numpy(train.ids)
    assert modality.missing_entries and torch.equal(train.observed["m"], rows % 5 != 0)
    assert torch.equal(train.x["m"].isnan(), values[rows].isnan())
    assert not only(torch.randn(ROWS, 3))[0].missing_entries


def test_rows_keep_their_identifiers():
    names = [f"patient {i}" for i in range(ROWS)]
    numbers = torch.arange(float(ROWS))
    for ids, expected in ((names, names), (None, range(ROWS))):
        splits = from_tensors({"m": numbers}, ids=ids)
        found = [part.ids.tolist() for part in (splits.train, splits.validation, splits.test)]
        assert sorted(sum(found, [])) == sorted(expected)
        assert [list(expected)[int(row)] for row in splits.test.x["m"][:, 0]] == found[2]


def test_no_group_is_in_two_parts():
    patients = np.random.default_rng(0).integers(40, size=ROWS)
    splits = from_tensors({"m": torch.randn(ROWS)}, groups=patients, ids=patients)
    groups = [set(getattr(splits, name).ids.tolist()) for name in splits.NAMES]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert [abs(len(getattr(splits, n)) - s * ROWS) < 12 for n, s in zip(splits.NAMES, (0.8, 0.1, 0.1), strict=True)]
    again = from_tensors({"m": torch.randn(ROWS)}, groups=patients)
    assert len(again.train) == len(splits.train)
    with pytest.raises(ValueError, match="200 rows in 2 groups cannot be split"):
        from_tensors({"m": torch.randn(ROWS)}, groups=patients % 2)


def test_the_part_of_each_row_can_be_named():
    part = ["train"] * 100 + ["validation"] * 40 + ["test"] * 60
    splits = from_tensors({"m": torch.arange(float(ROWS))}, split=part)
    assert splits.test.ids.tolist() == list(range(140, 200))
    with pytest.raises(ValueError, match="split must have .'train', 'validation', 'test'., each at least once"):
        from_tensors({"m": torch.zeros(ROWS)}, split=["train"] * ROWS)


@pytest.mark.parametrize("how", ["sum", "given"])
def test_counts_have_exposures(how):
    exposures = GENES.sum(1).float()
    splits = from_tensors(
        {"genes": GENES, "m": torch.randn(ROWS)},
        kinds={"genes": "counts"},
        exposures={"genes": "sum" if how == "sum" else exposures},
    )
    unit = exposures[torch.from_numpy(splits.train.ids)].median().item()
    for part in (splits.train, splits.test):
        x, _ = part.rows(torch.tensor([2, 0]))
        expected = exposures[torch.from_numpy(part.ids[[2, 0]])] / unit
        torch.testing.assert_close(x["genes.exposure"], expected)
    assert splits.train.modalities["genes"].exposure_unit == unit
    assert "genes.exposure" not in splits.select(["m"]).train.rows(torch.tensor([0]))[0]
    with pytest.raises(ValueError, match="exposures must be positive, got 0"):
        from_tensors({"m": GENES * 0}, kinds={"m": "counts"}, exposures={"m": "sum"})
    with pytest.raises(ValueError, match="exposure does not apply"):
        from_tensors({"m": torch.randn(ROWS, 2)}, exposures={"m": "sum"})


def test_labels_may_be_strings():
    names = np.array(["wren", "auk"] * (ROWS // 2))
    train = from_tensors({"m": torch.randn(ROWS)}, labels=names).train
    assert train.label_names == ("auk", "wren")
    assert [train.label_names[i] for i in train.labels] == names[train.ids].tolist()
    with pytest.raises(ValueError, match="every row needs a class, 1 labels are missing"):
        from_tensors({"m": torch.randn(3)}, labels=["a", None, "b"], split=["train", "validation", "test"])


def test_new_values_follow_known_descriptions():
    trained = from_tensors(
        {"sex": ["f", "m"] * 100, "m": 1e3 * torch.randn(ROWS, 2)}, scaling={"m": "standardize"}
    ).train.modalities
    new = from_tensors({"sex": ["m"] * 10, "m": torch.ones(10, 2)}, modalities=trained).train
    assert (new.x["sex"] == 1).all() and dict(new.modalities) == dict(trained)
    torch.testing.assert_close(new.x["m"], trained["m"].from_units(torch.ones(8, 2)))
    with pytest.raises(ValueError, match="modalities.sex.column has the unknown class 'x' in row .*: the classes are"):
        from_tensors({"sex": ["x"] * 10}, modalities={"sex": trained["sex"]})
    with pytest.raises(ValueError, match=r"each row must have shape \(2,\), got \(3,\)"):
        from_tensors({"m": torch.ones(10, 3)}, modalities={"m": trained["m"]})
    label = Modality("m", (), "label", "categorical", 3)
    with pytest.raises(ValueError, match="ids must lie in 0 to 2, got 5"):
        from_tensors({"m": torch.full((10,), 5)}, modalities={"m": label})


def test_items_may_have_any_type():
    items = [
        {"signal": np.full(2, float(i)), "label": None if i % 4 == 0 else i % 3, "name": "ab"[i % 2], "flag": i % 2 > 0}
        for i in range(40)
    ]
    splits = from_dataset(items, seed=3)
    kinds = {name: modality.kind for name, modality in splits.train.modalities.items()}
    assert kinds == {"signal": "vector", "label": "label", "name": "label", "flag": "label"}
    for part in (splits.train, splits.validation, splits.test):
        rows = torch.from_numpy(part.ids)
        observed = part.observed["label"] if part.observed else torch.ones(len(rows), dtype=torch.bool)
        assert torch.equal(observed, rows % 4 != 0)
        assert torch.equal(part.x["label"][observed], rows[observed] % 3)
        assert part.modalities["name"].decode(part.x["name"]) == ["ab"[row % 2] for row in rows]
    gray = from_dataset([{"a": np.zeros((8, 8), "u1"), "b": 1} for _ in range(40)])
    assert gray.train.modalities["a"].shape == (1, 8, 8)
    with pytest.raises(TypeError, match="modality 'a' must have numbers, strings, arrays or images of one type"):
        from_dataset([{"a": "x"}, {"a": 1}])


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3), TypeError, "x must be a dict of modality name to values, got Tensor"),
        ({}, TypeError, "x must be a dict"),
        ({0: torch.zeros(3)}, TypeError, "the name of a modality must be a string, got 0"),
        ({"a": torch.zeros(3), "b": torch.zeros(4)}, ValueError, "must have the same number of rows"),
        ({"a": torch.tensor(1.0)}, ValueError, "'a' must have the rows first, got a single value"),
        ({"a": torch.zeros(20, 2), "observed": torch.zeros(20) * math.nan}, ValueError, "no training row has it"),
    ],
)
def test_invalid_data_sets(x, error, message):
    with pytest.raises(error, match=message) as caught:
        from_tensors(x)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("argument", ["kinds", "modalities", "observed"])
def test_settings_of_unknown_modalities(argument):
    with pytest.raises(ValueError, match=rf"{argument} describes \['b'\], which x does not contain"):
        from_tensors({"a": torch.zeros(20, 2)}, **{argument: {"b": None}})


def test_masks_are_bool():
    with pytest.raises(TypeError, match=r"observed\['a'\] must be bool, one value for each row, got float32"):
        from_tensors({"a": torch.zeros(20)}, observed={"a": torch.ones(20)})


def test_large_data_is_inspected_piece_by_piece(monkeypatch):
    monkeypatch.setattr("multipyro.data.custom.kinds._CHUNK_BYTES", 64)
    assert infer_modality("m", torch.arange(100.0).reshape(50, 2) % 2).likelihood == "bernoulli"
    assert infer_modality("m", torch.arange(100.0).reshape(50, 2)).likelihood == "normal"
