"""How many parameters do three modalities cost? Bridged VAE, Table 4, Fashion-MNIST, MNIST and labels.

Bounds on the log-likelihood of each image, with the guide given all three modalities or that image alone, and the
number of parameters of the whole model.

Published: only MVAE has fewer parameters than the bridged VAE, which has the best likelihoods given one image.
"""

from experiment import Experiment, Run, Trial, run

from multipyro.inference.evaluation import bridged_log_likelihoods

IMAGES = {"Fashion": "fashion", "MNIST": "image"}


def measure(trial: Trial) -> dict[str, float]:
    """Bounds for both images, and the parameters."""
    x, values = trial.test(9_786, 500), {"parameters": trial.recipe.num_parameters}
    for title, name in IMAGES.items():
        table = bridged_log_likelihoods(trial.model, trial.guide, x, name, trial.size(5_000, 500))
        values |= {f"{title}, all given": table.joint.mean, f"{title}, alone": table.alone.mean}
    return values


def row(*numbers: float) -> dict[str, float]:
    """Published values of a method."""
    columns = ("Fashion, all given", "Fashion, alone", "MNIST, all given", "MNIST, alone", "parameters")
    return dict(zip(columns, numbers, strict=True))


EXPERIMENT = Experiment(
    name="bridged_table_4_mnist_fashion",
    title="Bridged VAE, Table 4: Fashion-MNIST, MNIST and labels",
    preset="bridged/mnist-fashion",
    rows={
        "JMVAE": [Run("jmvae-kl")],
        "TELBO": [Run("telbo")],
        "MVAE": [Run("mvae")],
        "Bridged": [Run("bridged")],
    },
    measure=measure,
    published={
        "JMVAE": row(-253.71, -249.74, -107.17, -105.83, 226_958_346),
        "TELBO": row(-256.23, -263.48, -107.17, -106.26, 226_958_346),
        "MVAE": row(-537.71, -531.31, -527.23, -517.49, 61_550_346),
        "Bridged": row(-257.28, -249.35, -105.74, -102.57, 72_141_450),
    },
    unit="Bounds on log p(x) of one image in nats per example, and numbers of parameters",
    departures=("The layers of the paper are not known, so only ratios of numbers of parameters can be compared.",),
    reduced="500 importance samples in place of 5,000, and the first 500 test examples, to fit the budget.",
)

if __name__ == "__main__":
    run(EXPERIMENT)
