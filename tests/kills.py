"""Kills commands at random moments, starts them again, and compares what they leave with an undisturbed run.

`python tests/kills.py SITUATION FOLDER KILLS SEED` prints the number of kills by signal. Commands run in processes that
are forked from one that has everything imported, so that the kills fall into the work itself.
"""

import csv
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from toy import optimizer_states

from multipyro.inference.cli.parser import main
from multipyro.inference.runs.checkpoints import read_checkpoint

ROWS = 90
DESCRIPTION = """
table = "rows.csv"
labels = "sort"
[modalities.size]
columns = ["width", "height"]
[modalities.sort]
column = "sort"
[modalities.photo]
column = "photo"
size = [8, 8]
channels = 1
"""
SMALL = ["--latent-dim", "2", "--hidden", "8", "--batch-size", "8", "--no-progress"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
DATA = ["--data", "../data/rows.toml"]
TRAIN = [*DATA, "--out", "run", "--resume", "--no-figure", *SMALL]
# situation -> the command, which starts the work or continues it; ../trained/run is a finished run
SITUATIONS = {
    "training": ["train", "mopoe", "--epochs", "12", *TRAIN],
    "stages": ["train", "telbo", "--epochs", "5", *TRAIN],
    "adversaries": ["train", "jmvae-gan", "--epochs", "5", *TRAIN],
    "cache": ["train", "mvae", "--dry-run", *TRAIN],
    "sweep": ["compare", "mvae", "mopoe", "--seeds", "2", "--epochs", "2", "--num-samples", "2", "--out", "sweep"]
    + [*DATA, *SMALL],
    "evaluation": ["evaluate", "run", "--num-samples", "2"],
    "prediction": [
        "predict",
        "../trained/run",
        "--target",
        "photo",
        "--part",
        "all",
        "--num-samples",
        "50",
        "--file",
        "predictions.csv",
    ],
    "figure": ["generate", "../trained/run", "--given", "sort", "--target", "photo", "--file", "photos.png"],
    "report": ["report", "../trained/run", "--file", "report.html"],
    "export": ["export", "../trained/run", "--out", "exported.zip"],
}
# it writes into the folder of the run, and gets a copy
NEEDS_COPY = ("evaluation",)


def write_data(folder):
    """A table of numbers, classes and photos."""
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["width", "height", "sort", "photo"])
        for row in range(ROWS):
            values = 80 * (row % 3) + generator.integers(0, 60, (8, 8))
            Image.fromarray(values.astype(np.uint8)).save(folder / f"photos/{row}.png")
            table.writerow([1000 + row, 3 * row, "abc"[row % 3], f"photos/{row}.png"])
    (folder / "rows.toml").write_text(DESCRIPTION)


def without_seconds(value):
    """Plain values without times, which differ from run to run."""
    if isinstance(value, dict):
        return {name: without_seconds(v) for name, v in value.items() if "second" not in name}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


def content(path):
    """What a file says, without times; raises if the file is not whole."""
    if path.suffix == ".ckpt":
        checkpoint = read_checkpoint(path)
        tensors = [checkpoint["state_dict"], *optimizer_states(checkpoint)]
        numbers = {
            f"{i}.{name}": torch.as_tensor(value).double().tolist()
            for i, state in enumerate(tensors)
            for name, value in state.items()
        }
        return numbers, without_seconds(checkpoint["history"])
    if path.suffix == ".json":
        return without_seconds(json.loads(path.read_text()))
    if path.name == "log.csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert all(None not in row and None not in row.values() for row in rows)
        return [{name: v for name, v in row.items() if "second" not in name} for row in rows]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    if path.suffix == ".png":
        return np.asarray(Image.open(path)).tolist()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder):
    """What all files of a folder say."""
    # tables show how long training took; temporary files of a killed process are removed by the next one
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".md", ".part")]
    return {path.relative_to(folder).as_posix(): content(path) for path in paths if path.name != ".lock"}


def start(command, folder):
    """A process that runs a command in a folder, its output in `FOLDER.log`."""
    child = os.fork()
    if child:
        return child
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os._exit(run(command, folder))


def run(command, folder):
    """Runs a command in a folder, with a download folder inside it; its exit code."""
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    return main(command)


def prepare(situation, root, name):
    """The folder of one attempt."""
    folder = root / name
    folder.mkdir()
    if situation in NEEDS_COPY:
        shutil.copytree(root / "trained" / "run", folder / "run")
    return folder


def end(child, seconds, number, folder):
    """Sends a signal to a process after some seconds; counts it, unless the process had ended before."""
    time.sleep(seconds)
    os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # commands that train end by themselves at SIGTERM
    assert code in (0, -number, 143), Path(f"{folder}.log").read_text()
    for path in folder.rglob(".*.part"):
        os.utime(path, (0, 0))  # a temporary file of the last second may belong to a running process, and stays
    return Counter() if code == 0 else Counter([number.name])


def kill(situation, root, kills, seed):
    """Kills the command of a situation `kills` times; the number of kills by signal.

    Every attempt is killed up to three times in a row, each time a random part of its usual time after its start, and
    then left alone to its end.
    """
    command, moments, counts = SITUATIONS[situation], random.Random(seed), Counter()
    root.mkdir(parents=True)
    write_data(root / "data")
    if command[1] == "../trained/run" or situation in NEEDS_COPY:
        (root / "trained").mkdir()
        assert run(["train", "mvae", "--epochs", "2", *TRAIN], root / "trained") == 0
    # the first run imports what the command imports, the second one is measured
    assert run(command, prepare(situation, root, "first")) == 0
    folder, started = prepare(situation, root, "reference"), time.perf_counter()
    assert os.waitpid(start(command, folder), 0)[1] == 0, Path(f"{folder}.log").read_text()
    usual, expected = time.perf_counter() - started, contents(folder)
    attempt = 0
    while counts.total() < kills:
        attempt += 1
        folder = prepare(situation, root, f"attempt-{attempt}")
        for _ in range(min(moments.randint(1, 3), kills - counts.total())):
            counts += end(start(command, folder), usual * moments.random(), moments.choice(SIGNALS), folder)
            if contents(folder) == expected:
                break
        if contents(folder) != expected:
            status = os.waitpid(start(command, folder), 0)[1]
            assert status == 0, Path(f"{folder}.log").read_text()
            assert contents(folder) == expected, f"{folder} differs"
            assert not list(folder.rglob("*.part"))
        shutil.rmtree(folder)
    return counts


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(kill(sys.argv[1], Path(sys.argv[2]).resolve(), int(sys.argv[3]), int(sys.argv[4]))))
