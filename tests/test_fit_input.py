"""Training refuses data and settings that it cannot use, before anything is trained or written."""

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.utils.data import DataLoader, TensorDataset
from toy import toy_data, toy_programs

from multipyro.inference import fit, fit_recipe
from multipyro.inference.recipes import Recipe, Stage

QUICK = {"epochs": 1, "batch_size": 16, "progress": False}


def changed(name, values, observed=None):
    """One batch of the toy data with other values of one modality."""
    return [({**x, name: values}, observed) for x, _ in toy_data(8).batches(8)]


BAD = {
    "unknown modality": (lambda: changed("sound", torch.zeros(8)), ValueError, "unknown modality 'sound'"),
    "wrong shape": (lambda: changed("signal", torch.zeros(8, 5)), ValueError, "'signal' must have shape"),
    "wrong dtype": (lambda: changed("label", torch.zeros(8)), TypeError, "'label'"),
    "label out of range": (lambda: changed("label", torch.full((8,), 3)), ValueError, "'label'"),
    "NaN": (lambda: changed("signal", torch.full((8, 4), torch.nan)), ValueError, "'signal'"),
    "no batches": (lambda: [], ValueError, "no batches"),
    "no rows": (lambda: toy_data(0), ValueError, "contains no data points"),
    "an iterator": (lambda: iter(changed("label", torch.zeros(8).long())), TypeError, "iterated again"),
    "a dict": (
        lambda: dict(changed("label", torch.zeros(8).long())[0][0]),
        TypeError,
        r"\[x\] of a dict x\), got dict",
    ),
    "too few values": (lambda: [torch.zeros(8, 4)], ValueError, "does not say which of the modalities"),
    "no batch": (lambda: ["text"], TypeError, "a batch must be a dict"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_before_training(tmp_path, name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        fit(*toy_programs(), Trace_ELBO(), make(), out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_batches_may_be_dicts_or_tuples():
    x, _ = next(iter(toy_data(64).batches(64)))
    rows = [{name: values[row] for name, values in x.items()} for row in range(64)]
    pairs = [({name: values[begin : begin + 16] for name, values in x.items()}, None) for begin in range(0, 64, 16)]
    bounds = []
    for data in (
        pairs,
        [batch for batch, _ in pairs],
        DataLoader(rows, 16),
        DataLoader(TensorDataset(*x.values()), 16),
    ):
        pyro.set_rng_seed(0)
        bounds.append(fit(*toy_programs(), Trace_ELBO(), data, **QUICK).history[0]["train/bound"])
    assert bounds == [pytest.approx(bounds[0])] * 4


def test_bad_values_in_rows_that_are_not_observed_are_no_matter():
    mask = torch.arange(8) > 3
    label = torch.where(mask, 1, 99)
    fit(*toy_programs(), Trace_ELBO(), changed("label", label, {"label": mask}), **QUICK)


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"logger": "paper"}, {"resume": True}, {"early_stopping": 0}])
def test_bad_settings_are_refused(setting):
    with pytest.raises((TypeError, ValueError), match=next(iter(setting))):
        fit(*toy_programs(), Trace_ELBO(), toy_data(), **{**QUICK, "validation": toy_data(8), **setting})


@pytest.mark.parametrize(
    "setting", [{"lr": -1.0}, {"lr": float("nan")}, {"batch_size": 0}, {"device": "cuda:99"}], ids=str
)
def test_bad_settings_claim_no_folder(tmp_path, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        fit(*toy_programs(), Trace_ELBO(), toy_data(), out=tmp_path / "run", **{**QUICK, **setting})
    assert not (tmp_path / "run").exists()


class Failing(Trace_ELBO):
    """Fails in the first step."""

    def _get_trace(self, *args):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("error", ["optimizer", "strategy", "loss"])
def test_a_run_that_fails_before_its_first_checkpoint_leaves_its_folder_free(tmp_path, error):
    settings = {
        "optimizer": {"optimizer": lambda trained: torch.optim.SGD(trained, lr=-1.0)},
        "strategy": {"strategy": "no such strategy"},
        "loss": {},
    }[error]
    loss = Failing() if error == "loss" else Trace_ELBO()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises((ValueError, RuntimeError)):
        fit(*toy_programs(), loss, toy_data(), out=tmp_path, **QUICK, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert fit(*toy_programs(), Trace_ELBO(), toy_data(), out=tmp_path, **QUICK).epochs == 1


def test_a_device_may_have_a_number():
    for device in ("cpu:0", torch.device("cpu", 0)):
        assert fit(*toy_programs(), Trace_ELBO(), toy_data(), device=device, **QUICK).epochs == 1


def test_a_run_with_a_checkpoint_keeps_its_folder(tmp_path):
    losses = iter([Trace_ELBO(), Failing()])
    model, guide = toy_programs()
    stages = tuple(Stage(loss, name=f"{number}") for number, loss in enumerate(losses))
    with pytest.raises(RuntimeError, match="out of memory"):
        fit_recipe(Recipe(model, guide, stages), toy_data(), out=tmp_path, **QUICK)
    assert (tmp_path / "run.json").is_file() and list(tmp_path.rglob("last.ckpt"))
    with pytest.raises(ValueError, match="already contains a run"):
        fit_recipe(Recipe(model, guide, stages), toy_data(), out=tmp_path, **QUICK)
