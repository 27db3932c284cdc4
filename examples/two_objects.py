r"""Do the pictures and sentences that a model makes of two objects agree, word by word?

VLVAE learns rendered scenes and sentences such as `small red metal cube left large blue rubber sphere` (On the
Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders, section 5.2), by

    multipyro train vlvae --data two-objects --data-option size=64 --data-option num_rows=10000 --networks text=gru \
        --hidden 128 128 --latent-dim 50 --weights image=0.05 text=50 --warmup 4 --option aggregate_epochs=8 \
        --epochs 40 --batch-size 32 --lr 1e-3 --out runs/scenes
    python examples/two_objects.py runs/scenes --out scenes

A sentence holds eight words about the two objects, and one that says how the first stands to the second. A classifier
that learned from real scenes is shown a picture and the relation, and tells the eight words; the share of those in
which it agrees with a sentence is its correctness, as in the paper. Beside it stands the classifier's own accuracy on
real pairs, and what pairs that do not belong together get. A sentence about a real picture is also held against the
scene itself, in which every word can be checked. Expect colors and sizes before shapes, and all of it below what the
paper reaches with 20 times more training.
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

# where test rows begin among the scenes of the set
FIRST_TEST = 95_000
RELATION = 4
OTHERS = [position for position in range(9) if position != RELATION]
KINDS = ("size", "color", "material", "shape")
OPPOSITE = {"right": "left", "left": "right", "front": "behind", "behind": "front"}


def noise(rows):
    """Splits whose pictures show nothing, to show that everything runs."""
    text = Modality("text", (9,), "text", "categorical", len(WORDS), vocabulary=WORDS)
    modalities = {"image": Modality("image", (3, 64, 64), "image", "beta"), "text": text}
    parts = []
    for name in Splits.NAMES:
        told = [sentence(draw_scene(0, FIRST_TEST + row), 0, FIRST_TEST + row) for row in range(rows)]
        x = {"image": torch.rand(rows, 3, 64, 64), "text": torch.tensor([list(map(WORDS.index, t)) for t in told])}
        parts.append(MultimodalData("noise", modalities, x, split=name))
    return Splits(*parts)


def swapped(texts):
    """The same said of the second object first: `a left b` becomes `b right a`."""
    turned = torch.arange(len(WORDS))
    for relation, opposite in OPPOSITE.items():
        turned[WORDS.index(relation)] = WORDS.index(opposite)
    return torch.cat([texts[:, RELATION + 1 :], turned[texts[:, [RELATION]]], texts[:, :RELATION]], 1)


class Judge(nn.Module):
    """From pictures and relations to logits of the eight other words, `(rows, 8, words)`."""

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


def trained_judge(train, epochs, batch_size=64):
    """A judge that learned from real scenes, told from either object."""
    judge = Judge()
    judge(*(part[:2] for part in (rows_of(train, 2)["image"], rows_of(train, 2)["text"][:, RELATION])))
    optimizer = torch.optim.Adam(judge.parameters(), 1e-3)
    steps = epochs * -(-len(train) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for epoch in range(epochs):
        for x, _ in train.batches(batch_size, shuffle=True, epoch=epoch):
            turned = torch.rand(len(x["text"]), 1) < 0.5
            text = torch.where(turned, swapped(x["text"]), x["text"])
            logits = judge(x["image"], text[:, RELATION])
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.flatten(0, 1), text[:, OTHERS].flatten()).backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


@torch.no_grad()
def agreement(judge, images, texts):
    """Which of the eight words the judge sees too, `(rows, 8)`; none where the relation's place holds another word."""
    relations = texts[:, RELATION]
    is_relation = torch.isin(relations, torch.tensor([WORDS.index(word) for word in RELATIONS]))
    relations = relations.where(is_relation, torch.tensor(WORDS.index(RELATIONS[0])))
    parts = zip(images.split(500), relations.split(500), strict=True)
    told = torch.cat([judge(image, relation).argmax(-1) for image, relation in parts])
    return (told == texts[:, OTHERS]) & is_relation[:, None]


def truth(texts, scenes):
    """Which of the eight words are true of the scenes, `(rows, 8)`, and whether whole sentences are."""
    words, whole = [], []
    for text, scene in zip(texts.tolist(), scenes, strict=True):
        said = tuple(WORDS[token] for token in text)
        told = [said[position] for position in OTHERS]
        # the relation says which object comes first
        orders = [pair for pair in ((0, 1), (1, 0)) if said[RELATION] in scene.relations(*pair)]
        true = [kind for number in (orders[0] if orders else ()) for kind in described(scene.objects[number])]
        words.append([word == other for word, other in zip(told, true, strict=True)] if true else [False] * 8)
        whole.append(sentence_is_true(said, scene) if true else False)
    return torch.tensor(words), torch.tensor(whole)


