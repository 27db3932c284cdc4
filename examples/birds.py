r"""Do pictures and captions of birds that a model makes belong together?

MMVAE learns photographs of birds and captions (Variational Mixture-of-Experts Autoencoders, section 5.2), by

    multipyro train mmvae --data cub --hidden 128 128 --latent-dim 64 --particles 1 --weights caption=10 --epochs 7 \
        --lr 1e-3 --out runs/birds
    python examples/birds.py runs/birds --out birds

Canonical correlation analysis finds, on training pairs, directions of pictures and of captions that go together. What
is reported is the mean cosine between a picture and a caption along those directions: of real test pairs, of pairs of
which one half was made from the other, of pairs made from the prior; and of each the same with the captions of other
birds, which is what no relation at all gives. A caption is the mean of its words' vectors, learned from which words
stand near each other in the training captions; a picture is its principal components. The paper has vectors of
FastText and of a ResNet-101 in their places, so only a comparison with the real pairs of the same run says something.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.utils.extmath import randomized_svd

from multipyro.data import IndexedTensor, Modality, MultimodalData, Splits, load_dataset
from multipyro.inference import build, cross_generate, joint_samples, load, networks_for
from multipyro.inference.runs import read_run, versions

WINDOW = 3
# training rows that components and directions are found on
ROWS = 5_000


def noise(rows):
    """Splits of no birds at all, to show that everything runs."""
    words = ("<exc>", "<pad>", "<eos>", *"abcdefgh")
    modalities = {"image": Modality("image", (3, 16, 16), "image", "laplace")}
    modalities["caption"] = Modality("caption", (16,), "text", "categorical", len(words), vocabulary=words)
    parts = []
    for name in Splits.NAMES:
        caption = torch.cat([torch.randint(3, len(words), (rows, 8)), torch.tensor([2] + 7 * [1]).expand(rows, -1)], 1)
        x = {"image": torch.rand(rows, 3, 16, 16), "caption": caption}
        parts.append(MultimodalData("noise", modalities, x, split=name))
    return Splits(*parts)


class Vectors:
    """Vectors of pictures and captions, learned from training rows, and the directions along which they go together."""

    def __init__(self, train, size, directions):
        self.words = train.modalities["caption"].vocabulary
        captions, _ = train.select(["caption"]).rows(torch.arange(len(train)))
        self.embedding = self._embedded(captions["caption"].numpy(), size)
        x, _ = train.rows(torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:ROWS])
        self.pixels = PCA(size, whiten=True, random_state=0).fit(self._flat(x["image"]))
        self.cca = CCA(directions, max_iter=5_000).fit(self.picture(x["image"]), self.caption(x["caption"]))

    def _embedded(self, captions, size):
        """A vector for each word: the positive pointwise mutual information with its neighbors, in few dimensions."""
        counts = np.zeros((len(self.words), len(self.words)))
        for gap in range(1, WINDOW + 1):
            np.add.at(counts, (captions[:, :-gap].ravel(), captions[:, gap:].ravel()), 1)
        counts += counts.T
        counts[:3] = counts[:, :3] = 0  # unknown words, pads and ends tell nothing of a bird
        expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            information = np.nan_to_num(np.maximum(np.log(counts / expected), 0), posinf=0, neginf=0)
        left, strength, _ = randomized_svd(information, size, random_state=0)
        return left * np.sqrt(strength)

    @staticmethod
    def _flat(images):
        return images.flatten(1).numpy()

    def picture(self, images):
        """Vectors of pictures."""
        return self.pixels.transform(self._flat(images))

    def caption(self, captions):
        """Vectors of captions: the mean over the words before the end."""
        ids = captions.numpy()
        ended = np.cumsum(ids == self.words.index("<eos>"), 1) > 0
        said = (~ended & (ids > 2)).astype(float)
        return (said[..., None] * self.embedding[ids]).sum(1) / np.maximum(said.sum(1, keepdims=True), 1)

    def cosines(self, images, captions):
        """Cosine of each picture and its caption along the directions, `(rows,)`."""
        first, second = self.cca.transform(self.picture(images), self.caption(captions))
        return (first * second).sum(1) / np.maximum(
            np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1), 1e-12
        )


def one_a_picture(data, seed):
    """A random row of each picture, in random order: rows that share a picture are no independent draws."""
    images = data.x["image"]
    order = np.random.default_rng(seed).permutation(len(data))
    pictures = images.index.numpy()[order] if isinstance(images, IndexedTensor) else order
    _, first = np.unique(pictures, return_index=True)
    return torch.from_numpy(order[np.sort(first)])


def judged(recipe, x, vectors, shift):
    """Name -> mean cosine of the pairs, of pairs with others' captions, and of the difference, with standard errors."""
    image, caption = x["image"], x["caption"]
    model, guide = recipe.model, recipe.guide
    told = cross_generate(model, guide, {"image": image}, ["caption"], output="mean")["caption"][0]
    painted = cross_generate(model, guide, {"caption": caption}, ["image"], output="mean")["image"][0]
    joint = joint_samples(model, len(image), ["image", "caption"], "mean")
    pairs = {
        "real pairs": (image, caption),
        "real pictures, captions made from them": (image, told),
        "pictures made from captions, real captions": (painted, caption),
        "both made from the prior": (joint["image"], joint["caption"]),
    }
    found = {}
    for name, (pictures, captions) in pairs.items():
        own, others = (vectors.cosines(pictures, part) for part in (captions, captions.roll(shift, 0)))
        values = {"pairs": own, "shuffled": others, "difference": own - others}
        found[name] = {kind: [float(v.mean()), float(v.std() / len(v) ** 0.5)] for kind, v in values.items()}
    return found, {"painted": painted, "told": told, **joint}


