"""Every command on a run whose run.json has a missing or a wrong entry: one line that names it, or the usual result."""

import copy
import json
import shutil

import pytest

from multipyro.inference.cli.commands import embed, evaluate, figures, generate, predict
from multipyro.inference.cli.parser import main

SMALL = ["--latent-dim", "2", "--hidden", "8", "--epochs", "1", "--no-figure", "--no-progress"]
DELETED = object()
VALUES = (DELETED, "x", -1, [])
COMMANDS = {
    "embed": ["embed", "RUN", "--file", "OUT.csv"],
    "evaluate": ["evaluate", "RUN"],
    "export": ["export", "RUN", "--out", "OUT"],
    "figures": ["figures", "RUN"],
    "generate": ["generate", "RUN", "--given", "sort", "--target", "size", "--file", "OUT.png"],
    "init-from": ["train", "--init-from", "RUN", "--dry-run", "--data", "DATA", "--out", "OUT"],
    "predict": ["predict", "RUN", "--given", "sort", "--file", "OUT.csv"],
    "report": ["report", "RUN"],
    "resume": ["train", "--resume", "--out", "RUN", "--dry-run"],
}


class ReachedError(Exception):
    """The run was read without a complaint."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    rows = "".join(f"{row},{row % 7},{'ab'[row % 2]}\n" for row in range(40))
    (folder / "cells.csv").write_text("size,weight,sort\n" + rows)
    flags = ["--data", str(folder / "cells.csv"), "--missing", "sort=0.2", "--out", str(folder / "run")]
    assert main(["train", "mvae", *flags, *SMALL]) == 0
    return folder / "run"


def entries(value, place=()):
    """The places of all entries: keys and, in a list of tables, the first of them."""
    if place:
        yield place
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {0: value[0]}
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from entries(inner, (*place, key))


def damaged(content, place, value):
    content = copy.deepcopy(content)
    *outer, last = place
    inner = content
    for key in outer:
        inner = inner[key]
    if value is DELETED:
        del inner[last]
    else:
        inner[last] = value
    return content


@pytest.mark.parametrize("value", ["unknown", 3, None])
@pytest.mark.parametrize("command", ["embed", "export", "init-from", "report"])
def test_the_file_of_a_wrong_description_of_a_modality_is_named(run, tmp_path, capsys, command, value):
    folder = tmp_path / "copy"
    shutil.copytree(run.parent, folder)
    content = json.loads((folder / "run" / "run.json").read_text())
    content["modalities"]["sort"]["kind"] = value
    (folder / "run" / "run.json").write_text(json.dumps(content))
    words = {"RUN": str(folder / "run"), "DATA": str(folder / "cells.csv"), "OUT": str(tmp_path / "new")}
    assert main([words.get(word, word) for word in COMMANDS[command]]) == 2
    assert f"{folder / 'run' / 'run.json'} is damaged: kind of modality 'sort'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_entry_is_one_line(run, tmp_path, monkeypatch, capsys, command):
    pytest.importorskip("safetensors")

    def reached(*_, **__):
        raise ReachedError

    for module, name in (
        *((embed, "embed"), (evaluate, "evaluate"), (figures, "figures_of")),
        *((generate, "draw_cross_generation"), (predict, "cross_generate")),
    ):
        monkeypatch.setattr(module, name, reached)
    content = json.loads((run / "run.json").read_text())
    # one option, one setting and one modality stand for the others
    skipped = {(key, name) for key in ("options", "settings") for name in content[key] if name not in ("beta", "seed")}
    skipped |= {(*key, name) for key in (("modalities",), ("data", "modalities")) for name in ("weight", "size")}
    places = [place for place in entries(content) if not any(place[: len(one)] == one for one in skipped)]
    assert ("data", "content_hash", "test") in places and ("stages", 0, "epochs") in places
    folder, unclear = tmp_path / "copy", []
    shutil.copytree(run.parent, folder)
    words = {"RUN": str(folder / "run"), "DATA": str(folder / "cells.csv"), "OUT": str(tmp_path / "new")}
    words |= {f"OUT.{ending}": str(tmp_path / f"new.{ending}") for ending in ("csv", "png")}
    for number, place in enumerate(places):
        for value in VALUES[(number + len(command)) % 2 :: 2]:
            (folder / "run" / "run.json").write_text(json.dumps(damaged(content, place, value)))
            code = main([words.get(word, word) for word in COMMANDS[command]])
            error = capsys.readouterr().err
            shutil.rmtree(tmp_path / "new", ignore_errors=True)
            if code == 0 or "ReachedError" in error:
                continue
            named = [str(folder), *(str(part).rstrip("s") for part in place)]
            clear = code == 2 and error.count("\n") == 1 and "MULTIPYRO_DEBUG" not in error
            if not clear or not any(name in error for name in (*named, *(name.replace("_", "-") for name in named))):
                shown = "deleted" if value is DELETED else repr(value)
                unclear.append(f"{'.'.join(map(str, place))} = {shown}: {error}")
    assert unclear == []
