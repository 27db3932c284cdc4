"""Generates the data: 1,200 moments of an arm with two joints, seen by a camera and heard by a microphone.

The camera sees the arm in 20x20 gray pixels; the spectrogram has the pitch of each motor, which depends on its speed,
and its loudness, which depends on the load that gravity puts on the joint. Joint angles are lost in 25 % of the moments
and images in 15 %; the lost angles go to `truth.csv`, which no command reads.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

SIDE, BANDS, FRAMES = 20, 20, 16


def main(args):
    """Writes `moments.csv`, `camera.npy`, `sound.npy` and `truth.csv` into the folder."""
    generator = np.random.default_rng(args.seed)
    shoulder, elbow = generator.uniform(-1.2, 1.2, args.rows), generator.uniform(-2.0, 2.0, args.rows)
    angles = np.stack([shoulder, elbow], 1)
    speeds = generator.uniform(0.2, 1.0, (args.rows, 2))
    camera = np.stack([image(*pair) for pair in angles]) + 0.03 * generator.normal(size=(args.rows, SIDE, SIDE))
    camera = np.uint8(255 * camera.clip(0, 1))[:, None]
    sound = np.stack([spectrogram(generator, *row) for row in zip(angles, speeds, strict=True)])[:, None]
    has_image, has_angles = generator.uniform(size=args.rows) < 0.85, generator.uniform(size=args.rows) < 0.75
    np.save(args.out / "camera.npy", np.where(has_image[:, None, None, None], camera / np.float32(255), np.nan))
    np.save(args.out / "sound.npy", sound.astype(np.float32))
    joints = angles + 0.02 * generator.normal(size=angles.shape)
    with (
        (args.out / "moments.csv").open("w", newline="") as file,
        (args.out / "truth.csv").open("w", newline="") as truth_file,
    ):
        table, truth = csv.writer(file), csv.writer(truth_file)
        table.writerow(["moment", "shoulder", "elbow"])
        truth.writerow(["moment", "shoulder", "elbow"])
        for row, cells in enumerate(joints.round(4).tolist()):
            table.writerow([row, *(cells if has_angles[row] else ("", ""))])
            if not has_angles[row]:
                truth.writerow([row, *cells])
    print(f"{args.rows} moments, {has_angles.sum()} with joint angles, {has_image.sum()} with an image, in {args.out}")


def image(shoulder, elbow):
    """The arm in the plane, gray values `(SIDE, SIDE)` from 0 to 1."""
    middle = 0.5 * np.array([np.sin(shoulder), np.cos(shoulder)])
    end = middle + 0.45 * np.array([np.sin(shoulder + elbow), np.cos(shoulder + elbow)])
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 2 - 1
    points = np.concatenate(
        [np.linspace(0, 1, 12)[:, None] * middle, middle + np.linspace(0, 1, 12)[:, None] * (end - middle)]
    )
    distance = np.hypot(x[..., None] - points[:, 0], -y[..., None] - points[:, 1] + 0.3).min(-1)
    return np.exp(-((distance / 0.12) ** 2))


def spectrogram(generator, angles, speeds):
    """Loudness in decibels, `(BANDS, FRAMES)`: a line per motor, over noise."""
    load = np.array([np.sin(angles[0]) + 0.5 * np.sin(angles.sum()), np.sin(angles.sum())])
    band = np.arange(BANDS)[:, None]
    wave = np.sin(np.arange(FRAMES) / 3)
    lines = [
        (12 + 6 * push) * np.exp(-((band - 4 - 12 * speed - wave) ** 2) / 3)
        for push, speed in zip(load, speeds, strict=True)
    ]
    return -40 + sum(lines) + 1.5 * generator.normal(size=(BANDS, FRAMES))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the files")
    main(parser.parse_args())
