"""The estimator in the manner of scikit-learn."""

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from multipyro.inference.estimator import MultimodalEstimator

QUICK = {"latent_dim": 2, "hidden_features": (16,), "epochs": 30, "batch_size": 25, "lr": 1e-2, "num_samples": 30}


@pytest.fixture(scope="module")
def table():
    """Two groups of columns that depend on one number, and its sign as a class."""
    generator = np.random.default_rng(0)
    z = generator.normal(size=300)
    noise = 0.3 * generator.normal(size=(300, 4))
    columns = {"a": 100 + 10 * (z + noise[:, 0]), "b": -z + noise[:, 1], "c": z + noise[:, 2], "d": 2 * z + noise[:, 3]}
    return pandas.DataFrame(columns), np.where(z > 0, "high", "low")


def estimator(**changed):
    return MultimodalEstimator("mvae", {"first": ["a", "b"], "second": ["c", "d"]}, **{**QUICK, **changed})


def test_it_predicts_imputes_and_embeds(table):
    x, y = table
    # what is missing in training may be missing later
    known = x[:200].mask(np.random.default_rng(2).uniform(size=(200, 4)) < 0.2)
    fitted = estimator(options={"weights": {"target": 10.0}}).fit(known, y[:200])
    assert fitted.score(x[200:], y[200:]) > 0.85 and set(fitted.predict(x[200:])) == {"high", "low"}
    assert fitted.transform(x).shape == (300, 2)
    holes = x[200:].copy()
    hidden = np.random.default_rng(1).uniform(size=holes.shape) < 0.3
    holes = holes.mask(hidden)
    filled = fitted.impute(holes)
    assert not filled.isna().to_numpy().any() and (filled.to_numpy()[~hidden] == x[200:].to_numpy()[~hidden]).all()
    error = ((filled - x[200:]) / x.std()).to_numpy()[hidden]
    constant = ((x[:200].mean() - x[200:]) / x.std()).to_numpy()[hidden]
    assert np.square(error).mean() < 0.5 * np.square(constant).mean()


def test_it_works_in_pipelines_under_cross_validation_and_in_searches(table):
    x, y = table
    columns = {"modalities": {"first": ["0", "1"], "second": ["2", "3"]}}
    pipeline = make_pipeline(StandardScaler(), estimator().set_params(**columns, options={"weights": {"target": 10.0}}))
    assert cross_val_score(pipeline, x[:160], y[:160], cv=2).mean() > 0.75
    search = GridSearchCV(estimator(epochs=1), {"latent_dim": [1, 2]}, cv=2).fit(x[:100])
    assert np.isfinite(search.best_score_) and search.transform(x).shape == (300, search.best_params_["latent_dim"])


def test_the_score_without_y_rises_with_training(table):
    x, _ = table
    scores = [estimator(epochs=epochs).fit(x[:200]).score(x[200:]) for epochs in (1, 30)]
    assert scores[1] > scores[0] + 1


def test_it_clones_and_repeats_itself(table):
    x, y = table
    first = estimator(epochs=2).fit(x, y)
    again = clone(first).fit(x, y)
    assert np.array_equal(first.transform(x), again.transform(x))
    with pytest.raises(ValueError, match="fitted with y"):
        estimator(epochs=1).fit(x).predict(x)
    with pytest.raises(ValueError, match="columns"):
        first.transform(x[["c"]])


@pytest.mark.parametrize("classes", [("cat", "catfish"), (3, 7), (False, True)])
def test_classes_are_predicted_as_they_are_in_y(table, classes):
    x, y = table[0][:100], np.array(classes)[(table[1][:100] == "high").astype(int)]
    fitted = estimator(epochs=1).fit(x, y)
    predicted = fitted.predict(x)
    assert predicted.dtype == y.dtype
    assert fitted.score(x, y) == (predicted == y).mean()
    if isinstance(classes[0], str):
        assert fitted.score(x, [f"{value} of another name" for value in predicted.tolist()]) == 0


def test_missing_values_of_every_kind_of_table_are_filled(table):
    values = table[0][:60].to_numpy().copy()
    values[3, 1] = np.nan
    columns = {"modalities": {"first": ["0", "1"], "second": ["2", "3"]}}
    numbered = pandas.DataFrame(values, index=range(100, 160))
    for x in (numbered, numbered.astype("Float64"), values, values.tolist(), {n: values[:, n] for n in range(4)}):
        filled = estimator(epochs=1).set_params(**columns).fit(x).impute(x)
        assert type(filled) is (np.ndarray if isinstance(x, list) else type(x))
        if isinstance(x, pandas.DataFrame):
            assert filled.index.equals(x.index) and list(filled) == list(x)
        cells = np.array(list(filled.values())).T if isinstance(filled, dict) else np.asarray(filled, float)
        assert cells.shape == values.shape and np.isfinite(cells).all()
        assert (cells == values).sum() == values.size - 1
    assert np.isnan(values[3, 1])


def test_it_leaves_the_generator_of_torch_alone(table):
    x, y = table
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fitted = estimator(epochs=1).fit(x, y)
    fitted.predict(x), fitted.score(x), fitted.transform(x)
    assert torch.equal(torch.get_rng_state(), before)