def described(thing):
    """The four words of an object, in the order of the sentence."""
    return thing.size, thing.color, thing.material, thing.shape


def rows_of(data, number):
    """The first rows."""
    return data.rows(torch.arange(min(number, len(data))))[0]


def judged(recipe, x, scenes, judge):
    """Name -> which words are right, and the pictures that were made."""
    model, guide = recipe.model, recipe.guide
    image, text = x["image"], x["text"]
    told = cross_generate(model, guide, {"image": image}, ["text"], output="mean")["text"][0]
    rebuilt = cross_generate(model, guide, {"image": image}, ["image"], output="mean")["image"][0]
    painted = cross_generate(model, guide, {"text": text}, ["image"], output="mean")["image"]
    joint = joint_samples(model, len(image), ["image", "text"], "mean")
    words, whole = truth(told, scenes)
    found = {
        "real pairs: the judge's own accuracy": agreement(judge, image, text),
        "real pictures and others' sentences": agreement(judge, image, text.roll(1, 0)),
        "image -> text, by the judge": agreement(judge, image, told),
        "image -> text, by the scene": words,
        "image -> image, by the judge": agreement(judge, rebuilt, text),
        "text -> image, by the judge": agreement(judge, painted[0], text),
        "prior: image and text, by the judge": agreement(judge, joint["image"], joint["text"]),
    }
    return found, whole, {"rebuilt": rebuilt, "painted": painted[0], "joint": joint, "told": told}


def draw(images, titles, path, columns=6):
    """Pictures under their sentences."""
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


def figures(x, made, out, number=12):
    """Scenes, what is told of them and their reconstructions; scenes made from sentences; scenes and sentences made."""
    pairs = torch.stack([x["image"][: number // 2], made["rebuilt"][: number // 2]], 1).flatten(0, 1)
    titles = [title for row in range(number // 2) for title in (lines(x["text"][row]), lines(made["told"][row]))]
    draw(pairs, titles, out / "reconstructions.png")
    draw(made["painted"][:number], map(lines, x["text"][:number]), out / "from-text.png")
    draw(made["joint"]["image"][:number], map(lines, made["joint"]["text"][:number]), out / "from-the-prior.png")


def main(args):
    """Judges a run."""
    torch.manual_seed(args.seed)
    if args.smoke:
        splits, config = noise(24), None
        recipe = build("vlvae", networks_for(splits.train.modalities, (8, 8)), 4)
    else:
        config = read_run(args.run)
        splits = load_dataset(config["data"]["name"], args.data_root, **config["data"]["options"])
        recipe = load(args.run, which=args.checkpoint).recipe
    judge = trained_judge(splits.train, args.epochs)
    x = rows_of(splits.test, args.rows)
    seed = splits.test.options["seed"] if splits.test.options else 0
    scenes = [draw_scene(seed, FIRST_TEST + row) for row in range(len(x["text"]))]
    if not truth(x["text"], scenes)[1].all():
        raise ValueError("the sentences of the test rows are not true of their scenes: is this the set two-objects?")
    found, whole, made = judged(recipe, x, scenes, judge)
    print(f"{'share of right words':40}{'all':>16}" + "".join(f"{kind:>10}" for kind in KINDS))
    report = {}
    for name, right in found.items():
        right = right.double()
        share, rows = right.mean().item(), right.mean(1)
        kinds = [right[:, number::4].mean().item() for number in range(4)]
        spread = (rows.std() / len(rows) ** 0.5).item()
        report[name] = {"value": share, "se": spread, **dict(zip(KINDS, kinds, strict=True))}
        print(f"{name:40}{share:8.3f} ± {spread:.3f}" + "".join(f"{kind:10.3f}" for kind in kinds))
    share = whole.double().mean().item()
    report["image -> text, whole sentences true"] = share
    print(f"{'image -> text, all nine words true':40}{share:8.3f}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        data = None if config is None else {k: v for k, v in config["data"].items() if k != "modalities"}
        whole = {"data": data, "versions": versions(), "test rows": len(scenes), "correctness": report}
        whole |= {"judge": f"{args.epochs} epochs", "seed": args.seed, "parameters": recipe.num_parameters}
        (args.out / "correctness.json").write_text(json.dumps(whole, indent=1) + "\n")
        figures(x, made, args.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="folder of a trained run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--data-root", type=Path, help="folder of data sets, before MULTIPYRO_DATA")
    parser.add_argument("--rows", type=int, default=2_000, help="test rows that are judged")
    parser.add_argument("--epochs", type=int, default=16, help="of the judge")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the report and the pictures")
    parser.add_argument("--smoke", action="store_true", help="only show that it runs, on noise")
    arguments = parser.parse_args()
    if arguments.run is None and not arguments.smoke:
        parser.error("name the folder of a run, or say --smoke")
    main(arguments)
