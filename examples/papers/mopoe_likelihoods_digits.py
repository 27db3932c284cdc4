"""What does the likelihood of MoPoE's released code measure? Its Table 4 with the error on and off, on digits.

The released code averages importance weights over different data points in place of the samples of one data point
(`mopoe_log_likelihood(..., mix_data_points=True)`). Both estimates are computed for the same models: bounds on
log p(image, label, word) with 15 samples of the guide given each subset.

Expect the released code to be many nats above every likelihood, and the more so the more data points differ; the
question is whether methods and subsets keep their order. The published numbers, of MNIST-SVHN-Text, are beside those
of the released code in `mopoe_tables_2_to_4_mnist_svhn_text.py`.
"""

from experiment import DIGITS, Experiment, Run, Trial, run

from multipyro.batch import subsets_of
from multipyro.inference.evaluation import mopoe_log_likelihood

BATCH = 64


def measure(trial: Trial) -> dict[str, float]:
    """Both estimates given every subset, on the test examples that fill batches."""
    x, values = trial.test(256, 256), {}
    for given in subsets_of(tuple(x)):
        for title, mixed in (("log p(X)", False), ("released code", True)):
            options = {"num_samples": 15, "mix_data_points": mixed, "batch_size": min(BATCH, len(x["label"]))}
            bound = mopoe_log_likelihood(trial.model, trial.guide, x, given, **options)
            values[f"{title}, {' and '.join(given)} given"] = bound.mean
    return values


EXPERIMENT = Experiment(
    name="mopoe_likelihoods_digits",
    title="MoPoE, Table 4: the likelihood of the released code and the right one; digits",
    preset="mopoe/mnist-svhn-text",
    rows={"MVAE": [Run("mvae")], "MMVAE": [Run("mmvae")], "MoPoE": [Run("mopoe")]},
    measure=measure,
    published={},
    unit="Nats per example",
    changes={**DIGITS, "modalities": None, "options": {"weights": {"label": 10.0, "word": 5.0}}},
)

if __name__ == "__main__":
    run(EXPERIMENT)
