"""Commands that are killed at random moments leave nothing half written, and end as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kills import SITUATIONS

# 222 kills with the slow tests
KILLS = {name: 18 if name in ("cache", "prediction", "figure", "report") else 25 for name in SITUATIONS}


def kill(situation, folder, kills):
    """The number of kills of each signal, in a process of its own."""
    seed = int.from_bytes(os.urandom(4), "little")
    print("seed of the moments:", seed)
    command = [sys.executable, Path(__file__).with_name("kills.py"), situation, folder, str(kills), str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # CUDA does not work in forked processes
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_that_is_killed_three_times_ends_as_the_one_that_is_not(tmp_path):
    assert sum(kill("training", tmp_path / "training", 3).values()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("situation", SITUATIONS)
def test_many_kills_leave_no_trace(situation, tmp_path):
    counts = kill(situation, tmp_path / situation, KILLS[situation])
    print(situation, counts)
    assert sum(counts.values()) == KILLS[situation]
