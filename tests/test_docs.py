"""The pages of the documentation: their code runs, and what they print from the library is up to date."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[1] / "docs"
sys.path.insert(0, str(DOCS))
from pages import with_sources, with_table  # noqa: E402

ROOT = DOCS.parent
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_code_on_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    if "inference.export import" in text and not hasattr(torch.export.Dim, "DYNAMIC"):
        pytest.skip("torch.export of PyTorch 2.6")
    names = {}
    for example in re.findall(r"<!-- source (\S+):\w+ -->", text):
        names |= runpy.run_path(str(ROOT / example), run_name="example")
    code = "\n".join(re.findall(r"```python\n(.*?)```", with_sources(text), re.DOTALL))
    with torch.random.fork_rng():
        exec(compile(code.replace("epochs=30", "epochs=1"), page, "exec"), names)


def test_the_readme_has_the_table_of_the_methods():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme
