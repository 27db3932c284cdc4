"""Maps of the latent space: where data points lie, and posteriors of a two-dimensional latent."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pyro import poutine
from torch import Tensor

from multipyro.batch import Values
from multipyro.data import MultimodalData
from multipyro.inference.evaluation._inputs import as_names, indices_with
from multipyro.inference.evaluation.figures._drawing import (
    COLORS,
    colors_for,
    literal,
    new_figure,
    styled,
)
from multipyro.inference.evaluation.likelihoods.densities import LatentDensity, ScoredData
from multipyro.inference.evaluation.prediction import embed, evaluating
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["latent_map_figure", "posteriors_figure"]


@styled
def latent_map_figure(
    guide: Program,
    data: MultimodalData,
    subsets: Sequence[Sequence[str]],
    max_points: int = 1_000,
    method: str = "pca",
) -> "Figure":
    """Where the guide places data points given each of several subsets, in two dimensions and in the colors of classes.

    All panels share one projection, fitted to the embeddings of all subsets together, so that places can be compared.

    Args:
        guide: The variational program.
        data: The data; colors need its labels.
        subsets: The subsets, one panel each.
        max_points: Maximum number of data points, taken from the start.
        method: `"pca"`: the two principal components, whose shares of the variance the axes state; `"umap"`: UMAP,
            which needs the package `umap-learn`. A latent of two dimensions is shown as it is.

    Returns:
        The figure, independent of pyplot.

    Raises:
        ValueError: If the method is unknown.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=3)
        >>> len(latent_map_figure(recipe.guide, splits.test, [["image"], ["label"]]).axes)
        2
    """
    subsets = [as_names(subset) for subset in subsets]
    indices = [indices_with(data, subset)[:max_points] for subset in subsets]
    codes = [
        embed(guide, data.select(subset).rows(chosen)[0], subset).cpu()
        for subset, chosen in zip(subsets, indices, strict=True)
    ]
    places, names = _projected(torch.cat(codes), method)
    panels = places.split([len(code) for code in codes])
    figure = new_figure(2.6 * len(subsets) + 1.0, 2.9)
    axes = figure.subplots(1, len(subsets), sharex=True, sharey=True, squeeze=False)[0]
    from matplotlib.patheffects import withStroke

    classes = [] if data.labels is None else data.labels.unique().tolist()
    for ax, subset, panel, chosen in zip(axes, subsets, panels, indices, strict=True):
        if classes:
            labels = data.labels[chosen]
            for color, label in zip(colors_for(classes), classes, strict=True):
                points = panel[labels == label]
                ax.scatter(*points.T.numpy(), s=7, color=color, linewidths=0, label=_class_name(data, label))
                if len(points):  # a name in each cluster, for readers who cannot distinguish the colors
                    place = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
                    text = ax.annotate(_class_name(data, label), points.mean(0).tolist(), fontsize=7, **place)
                    text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        else:
            ax.scatter(*panel.T.numpy(), s=7, color=COLORS[0], linewidths=0)
        ax.set(title=literal("given " + ", ".join(subset)), xlabel=names[0])
    axes[0].set_ylabel(names[1])
    if classes:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", markerscale=2.5)
    return figure


@styled
def posteriors_figure(
    model: Program,
    guide: Program,
    data: MultimodalData,
    row: int,
    given: Sequence[str],
    num_samples: int = 400,
    resolution: int = 120,
) -> "Figure":
    r"""A two-dimensional latent given some modalities: the model's posterior, the aggregate posterior, the guide.

    Three panels: the exact :math:`p(z \mid x_G) \propto p(z) \prod_{m \in G} p(x_m \mid z)` on a grid; the aggregate,
    samples of the guide's posteriors given all modalities of the data points with the same `x_G`, covariates
    included; and samples of the guide's :math:`q(z \mid x_G)`. Contours of the first are in all panels.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), Figure 1.

    Args:
        model: The generative program, its latent of two dimensions.
        guide: The variational program.
        data: The data; the aggregate is over its data points that equal the chosen one in `given` and in covariates.
        row: The index of the data point.
        given: The modalities that are conditioned on.
        num_samples: Number of samples in a panel.
        resolution: Grid points per side.

    Returns:
        The figure, independent of pyplot.

    Raises:
        ValueError: If the latent does not have two dimensions, or the data point misses a given modality.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> len(posteriors_figure(recipe.model, recipe.guide, splits.test, 0, ["label"], 50, 20).axes)
        3
    """
    given = as_names(given)
    if row not in indices_with(data, given):
        raise ValueError(f"data point {row} does not have all of {list(given)}")
    x, _ = data.select(given).rows(torch.tensor([row]))
    repeated = {name: values.expand(num_samples, *values.shape[1:]) for name, values in x.items()}
    inferred = embed(guide, repeated, given, output="sample").cpu()
    if inferred.shape[-1] != 2:
        raise ValueError(f"a map of posteriors needs two latent dimensions, got {inferred.shape[-1]}")
    equal = _equal_to(data, given, x)
    others, observed = data.rows(equal[torch.randint(len(equal), (num_samples,))])
    aggregate = embed(guide, others, observed=observed, output="sample").cpu()
    with evaluating(model), poutine.block():
        joint = LatentDensity(ScoredData(model, x, None, given))
        coarse = torch.cartesian_prod(*[torch.linspace(-5, 5, resolution)] * 2)
        log_density = sum(joint(coarse[:, None]))[:, 0]
        likely = coarse[log_density > log_density.max() - 7.0]
        limit = 1.1 * torch.cat([likely, inferred, aggregate]).abs().max().item()
        line = torch.linspace(-limit, limit, resolution)
        log_density = sum(joint(torch.cartesian_prod(line, line)[:, None]))[:, 0]
    density = log_density.softmax(0).unflatten(0, (resolution,) * 2).T
    levels = _levels(density)
    panels = {
        "model: $p(z\\,|\\,x)$": None,
        f"aggregate of {len(equal)} data points": aggregate,
        "guide: $q(z\\,|\\,x)$": inferred,
    }
    figure = new_figure(8.4, 3.0)
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    for ax, (title, points) in zip(axes, panels.items(), strict=True):
        if points is None:
            extent = (-limit, limit, -limit, limit)
            ax.imshow(density.numpy(), origin="lower", extent=extent, cmap="Blues", aspect="auto")
        else:
            ax.scatter(*points.T.cpu().numpy(), s=5, color=COLORS[1], linewidths=0, alpha=0.7)
        ax.contour(line.numpy(), line.numpy(), density.numpy(), levels=levels, colors=COLORS[0], linewidths=0.8)
        ax.set(title=title, xlabel="$z_1$")
    axes[0].set_ylabel("$z_2$")
    return figure


def _projected(codes: Tensor, method: str) -> tuple[Tensor, tuple[str, str]]:
    """Two coordinates of each embedding, and the labels of the axes."""
    if method not in ("pca", "umap"):
        raise ValueError(f"method must be 'pca' or 'umap', got {method!r}")
    if codes.shape[1] <= 2:
        return torch.nn.functional.pad(codes, (0, 2 - codes.shape[1])), ("$z_1$", "$z_2$")
    if method == "umap":
        import umap

        return torch.from_numpy(umap.UMAP(random_state=0).fit_transform(codes.numpy())), ("UMAP 1", "UMAP 2")
    centered = codes.double() - codes.double().mean(0)
    _, strengths, directions = torch.linalg.svd(centered, full_matrices=False)
    shares = strengths.square() / strengths.square().sum()
    names = tuple(f"PC {number + 1} ({100 * shares[number]:.0f} %)" for number in range(2))
    return centered @ directions[:2].T, names


def _equal_to(data: MultimodalData, given: Sequence[str], x: Values) -> Tensor:
    """Indices of the data points with the same values of the given modalities and of covariates."""
    indices = indices_with(data, given)
    values, _ = data.select(given).rows(indices)
    equal = [torch.isclose(values[name], x[name], 0, 0, True).reshape(len(indices), -1).all(1) for name in x]
    return indices[torch.stack(equal).all(0)]


def _levels(density: Tensor) -> list[float]:
    """Values of a density on a grid that enclose 90 % and 50 % of it."""
    ordered = density.flatten().sort(descending=True).values
    inside = ordered.cumsum(0)
    return [ordered[int((inside < share).sum().clamp(max=len(ordered) - 1))].item() for share in (0.9, 0.5)]


def _class_name(data: MultimodalData, label: int) -> str:
    described = next((modality.class_names for modality in data.modalities.values() if modality.class_names), None)
    names = data.label_names or described
    return str(label) if names is None else literal(names[label])
