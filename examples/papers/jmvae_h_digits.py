"""What keeps the top layer of JMVAE-h in use? Warm-up, batch norm, capacity and the weight of the label, on digits.

JMVAE-h generates from its top layer alone (JMVAE, eq. 6), so a top layer that carries no information makes every
prediction a sample of the prior. In the paper that does not happen; here it often does. Each row changes one setting.

Expect a row whose top layer has a KL near 0 to predict nothing: the label at chance, -2.3 nats or worse, and the
image as badly as without the label.
"""

from experiment import DIGITS, Experiment, Run, Trial, run
from jmvae_table_1_mnist import log_likelihoods

from multipyro.inference.evaluation import latent_dimensions

NORMALIZED = {"architectures": dict.fromkeys(("image", "label"), "normalized")}
WEIGHTS = {"options": {"encoder_scale": "variance"}}


def measure(trial: Trial) -> dict[str, float]:
    """What the top layer says about both modalities, and what is predicted from it."""
    x = trial.test(300, 300)
    top = latent_dimensions(trial.model, trial.guide, x)
    values = {"KL of the top layer": float(top.kl.sum(-1).mean()), "active units": float(top.active.sum())}
    return values | log_likelihoods(trial, x)


EXPERIMENT = Experiment(
    name="jmvae_h_digits",
    title="JMVAE-h: what keeps its top layer in use; digits",
    preset="jmvae/mnist",
    rows={
        "no warm-up": [Run()],
        "warm-up over a tenth of the epochs, as in the paper": [Run(options={"warmup": 4})],
        "warm-up over all epochs": [Run(options={"warmup": 40})],
        "batch norm": [Run(changes=NORMALIZED)],
        "batch norm and warm-up over all epochs": [Run(options={"warmup": 40}, changes=NORMALIZED)],
        "hidden layers of 512": [Run(changes={"hidden_features": (512, 512)})],
        "lower layer of 64": [Run(options={"dims": (64, 16)})],
        "lower layer of 4": [Run(options={"dims": (4, 16)})],
        "KL of half the weight": [Run(options={"beta": 0.5})],
        "label of weight 10": [Run(options={"weights": {"label": 10.0}})],
    },
    measure=measure,
    published={},
    unit="KL and mean log-likelihoods in nats per example, units of 16",
    changes={**DIGITS, **WEIGHTS, "methods": {"jmvae-h": {}}},
)

if __name__ == "__main__":
    run(EXPERIMENT)
