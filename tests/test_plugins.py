"""User-defined guides and methods in files: imported as from their folder, and nothing else changes."""

import sys

import pytest

from multipyro.inference.cli.plugins import guide_class

GUIDE = """
from __future__ import annotations

from dataclasses import dataclass

from multipyro.guides import ProductOfExperts
from neighbor_of_mine import SCALE


@dataclass(frozen=True)
class Settings:
    scale: float = SCALE


class Mine(ProductOfExperts):
    settings = Settings()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "neighbor_of_mine.py").write_text("SCALE = 2.0\n")
    modules, path = dict(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    assert {name: sys.modules[name] for name in modules} == modules


def test_a_file_may_have_dataclasses_and_import_its_neighbors(folder, monkeypatch):
    (folder / "mine_alone.py").write_text(GUIDE)
    monkeypatch.chdir(folder)
    for place in ("mine_alone.py:Mine", f"{folder}/mine_alone.py:Mine"):
        assert guide_class(place).settings.scale == 2.0


def test_a_file_called_as_a_module_that_is_there_replaces_nothing(folder):
    import json

    (folder / "json.py").write_text(GUIDE)
    assert guide_class(f"{folder}/json.py:Mine").settings.scale == 2.0
    assert sys.modules["json"] is json


def test_a_file_that_fails_leaves_no_module(folder):
    (folder / "mine_broken.py").write_text("raise ValueError('broken')\n")
    with pytest.raises(ValueError, match="broken"):
        guide_class(f"{folder}/mine_broken.py:Mine")
    assert "mine_broken" not in sys.modules
