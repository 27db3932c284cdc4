"""Compares imputed values with the hidden ones: errors and coverage of methods, and of simple baselines.

    python measure.py PROJECT FOLDER_OR_TABLE...

reads the data of a project, its `truth.csv`, and the predictions that `multipyro predict` has written, one file or
folder per method. The baselines are the mean, nearest neighbors and ridge regression, on the same columns as the
models: 30 principal components of a large modality, classes as indicators, words as counts, numbers standardized. Where
a column is missing, nearest neighbors leave it out of the distance, and ridge regression uses its mean.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.impute import KNNImputer
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

COMPONENTS, NEIGHBORS = 30, 10


class Cells:
    """Proteins of cells: errors of log(1 + count)."""

    unit = "RMSE of log(1 + count)"

    def __init__(self, folder):
        rows = read(folder / "cells.csv")
        rna = np.load(folder / "rna.npy").astype(float)
        genes = np.log1p(1e4 * rna / rna.sum(1, keepdims=True))
        self.ids, self.names = [row["cell"] for row in rows], [name for name in rows[0] if name.startswith("protein")]
        self.targets = np.log1p(numbers(rows, self.names))
        self.features = np.hstack([components(genes), indicators(rows, "type"), indicators(rows, "batch")])
        self.truth = {row["cell"]: row for row in read(folder / "truth.csv")}

    def hidden(self):
        """Row, column and true value of each hidden value."""
        for row, cell in enumerate(self.ids):
            for column, name in enumerate(self.names):
                if cell in self.truth:
                    yield row, column, np.log1p(float(self.truth[cell][name]))

    def scale(self, value):
        """A prediction in the unit of the errors."""
        return np.log1p(max(value, 0))

    def errors(self, predicted, true, columns):
        """The error of all hidden values."""
        return np.sqrt(np.mean((predicted - true) ** 2))


class Clinic:
    """Laboratory values of patients: errors in standard deviations of each value."""

    unit = "RMSE in standard deviations"

    def __init__(self, folder):
        rows = read(folder / "patients.csv")
        self.ids, self.names = [row["patient"] for row in rows], list(rows[0])[1:9]
        self.targets = numbers(rows, self.names)
        self.deviations = np.nanstd(self.targets, 0)
        scans = [np.asarray(Image.open(folder / row["scan"]), float).ravel() if row["scan"] else None for row in rows]
        side = next(len(scan) for scan in scans if scan is not None)
        scans = np.stack([np.full(side, np.nan) if scan is None else scan for scan in scans])
        words = sorted({word for row in rows for word in row["note"].split()})
        notes = [[row["note"].split().count(word) if row["note"] else np.nan for word in words] for row in rows]
        ranks = {"mild": 0, "moderate": 1, "severe": 2, "critical": 3}
        stages = np.array([[ranks[row["stage"]]] for row in rows], float)
        self.features = np.hstack([components(scans), np.array(notes), stages, indicators(rows, "diagnosis")])
        self.truth = {(row["patient"], row["value"]): float(row["true"]) for row in read(folder / "truth.csv")}

    def hidden(self):
        """Row, column and true value of each hidden value."""
        row_of, column_of = ({name: i for i, name in enumerate(names)} for names in (self.ids, self.names))
        yield from ((row_of[patient], column_of[value], true) for (patient, value), true in self.truth.items())

    def scale(self, value):
        """A prediction in the unit of the data."""
        return value

    def errors(self, predicted, true, columns):
        """The error of all hidden values."""
        return np.sqrt(np.mean(((predicted - true) / self.deviations[columns]) ** 2))


class Robot:
    """Joint angles of an arm: errors in radians."""

    unit = "mean absolute error in radians"

    def __init__(self, folder):
        rows = read(folder / "moments.csv")
        self.ids, self.names = [row["moment"] for row in rows], ["shoulder", "elbow"]
        angles = numbers(rows, self.names)
        self.targets = np.hstack([np.sin(angles), np.cos(angles)])
        images, sounds = (np.load(folder / name).reshape(len(rows), -1) for name in ("camera.npy", "sound.npy"))
        self.features = np.hstack([components(images), components(sounds)])
        self.truth = {row["moment"]: row for row in read(folder / "truth.csv")}

    def hidden(self):
        """Row, column and true value of each hidden value."""
        for row, moment in enumerate(self.ids):
            for column, name in enumerate(self.names):
                if moment in self.truth:
                    yield row, column, float(self.truth[moment][name])

    def scale(self, value):
        """A prediction in the unit of the data."""
        return value

    def errors(self, predicted, true, columns):
        """The error of all hidden values."""
        return np.mean(np.abs(turned(predicted - true)))


PROJECTS = {"cells": Cells, "clinic": Clinic, "robot": Robot}


def main(args):
    """Prints a table with a row per method and baseline."""
    project = PROJECTS[args.project](args.data)
    rows, columns, true = map(np.array, zip(*project.hidden(), strict=True))
    print(f"{len(true)} hidden values of {len(set(rows.tolist()))} examples\n")
    print(f"| imputed by | {project.unit} | 90 % intervals cover |\n| --- | --- | --- |")
    for place in args.predictions:
        predicted, covered = model_values(project, place, rows, columns, true)
        print(f"| {place.stem} | {project.errors(predicted, true, columns):.3f} | {100 * covered:.1f} % |")
    for name, values in baselines(project.features, project.targets).items():
        if isinstance(project, Robot):
            sines, cosines = np.hsplit(values, 2)
            values = np.arctan2(sines, cosines)
        print(f"| {name} | {project.errors(values[rows, columns], true, columns):.3f} | |")


def model_values(project, place, rows, columns, true):
    """Predicted medians (means for angles) of the hidden values, and the share of these in the 90 % intervals."""
    table = {row["id"]: row for row in read(place / "predictions.csv" if place.is_dir() else place)}
    point = "mean" if isinstance(project, Robot) else "q50"

    def values(kind):
        cells = [table[project.ids[r]][f"{project.names[c]} {kind}"] for r, c in zip(rows, columns, strict=True)]
        return np.array([project.scale(float(cell)) for cell in cells])

    predicted, low, high = values(point), values("q5"), values("q95")
    if isinstance(project, Robot):  # as angles relative to the mean
        low, high, true = (turned(angles - predicted) for angles in (low, high, true))
    return predicted, np.mean((low <= true) & (true <= high))


def baselines(features, targets):
    """Every target `(rows, targets)` filled by each baseline."""
    matrix = StandardScaler().fit_transform(np.hstack([targets, features]))
    number, scaler = targets.shape[1], StandardScaler().fit(targets)
    filled = np.where(np.isnan(matrix), 0.0, matrix)
    ridge = np.zeros_like(targets)
    # values that are missing together, such as the proteins of a cell, say nothing about one another
    blocks = np.isnan(targets).all(1) == np.isnan(targets).any(1)
    for column in range(number):
        others = filled[:, number:] if blocks.all() else np.delete(filled, column, 1)
        known = ~np.isnan(targets[:, column])
        model = RidgeCV(np.logspace(-2, 4, 13)).fit(others[known], matrix[known, column])
        ridge[:, column] = model.predict(others)
    neighbors = KNNImputer(n_neighbors=NEIGHBORS, keep_empty_features=True).fit_transform(matrix)[:, :number]
    mean = np.zeros_like(targets)
    named = {"mean": mean, f"{NEIGHBORS} nearest neighbors": neighbors, "ridge regression": ridge}
    return {name: scaler.inverse_transform(values) for name, values in named.items()}


def components(values):
    """Principal components of the rows without missing values, NaN in the others."""
    known = ~np.isnan(values).any(1)
    number = min(COMPONENTS, known.sum(), values.shape[1])
    result = np.full((len(values), number), np.nan)
    result[known] = PCA(number, random_state=0).fit_transform(values[known])
    return result


def indicators(rows, column):
    """A column of 0 and 1 per class."""
    classes = sorted({row[column] for row in rows})
    return np.array([[float(row[column] == one) for one in classes] for row in rows])


def numbers(rows, names):
    """Columns of numbers, NaN where a cell is empty."""
    return np.array([[float(row[name] or "nan") for name in names] for row in rows])


def turned(angles):
    """Angles from -pi to pi."""
    return np.angle(np.exp(1j * angles))


def read(file):
    """The rows of a CSV file."""
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", choices=PROJECTS)
    parser.add_argument("predictions", nargs="+", type=Path, help="written by multipyro predict, one per method")
    parser.add_argument("--data", type=Path, default=Path(), help="folder of the data")
    main(parser.parse_args())
