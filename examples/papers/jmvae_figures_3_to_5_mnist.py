"""Does JMVAE's latent collapse without the image, and do more rounds help? JMVAE, Figures 3, 4 and 5, MNIST.

Figure 3: latents of two dimensions given image and label, and given the label alone. Figure 4: images generated from
labels, with more rounds of iterative sampling from row to row. Figure 5: log-likelihood of the image given the label
against the number of rounds.

Published: JMVAE's latents collapse into a small area given the label, and no number of rounds repairs its images;
JMVAE-h needs few rounds, JMVAE-kl none.
"""

import torch
from experiment import Experiment, Run, Trial, run
from matplotlib.figure import Figure

from multipyro.inference import cross_generate
from multipyro.inference.evaluation import jmvae_log_likelihood, latent_accuracy
from multipyro.inference.evaluation.figures import by_setting_figure, latent_map_figure, save_figure

ROUNDS = (1, 2, 4, 6, 8, 10)


def measure(trial: Trial) -> dict[str, float]:
    """The latents of two dimensions, or the log-likelihood and images after each number of rounds."""
    if trial.run.changes:
        test = trial.splits.test
        save_figure(latent_map_figure(trial.guide, test, [["image", "label"], ["label"]]), trial.folder / "latents.png")
        accuracy = latent_accuracy(trial.guide, trial.splits.train, test, ["label"])
        return {"accuracy of a probe, given the label": accuracy.value}
    x, values, images = trial.test(10_000, 1_000), {}, []
    iterative = hasattr(trial.guide, "rounds")
    for rounds in ROUNDS if iterative else ROUNDS[:1]:
        if iterative:
            trial.guide.rounds = rounds
        estimate = jmvae_log_likelihood(trial.model, trial.guide, x, ["label"], ["image"], trial.size(10, 10))
        values[f"label to image, {rounds} rounds"] = estimate.mean
        labels = {"label": torch.arange(10)}
        images.append(cross_generate(trial.model, trial.guide, labels, ["image"], output="mean")["image"][0, :, 0])
    grid = torch.cat([torch.cat(list(row), 1) for row in images])
    figure = Figure(figsize=(5, 0.5 * len(images)), layout="constrained")
    ax = figure.subplots()
    ax.imshow(grid.numpy(), cmap="gray_r", vmin=0, vmax=1)
    ax.set_xticks([])
    ax.set_yticks([28 * row + 14 for row in range(len(images))], [str(rounds) for rounds in ROUNDS[: len(images)]])
    ax.set_ylabel("rounds")
    figure.savefig(trial.folder / "images.png", dpi=100)
    return values


def draw(table, file):
    """Figure 5; a method without rounds is drawn as a horizontal line."""
    lines = {}
    for label, metrics in table.items():
        cells = {name: cell for name, cell in metrics.items() if "rounds" in name and cell["value"] is not None}
        points = {float(name.split()[-2]): {k: cell[k] for k in ("value", "std")} for name, cell in cells.items()}
        if points:
            lines[label] = points if len(points) > 1 else dict.fromkeys(map(float, ROUNDS), *points.values())
    if not lines:
        return []
    path = file.with_name(f"{file.name}-figure-5.png")
    save_figure(by_setting_figure(lines, "rounds", "log p(image | label), nats"), path)
    return [path]


METHODS = {"JMVAE": "jmvae", "JMVAE-h": "jmvae-h", "JMVAE-kl": "jmvae-kl"}
EXPERIMENT = Experiment(
    name="jmvae_figures_3_to_5_mnist",
    title="JMVAE, Figures 3, 4 and 5: MNIST",
    preset="jmvae/mnist",
    rows={
        **{label: [Run(method)] for label, method in METHODS.items()},
        **{f"{label}, 2-D": [Run(method, changes={"latent_dim": 2})] for label, method in METHODS.items()},
    },
    measure=measure,
    published={
        "JMVAE": {"label to image, 10 rounds": -977.2},
        "JMVAE-h": {"label to image, 10 rounds": -552.2},
        "JMVAE-kl": {"label to image, 1 rounds": -422.4},
    },
    unit="Mean log-likelihood of the image given the label, nats per example; accuracy of a linear probe",
    draw=draw,
    departures=("The figures give no numbers: those of Table 1 are shown instead.",),
    reduced="The first 1,000 of 10,000 test examples, to fit the budget.",
)

if __name__ == "__main__":
    run(EXPERIMENT)
