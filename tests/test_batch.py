"""The rows of a batch: which contain which modalities, against counting them one by one."""

import itertools

import pytest
import torch

from multipyro.batch import Rows, subsets_of

NAMES = ("image", "label", "word")
COMBINATIONS = list(itertools.product((True, False), repeat=len(NAMES)))
OBSERVED = {name: torch.tensor([row[i] for row in COMBINATIONS]) for i, name in enumerate(NAMES)}
X = {name: torch.zeros(len(COMBINATIONS), 2) for name in NAMES}


def present(row, masked=NAMES):
    return {name for i, name in enumerate(NAMES) if row[i] or name not in masked}


def by_hand(rule, masked=NAMES):
    return torch.tensor([rule(present(row, masked)) for row in COMBINATIONS])


@pytest.mark.parametrize("masked", (NAMES, ("label",), ("image", "word")))
@pytest.mark.parametrize("subset", subsets_of(NAMES))
def test_rows_by_subset(subset, masked):
    rows, wanted = Rows(X, {name: OBSERVED[name] for name in masked}), set(subset)
    everything = torch.ones(len(COMBINATIONS), dtype=torch.bool)
    for method, rule in (
        (rows.all_of, lambda names: names >= wanted),
        (rows.exactly, lambda names: names == wanted),
        (rows.properly, lambda names: names > wanted),
    ):
        result = method(subset)
        assert torch.equal(everything if result is None else result, by_hand(rule, masked))


@pytest.mark.parametrize("subset", subsets_of(NAMES))
def test_a_batch_without_masks_contains_everything_in_every_row(subset):
    rows = Rows(X)
    assert rows.any() is None and rows.all_of(subset) is None
    assert bool(rows.properly(subset).all()) == (len(subset) < 3)
    exactly = rows.exactly(subset)
    assert exactly is None if len(subset) == 3 else not exactly.any()


def test_any_and_count():
    rows = Rows(X, OBSERVED)
    assert torch.equal(rows.any(), by_hand(bool))
    assert torch.equal(rows.count(), by_hand(len))
    assert torch.equal(rows.stacked(), torch.stack(list(OBSERVED.values())))
    assert Rows(X, {"label": OBSERVED["label"]}).any() is None  # the other modalities are in every row


def test_modalities_that_are_not_in_the_batch():
    rows = Rows({"image": X["image"], "label": None}, {"label": OBSERVED["label"], "image": OBSERVED["image"]})
    assert rows.modalities == ("image",) and set(rows.masks) == {"image"}
    assert not rows.of("label").any() and not rows.all_of(["image", "label"]).any()
    assert not rows.exactly(["image", "label"]).any()
    assert torch.equal(rows.exactly(["image"]), OBSERVED["image"])
    assert Rows({}).any() is None


def test_latents_and_the_rows_that_inform_them():
    rows = Rows(X, OBSERVED)
    assert torch.equal(rows.informing("z"), by_hand(bool)) and torch.equal(rows.informing("z2"), by_hand(bool))
    assert torch.equal(rows.informing("z_label"), OBSERVED["label"])
    assert Rows(X, {"image": OBSERVED["image"]}).informing("z_label") is None


def test_names_of_a_row():
    rows = Rows(X, {"label": OBSERVED["label"]})
    assert [rows.names_in(row) for row in (0, 2)] == ["image+label+word", "image+word"]
