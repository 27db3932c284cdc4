"""How far is the posterior of a text from the aggregate of its images? VLVAE, Figure 1, one object.

The model has two latent dimensions. For each of four texts, three densities are plotted over the plane: the true
posterior p(z|y), by normalizing p(y|z) p(z) on a grid; the aggregate of q(z|x) over the images of the text; and the
flow q(z|y) that was fitted to the aggregate.

Published: true posteriors fill regions where no image is encoded, the aggregates do not. The number here is the total
variation distance of each from the aggregate, on the grid, averaged over texts; the figure gives no numbers.
"""

import torch
from experiment import Experiment, Run, Trial, run
from matplotlib.figure import Figure

from multipyro.inference.evaluation import evaluating

EDGE, TICKS = 6, 101


def measure(trial: Trial) -> dict[str, float]:
    """The distances, and the figure."""
    axis = torch.linspace(-EDGE, EDGE, TICKS)
    grid = torch.cartesian_prod(axis, axis)  # (TICKS^2, 2)
    x = trial.test(500, 500)
    texts = x["text"].unique(dim=0)[:4]
    figure, distances = Figure(figsize=(6, 1.9 * len(texts)), layout="constrained"), []
    panels = figure.subplots(len(texts), 3, squeeze=False, sharex=True, sharey=True)
    with torch.no_grad(), evaluating(trial.model, trial.guide):
        features = trial.model.trunk(grid)  # the input of the decoders
        for row, text in zip(panels, texts, strict=True):
            named = (x["text"] == text).all(1)
            posterior = trial.guide.teacher.posterior({"image": x["image"][named]})
            likelihood = trial.model.likelihoods["text"](features).log_prob(text.expand(len(grid), -1))
            densities = {
                "true posterior": likelihood + trial.model.prior().log_prob(grid),
                "aggregate": posterior.log_prob(grid[:, None]).logsumexp(1),
                "flow": trial.guide.aggregate({"text": text[None]}).log_prob(grid[:, None])[:, 0],
            }
            shares = {name: values.softmax(0) for name, values in densities.items()}
            distances.append([0.5 * (one - shares["aggregate"]).abs().sum().item() for one in shares.values()])
            for ax, (name, share) in zip(row, shares.items(), strict=True):
                box = (-EDGE, EDGE, -EDGE, EDGE)
                ax.imshow(share.reshape(TICKS, TICKS).T.numpy(), origin="lower", extent=box, cmap="gray_r")
                ax.set_title(name, fontsize=8)
            row[0].set_ylabel(trial.splits.test.modalities["text"].decode(text[None])[0], fontsize=8)
    figure.savefig(trial.folder / "posteriors.png", dpi=100)
    true, _, flow = torch.tensor(distances).mean(0).tolist()
    return {"true posterior to aggregate": true, "flow to aggregate": flow}


EXPERIMENT = Experiment(
    name="vlvae_figure_1_one_object",
    title="VLVAE, Figure 1: one object",
    preset="vlvae/one-object",
    rows={"VLVAE": [Run("vlvae")]},
    measure=measure,
    published={},
    unit="Total variation distance on the grid, from 0 to 1",
    departures=(
        "The true posterior is p(y|z) p(z), normalized; the released code tempers it.",
        "The texts are those of up to 500 test images.",
    ),
)

if __name__ == "__main__":
    run(EXPERIMENT)
