"""What do an aggregate posterior and an aggregate prior buy for each method? VLVAE's idea in every method, on digits.

After its own training, each method gets two flows: one fitted to the aggregate of its posteriors given all modalities,
which replaces N(0, I) or the Laplace prior; and one fitted to their aggregate given the label, which replaces the
method's own posterior given the label (Cremer and Kushman, sections 4.1 and 4.2). The decoders stay the same.

Expect joint coherence and log p(x) to rise with the prior, unless a method has collapsed; predictions from the label
gain little where the method's own posterior given the label is good.
"""

from contextlib import contextmanager

from experiment import DIGITS, Experiment, Run, Trial, run

from multipyro.inference.evaluation import (
    conditional_coherence,
    guide_conditional_log_likelihood,
    importance_weighted_bound,
    joint_coherence,
    train_classifiers,
)

METHODS = {
    **{"JMVAE": "jmvae", "JMVAE-kl": "jmvae-kl", "TELBO": "telbo", "Bridged": "bridged", "BiVCCA": "bivcca"},
    **{"MVAE": "mvae", "MMVAE": "mmvae", "MoPoE": "mopoe", "mmJSD": "mmjsd", "MVTCAE": "mvtcae"},
}
FLOWS = {"aggregate": "label", "aggregate_prior": True, "aggregate_epochs": 30}


@contextmanager
def inactive(part):
    """A flow switched off: its method's own prior or posterior is used."""
    part.active = False
    try:
        yield
    finally:
        part.active = True


def measure(trial: Trial) -> dict[str, float]:
    """Each metric with the method's own distribution, and with the flow in its place."""
    model, guide, test = trial.model, trial.guide, trial.splits.test
    classifiers = train_classifiers(trial.splits.train, test)
    x = trial.test(300, 300)

    def given_label() -> dict[str, float]:
        image = conditional_coherence(model, guide, test, ["label"], "image", classifiers["image"])
        bounds = guide_conditional_log_likelihood(model, guide, x, ["label"], ["image"], trial.size(100, 100))
        return {"label to image": image.value, "log p(image given label)": bounds.logmeanexp.mean()}

    def of_prior() -> dict[str, float]:
        joint = joint_coherence(model, classifiers, trial.size(10_000, 10_000))
        bound = importance_weighted_bound(model, guide, x, tuple(x), num_samples=trial.size(100, 100))
        return {"joint coherence": joint.value, "log p(x)": bound.mean}

    with inactive(model.prior):
        with inactive(guide):
            own = given_label()
        values = {**own, **of_prior()}
        values |= {f"{name}, aggregate posterior": value for name, value in given_label().items()}
    return values | {f"{name}, aggregate prior": value for name, value in of_prior().items()}


EXPERIMENT = Experiment(
    name="vlvae_aggregates_digits",
    title="Aggregate posteriors and aggregate priors of every method; digits",
    preset="vlvae/celeba",
    rows={label: [Run(method, FLOWS)] for label, method in METHODS.items()},
    measure=measure,
    published={},
    unit="Shares of right digits, and nats per example",
    changes={**DIGITS, "latent_dim": 6, "options": {"beta": 3.0, "weights": {"label": 10.0}}, "methods": {"vlvae": {}}},
)

if __name__ == "__main__":
    run(EXPERIMENT)
