"""What does a gradient hook that never fires cost MMVAE? DReG as in the paper and as in the released code, on digits.

MMVAE's paper trains with doubly reparametrized gradients (DReG). In its released code the hook that multiplies each
gradient by its importance weight is attached to a copy of the samples that the loss does not depend on, so the code
trains with `stl`: reparametrized gradients without the score of the guide, weighted once. Both are compared with the
plain gradient `reparam` of the same bound, for one to fifty samples of each expert.

Expect nothing for one sample, where `dreg` and `stl` are the same; `stl` is biased for more. The paper has no such
table.
"""

from experiment import DIGITS, Experiment, Run, Trial, run

from multipyro.inference.evaluation import (
    conditional_coherence,
    importance_weighted_bound,
    joint_coherence,
    train_classifiers,
)
from multipyro.inference.evaluation.figures import by_setting_figure, save_figure

SAMPLES = (1, 10, 50)
GRADIENTS = {"reparam": "plain", "stl": "released code", "dreg": "paper"}
BOUND, IMAGE, LABEL, JOINT = "log p(x)", "label to image", "image to label", "joint coherence"


def measure(trial: Trial) -> dict[str, float]:
    """The bound of 100 samples given both modalities, and coherences."""
    test, programs = trial.splits.test, (trial.model, trial.guide)
    classifiers = train_classifiers(trial.splits.train, test)
    x = trial.test(300, 300)
    images = conditional_coherence(*programs, test, ["label"], "image", classifiers["image"])
    labels = conditional_coherence(*programs, test, ["image"], "label", classifiers["label"])
    return {
        BOUND: importance_weighted_bound(*programs, x, tuple(x), num_samples=trial.size(100, 100)).mean,
        IMAGE: images.value,
        LABEL: labels.value,
        JOINT: joint_coherence(trial.model, classifiers, trial.size(10_000, 10_000)).value,
    }


def label(gradient: str, samples: int) -> str:
    """Label of a row."""
    return f"{gradient} ({GRADIENTS[gradient]}), K = {samples}"


def draw(table, file):
    """Each metric against the number of samples."""
    paths = []
    for metric in (BOUND, IMAGE, LABEL, JOINT):
        lines = {}
        for gradient in GRADIENTS:
            cells = {samples: table.get(label(gradient, samples), {}).get(metric) for samples in SAMPLES}
            points = {samples: cell for samples, cell in cells.items() if cell and cell["value"] is not None}
            if points:
                lines[gradient] = {k: {name: cell[name] for name in ("value", "std")} for k, cell in points.items()}
        if lines:
            paths.append(file.with_name(f"{file.name}-{metric.split('(')[0].replace(' ', '-')}.png"))
            save_figure(by_setting_figure(lines, "samples of each expert", metric, log=True), paths[-1])
    return paths


EXPERIMENT = Experiment(
    name="mmvae_gradients_digits",
    title="MMVAE's gradients: DReG of the paper, and what its released code computes; digits",
    preset="mmvae/mnist-svhn",
    rows={
        label(gradient, samples): [Run("mmvae", {"gradient": gradient, "particles": samples})]
        for samples in SAMPLES
        for gradient in GRADIENTS
    },
    measure=measure,
    published={},
    unit="Bound on log p(image, label) of 100 samples in nats per example, and shares of right digits",
    draw=draw,
    changes=DIGITS,
)

if __name__ == "__main__":
    run(EXPERIMENT)
