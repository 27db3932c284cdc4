"""The HTML report: complete, self-contained, inert whatever the data is called, and readable on any screen."""

import json
import shlex
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch

from multipyro.data import from_tensors
from multipyro.inference import build, fit_recipe, networks_for
from multipyro.inference.cli.commands.report import page, train_command
from multipyro.inference.cli.parser import main, parse
from multipyro.inference.evaluation import Report
from multipyro.inference.runs import read_run

# names of modalities may have any printable characters but dots and slashes
HOSTILE = ("<script>alert(1)<", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }} & 'x' `y`")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
SMALL = ["--epochs", "1", "--latent-dim", "2", "--hidden", "8", "--batch-size", "256"]


class Reader(HTMLParser):
    """The elements with their attributes, and the texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = ["--weights", "label=10", "--beta", "0.5", "--missing", "label=0.5", "--lr-schedule", "cosine"]
    assert main(["train", "mvae", "--out", str(folder), *SMALL, *options]) == 0
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose every name and text is made to break out of a page."""
    folder = tmp_path_factory.mktemp("hostile") / "<b>run"
    first, second, third = HOSTILE
    splits = from_tensors({name: torch.rand(60, 5) for name in (first, second)}, name=third)
    recipe = build("mvae", networks_for(splits.train.modalities, (4,)), 2)
    fit_recipe(recipe, splits, epochs=1, out=folder, progress=False, seed=0)
    share = {"value": 0.5, "se": 0.1, "low": 0.4, "high": 0.6, "num": 9}
    metrics = {"coherence": {"joint": share, "conditional": {f"{first}->{second}": share}}, "parameters": 7}
    data = {"rows": {"test": 6}, "content_hash": {"test": "0"}}
    (folder / "metrics.json").write_text(json.dumps({**metrics, "data": data}))
    Report({}, {}, {}).save_examples(folder / "examples.npz")
    verdict = {"level": "bad", "aspect": third, "text": first, "advice": second}
    check = {"subsets": {first: {"verdicts": [verdict]}}, "verdicts": [verdict]}
    (folder / "check.json").write_text(json.dumps(check))
    (folder / "figures").mkdir()
    name = second.replace("/", "") + ".svg"
    (folder / "figures" / name).write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    (folder / "figures" / "captions.md").write_text(f"- `{name}`: {first}\n")
    return folder


def test_a_page_has_what_the_commands_left(run, tmp_path, capsys):
    before = Reader(page([run]))
    assert any("No result of multipyro evaluate" in text for text in before.texts)
    assert main(["evaluate", str(run), "--num-samples", "3"]) == 0
    assert main(["check", str(run), "--rows", "20", "--num-simulated", "30", "--num-samples", "20"]) == 0
    copy = tmp_path / "again"
    shutil.copytree(run, copy)
    file = tmp_path / "page.html"
    assert main(["report", str(run), str(copy), "--file", str(file)]) == 0
    assert str(file) in capsys.readouterr().out
    found = Reader(file.read_text(encoding="utf-8"))
    cells = "".join(found.texts)
    assert "log p(image, label, word)" in cells and "Can the guide be trusted?" in cells
    assert f"Difference from {run}" in cells and "+0.000 ± 0.000" in cells  # the copy has the same predictions
    sources = [attributes["src"] for tag, attributes in found.elements if tag == "img"]
    assert len(sources) == 4 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(attributes["alt"] for tag, attributes in found.elements if tag == "img")
    assert not any("No result of multipyro evaluate" in text for text in found.texts)


def test_names_from_data_are_text_and_nothing_runs(hostile):
    text = page([hostile])
    found = Reader(text)
    assert {tag for tag, _ in found.elements}.isdisjoint({"script", "b", "iframe", "link", "object"})
    attributes = {name for _, found_attributes in found.elements for name in found_attributes}
    assert not any(name.startswith("on") for name in attributes)
    assert [a["src"][:26] for tag, a in found.elements if tag == "img"] == ["data:image/svg+xml;base64,"]
    shown = "".join(found.texts)
    assert f"coherence {HOSTILE[0]}->{HOSTILE[1]}" in shown
    assert all(name in shown for name in HOSTILE) and "<b>run" in shown and "49" not in shown
    (policy,) = [a["content"] for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_a_command_trains_the_run_again(run, capsys):
    config = read_run(run)
    program, *tokens = shlex.split(train_command(run))
    arguments = parse(tokens)
    assert program == "multipyro" and arguments.method == "mvae" and arguments.out == run
    assert arguments.latent_dim == 2 and arguments.hidden == (8,) and arguments.epochs == 1
    assert arguments.missing == {"image": 0.0, "label": 0.5, "word": 0.0} and arguments.lr_schedule == "cosine"
    assert main([*tokens, "--dry-run"]) == 0
    assert config["stages"][0]["equation"] in capsys.readouterr().out


@pytest.mark.parametrize("compiled", [True, False, "auto"])
def test_a_command_says_whether_steps_are_compiled(run, tmp_path, compiled):
    content = json.loads((run / "run.json").read_text())
    content["settings"]["compile"] = compiled
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert parse(shlex.split(train_command(tmp_path))[1:]).compile == compiled


def test_what_cannot_be_reported_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_scrolling_sideways(hostile, width, tmp_path):
    measure = "document.title = [document.documentElement.scrollWidth, innerWidth, document.scripts.length].join(' ')"
    # only this copy may run a script, which measures the page
    copy = page([hostile, hostile]).replace("default-src 'none'", "script-src 'unsafe-inline'")
    file = tmp_path / "page.html"
    file.write_text(copy.replace("</body>", f"<script>{measure}</script></body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", "--dump-dom", file.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    needed, there, scripts = map(int, shown.partition("<title>")[2].partition("</title>")[0].split())
    assert needed <= there and scripts == 1
