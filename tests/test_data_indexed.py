"""Indexed tensors behave as the tensors that they represent."""

import dataclasses
import pickle

import pytest
import torch

from multipyro.data import IndexedTensor, Modality, MultimodalData, drop_modalities

IMAGE = Modality("image", (1, 2, 2), "image", "bernoulli")
LABEL = Modality("label", (), "label", "categorical", 9)
POOL = torch.arange(16, dtype=torch.uint8).reshape(4, 1, 2, 2) * 15
INDEX = torch.tensor([0, 2, 2, 3, 0, 0, 3])


def data(values):
    """Rows of images, shared or not, and labels."""
    return MultimodalData("toy", {"image": IMAGE, "label": LABEL}, {"image": values, "label": torch.arange(7)})


def test_batches_are_those_of_the_tensor():
    shared, plain = data(IndexedTensor(POOL, INDEX)), data(POOL[INDEX])
    assert len(shared) == len(plain) == 7
    for settings in ({}, {"shuffle": True, "seed": 3}):
        pairs = zip(shared.batches(3, **settings), plain.batches(3, **settings), strict=True)
        assert all(
            torch.equal(a["image"], b["image"]) and a["image"].dtype == b["image"].dtype for (a, _), (b, _) in pairs
        )
    rows = torch.tensor([5, 1])
    assert torch.equal(shared.take(rows).rows(torch.tensor([1]))[0]["image"], plain.rows(torch.tensor([1]))[0]["image"])
    assert len(shared.select(["image"])) == 7
    assert torch.equal(drop_modalities(shared, 0.5).observed["image"], drop_modalities(plain, 0.5).observed["image"])
    again = pickle.loads(pickle.dumps(shared))
    assert again.content_hash == shared.content_hash


def test_the_hash_is_of_the_rows_alone():
    first = data(IndexedTensor(POOL, INDEX))
    # value 1 does not occur
    smaller = data(IndexedTensor(POOL[[0, 2, 3]], torch.tensor([0, 1, 1, 2, 0, 0, 2])))
    assert first.content_hash == smaller.content_hash
    other = data(IndexedTensor(POOL, INDEX.flip(0)))
    brighter = data(IndexedTensor(POOL + 1, INDEX))
    assert len({first.content_hash, other.content_hash, brighter.content_hash}) == 3
    part = torch.arange(3)
    assert dataclasses.replace(first.take(part)).content_hash == smaller.take(part).content_hash


def test_types_and_shapes_are_checked():
    with pytest.raises(ValueError, match=r"'image' must have shape \(rows, 1, 2, 2\), got \(7, 2, 2\)"):
        data(IndexedTensor(POOL[:, 0], INDEX))
    with pytest.raises(TypeError, match="'image' must have a floating dtype or uint8, got torch.int64"):
        data(IndexedTensor(POOL.long(), INDEX))
    with pytest.raises(ValueError, match="same number of rows"):
        data(IndexedTensor(POOL, INDEX[1:]))


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (torch.tensor([0, 4]), ValueError, "index must lie in 0 to 3, got 0 to 4"),
        (torch.tensor([-1]), ValueError, "index must lie in 0 to 3, got -1"),
        (torch.tensor([[1]]), ValueError, r"index must have shape \(rows,\), got \(1, 1\)"),
        (torch.tensor([1.0]), TypeError, "index must be int64, got torch.float32"),
    ],
)
def test_an_index_that_cannot_be(index, error, message):
    with pytest.raises(error, match=message):
        IndexedTensor(POOL, index)


def test_other_dimensions_are_not_selected():
    with pytest.raises(ValueError, match="dim must be 0, the rows, got 1"):
        IndexedTensor(POOL, INDEX).index_select(1, INDEX)
