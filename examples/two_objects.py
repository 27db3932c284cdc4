r"""Do generated images and sentences of two objects agree, word by word?

VLVAE is trained on rendered scenes and sentences such as `small red metal cube left large blue rubber sphere` (On the
Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders, section 5.2), by

    multipyro train vlvae --data two-objects --data-option size=64 --data-option num_rows=10000 --networks text=gru \
        --hidden 128 128 --latent-dim 50 --weights image=0.05 text=50 --warmup 4 --option aggregate_epochs=8 \
        --epochs 40 --batch-size 32 --lr 1e-3 --out runs/scenes
    python examples/two_objects.py runs/scenes --out scenes

A sentence has eight words about the two objects, and one for the relation of the first to the second. A classifier
trained on real scenes predicts the eight words from an image and the relation; the share of words that agree with a
sentence is the correctness, as in the paper. For comparison: the accuracy of the classifier on real pairs, and the
correctness of pairs that do not belong together. A sentence generated from a real image is also compared with the
scene itself, for which every word can be checked. Expect colors and sizes to be right more often than shapes, and
everything below what the paper reaches with 20 times as much training.
"""

import argparse
import json
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from multipyro.data import Modality, MultimodalData, Splits, load_dataset
from multipyro.data.scenes.composition import RELATIONS, WORDS, draw_scene, sentence, sentence_is_true
from multipyro.inference import build, cross_generate, joint_samples, load, networks_for
from multipyro.inference.runs import read_run, versions

# number of the first test scene
FIRST_TEST = 95_000
RELATION = 4
OTHERS = [position for position in range(9) if position != RELATION]
KINDS = ("size", "color", "material", "shape")
OPPOSITE = {"right": "left", "left": "right", "front": "behind", "behind": "front"}


def noise(rows):
    """Splits whose images are noise, to check that everything runs."""
    text = Modality("text", (9,), "text", "categorical", len(WORDS), vocabulary=WORDS)
    modalities = {"image": Modality("image", (3, 64, 64), "image", "beta"), "text": text}
    parts = []
    for name in Splits.NAMES:
        sentences = [sentence(draw_scene(0, FIRST_TEST + row), 0, FIRST_TEST + row) for row in range(rows)]
        x = {"image": torch.rand(rows, 3, 64, 64), "text": torch.tensor([list(map(WORDS.index, t)) for t in sentences])}
        parts.append(MultimodalData("noise", modalities, x, split=name))
    return Splits(*parts)


def swapped(texts):
    """The same sentences with the other object first: `a left b` becomes `b right a`."""
    opposites = torch.arange(len(WORDS))
    for relation, opposite in OPPOSITE.items():
        opposites[WORDS.index(relation)] = WORDS.index(opposite)
    return torch.cat([texts[:, RELATION + 1 :], opposites[texts[:, [RELATION]]], texts[:, :RELATION]], 1)


