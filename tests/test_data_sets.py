"""The table of data sets and the embedded digits."""

import os

import fake_celeba
import fake_cub
import fake_mnist
import fake_svhn
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from multipyro.data import DATASETS, load_dataset
from multipyro.data.sets import DIGIT_WORDS


def test_the_table():
    assert (
        list(DATASETS)
        == "digits mnist polymnist celeba cub mnist-fashion mnist-svhn mnist-svhn-text two-objects one-object".split()
    )
    for name, info in DATASETS.items():
        assert info.name == name
        assert all([info.title, info.source, info.license])
        assert set(info.default_given) | set(info.default_targets) <= set(info.modalities)
        assert set(info.default_given).isdisjoint(info.default_targets)


def test_the_table_reports_missing_files(tmp_path, monkeypatch):
    fake_mnist.no_data(monkeypatch, tmp_path)
    root = tmp_path / "data"
    root.mkdir()
    assert DATASETS["digits"].missing(root) == ""
    assert "not found: name a folder that contains MNIST/raw" in DATASETS["mnist"].missing(root)
    assert "backgrounds of PolyMNIST are missing" in DATASETS["polymnist"].missing(root)
    fake_mnist.write_backgrounds(root)
    assert "not found: name a folder that contains MNIST/raw" in DATASETS["polymnist"].missing(root)
    fake_mnist.write_mnist(root, fake_mnist.contents(), packed=True)
    assert "CelebA is missing: put img_align_celeba" in DATASETS["celeba"].missing(root)
    fake_celeba.write_compact(root)
    assert "CUB is missing: put into <folder> CUB_200_2011/" in DATASETS["cub"].missing(root)
    fake_cub.write_compact(root)
    assert "not found: name a folder that contains FashionMNIST/raw" in DATASETS["mnist-fashion"].missing(root)
    fake_mnist.write_mnist(root, fake_mnist.contents(1), packed=True, name="FashionMNIST")
    assert "SVHN is missing: train_32x32.mat" in DATASETS["mnist-svhn"].missing(root)
    fake_svhn.write_svhn(root)
    rendered = ("two-objects", "one-object")
    assert all(
        "scenes are rendered; the others will be at first use" in DATASETS[name].missing(root) for name in rendered
    )
    assert [info.missing(root) for name, info in DATASETS.items() if name not in rendered] == [""] * (len(DATASETS) - 2)


def test_an_unknown_data_set():
    with pytest.raises(ValueError, match="unknown data set 'svhn': choose digits, mnist, polymnist,"):
        load_dataset("svhn")


@pytest.mark.parametrize(
    ("name", "message"), [("digits", "digits has no option word: it has none"), ("polymnist", "it has num_modalities")]
)
def test_an_unknown_option(name, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(name, word=True)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def test_digits_are_those_of_scikit_learn(digits):
    raw = load_digits()
    rows = [fake_mnist.all_rows(getattr(digits, name)) for name in digits.NAMES]
    images = torch.cat([x["image"] for x in rows])
    assert images.dtype == torch.float32
    counts = images * 17 - 0.5
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-5)
    labels = torch.cat([x["label"] for x in rows])
    found = torch.cat([counts.round().flatten(1), labels[:, None]], 1).numpy()
    wanted = np.concatenate([raw.data, raw.target[:, None]], axis=1)
    assert np.array_equal(found[np.lexsort(found.T)], wanted[np.lexsort(wanted.T)])


def test_digits_agree_with_their_labels_and_names(digits):
    for name in digits.NAMES:
        part = getattr(digits, name)
        assert part.split == name
        assert torch.equal(part.x["label"], part.labels)
        assert part.modalities["word"].decode(part.x["word"]) == [DIGIT_WORDS[label] for label in part.labels]
        assert part.observed is None
        assert part.transform is None


def test_the_split_is_fixed_and_stratified(digits):
    assert [len(getattr(digits, name)) for name in digits.NAMES] == [1297, 200, 300]
    total = torch.as_tensor(load_digits().target).bincount()
    for name in digits.NAMES:
        part = getattr(digits, name)
        assert ((part.labels.bincount() - total * len(part) / 1797).abs() <= 1).all()
    # a run records the hash of its rows, so another split is another data set
    assert digits.test.content_hash.startswith("9884a1c441dcde87")
    other = load_dataset("digits", seed=5)
    assert [getattr(other, n).content_hash for n in other.NAMES] == [
        getattr(digits, n).content_hash for n in other.NAMES
    ]


def test_the_first_rows(digits):
    head = digits.head(250)
    assert [len(getattr(head, name)) for name in head.NAMES] == [250, 200, 250]
    assert torch.equal(head.test.x["word"], digits.test.x["word"][:250])
    assert digits.head(None) is digits
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="num_rows must be a positive integer"):
            digits.head(wrong)


def test_loading_writes_nothing(tmp_path, monkeypatch):
    cache = fake_mnist.no_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    load_dataset("digits")
    assert not cache.exists()
    assert os.listdir(tmp_path) == []
