"""Generates the data: 1,000 patients with laboratory values, a small scan, a note, a stage and a diagnosis.

A patient has a severity, a metabolic state and a diagnosis, on which everything depends. Of the laboratory values 15 %
are missing independently, of the scans 30 %, of the notes 20 %. The missing laboratory values go to `truth.csv`, which
no command reads.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

DIAGNOSES = ("asthma", "copd", "fibrosis")
LABS = ("age", "bmi", "pressure", "crp", "glucose", "creatinine", "hemoglobin", "saturation")
SYMPTOMS = {"asthma": "wheezing", "copd": "cough", "fibrosis": "breathlessness"}
DEGREES = ("mild", "moderate", "severe", "critical")
SIDE = 16


def main(args):
    """Writes `patients.csv`, `truth.csv` and the folder `scans` into the folder."""
    generator = np.random.default_rng(args.seed)
    diagnosis = generator.choice(3, args.rows, p=(0.4, 0.4, 0.2))
    severity = generator.normal(size=args.rows) + (diagnosis == 2) * 0.5
    metabolic = generator.normal(size=args.rows)
    noise = generator.normal(size=(args.rows, len(LABS)))
    labs = np.stack(
        [
            58 + 9 * severity + 6 * (diagnosis == 1) + 8 * noise[:, 0],
            26 + 4 * metabolic + 1.5 * noise[:, 1],
            128 + 9 * metabolic + 6 * severity + 7 * noise[:, 2],
            np.exp(1.2 + 0.8 * severity + 0.4 * noise[:, 3]),
            5.4 + 1.1 * metabolic + 0.5 * noise[:, 4],
            80 + 14 * severity + 8 * noise[:, 5],
            13.8 - 0.9 * severity + 0.6 * noise[:, 6],
            96 - 2.2 * severity - 2 * (diagnosis == 2) + 0.9 * noise[:, 7],
        ],
        1,
    )
    stage = np.digitize(severity + 0.3 * generator.normal(size=args.rows), (-0.8, 0.3, 1.2))
    missing = generator.uniform(size=labs.shape) < 0.15
    scanned, noted = generator.uniform(size=args.rows) < 0.7, generator.uniform(size=args.rows) < 0.8
    (args.out / "scans").mkdir(parents=True, exist_ok=True)
    truth = []
    with (args.out / "patients.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["patient", *LABS, "stage", "diagnosis", "scan", "note"])
        for row in range(args.rows):
            patient, name = f"p{row:04d}", DIAGNOSES[diagnosis[row]]
            values = ["" if missing[row, i] else f"{labs[row, i]:.2f}" for i in range(len(LABS))]
            truth += [(patient, LABS[i], f"{labs[row, i]:.2f}") for i in np.flatnonzero(missing[row])]
            scan, text = f"scans/{patient}.png" if scanned[row] else "", ""
            if scanned[row]:
                draw(generator, severity[row], metabolic[row], diagnosis[row]).save(args.out / scan)
            if noted[row]:
                weight = "overweight" if metabolic[row] > 0.3 else "slim"
                text = f"{DEGREES[stage[row]]} {SYMPTOMS[name]} in a {weight} patient"
            table.writerow([patient, *values, DEGREES[stage[row]], name, scan, text])
    with (args.out / "truth.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patient", "value", "true"), *truth])
    print(f"{args.rows} patients, {len(truth)} laboratory values missing, {scanned.sum()} scans, in {args.out}")


def draw(generator, severity, metabolic, diagnosis):
    """A gray image: two lungs, lighter with severity, wider with weight, and a pattern by diagnosis."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 2 - 1
    width = 0.32 + 0.04 * metabolic
    lungs = np.exp(-(((np.abs(x) - 0.45) / width) ** 2) - (y / 0.7) ** 2)
    texture = (0.0, np.sin(9 * y), np.sin(9 * x) * np.sin(9 * y))[diagnosis]
    gray = 0.25 + (0.3 + 0.12 * severity) * lungs + 0.1 * texture * lungs + 0.04 * generator.normal(size=x.shape)
    return Image.fromarray(np.uint8(255 * gray.clip(0, 1)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the files")
    main(parser.parse_args())
