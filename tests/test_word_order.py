"""The example about word order: its data, its entropies, its figure, and that it runs."""

import json
import math
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from multipyro.data import load_dataset

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def example():
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / "word_order.py"), run_name="example"))


def test_texts_say_what_stands_where_in_both_orders(example):
    generator = torch.Generator().manual_seed(0)
    data = example.pairs(load_dataset("digits").test, 400, "test", generator)
    text = data.x["text"]
    assert data.x["image"].shape == (400, 1, 8, 16)
    assert set(text[:, 1].tolist()) == set(text[:, 3].tolist()) == {example.LEFT, example.RIGHT}
    assert (text[:, 1] != text[:, 3]).all() and text[:, [0, 2]].max() < example.LEFT
    assert 0.4 < (text[:, 1] == example.LEFT).float().mean() < 0.6
    turned = example.shuffled({"text": text}, generator)["text"]
    assert 0.4 < (turned[:, 1] != text[:, 1]).float().mean() < 0.6
    assert torch.equal(turned.sort(-1).values, text.sort(-1).values)


def test_entropies_are_those_of_the_words(example):
    even = torch.full((3, 2, 4, 7), 0.0)
    even[..., 0, :2] = 0.5
    even[..., 1:, 3] = 1.0
    assert example.entropies(even) == pytest.approx([math.log(2), 0.0, 0.0, 0.0])
    text = torch.tensor([[0, 5, 1, 6], [2, 6, 2, 5]])
    assert example.entropies_of_order(text) == pytest.approx([math.log(2) / 2, math.log(2) / 2, 0.0, 0.0])


def test_it_runs_and_writes_a_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["word_order.py", "--smoke", "--out", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "word_order.py"), run_name="__main__")
    said = capsys.readouterr().out
    for name in ("the order alone", r"marginal, q\(z\|x\)", r"its aggregate, q\(z\|y\)", r"joint, q\(z\|x,y\)"):
        assert re.search(rf"{name} +(\d\.\d+ +){{4}}\d\.\d+", said)
    assert (tmp_path / "word-order.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "word-order.json").read_text())["settings"]["epochs"] == 1


def test_stored_numbers_show_what_the_docstring_says(example):
    stored = json.loads((EXAMPLES / "results" / "word_order" / "word-order.json").read_text())
    entropy = stored["entropy_in_nats"]
    assert all(f"{value:.3f}" in example.__doc__ for values in entropy.values() for value in values)
    assert sum(entropy["marginal, q(z|x)"]) > math.log(2) and sum(entropy["joint, q(z|x,y)"]) < 0.1
