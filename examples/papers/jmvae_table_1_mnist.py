"""Does JMVAE-kl, unlike JMVAE, predict images from labels as well as one-directional models? JMVAE, Table 1, MNIST.

Each method is trained on images and labels, CVAE and CMMA once per direction, and scored by the log-likelihood of the
predicted modality, averaged over ten samples (Suzuki et al., eq. 5 and 6).

Published: label -> image collapses for JMVAE, which completes the image by iterative sampling; JMVAE-kl is best.
JMVAE-h is below CVAE and CMMA in the table, although the text says that it is above.
"""

from collections.abc import Mapping

from experiment import Experiment, Run, Trial, run
from torch import Tensor

from multipyro.inference.evaluation import jmvae_log_likelihood


def directions(method: str) -> tuple[Run, Run]:
    """The two models of a one-directional method."""
    pairs = (("label", "image"), ("image", "label"))
    return tuple(Run(method, {"given": given, "target": target}) for given, target in pairs)


def log_likelihoods(trial: Trial, x: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean log-likelihood of each direction that the model supports, over ten samples."""
    values, conditions = {}, getattr(trial.model, "conditions", ())
    for given, target in (("label", "image"), ("image", "label")):
        if not conditions or given in conditions:
            estimate = jmvae_log_likelihood(trial.model, trial.guide, x, [given], [target], trial.size(10, 10))
            values[f"{given} to {target}"] = estimate.mean
    return values


def measure(trial: Trial) -> dict[str, float]:
    """The log-likelihoods of test examples."""
    return log_likelihoods(trial, trial.test(10_000, 2_000))


EXPERIMENT = Experiment(
    name="jmvae_table_1_mnist",
    title="JMVAE, Table 1: MNIST",
    preset="jmvae/mnist",
    rows={
        "JMVAE": [Run("jmvae")],
        "JMVAE-kl": [Run("jmvae-kl")],
        "JMVAE-h": [Run("jmvae-h")],
        "CVAE": directions("cvae"),
        "CMMA": directions("cmma"),
    },
    measure=measure,
    published={
        "JMVAE": {"label to image": -977.2, "image to label": -0.2361},
        "JMVAE-kl": {"label to image": -422.4, "image to label": -0.2628},
        "JMVAE-h": {"label to image": -552.2, "image to label": -3.589},
        "CVAE": {"label to image": -448.8, "image to label": -5.293},
        "CMMA": {"label to image": -451.1, "image to label": -0.2971},
    },
    unit="Mean log-likelihood of the target given the other modality, nats per example",
    reduced="The first 2,000 of 10,000 test examples, to fit the budget.",
)

if __name__ == "__main__":
    run(EXPERIMENT)
