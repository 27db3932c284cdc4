"""Which beta trades coherence for likelihood, and by how much? MoPoE, Figures 1, 5 and 6, on PolyMNIST.

Each method is trained with several weights of the KL; joint coherence and log-likelihood of the test set are plotted
against each other, and each against beta. The paper uses MNIST-SVHN-Text. PolyMNIST replaces it, because few digits of
SVHN are available where these scripts are tested.

Published: MoPoE is above MVAE and MMVAE at every trade-off; the figures give no numbers.
"""

from experiment import Experiment, Run, Trial, run
from matplotlib.figure import Figure

from multipyro.inference.evaluation import joint_coherence, mopoe_log_likelihood, train_classifiers
from multipyro.inference.evaluation.figures import by_setting_figure, save_figure

BETAS = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
METHODS = {"MVAE": "mvae", "MMVAE": "mmvae", "MoPoE": "mopoe"}
COHERENCE, LIKELIHOOD = "joint coherence", "log p(X)"


def measure(trial: Trial) -> dict[str, float]:
    """Joint coherence, and the bound on the log-likelihood of all modalities given all."""
    classifiers = train_classifiers(trial.splits.train, trial.splits.test)
    x = trial.test(10_000, 500)
    return {
        COHERENCE: joint_coherence(trial.model, classifiers, trial.size(10_000, 2_000)).value,
        LIKELIHOOD: mopoe_log_likelihood(trial.model, trial.guide, x, tuple(x), num_samples=trial.size(15, 15)).mean,
    }


def draw(table, file):
    """Both metrics against beta, and against each other."""
    rows = {label: metrics for label, metrics in table.items() if metrics and metrics[COHERENCE]["value"] is not None}
    points = {
        method: {beta: rows[f"{method}, beta {beta:g}"] for beta in BETAS if f"{method}, beta {beta:g}" in rows}
        for method in METHODS
    }
    points = {method: values for method, values in points.items() if values}
    if not points:
        return []
    paths = []
    for metric in (COHERENCE, LIKELIHOOD):
        lines = {
            method: {beta: {k: row[metric][k] for k in ("value", "std")} for beta, row in values.items()}
            for method, values in points.items()
        }
        paths.append(file.with_name(f"{file.name}-{metric.split('(')[0].replace(' ', '-')}.png"))
        save_figure(by_setting_figure(lines, "beta", metric, log=True), paths[-1])
    figure = Figure(figsize=(3.6, 2.8), layout="constrained")
    ax = figure.subplots()
    for method, values in points.items():
        line = [(row[LIKELIHOOD]["value"], row[COHERENCE]["value"]) for row in values.values()]
        ax.plot(*zip(*line, strict=True), marker="o", label=method)
    ax.set_xlabel(LIKELIHOOD)
    ax.set_ylabel(COHERENCE)
    ax.legend(frameon=False)
    paths.append(file.with_name(f"{file.name}-trade-off.png"))
    figure.savefig(paths[-1], dpi=150)
    return paths


EXPERIMENT = Experiment(
    name="mopoe_figure_1_polymnist",
    title="MoPoE, Figures 1, 5 and 6: the trade-off over beta, PolyMNIST",
    preset="mopoe/polymnist",
    rows={
        f"{label}, beta {beta:g}": [Run(method, {"beta": beta})] for label, method in METHODS.items() for beta in BETAS
    },
    measure=measure,
    published={},
    unit="Share of samples from the prior whose modalities all show the same digit, and nats per example",
    draw=draw,
    departures=(
        "PolyMNIST replaces MNIST-SVHN-Text.",
        "The values of beta are those of the released code, as far as it contains them; they are missing in our copy "
        "of the paper.",
    ),
    reduced="2,000 samples for joint coherence, the first 500 test examples for likelihoods, to fit the budget.",
)

if __name__ == "__main__":
    run(EXPERIMENT)