def draw(images, captions, modality, path, columns=4):
    """Pictures under their captions."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.5 * rows), dpi=70, layout="constrained")
    FigureCanvasAgg(figure)
    for number, (image, text) in enumerate(zip(images, modality.decode(captions), strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy())
        words = text.split("<eos>")[0].split()
        axes.set_title("\n".join(" ".join(words[begin : begin + 6]) for begin in range(0, len(words), 6)), fontsize=7)
        axes.axis("off")
    figure.savefig(path)


def main(args):
    """Judges a run."""
    torch.manual_seed(args.seed)
    if args.smoke:
        splits, config = noise(60), None
        recipe = build("mmvae", networks_for(splits.train.modalities, (16, 16)), 4, particles=1)
    else:
        config = read_run(args.run)
        splits = load_dataset(config["data"]["name"], args.data_root, **config["data"]["options"])
        recipe = load(args.run, which=args.checkpoint).recipe
    vectors = Vectors(splits.train, args.size, args.directions)
    rows = one_a_picture(splits.test, args.seed)[: args.rows]
    x, _ = splits.test.rows(rows)
    found, made = judged(recipe, x, vectors, len(rows) // 2)
    print(f"{'mean cosine':44}{'pairs':>16}{'shuffled':>16}{'difference':>16}")
    for name, values in found.items():
        print(f"{name:44}" + "".join(f"{mean:8.3f} ± {spread:.3f}" for mean, spread in values.values()))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        data = None if config is None else {k: v for k, v in config["data"].items() if k != "modalities"}
        report = {
            "data": data,
            "versions": versions(),
            "test pictures": len(rows),
            "mean cosine": found,
            "seed": args.seed,
        }
        report |= {"dimensions": args.size, "directions": args.directions, "parameters": recipe.num_parameters}
        (args.out / "birds.json").write_text(json.dumps(report, indent=1) + "\n")
        modality = splits.test.modalities["caption"]
        shown = torch.linspace(0, len(rows) - 1, 8).long()
        draw(made["painted"][shown], x["caption"][shown], modality, args.out / "from-captions.png")
        draw(made["image"][:8], made["caption"][:8], modality, args.out / "from-the-prior.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="folder of a trained run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--data-root", type=Path, help="folder of data sets, before MULTIPYRO_DATA")
    parser.add_argument("--rows", type=int, default=2_000, help="test pictures that are judged, at most")
    parser.add_argument("--size", type=int, default=30, help="dimensions of the vectors")
    parser.add_argument("--directions", type=int, default=5, help="of the canonical correlation analysis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the report and the pictures")
    parser.add_argument("--smoke", action="store_true", help="only show that it runs, on noise")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.size, arguments.directions = 4, 2
    elif arguments.run is None:
        parser.error("name the folder of a run, or say --smoke")
    main(arguments)