class WordClassifier(nn.Module):
    """From images and relations to logits of the eight other words, `(rows, 8, words)`."""

    def __init__(self, width=16):
        super().__init__()
        layers, before = [], 3 + len(RELATIONS)
        # the first layer at full resolution: a small object is six pixels wide
        for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(256), nn.ReLU(), nn.Dropout(0.3))
        self.words = nn.Linear(256, len(OTHERS) * len(WORDS))

    def forward(self, images, relations):
        planes = nn.functional.one_hot(relations - WORDS.index(RELATIONS[0]), len(RELATIONS)).to(images.dtype)
        planes = planes[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return self.words(self.layers(torch.cat([images, planes], 1))).unflatten(-1, (len(OTHERS), len(WORDS)))


def train_word_classifier(train, epochs, batch_size=64):
    """A classifier trained on real scenes, with either object first."""
    classifier = WordClassifier()
    classifier(*(part[:2] for part in (rows_of(train, 2)["image"], rows_of(train, 2)["text"][:, RELATION])))
    optimizer = torch.optim.Adam(classifier.parameters(), 1e-3)
    steps = epochs * -(-len(train) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for epoch in range(epochs):
        for x, _ in train.batches(batch_size, shuffle=True, epoch=epoch):
            swap = torch.rand(len(x["text"]), 1) < 0.5
            text = torch.where(swap, swapped(x["text"]), x["text"])
            logits = classifier(x["image"], text[:, RELATION])
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.flatten(0, 1), text[:, OTHERS].flatten()).backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


@torch.no_grad()
def agreement(classifier, images, texts):
    """Which of the eight words the classifier predicts too, `(rows, 8)`; none where the relation is another word."""
    relations = texts[:, RELATION]
    is_relation = torch.isin(relations, torch.tensor([WORDS.index(word) for word in RELATIONS]))
    relations = relations.where(is_relation, torch.tensor(WORDS.index(RELATIONS[0])))
    parts = zip(images.split(500), relations.split(500), strict=True)
    predicted = torch.cat([classifier(image, relation).argmax(-1) for image, relation in parts])
    return (predicted == texts[:, OTHERS]) & is_relation[:, None]


def truth(texts, scenes):
    """Which of the eight words are true of the scenes, `(rows, 8)`, and whether whole sentences are."""
    words, whole = [], []
    for text, scene in zip(texts.tolist(), scenes, strict=True):
        words_said = tuple(WORDS[token] for token in text)
        others = [words_said[position] for position in OTHERS]
        # the relation determines which object comes first
        orders = [pair for pair in ((0, 1), (1, 0)) if words_said[RELATION] in scene.relations(*pair)]
        true = [kind for number in (orders[0] if orders else ()) for kind in words_of(scene.objects[number])]
        words.append([word == other for word, other in zip(others, true, strict=True)] if true else [False] * 8)
        whole.append(sentence_is_true(words_said, scene) if true else False)
    return torch.tensor(words), torch.tensor(whole)


def words_of(item):
    """The four words of an object, in the order of the sentence."""
    return item.size, item.color, item.material, item.shape


def rows_of(data, number):
    """The first examples."""
    return data.rows(torch.arange(min(number, len(data))))[0]


def correctness(recipe, x, scenes, classifier):
    """Name -> which words are right; which whole sentences are true; what was generated."""
    model, guide = recipe.model, recipe.guide
    image, text = x["image"], x["text"]
    described = cross_generate(model, guide, {"image": image}, ["text"], output="mean")["text"][0]
    reconstructed = cross_generate(model, guide, {"image": image}, ["image"], output="mean")["image"][0]
    from_text = cross_generate(model, guide, {"text": text}, ["image"], output="mean")["image"]
    joint = joint_samples(model, len(image), ["image", "text"], "mean")
    words, whole = truth(described, scenes)
    right = {
        "real pairs: accuracy of the classifier": agreement(classifier, image, text),
        "real images, sentences of others": agreement(classifier, image, text.roll(1, 0)),
        "image -> text, by the classifier": agreement(classifier, image, described),
        "image -> text, by the scene": words,
        "image -> image, by the classifier": agreement(classifier, reconstructed, text),
        "text -> image, by the classifier": agreement(classifier, from_text[0], text),
        "prior: image and text, by the classifier": agreement(classifier, joint["image"], joint["text"]),
    }
    generated = {"reconstructed": reconstructed, "from text": from_text[0], "joint": joint, "described": described}
    return right, whole, generated


def draw(images, titles, path, columns=6):
    """Draws images under their sentences."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.1 * columns, 2.6 * rows), dpi=70, layout="constrained")
    FigureCanvasAgg(figure)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy())
        axes.set_title(title, fontsize=7)
        axes.axis("off")
    figure.savefig(path)


def lines(text):
    """A sentence in three lines."""
    words = [WORDS[token] for token in text.tolist()]
    return "\n".join((" ".join(words[:4]), words[4], " ".join(words[5:])))


def figures(x, generated, out, number=12):
    """Scenes with reconstructions and sentences; scenes generated from sentences; both generated from the prior."""
    pairs = torch.stack([x["image"][: number // 2], generated["reconstructed"][: number // 2]], 1).flatten(0, 1)
    titles = [
        title for row in range(number // 2) for title in (lines(x["text"][row]), lines(generated["described"][row]))
    ]
    draw(pairs, titles, out / "reconstructions.png")
    draw(generated["from text"][:number], map(lines, x["text"][:number]), out / "from-text.png")
    draw(
        generated["joint"]["image"][:number],
        map(lines, generated["joint"]["text"][:number]),
        out / "from-the-prior.png",
    )


def main(args):
    """Evaluates a run."""
    torch.manual_seed(args.seed)
    if args.smoke:
        splits, config = noise(24), None
        recipe = build("vlvae", networks_for(splits.train.modalities, (8, 8)), 4)
    else:
        config = read_run(args.run)
        splits = load_dataset(config["data"]["name"], args.data_root, **config["data"]["options"])
        recipe = load(args.run, which=args.checkpoint).recipe
    classifier = train_word_classifier(splits.train, args.epochs)
    x = rows_of(splits.test, args.rows)
    seed = splits.test.options["seed"] if splits.test.options else 0
    scenes = [draw_scene(seed, FIRST_TEST + row) for row in range(len(x["text"]))]
    if not truth(x["text"], scenes)[1].all():
        raise ValueError("the test sentences do not describe the test scenes: is this the data set two-objects?")
    results, whole, generated = correctness(recipe, x, scenes, classifier)
    print(f"{'share of right words':40}{'all':>16}" + "".join(f"{kind:>10}" for kind in KINDS))
    report = {}
    for name, right in results.items():
        right = right.double()
        share, shares = right.mean().item(), right.mean(1)
        kinds = [right[:, number::4].mean().item() for number in range(4)]
        spread = (shares.std() / len(shares) ** 0.5).item()
        report[name] = {"value": share, "se": spread, **dict(zip(KINDS, kinds, strict=True))}
        print(f"{name:40}{share:8.3f} ± {spread:.3f}" + "".join(f"{kind:10.3f}" for kind in kinds))
    share = whole.double().mean().item()
    report["image -> text, whole sentences true"] = share
    print(f"{'image -> text, all nine words true':40}{share:8.3f}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        data = None if config is None else {k: v for k, v in config["data"].items() if k != "modalities"}
        whole = {"data": data, "versions": versions(), "test examples": len(scenes), "correctness": report}
        whole |= {"classifier": f"{args.epochs} epochs", "seed": args.seed, "parameters": recipe.num_parameters}
        (args.out / "correctness.json").write_text(json.dumps(whole, indent=1) + "\n")
        figures(x, generated, args.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="folder of a trained run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--data-root", type=Path, help="data folder, searched before MULTIPYRO_DATA")
    parser.add_argument("--rows", type=int, default=2_000, help="number of test examples")
    parser.add_argument("--epochs", type=int, default=16, help="epochs of the classifier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the report and the figures")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs, on noise")
    arguments = parser.parse_args()
    if arguments.run is None and not arguments.smoke:
        parser.error("name the folder of a run, or pass --smoke")
    main(arguments)
