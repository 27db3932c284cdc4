"""Incomplete data made from complete data."""

import pytest
import torch
from toy import toy_data

from multipyro.data import drop_modalities, load_dataset


def held(data, name):
    return torch.ones(len(data), dtype=torch.bool) if name not in (data.observed or {}) else data.observed[name]


def test_the_share_of_each_modality_is_lost_and_none_loses_all():
    data = drop_modalities(toy_data(20_000), {"signal": 0.3, "label": 0.6})
    signal, label = held(data, "signal"), held(data, "label")
    # a row that would lose both (0.18) keeps either
    assert 1 - signal.float().mean() == pytest.approx(0.3 - 0.09, abs=0.015)
    assert 1 - label.float().mean() == pytest.approx(0.6 - 0.09, abs=0.015)
    assert (signal | label).all()
    assert torch.equal(data.x["signal"], toy_data(20_000).x["signal"])


def test_one_seed_repeats_and_splits_and_modalities_differ():
    train, test = toy_data(500), toy_data(500, split="test")
    first = drop_modalities(train, 0.4, seed=1).observed
    assert all(torch.equal(first[name], mask) for name, mask in drop_modalities(train, 0.4, seed=1).observed.items())
    assert not torch.equal(first["label"], drop_modalities(train, 0.4, seed=2).observed["label"])
    assert not torch.equal(first["label"], drop_modalities(test, 0.4, seed=1).observed["label"])
    assert not torch.equal(first["label"], first["signal"])


def test_masks_travel_with_the_batch_and_into_the_hash():
    whole = load_dataset("digits").train
    part = drop_modalities(whole, {"word": 0.5})
    x, observed = part.rows(torch.arange(40))
    assert set(x) == set(whole.modalities) and list(observed) == ["word"]
    assert torch.equal(observed["word"], part.observed["word"][:40])
    assert part.content_hash != whole.content_hash
    assert drop_modalities(whole, 0.0).observed is None


def test_what_was_missing_stays_missing():
    rows = {"label": torch.arange(400) % 2 == 0}
    data = drop_modalities(toy_data(400, observed=rows), 0.5)
    assert not (data.observed["label"] & ~rows["label"]).any()
    assert (held(data, "label") | held(data, "signal")).all()


@pytest.mark.parametrize(("missing", "said"), (({"labl": 0.1}, "labl"), (1.0, "1.0"), ({"label": -0.1}, "-0.1")))
def test_bad_shares(missing, said):
    with pytest.raises(ValueError, match=said):
        drop_modalities(toy_data(), missing)
