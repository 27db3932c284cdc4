r"""Does a face generated from words show what the words say?

MoPoE with shared and private latents is trained on faces and the words of their attributes (Generalized Multimodal
ELBO, sections 4.3 and A.4, on 8,000 faces instead of 160,000), by

    multipyro train mopoe --data celeba --data-option form=words --hidden 160 160 --latent-dim 32 --option private=16 \
        --weights image=1 text=50 --beta 2.5 --warmup 2 --epochs 40 --batch-size 64 --lr 1e-3 --out runs/faces
    python examples/faces_from_text.py runs/faces --out faces

For each of two attributes, a classifier is trained on real faces and applied to faces generated from the texts of test
examples, with the private latent sampled from its prior. Reported is the share of faces that have the attribute if and
only if the text names it. For comparison: the accuracy of the classifier on real faces, the same share for faces
generated from the text of another example (right by chance only), and the share that always predicting the majority
class would reach. In the other direction, the words generated from a real face are compared with those that it has.
Expect a higher share for Male, which affects the whole face, than for Smiling.
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

CLASSIFIED = ("Male", "Smiling")
VOCABULARY = ("-", "Male", "Female", "Smiling")
SHOWN = (("Female", "Smiling"), ("Female",), ("Male", "Smiling"), ("Male",))
SHOWN += (("Female", "Smiling", "Blond_Hair"), ("Male", "Eyeglasses"))


def noise(rows):
    """Splits of noise in place of faces, to check that everything runs."""
    image = Modality("image", (3, 64, 64), "image", "laplace")
    modalities = {"image": image, "text": Modality("text", (9,), "text", "categorical", 4, vocabulary=VOCABULARY)}
    parts = []
    for name in Splits.NAMES:
        # the first two of nine words name an attribute
        text = torch.nn.functional.pad(torch.randint(1, 4, (rows, 2)), (0, 7))
        x = {"image": torch.rand(rows, *image.shape), "text": text}
        parts.append(MultimodalData("noise", modalities, x, split=name))
    return Splits(*parts)


def names(modality, texts, attribute):
    """Which texts name an attribute, as a word or as a part of a string, bool `(rows,)`."""
    wanted = attribute.lower()
    parts = (text.split() if modality.vocabulary else text.strip("*").split(", ") for text in modality.decode(texts))
    return torch.tensor([wanted in [part.lower() for part in words] for words in parts])


def train_face_classifiers(splits):
    """A classifier of real faces for each attribute, with its accuracy on test faces."""
    classifiers = {}
    for attribute in CLASSIFIED:
        parts = []
        for part in (splits.train, splits.test):
            texts = part.rows(torch.arange(len(part)))[0]["text"]
            labels = names(part.modalities["text"], texts, attribute).long()
            parts.append(replace(part.select(["image"]), labels=labels))
        classifiers[attribute] = train_classifiers(*parts)["image"]
    return classifiers


def shares_of(recipe, splits, classifiers):
    """Attribute -> all shares."""
    x, _ = splits.test.rows(torch.arange(len(splits.test)))
    modality = splits.test.modalities["text"]
    faces = cross_generate(recipe.model, recipe.guide, {"text": x["text"]}, ["image"], output="mean")["image"][0]
    texts = cross_generate(recipe.model, recipe.guide, {"image": x["image"]}, ["text"], output="mean")["text"][0]
    shares = {}
    for attribute, classifier in classifiers.items():
        wanted = names(modality, x["text"], attribute)
        has = classifier(faces) == 1
        shares[attribute] = {
            "faces from text": estimate_share(has == wanted).to_dict(),
            "faces from the text of another example": estimate_share(has == wanted.roll(1)).to_dict(),
            "text from faces": estimate_share(names(modality, texts, attribute) == wanted).to_dict(),
            "always the majority class": max(wanted.double().mean().item(), 1 - wanted.double().mean().item()),
            "real faces: accuracy of the classifier": classifier.accuracy,
        }
    return shares


def draw(recipe, modality, path, columns=8):
    """Draws faces generated from texts, one row per text."""
    ids = torch.zeros(len(SHOWN), modality.shape[0], dtype=torch.int64)
    for row, words in zip(ids, SHOWN, strict=True):
        row[: len(words)] = torch.tensor([modality.vocabulary.index(word) for word in words])
    images = cross_generate(recipe.model, recipe.guide, {"text": ids}, ["image"], columns, output="mean")["image"]
    figure = Figure(figsize=(1.1 * columns + 1.4, 1.1 * len(SHOWN)), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    tiled = images.clamp(0, 1).permute(1, 3, 0, 4, 2).reshape(len(SHOWN) * 64, columns * 64, 3)
    axes.imshow(tiled.numpy(), interpolation="none")
    axes.set_yticks([64 * (row + 0.5) for row in range(len(SHOWN))], ["\n".join(words) for words in SHOWN])
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=8)
    figure.savefig(path)


def main(args):
    """Evaluates a run."""
    torch.manual_seed(args.seed)
    if args.smoke:
        splits, config = noise(24), None
        recipe = build("mopoe", networks_for(splits.train.modalities, (16, 16)), 4, private=2)
    else:
        config = read_run(args.run)
        splits = load_dataset(config["data"]["name"], args.data_root, **config["data"]["options"])
        recipe = load(args.run, which=args.checkpoint).recipe
    shares = shares_of(recipe, splits, train_face_classifiers(splits))
    print(f"{'':45}" + "".join(f"{attribute:>18}" for attribute in CLASSIFIED))
    for name, value in shares[CLASSIFIED[0]].items():
        values = [shares[attribute][name] for attribute in CLASSIFIED]
        pairs = isinstance(value, dict)
        print(f"{name:45}" + "".join(f"{v['value']:10.3f} ± {v['se']:.3f}" if pairs else f"{v:18.3f}" for v in values))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        data = None if config is None else {k: v for k, v in config["data"].items() if k != "modalities"}
        report = {"data": data, "versions": versions(), "test examples": len(splits.test), "attributes": shares}
        report |= {"parameters": recipe.num_parameters, "seed": args.seed}
        (args.out / "faces-from-text.json").write_text(json.dumps(report, indent=1) + "\n")
        modality = splits.test.modalities["text"]
        if set(modality.vocabulary or ()) >= {word for words in SHOWN for word in words}:
            draw(recipe, modality, args.out / "faces-from-text.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="folder of a trained run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--data-root", type=Path, help="data folder, searched before MULTIPYRO_DATA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the report and the figure")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs, on noise")
    arguments = parser.parse_args()
    if arguments.run is None and not arguments.smoke:
        parser.error("name the folder of a run, or pass --smoke")
    main(arguments)
