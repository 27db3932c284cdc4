"""Do further modalities help each method? MoPoE, Figure 3, PolyMNIST.

Against the number of given modalities, each the mean over all subsets of that size: how often generated modalities
show the right digit, how well a linear classifier reads it off the latents, and the log-likelihood of all modalities.

Published: MVAE and MoPoE gain from every modality, MMVAE stays flat; MMVAE and MoPoE are more coherent than MVAE. The
figure gives no numbers; those of MoPoE's coherence were read off it in later papers.
"""

import statistics

from experiment import Experiment, Run, Trial, run

from multipyro.batch import subsets_of
from multipyro.inference.evaluation import (
    coherence_by_number,
    latent_accuracy,
    mopoe_log_likelihood,
    train_classifiers,
)
from multipyro.inference.evaluation.figures import by_setting_figure, save_figure

METRICS = ("coherence", "latent accuracy", "log p(X)")


def measure(trial: Trial) -> dict[str, float]:
    """The three metrics for each number of given modalities."""
    train, test = trial.splits.train, trial.splits.test
    classifiers = train_classifiers(train, test)
    if trial.run == Run("mopoe"):
        trial.save_samples()  # the paper's qualitative results
    coherence = coherence_by_number(trial.model, trial.guide, test, classifiers)
    values = {f"coherence, {number} given": estimate.value for number, estimate in coherence.items()}
    # for a mixture, the released code takes the mean of one expert, sampled for each data point
    output = "component" if trial.run.method == "mmvae" else "mean"
    accuracy, likelihood, x = {}, {}, trial.test(10_000, 300)
    for given in subsets_of(tuple(test.modalities)):
        probe = latent_accuracy(trial.guide, train, test, given, num_train=500, output=output)
        accuracy.setdefault(len(given), []).append(probe.value)
        bound = mopoe_log_likelihood(trial.model, trial.guide, x, given, num_samples=trial.size(15, 15))
        likelihood.setdefault(len(given), []).append(bound.mean)
    values |= {f"latent accuracy, {number} given": statistics.fmean(each) for number, each in accuracy.items()}
    values |= {f"log p(X), {number} given": statistics.fmean(each) for number, each in likelihood.items()}
    return values


def draw(table, file):
    """The three panels."""
    paths = []
    for metric in METRICS:
        lines = {}
        for label, metrics in table.items():
            cells = {name: cell for name, cell in metrics.items() if name.startswith(metric)}
            points = {float(name.split()[-2]): cell for name, cell in cells.items() if cell["value"] is not None}
            if points:
                lines[label] = {place: {k: cell[k] for k in ("value", "std")} for place, cell in points.items()}
        if lines:
            paths.append(file.with_name(f"{file.name}-{metric.split('(')[0].replace(' ', '-')}.png"))
            save_figure(by_setting_figure(lines, "number of given modalities", metric), paths[-1])
    return paths


EXPERIMENT = Experiment(
    name="mopoe_figure_3_polymnist",
    title="MoPoE, Figure 3: PolyMNIST",
    preset="mopoe/polymnist",
    rows={"MVAE": [Run("mvae")], "MMVAE": [Run("mmvae")], "MoPoE": [Run("mopoe")]},
    measure=measure,
    published={
        "MoPoE": {f"coherence, {number} given": value for number, value in enumerate((0.66, 0.77, 0.81, 0.83), 1)},
    },
    unit="Shares, and log-likelihoods of all five modalities in nats per example",
    draw=draw,
    departures=(
        "The images are built from MNIST and five photographs, one of them different from the paper's.",
        "Given modalities are not among the targets of coherence; the paper does not say.",
    ),
    reduced="Log-likelihoods of the first 300 test examples, to fit the budget.",
)

if __name__ == "__main__":
    run(EXPERIMENT)
