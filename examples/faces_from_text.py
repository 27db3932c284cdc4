r"""Does a face made from words have what the words say?

MoPoE with a shared latent and private ones learns faces and the words of their attributes (Generalized Multimodal
ELBO, sections 4.3 and A.4, on 8,000 faces in place of 160,000), by

    multipyro train mopoe --data celeba --data-option form=words --hidden 160 160 --latent-dim 32 --option private=16 \
        --weights image=1 text=50 --beta 2.5 --warmup 2 --epochs 40 --batch-size 64 --lr 1e-3 --out runs/faces
    python examples/faces_from_text.py runs/faces --out faces

For two attributes a classifier learns from real faces. It judges faces made from the texts of test rows, the private
latent drawn from its prior: the share of faces that have the attribute if and only if the text names it. Beside it
stand the classifier's own accuracy on real faces, what it says of faces made from the text of another row (which only
chance can make right), and the share that always saying the more frequent would get. The other way, the words told of
a real face are held against those it has. Expect more of Male, which is all over a face, than of Smiling.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from multipyro.data import Modality, MultimodalData, Splits, load_dataset
from multipyro.inference import build, cross_generate, load, networks_for
from multipyro.inference.evaluation import estimate_share, train_classifiers
from multipyro.inference.runs import read_run, versions

JUDGED = ("Male", "Smiling")
VOCABULARY = ("-", "Male", "Female", "Smiling")
SAID = (("Female", "Smiling"), ("Female",), ("Male", "Smiling"), ("Male",))
SAID += (("Female", "Smiling", "Blond_Hair"), ("Male", "Eyeglasses"))


def noise(rows):
    """Splits of no faces at all, to show that everything runs."""
    image = Modality("image", (3, 64, 64), "image", "laplace")
    modalities = {"image": image, "text": Modality("text", (9,), "text", "categorical", 4, vocabulary=VOCABULARY)}
    parts = []
    for name in Splits.NAMES:
        # of nine words the first two say something
        text = torch.nn.functional.pad(torch.randint(1, 4, (rows, 2)), (0, 7))
        x = {"image": torch.rand(rows, *image.shape), "text": text}
        parts.append(MultimodalData("noise", modalities, x, split=name))
    return Splits(*parts)


def names(modality, texts, attribute):
    """Which texts name an attribute, as one of words or of a string's parts, bool `(rows,)`."""
    wanted = attribute.lower()
    parts = (text.split() if modality.vocabulary else text.strip("*").split(", ") for text in modality.decode(texts))
    return torch.tensor([wanted in [part.lower() for part in found] for found in parts])


def judges(splits):
    """For each attribute a classifier of real faces, with its accuracy on test faces."""
    found = {}
    for attribute in JUDGED:
        parts = []
        for part in (splits.train, splits.test):
            texts = part.rows(torch.arange(len(part)))[0]["text"]
            labels = names(part.modalities["text"], texts, attribute).long()
            parts.append(replace(part.select(["image"]), labels=labels))
        found[attribute] = train_classifiers(*parts)["image"]
    return found


def judged(recipe, splits, classifiers):
    """Attribute -> all shares."""
    x, _ = splits.test.rows(torch.arange(len(splits.test)))
    modality = splits.test.modalities["text"]
    made = cross_generate(recipe.model, recipe.guide, {"text": x["text"]}, ["image"], output="mean")["image"][0]
    told = cross_generate(recipe.model, recipe.guide, {"image": x["image"]}, ["text"], output="mean")["text"][0]
    found = {}
    for attribute, judge in classifiers.items():
        wanted = names(modality, x["text"], attribute)
        has = judge(made) == 1
        found[attribute] = {
            "faces from text": estimate_share(has == wanted).to_dict(),
            "faces from another row's text": estimate_share(has == wanted.roll(1)).to_dict(),
            "text from faces": estimate_share(names(modality, told, attribute) == wanted).to_dict(),
            "always the more frequent": max(wanted.double().mean().item(), 1 - wanted.double().mean().item()),
            "real faces: the classifier's own accuracy": judge.accuracy,
        }
    return found


def draw(recipe, modality, path, columns=8):
    """Faces made from texts, one text a row."""
    ids = torch.zeros(len(SAID), modality.shape[0], dtype=torch.int64)
    for row, words in zip(ids, SAID, strict=True):
        row[: len(words)] = torch.tensor([modality.vocabulary.index(word) for word in words])
    images = cross_generate(recipe.model, recipe.guide, {"text": ids}, ["image"], columns, output="mean")["image"]
    figure = Figure(figsize=(1.1 * columns + 1.4, 1.1 * len(SAID)), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    tiled = images.clamp(0, 1).permute(1, 3, 0, 4, 2).reshape(len(SAID) * 64, columns * 64, 3)
    axes.imshow(tiled.numpy(), interpolation="none")
    axes.set_yticks([64 * (row + 0.5) for row in range(len(SAID))], ["\n".join(words) for words in SAID])
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=8)
    figure.savefig(path)


def main(args):
    """Judges a run."""
    torch.manual_seed(args.seed)
    if args.smoke:
        splits, config = noise(24), None
        recipe = build("mopoe", networks_for(splits.train.modalities, (16, 16)), 4, private=2)
    else:
        config = read_run(args.run)
        splits = load_dataset(config["data"]["name"], args.data_root, **config["data"]["options"])
        recipe = load(args.run, which=args.checkpoint).recipe
    found = judged(recipe, splits, judges(splits))
    print(f"{'':45}" + "".join(f"{attribute:>18}" for attribute in JUDGED))
    for name, value in found[JUDGED[0]].items():
        values = [found[attribute][name] for attribute in JUDGED]
        pairs = isinstance(value, dict)
        print(f"{name:45}" + "".join(f"{v['value']:10.3f} ± {v['se']:.3f}" if pairs else f"{v:18.3f}" for v in values))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        data = None if config is None else {k: v for k, v in config["data"].items() if k != "modalities"}
        report = {"data": data, "versions": versions(), "test rows": len(splits.test), "attributes": found}
        report |= {"parameters": recipe.num_parameters, "seed": args.seed}
        (args.out / "faces-from-text.json").write_text(json.dumps(report, indent=1) + "\n")
        modality = splits.test.modalities["text"]
        if set(modality.vocabulary or ()) >= {word for words in SAID for word in words}:
            draw(recipe, modality, args.out / "faces-from-text.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="folder of a trained run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--data-root", type=Path, help="folder of data sets, before MULTIPYRO_DATA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the report and the picture")
    parser.add_argument("--smoke", action="store_true", help="only show that it runs, on noise")
    arguments = parser.parse_args()
    if arguments.run is None and not arguments.smoke:
        parser.error("name the folder of a run, or say --smoke")
    main(arguments)
