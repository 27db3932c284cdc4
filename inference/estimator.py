"""A multimodal VAE as a scikit-learn estimator, which fits, embeds, predicts, imputes and scores."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from multipyro._optional import optional_imports
from multipyro.data import MultimodalData, from_table, load_examples
from multipyro.inference.evaluation import cross_generate, embed, log_likelihood
from multipyro.inference.recipes import build, networks_for
from multipyro.inference.training import fit_recipe

with optional_imports("the estimator"):
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted

__all__ = ["MultimodalEstimator"]

_TARGET = "target"
# the split from which the modalities are described; all rows are used for training
_SHARES = (0.8, 0.1, 0.1)


class MultimodalEstimator(TransformerMixin, BaseEstimator):
    """A method of this library as a scikit-learn estimator.

    It can be cloned, and works in `Pipeline`, `cross_val_score` and `GridSearchCV`. Each row is an example, and any
    value may be missing (NaN, None). If no training row has single missing values in a modality, a row without one of
    its values is treated as missing the whole modality. With `y`, the classes or numbers are one more modality, which
    `predict` predicts.

    Args:
        method: A method of `METHODS`.
        modalities: Modality name -> its column, its list of columns, or its description as in `from_table`. By default
            each column of a DataFrame is a modality, and all columns of an array are one modality, `"x"`. Columns of
            arrays are named by number: `"0"`, `"1"` and so on.
        latent_dim: Size of the latent.
        hidden_features: Widths of the hidden layers; None for the default.
        options: Options of the method.
        epochs: Number of passes over the data.
        batch_size: Examples per batch.
        lr: Learning rate.
        num_samples: Monte Carlo samples per example for predictions and likelihoods.
        seed: Seed of every random number.

    Attributes:
        recipe_: The trained recipe, with `model` and `guide`.
        modalities_: Modality name -> its description.
        history_: One dict per epoch.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(60, 4))
        >>> estimator = MultimodalEstimator("mvae", {"a": ["0", "1"], "b": ["2", "3"]}, latent_dim=2, epochs=1)
        >>> estimator.fit(x).transform(x).shape
        (60, 2)
    """

    def __init__(
        self,
        method: str = "mopoe",
        modalities: Mapping[str, Any] | None = None,
        *,
        latent_dim: int = 8,
        hidden_features: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
        epochs: int = 50,
        batch_size: int = 64,
        lr: float = 1e-3,
        num_samples: int = 100,
        seed: int = 0,
    ) -> None:
        self.method, self.modalities = method, modalities
        self.latent_dim, self.hidden_features, self.options = latent_dim, hidden_features, options
        self.epochs, self.batch_size, self.lr = epochs, batch_size, lr
        self.num_samples, self.seed = num_samples, seed

    def fit(self, X: Any, y: Any = None) -> "MultimodalEstimator":
        """Trains on all rows.

        Args:
            X: A DataFrame, an array of numbers `(rows, columns)`, or a dict of columns.
            y: A class or a number for each row, used as a further modality.

        Raises:
            ValueError: If the data does not fit `modalities`, or the method cannot be trained on it.
        """
        table = _columns(X)
        specs = self._specs(table, not _is_named(X))
        if y is not None:
            if _TARGET in specs:
                raise ValueError(f"no modality may be named {_TARGET!r}: this is the name of y")
            table, specs[_TARGET] = {**table, _TARGET: _listed(y)}, {"column": _TARGET}
        described = from_table(table, specs, split=_SHARES, seed=self.seed).train.modalities
        data = load_examples(table, described).with_split("train")
        networks = networks_for(described, self.hidden_features)
        with self._seeded():
            recipe = build(self.method, networks, self.latent_dim, **(self.options or {}))
        settings = {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr, "seed": self.seed}
        result = fit_recipe(recipe, data, **settings, progress=False)
        self.recipe_, self.modalities_, self.history_ = recipe, described, result.history
        self.has_target_ = y is not None
        self._classes = {
            name: _classes(modality.class_names, table[modality.columns[0]])
            for name, modality in described.items()
            if modality.is_discrete and modality.class_names and modality.columns
        }
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The latent mean of each row given its observed values, `(rows, latent_dim)`."""
        data = self._read(X)
        x, observed = data.rows(torch.arange(len(data)))
        with self._seeded():
            return embed(self.recipe_.guide, x, observed=observed).cpu().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class, or the mean, of `y` for each row.

        Raises:
            ValueError: If the estimator was fitted without `y`.
        """
        check_is_fitted(self)
        if not self.has_target_:
            raise ValueError("predict needs an estimator that was fitted with y")
        return self._predicted(self._read(X), [_TARGET])[_TARGET]

    def impute(self, X: Any) -> Any:
        """The data with every missing value filled: numbers with their means, classes with the most probable one.

        Returns:
            A DataFrame for a DataFrame, a dict of columns for a dict, otherwise an array.
        """
        columns, data, filled = _columns(X), self._read(X), {}
        names = [name for name in data.modalities if self.modalities_[name].columns]
        for name, predicted in self._predicted(data, names).items():
            for number, column in enumerate(self.modalities_[name].columns):
                values = predicted if predicted.ndim == 1 else predicted[:, number]
                pairs = zip(columns[column], values.tolist(), strict=True)
                filled[column] = [_filled(cell, value) for cell, value in pairs]
        if not _is_named(X):
            return np.array(list({**columns, **filled}.values()), float).T
        result = X.copy() if hasattr(X, "assign") else dict(X if isinstance(X, Mapping) else columns)
        for name in list(result):  # the name of a column may be a number
            if str(name) in filled:
                result[name] = filled[str(name)]
        return result

    def score(self, X: Any, y: Any = None) -> float:
        """The accuracy of `predict` (R^2 for numbers) if `y` is passed, otherwise the mean log-likelihood.

        The log-likelihood of the observed values is estimated by importance sampling, in nats per example.
        """
        check_is_fitted(self)
        if self.has_target_ and y is not None:
            from sklearn.metrics import accuracy_score, r2_score

            measure = accuracy_score if self.modalities_[_TARGET].is_discrete else r2_score
            return float(measure(np.asarray(_listed(y)), self.predict(X)))
        data = self._read(X)
        x, observed = data.rows(torch.arange(len(data)))
        with self._seeded():
            return log_likelihood(
                self.recipe_.model, self.recipe_.guide, x, num_samples=self.num_samples, observed=observed
            ).mean

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Seeds torch in this context, and restores the state of its generator afterwards."""
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(self.seed)
            yield

    def _specs(self, table: Mapping[str, list], is_array: bool) -> dict[str, Mapping[str, Any]]:
        """The modalities in the form that `from_table` accepts."""
        if self.modalities is None:
            return {"x": {"columns": list(table)}} if is_array else {name: {"column": name} for name in table}
        specs = {}
        for name, spec in self.modalities.items():
            if isinstance(spec, str):
                spec = {"column": spec}
            specs[name] = spec if isinstance(spec, Mapping) else {"columns": list(spec)}
        return specs

    def _read(self, X: Any) -> MultimodalData:
        check_is_fitted(self)
        known = {name: modality for name, modality in self.modalities_.items() if name != _TARGET}
        return load_examples(_columns(X), known)

    def _predicted(self, data: MultimodalData, target: Sequence[str]) -> dict[str, np.ndarray]:
        """Means, or the most probable classes, of modalities given the observed values of each row."""
        x, observed = data.rows(torch.arange(len(data)))
        with self._seeded():
            samples = cross_generate(self.recipe_.model, self.recipe_.guide, x, target, self.num_samples, observed)
        predicted = {}
        for name, values in samples.items():
            modality = self.modalities_[name]
            if modality.is_discrete:
                shares = torch.stack([(values == c).float().mean(0) for c in range(modality.num_classes)], -1)
                most = shares.argmax(-1)
                predicted[name] = self._classes[name][most] if name in self._classes else modality.decode(most)
            else:
                predicted[name] = modality.to_units(values).mean(0).squeeze(1).cpu().numpy()
        return predicted


