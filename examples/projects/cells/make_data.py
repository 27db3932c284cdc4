"""Generates the data: 1,200 cells with counts of 2,000 genes and 20 proteins, their type and their batch.

A cell has a type and three continuous programs, which act on a few genes and proteins each; a batch scales every gene.
Counts are negative binomial. The proteins of 30 % of the cells are not measured; what they would have been goes to
`truth.csv`, which no command reads.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

GENES, PROTEINS, TYPES, BATCHES, PROGRAMS = 2_000, 20, ("B", "T4", "T8", "NK", "mono"), ("first", "second"), 3


def main(args):
    """Writes `rna.npy`, `cells.csv` and `truth.csv` into the folder."""
    generator = np.random.default_rng(args.seed)
    types = generator.choice(len(TYPES), args.rows, p=(0.2, 0.3, 0.2, 0.1, 0.2))
    batches, programs = generator.integers(len(BATCHES), size=args.rows), generator.normal(size=(args.rows, PROGRAMS))
    log_rates = rates(generator, GENES, types, programs, effect=1.2)
    log_rates += generator.normal(0, 0.3, (len(BATCHES), GENES))[batches]
    shares = np.exp(log_rates) / np.exp(log_rates).sum(1, keepdims=True)
    library = np.exp(generator.normal(np.log(3_000), 0.3, (args.rows, 1)))
    rna = negative_binomial(generator, library * shares, dispersion=4)
    proteins = negative_binomial(
        generator, 60 * np.exp(rates(generator, PROTEINS, types, programs, effect=1.0)), dispersion=12
    )
    measured = generator.uniform(size=args.rows) < 0.7
    np.save(args.out / "rna.npy", rna.astype(np.uint16))
    names = [f"protein{number}" for number in range(PROTEINS)]
    with (args.out / "cells.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["cell", "type", "batch", *names])
        for row in range(args.rows):
            cells = proteins[row] if measured[row] else [""] * PROTEINS
            table.writerow([f"cell{row}", TYPES[types[row]], BATCHES[batches[row]], *cells])
    with (args.out / "truth.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["cell", *names])
        table.writerows([f"cell{row}", *proteins[row]] for row in np.flatnonzero(~measured))
    print(f"{args.rows} cells, {measured.sum()} with proteins, {rna.sum(1).mean():.0f} counts per cell, in {args.out}")


def rates(generator, features, types, programs, effect):
    """Logarithms of the rates `(rows, features)`: a level per feature, markers of types, and programs."""
    level = generator.normal(0, 1, features)
    markers = generator.normal(0, effect, (len(TYPES), features)) * (
        generator.uniform(size=(len(TYPES), features)) < 0.2
    )
    loadings = generator.normal(0, effect / 2, (PROGRAMS, features)) * (
        generator.uniform(size=(PROGRAMS, features)) < 0.3
    )
    return level + markers[types] + programs @ loadings


def negative_binomial(generator, mean, dispersion):
    """Counts with this mean and the variance `mean + mean**2 / dispersion`."""
    return generator.poisson(generator.gamma(dispersion, mean / dispersion))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the files")
    main(parser.parse_args())
