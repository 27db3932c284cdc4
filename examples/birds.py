r"""Do generated images and captions of birds belong together?

MMVAE is trained on photographs of birds and captions (Variational Mixture-of-Experts Autoencoders, section 5.2), by

    multipyro train mmvae --data cub --hidden 128 128 --latent-dim 64 --particles 1 --weights caption=10 --epochs 7 \
        --lr 1e-3 --out runs/birds
    python examples/birds.py runs/birds --out birds

Canonical correlation analysis, fitted to training pairs, gives the directions along which images and captions
correlate. Reported is the mean cosine between an image and a caption along these directions: for real test pairs, for
pairs of which one half was generated from the other, and for pairs generated from the prior; and for each the same
with the captions of other birds, the value without any relation. A caption is the mean of its words' vectors, which
are computed from the words' neighbors in the training captions; an image is its principal components. The paper uses
FastText and a ResNet-101 instead, so only comparisons with the real pairs of the same run are meaningful.
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
# training examples that components and directions are fitted to
ROWS = 5_000


def noise(rows):
    """Splits of noise in place of birds, to check that everything runs."""
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
    """Vectors of images and captions, and the directions along which they correlate, fitted to training examples."""

    def __init__(self, train, size, directions):
        self.words = train.modalities["caption"].vocabulary
        captions, _ = train.select(["caption"]).rows(torch.arange(len(train)))
        self.embedding = self._word_vectors(captions["caption"].numpy(), size)
        x, _ = train.rows(torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:ROWS])
        self.pixels = PCA(size, whiten=True, random_state=0).fit(self._flat(x["image"]))
        self.cca = CCA(directions, max_iter=5_000).fit(self.image(x["image"]), self.caption(x["caption"]))

    def _word_vectors(self, captions, size):
        """A vector per word: its positive pointwise mutual information with its neighbors, in few dimensions."""
        counts = np.zeros((len(self.words), len(self.words)))
        for gap in range(1, WINDOW + 1):
            np.add.at(counts, (captions[:, :-gap].ravel(), captions[:, gap:].ravel()), 1)
        counts += counts.T
        counts[:3] = counts[:, :3] = 0  # unknown words, padding and ends do not describe a bird
        expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            information = np.nan_to_num(np.maximum(np.log(counts / expected), 0), posinf=0, neginf=0)
        left, strength, _ = randomized_svd(information, size, random_state=0)
        return left * np.sqrt(strength)

    @staticmethod
    def _flat(images):
        return images.flatten(1).numpy()

    def image(self, images):
        """Vectors of images."""
        return self.pixels.transform(self._flat(images))

    def caption(self, captions):
        """Vectors of captions: the mean over the words before the end."""
        ids = captions.numpy()
        ended = np.cumsum(ids == self.words.index("<eos>"), 1) > 0
        counted = (~ended & (ids > 2)).astype(float)
        return (counted[..., None] * self.embedding[ids]).sum(1) / np.maximum(counted.sum(1, keepdims=True), 1)

    def cosines(self, images, captions):
        """Cosine of each image and its caption along the directions, `(rows,)`."""
        first, second = self.cca.transform(self.image(images), self.caption(captions))
        return (first * second).sum(1) / np.maximum(
            np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1), 1e-12
        )


def one_row_per_image(data, seed):
    """A random row of each image, in random order: rows that share an image are not independent."""
    images = data.x["image"]
    order = np.random.default_rng(seed).permutation(len(data))
    numbers = images.index.numpy()[order] if isinstance(images, IndexedTensor) else order
    _, first = np.unique(numbers, return_index=True)
    return torch.from_numpy(order[np.sort(first)])


def cosines_of(recipe, x, vectors, shift):
    """Name -> mean cosine of the pairs, of shuffled pairs, and of the difference, with standard errors."""
    image, caption = x["image"], x["caption"]
    model, guide = recipe.model, recipe.guide
    captions = cross_generate(model, guide, {"image": image}, ["caption"], output="mean")["caption"][0]
    images = cross_generate(model, guide, {"caption": caption}, ["image"], output="mean")["image"][0]
    joint = joint_samples(model, len(image), ["image", "caption"], "mean")
    pairs = {
        "real pairs": (image, caption),
        "real images, captions generated from them": (image, captions),
        "images generated from captions, real captions": (images, caption),
        "both generated from the prior": (joint["image"], joint["caption"]),
    }
    cosines = {}
    for name, (first, second) in pairs.items():
        paired, shuffled = (vectors.cosines(first, part) for part in (second, second.roll(shift, 0)))
        values = {"pairs": paired, "shuffled": shuffled, "difference": paired - shuffled}
        cosines[name] = {kind: [float(v.mean()), float(v.std() / len(v) ** 0.5)] for kind, v in values.items()}
    return cosines, {"from captions": images, **joint}


def draw(images, captions, modality, path, columns=4):
    """Draws images under their captions."""
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
    """Evaluates a run."""
    torch.manual_seed(args.seed)
    if args.smoke:
        splits, config = noise(60), None
        recipe = build("mmvae", networks_for(splits.train.modalities, (16, 16)), 4, particles=1)
    else:
        config = read_run(args.run)
        splits = load_dataset(config["data"]["name"], args.data_root, **config["data"]["options"])
        recipe = load(args.run, which=args.checkpoint).recipe
    vectors = Vectors(splits.train, args.size, args.directions)
    rows = one_row_per_image(splits.test, args.seed)[: args.rows]
    x, _ = splits.test.rows(rows)
    cosines, generated = cosines_of(recipe, x, vectors, len(rows) // 2)
    print(f"{'mean cosine':44}{'pairs':>16}{'shuffled':>16}{'difference':>16}")
    for name, values in cosines.items():
        print(f"{name:44}" + "".join(f"{mean:8.3f} ± {spread:.3f}" for mean, spread in values.values()))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        data = None if config is None else {k: v for k, v in config["data"].items() if k != "modalities"}
        report = {
            "data": data,
            "versions": versions(),
            "test images": len(rows),
            "mean cosine": cosines,
            "seed": args.seed,
        }
        report |= {"dimensions": args.size, "directions": args.directions, "parameters": recipe.num_parameters}
        (args.out / "birds.json").write_text(json.dumps(report, indent=1) + "\n")
        modality = splits.test.modalities["caption"]
        shown = torch.linspace(0, len(rows) - 1, 8).long()
        draw(generated["from captions"][shown], x["caption"][shown], modality, args.out / "from-captions.png")
        draw(generated["image"][:8], generated["caption"][:8], modality, args.out / "from-the-prior.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="folder of a trained run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--data-root", type=Path, help="data folder, searched before MULTIPYRO_DATA")
    parser.add_argument("--rows", type=int, default=2_000, help="largest number of test images")
    parser.add_argument("--size", type=int, default=30, help="dimensions of the vectors")
    parser.add_argument("--directions", type=int, default=5, help="directions of the canonical correlation analysis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the report and the figures")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs, on noise")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.size, arguments.directions = 4, 2
    elif arguments.run is None:
        parser.error("name the folder of a run, or pass --smoke")
    main(arguments)