def _columns(X: Any) -> dict[str, list]:
    """The columns of a table, by name."""
    if isinstance(X, Mapping):
        return {str(name): _listed(values) for name, values in X.items()}
    if hasattr(X, "columns"):
        return {str(name): _listed(X[name]) for name in X.columns}
    array = np.asarray(X, float)
    if array.ndim != 2:
        raise ValueError(f"X must be a DataFrame, a dict of columns or an array (rows, columns), got {array.shape}")
    return {str(number): values.tolist() for number, values in enumerate(array.T)}


def _is_named(X: Any) -> bool:
    """Whether the columns of a table have names."""
    return isinstance(X, Mapping) or hasattr(X, "columns")


def _listed(values: Any) -> list:
    if hasattr(values, "notna"):  # pandas' missing values cannot be compared
        values = values.astype(object).where(values.notna(), None)
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _classes(names: Sequence[str], cells: Sequence[Any]) -> np.ndarray:
    """The classes, with the values that represent them in a column."""
    values = {str(cell): cell for cell in cells}
    return np.array([values.get(name, name) for name in names])


def _filled(cell: Any, value: Any) -> Any:
    """The cell, or the value in place of a missing one."""
    missing = cell is None or cell == "" or cell != cell  # NaN is not equal to itself
    return value if missing else cell
