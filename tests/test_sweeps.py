"""A sweep computes every cell once, whatever happens to the others."""

import multiprocessing
import os
import signal
import time

import pytest

from multipyro.inference.sweeps import Cell, run_cells


def count(folder, number):
    """Leave a mark for each time it was called, and return how many there are."""
    (folder / f"called-{time.monotonic_ns()}").touch()
    return {"number": number, "calls": len(list(folder.glob("called-*")))}


def fail_once(folder):
    if not (folder / "tried").exists():
        (folder / "tried").touch()
        raise RuntimeError("the first time it fails")
    return {"tried": True}


def kill_itself(folder):
    os.kill(os.getpid(), signal.SIGKILL)


def spin(folder):
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    return {}


def unreadable(folder):
    return {"value": object()}


def beat(folder):
    """Write the time until something ends the process."""
    while True:
        (folder / "beat").write_text(str(time.monotonic_ns()))
        time.sleep(0.02)


def sweep_of_one(folder):
    run_cells([Cell("beating", beat)], folder, workers=1)


def cells(*numbers):
    return [Cell(f"cell-{number}", count, {"number": number}) for number in numbers]


def test_finished_cells_are_never_computed_again(tmp_path):
    first = run_cells(cells(1, 2), tmp_path)
    again = run_cells(cells(1, 2, 3), tmp_path)
    assert [result.values for result in first.values()] == [{"number": n, "calls": 1} for n in (1, 2)]
    assert [result.values for result in again.values()] == [{"number": n, "calls": 1} for n in (1, 2, 3)]
    assert all(result.seconds >= 0 and not result.error for result in again.values())


def test_a_finished_cell_with_another_key_is_computed_again(tmp_path):
    run_cells([Cell("a", count, {"number": 1}, key={"version": 1})], tmp_path)
    same = run_cells([Cell("a", count, {"number": 2}, key={"version": 1})], tmp_path)
    other = run_cells([Cell("a", count, {"number": 2}, key={"version": 2})], tmp_path)
    assert same["a"].values == {"number": 1, "calls": 1}
    assert other["a"].values == {"number": 2, "calls": 2}


def succeed_beside_a_sweep_that_fails(folder):
    (folder / "error.txt").write_text("ValueError: another process is training in this folder")
    return {}


def test_a_finished_cell_keeps_no_error_of_another_sweep(tmp_path):
    results = run_cells([Cell("one", succeed_beside_a_sweep_that_fails)], tmp_path)
    assert results["one"].values == {} and not (tmp_path / "one" / "error.txt").exists()


def test_a_cell_that_fails_is_reported_and_started_anew(tmp_path):
    failing = [Cell("bad", fail_once), *cells(1)]
    first = run_cells(failing, tmp_path)
    assert first["bad"].values is None and "RuntimeError: the first time it fails" in first["bad"].error
    assert first["cell-1"].values == {"number": 1, "calls": 1}
    again = run_cells(failing, tmp_path)
    assert again["bad"].values == {"tried": True} and not again["bad"].error
    assert not (tmp_path / "bad" / "error.txt").exists()


@pytest.mark.parametrize("text", ["", "[]", "null", '{"key": {}}', '{"key": {"number": 1}'])
def test_a_damaged_result_is_computed_again(tmp_path, text):
    (tmp_path / "cell-1").mkdir()
    (tmp_path / "cell-1" / "cell.json").write_text(text)
    assert run_cells(cells(1), tmp_path)["cell-1"].values == {"number": 1, "calls": 1}


def test_the_processes_of_a_killed_sweep_end_with_it(tmp_path):
    sweep = multiprocessing.get_context("spawn").Process(target=sweep_of_one, args=(tmp_path,))
    sweep.start()
    file, end = tmp_path / "beating" / "beat", time.monotonic() + 300
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.05)
    sweep.kill()
    sweep.join()
    time.sleep(1)
    last = file.read_text()
    time.sleep(0.5)
    assert file.read_text() == last


def test_values_that_json_has_not_are_an_error_of_the_cell(tmp_path):
    assert "not JSON serializable" in run_cells([Cell("a", unreadable)], tmp_path)["a"].error


def test_no_cell_is_started_beyond_the_budget(tmp_path):
    reported = []
    spinning = [Cell(f"spin-{n}", spin) for n in range(4)]
    results = run_cells(spinning, tmp_path, budget=0.3 / 60, report=lambda cell, result: reported.append(cell.name))
    finished = [name for name, result in results.items() if result.values is not None]
    assert finished == ["spin-0", "spin-1"]
    assert not any(result.error for result in results.values())
    assert reported == [cell.name for cell in spinning]
    # what the first call used does not count in the second
    assert run_cells(spinning, tmp_path, budget=0.3 / 60)["spin-3"].values == {}


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="cell-1 more than once"):
        run_cells(cells(1, 1), tmp_path)
    with pytest.raises(ValueError, match="got -1"):
        run_cells(cells(1), tmp_path, workers=-1)
    with pytest.raises(ValueError, match="at least 1"):
        run_cells(cells(1), tmp_path, engine="ray")


@pytest.mark.parametrize("engine", ["processes", pytest.param("ray", marks=pytest.mark.slow)])
def test_what_happens_to_one_process_happens_to_no_other(tmp_path, engine):
    if engine == "ray":
        pytest.importorskip("ray")
    sweep = [Cell("killed", kill_itself), Cell("bad", fail_once), *cells(1)]
    results = run_cells(sweep, tmp_path, workers=2, engine=engine)
    assert results["killed"].values is None and results["killed"].error
    assert "RuntimeError: the first time it fails" in results["bad"].error
    assert results["cell-1"].values == {"number": 1, "calls": 1}
    again = run_cells(sweep[1:], tmp_path, workers=1, engine=engine)
    assert again["bad"].values == {"tried": True}
    assert again["cell-1"].values == {"number": 1, "calls": 1}
